#!/usr/bin/env bash
# Measures memboss and prints the figures: the rules alone, leases in code on an agent alone, then a whole cluster on a test bed. It asserts nothing: a goal is printed beside its figure.
#   tests/bench.sh [PART…]       PART: leases cleaning idle starts crowd admissions release (all of them without); leases and cleaning alone need no cluster
# BED=name uses the bed of that name if it runs already, and leaves it running; otherwise a bed is started, and ended whatever came of it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
bed=${BED:-bench}
finish() {
  code=$?
  "$here/cluster/down.sh" --name "$bed" || code=1
  exit $code
}

# built --bin|--example NAME: where the program lies, built with the features of all else, so that nothing is compiled twice.
built() {
  local program
  program=$(cargo build --locked --release --manifest-path "$root/Cargo.toml" --workspace "$@" --quiet --message-format json-render-diagnostics |
    jq -r --arg name "$2" 'select(.executable != null and .target.name == $name) | .executable' | tail -1)
  [ -n "$program" ] || { echo "error: it did not build: cargo build --release --workspace $*" >&2; return 1; }
  echo "$program"
}

# in_code: leases in code, on an agent alone with simulated GPUs: from Rust, from Python and TypeScript where these are here, and the PyPI package reslock beside them.
in_code() {
  echo "== leases in code"
  cargo build --locked --release --manifest-path "$root/Cargo.toml" --workspace --quiet
  local measure python
  measure=$(built --example code_leases)
  python=$(environment)
  PATH="$("$here/node.sh"):$PATH"
  (cd "$root/sdk/typescript" && npm ci --ignore-scripts --silent && npm run --silent build)
  "$measure" "'$python' '$root/sdk/python/bench.py' 2000" "node '$root/sdk/typescript/bench.mjs' 2000" "'$python' '$here/bench/peer_reslock.py'"
}

# environment: a Python with memboss' packages of this checkout and reslock, outside the checkout.
environment() {
  local place=${CACHE:-${MEMBOSS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/memboss}}/bench-python
  [ -x "$place/bin/python3" ] || python3 -m venv "$place" >&2
  "$place/bin/pip" install --quiet --disable-pip-version-check reslock==0.12.3 "$root"/sdk/python/memboss-{client,vram,ram} >&2
  echo "$place/bin/python3"
}

# cleaning: dropping page cache, on files of this disk.
cleaning() {
  echo "== cleaning of page cache"
  local measure
  measure=$(built --example cleaning)
  "$measure" "$root/target"
}

parts=()
alone=
for part in "$@"; do
  case $part in
    leases) in_code; alone=1 ;;
    cleaning) cleaning; alone=1 ;;
    *) parts+=("$part") ;;
  esac
done
if [ ${#parts[@]} = 0 ]; then
  [ -z "$alone" ] || exit 0
  in_code
  cleaning
fi
set -- "${parts[@]}"

echo "== the rules alone"
rules=$(built --example decisions)
"$rules"

echo "== a cluster of two nodes on this machine"
"$here/cluster/build.sh"
if ! "$here/cluster/k.sh" --name "$bed" true 2>/dev/null; then
  [ -n "${BED:-}" ] || trap finish EXIT
  "$here/cluster/up.sh" --name "$bed" --nodes 2
fi
"$here/install.sh" "$bed"
measure=$(built --bin bench)
MEMBOSS_BED=$bed "$here/on-bed.sh" "$bed" "$measure" "$@"
