#!/usr/bin/env bash
# Runs a command on a node, in its namespaces: node.sh [--name NAME] NODE COMMAND…
set -euo pipefail
. "$(dirname "$0")/parts/places.sh"
. "$BED/parts/options.sh"
read_options "$@"
inside "$BED/parts/node.sh" "$NAME" "${REST[0]}" enter "${REST[@]:1}"
