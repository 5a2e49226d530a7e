#!/usr/bin/env bash
# Runs a command inside a cluster's namespaces as its administrator: k.sh [--name NAME] kubectl get nodes
set -euo pipefail
. "$(dirname "$0")/parts/places.sh"
. "$BED/parts/options.sh"
read_options "$@"
inside "${REST[@]}"
