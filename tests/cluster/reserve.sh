#!/usr/bin/env bash
# Sets what a node's kubelet keeps from pods, and restarts it: reserve.sh [--name NAME] NODE MEMORY (1Gi, as at the start) | NODE all-but MIB
set -euo pipefail
. "$(dirname "$0")/parts/places.sh"
. "$BED/parts/options.sh"
read_options "$@"
node=${REST[0]} memory=${REST[1]}
if [ "$memory" = all-but ]; then
  memory=$(awk -v left="${REST[2]}" '/^MemTotal:/ { print int($2 / 1024) - left "Mi" }' /proc/meminfo)
fi
sed -i "s/^kubeReserved: .*/kubeReserved: {memory: $memory}/" "$RUN/nodes/$node/kubelet.yaml"
inside "$BED/parts/node.sh" "$NAME" "$node" kubelet restart
