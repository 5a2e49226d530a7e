#!/usr/bin/env bash
# Reboots a node as a power cut would: kills all that runs on it, empties its tmpfs, gives it a new boot id, starts it again.
#   node-reboot.sh [--name NAME] NODE
set -euo pipefail
. "$(dirname "$0")/parts/places.sh"
. "$BED/parts/options.sh"
read_options "$@"
inside "$BED/parts/node.sh" "$NAME" "${REST[0]}" reboot
