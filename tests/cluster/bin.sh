#!/usr/bin/env bash
# Says in which folder the bed's programs are. It changes nothing.
set -euo pipefail
. "$(dirname "$0")/parts/places.sh"
echo "$BIN"
