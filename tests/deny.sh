#!/usr/bin/env bash
# Runs cargo-deny over the workspace; builds it once into the cache. Advisories are checked where their database can be fetched.
set -euo pipefail
cd "$(dirname "$0")/.."
CACHE=${MEMBOSS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/memboss}
version=0.20.2
deny=$CACHE/tools/bin/cargo-deny
if [ ! -x "$deny" ] || [ "$("$deny" --version)" != "cargo-deny $version" ]; then
  echo "building cargo-deny $version into $CACHE/tools (some minutes, once)"
  CARGO_TARGET_DIR=$CACHE/tools/target cargo install cargo-deny --version $version --locked --quiet --root "$CACHE/tools"
fi
"$deny" --log-level error check --hide-inclusion-graph licenses bans sources
if ! "$deny" --log-level error check advisories >"$CACHE/advisories.log" 2>&1; then
  grep -q 'failed to fetch\|failed to load advisory database\|unable to fetch' "$CACHE/advisories.log" || { cat "$CACHE/advisories.log"; exit 1; }
  echo "advisories: not checked, their database cannot be reached from here"
fi
