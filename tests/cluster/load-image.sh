#!/usr/bin/env bash
# Gives an image to every node of a cluster: load-image.sh [--name NAME] TAR
set -euo pipefail
. "$(dirname "$0")/parts/places.sh"
. "$BED/parts/options.sh"
read_options "$@"
tar=$(realpath "${REST[0]}")
for node in "$RUN"/nodes/*/; do
  inside "$BED/parts/node.sh" "$NAME" "$(basename "$node")" enter \
    env CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS=1 ctr -a /run/containerd/containerd.sock -n k8s.io images import --local "$tar" >/dev/null
done
