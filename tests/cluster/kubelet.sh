#!/usr/bin/env bash
# Stops, starts, restarts or kills a node's kubelet: kubelet.sh [--name NAME] NODE stop|start|restart|kill
set -euo pipefail
. "$(dirname "$0")/parts/places.sh"
. "$BED/parts/options.sh"
read_options "$@"
inside "$BED/parts/node.sh" "$NAME" "${REST[0]}" kubelet "${REST[1]}"
