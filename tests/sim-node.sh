#!/usr/bin/env bash
# Gives the node in whose namespaces it runs its simulated GPUs, unless it has them. It may not know who uses them.
#   sim-node.sh FOLDER-WITH-BINARIES SEED GPUS
set -euo pipefail
from=$1 seed=$2 gpus=$3
dir=/run/memboss-sim
mkdir -p "$dir/bin"
cp "$from"/* "$dir/bin/"
export MEMBOSS_SIM_DIR=$dir
[ -d "$dir/gpus" ] || "$dir/bin/memboss-sim" create --seed "$seed" --gpu "$gpus"
"$dir/bin/memboss-sim" install
mkdir -p /etc/cdi
"$dir/bin/memboss-sim" cdi --out /etc/cdi/nvidia.json
