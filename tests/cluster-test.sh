#!/usr/bin/env bash
# Runs the tests of tests/e2e on a fresh test bed and ends the bed afterwards, whatever came of it.
#   tests/cluster-test.sh [FILTER]       KEEP=1 leaves the bed for looking around; BED=name uses one that runs already
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
bed=${BED:-test}
started=
finish() {
  code=$?
  if [ $code != 0 ]; then "$here/diagnose.sh" "$bed" || true; fi
  if [ -n "$started" ] && [ -z "${KEEP:-}" ]; then "$here/cluster/down.sh" --name "$bed" || code=1; fi
  exit $code
}
"$here/cluster/build.sh"
if ! "$here/cluster/k.sh" --name "$bed" true 2>/dev/null; then
  trap finish EXIT
  started=1
  "$here/cluster/up.sh" --name "$bed" --nodes 2
fi
"$here/install.sh" "$bed"
echo "building the tests"
binary=$(cd "$here/.." && cargo test --locked --release --workspace --no-run --test cluster --message-format json 2>/dev/null |
  jq -r 'select(.executable != null and .target.name == "cluster") | .executable' | tail -1)
# Agents may drop no cache in the first round, as the chart has it: the test of that comes in the second.
filter=("$@")
[ $# != 0 ] || filter=(--skip pressure::cache)
MEMBOSS_BED=$bed "$here/on-bed.sh" "$bed" "$binary" --include-ignored --test-threads 1 "${filter[@]}"
if [ $# = 0 ]; then
  # shellcheck source=tests/cluster/parts/places.sh
  (. "$here/cluster/parts/places.sh" && PATH=$BIN:$PATH "$here/on-bed.sh" "$bed" "$here/docs.sh" "$(dirname "$(dirname "$binary")")" cluster.md)
  # With as many slots as there is memory the kubelet's count is as tight as the ledger: only a victim's deletion can serve another.
  echo "again, with one slot for each unit of memory, and a directory of whose files cache may be dropped"
  "$here/cluster/k.sh" --name "$bed" helm upgrade memboss "$here/../charts/memboss" -n memboss-system --reuse-values \
    --set devicePlugin.multiple=1 --set 'agent.pressure.cleanIn={/var/lib/memboss/models}' --wait --timeout 3m >/dev/null
  MEMBOSS_BED=$bed "$here/on-bed.sh" "$bed" "$binary" --include-ignored --test-threads 1 \
    preemption::an_urgent_pod preemption::freed_memory sharing:: pressure::cache
  "$here/chart-life.sh" "$bed"
fi
