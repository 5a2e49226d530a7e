#!/usr/bin/env bash
# Measures memboss and prints the figures: the rules alone, then a whole cluster on a test bed. It asserts nothing: a goal is printed beside its figure.
#   tests/bench.sh [PART…]       PART: idle starts crowd admissions release (all of them without)
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

echo "== the rules alone"
cargo run --locked --release --quiet --manifest-path "$root/Cargo.toml" --workspace --example decisions

echo "== a cluster of two nodes on this machine"
"$here/cluster/build.sh"
if ! "$here/cluster/k.sh" --name "$bed" true 2>/dev/null; then
  [ -n "${BED:-}" ] || trap finish EXIT
  "$here/cluster/up.sh" --name "$bed" --nodes 2
fi
"$here/install.sh" "$bed"
binary=$(cargo build --locked --release --manifest-path "$root/Cargo.toml" --workspace --bin bench --message-format json 2>/dev/null |
  jq -r 'select(.executable != null and .target.name == "bench") | .executable' | tail -1)
[ -n "$binary" ] || { echo "error: the benchmark did not build: cargo build --release --workspace --bin bench" >&2; exit 1; }
MEMBOSS_BED=$bed "$here/on-bed.sh" "$bed" "$binary" "$@"
