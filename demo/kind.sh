#!/usr/bin/env bash
# The demo on kind, where Docker and kind are at hand: kind.sh up|down. Written from kind's documentation.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
name=memboss-demo
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
for program in kind docker kubectl helm cargo; do command -v $program >/dev/null || die "$program is needed and not on PATH"; done
docker info >/dev/null 2>&1 || die "no Docker engine answers: start it, or leave CLUSTER=kind out"

if [ "${1:-}" = down ]; then exec kind delete cluster --name $name; fi
[ "${1:-}" = up ] || die "say up or down"

kind get clusters 2>/dev/null | grep -qx $name || kind create cluster --name $name --image kindest/node:v1.37.0 --config "$here/kind.yaml" --wait 2m
make -s -C "$root" build
target=${CARGO_TARGET_DIR:-$root/target}/release
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
mkdir "$work/sim"
cp "$target"/{memboss-sim,libmemboss_sim_nvml.so,libmemboss_sim_cuda.so} "$work/sim/"
cp "$target"/{memboss-agent,memboss-device-plugin,memboss-operator,memboss,memboss-workload} "$work/"
printf 'FROM debian:stable-slim\nCOPY memboss* /usr/local/bin/\n' >"$work/Dockerfile"
docker build --quiet --tag docker.io/local/memboss:bed "$work" >/dev/null
kind load docker-image --name $name docker.io/local/memboss:bed
# A container's file system keeps the simulated GPUs; /run of a kind node is a tmpfs like any node's.
for node in $(kind get nodes --name $name); do
  docker cp "$work/sim" "$node:/memboss-sim-bin"
  docker cp "$root/tests/sim-node.sh" "$node:/memboss-sim-node.sh"
  docker exec "$node" /memboss-sim-node.sh /memboss-sim-bin "$node" "SIM-24G:24576x2"
done
helm upgrade --install memboss "$root/charts/memboss" --kube-context kind-$name --namespace memboss-system --create-namespace \
  --set image.repository=docker.io/local/memboss --set image.tag=bed --set image.pullPolicy=Never \
  --set driver.hostPath=/run/memboss-sim --set driver.readOnly=false --set driver.nvmlLibrary=/run/memboss-sim/lib/libnvidia-ml.so.1 --wait --timeout 5m
kubectl config use-context kind-$name >/dev/null
K=env MEMBOSS=$target/memboss NODE=$(kubectl get memorynodes -o jsonpath='{.items[0].metadata.name}') "$here/tour.sh"
