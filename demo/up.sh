#!/usr/bin/env bash
# The demo: a real Kubernetes of two nodes on this machine, memboss on simulated GPUs, its main job shown, and all left to play with.
# CLUSTER=kind uses kind and Docker instead. Run again, it takes what is there.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
case ${CLUSTER:-bed} in
  kind) exec "$here/kind.sh" up ;;
  bed) ;;
  *) echo "error: CLUSTER=$CLUSTER is not known: leave it out, or say kind" >&2; exit 1 ;;
esac
bed=demo
"$root/tests/cluster/build.sh"
if "$root/tests/cluster/k.sh" --name $bed true 2>/dev/null; then
  echo "the demo's cluster is up already"
else
  "$root/tests/cluster/up.sh" --name $bed --nodes 2
fi
"$root/tests/install.sh" $bed
K="$root/tests/cluster/k.sh --name $bed" MEMBOSS=${CARGO_TARGET_DIR:-$root/target}/release/memboss "$here/tour.sh"
