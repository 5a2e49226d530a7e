#!/usr/bin/env bash
# Puts memboss onto a running test bed: builds the binaries and their image, gives each node its simulated GPUs, installs the chart, and waits
# until every part is ready. Run again, it upgrades. It may not start or stop the bed.
#   tests/install.sh NAME [helm options…]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
bed=$1; shift
say() { printf '%s\n' "$*"; }
on_bed() { "$here/cluster/k.sh" --name "$bed" "$@"; }
# The nodes share one kernel: each agent looks only at its own node's part of the cgroups.
cgroup_root() {
  local root=/host/sys/fs/cgroup
  [ -e /sys/fs/cgroup/cgroup.controllers ] || root=$root/memory
  echo "$root/memboss-bed-$bed/\$(NODE_NAME)"
}
on_node() { "$here/cluster/node.sh" --name "$bed" "$@"; }

CACHE=${MEMBOSS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/memboss}
target=${CARGO_TARGET_DIR:-$root/target}/release
image=docker.io/local/memboss:bed

say "building the binaries"
make -s -C "$root" build
work=$CACHE/run/$bed/memboss; mkdir -p "$work/sim"
"$here/cluster/image.sh" "$image" "$work/memboss.tar" \
  "$target"/{memboss-agent,memboss-device-plugin,memboss-operator,memboss,memboss-workload}
"$here/cluster/load-image.sh" --name "$bed" "$work/memboss.tar"

# Two nodes, two kinds of GPU. The simulator's folder lies where a reboot does not reach, as a GPU would.
cp "$target"/{memboss-sim,libmemboss_sim_nvml.so,libmemboss_sim_cuda.so} "$work/sim/"
gpus_of() { case $1 in node1) echo "SIM-24G:24576x2" ;; *) echo "a100-80x2" ;; esac; }
for node in $(on_bed kubectl get nodes -o name | sed 's#node/##'); do
  on_node "$node" "$here/sim-node.sh" "$work/sim" "$node" "$(gpus_of "$node")"
done

say "installing the chart"
on_bed helm upgrade --install memboss "$root/charts/memboss" --namespace memboss-system --create-namespace \
  --values "$here/values.yaml" --set-string "agent.cgroupRoot=$(cgroup_root)" "$@" --wait --timeout 3m >"$work/helm.log" 2>&1 || { cat "$work/helm.log"; on_bed kubectl -n memboss-system get pods -o wide; exit 1; }
# A pod that keeps its image name does not notice that the image is new.
if [ -e "$work/installed" ]; then
  on_bed kubectl -n memboss-system rollout restart daemonset,deployment >/dev/null
  on_bed kubectl -n memboss-system rollout status daemonset,deployment --timeout=2m >/dev/null
fi
touch "$work/installed"
say "memboss is installed"
