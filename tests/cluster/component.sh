#!/usr/bin/env bash
# Kills or starts a part of the control plane: component.sh [--name NAME] etcd|apiserver|controller-manager|scheduler kill|start
set -euo pipefail
. "$(dirname "$0")/parts/places.sh"
. "$BED/parts/options.sh"
read_options "$@"
inside "$BED/parts/component.sh" "$NAME" "${REST[0]}" "${REST[1]}"
