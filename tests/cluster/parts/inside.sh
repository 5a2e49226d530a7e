#!/usr/bin/env bash
# Runs as the first process of a cluster, in its own mount, network and pid namespaces: makes the bridge, certificates, control plane and nodes, says
# when all is ready, and stays, so that everything ends when it is killed. It may write only below the cluster's run folder and in its own namespaces.
set -euo pipefail
. "$(dirname "$0")/places.sh"
. "$BED/parts/control-plane.sh"
use_cluster "$1"
nodes=$2
export PATH=$BIN:$PATH KUBECONFIG=$RUN/kubeconfig

for folder in /run /etc/kubernetes /etc/cni /opt; do mkdir -p $folder; mount -t tmpfs tmpfs $folder; done
mkdir -p /run/netns
ip link set lo up
ip link add bed0 type bridge
ip addr add $GATEWAY/24 dev bed0
ip link set bed0 up
sysctl -qw net.ipv4.ip_forward=1

make_certificates
say "certificates made"
write_control_plane
for component in etcd apiserver controller-manager scheduler; do "$BED/parts/component.sh" "$NAME" "$component" start; done
wait_until 60 "the API server" kubectl get --raw /readyz
say "API server ready"
kubectl create clusterrolebinding apiserver-kubelet --clusterrole=system:kubelet-api-admin --user=kube-apiserver-kubelet-client >/dev/null
kubectl apply -f "$BED/parts/dns.yaml" >/dev/null

for n in $(seq "$nodes"); do
  node=node$n address=$(node_address "node$n")
  ip netns add "$node"
  ip link add "v$n" type veth peer name eth0 netns "$node"
  ip link set "v$n" master bed0 up
  ip -n "$node" link set lo up
  ip -n "$node" addr add "$address/24" dev eth0
  ip -n "$node" link set eth0 up
  ip -n "$node" route add default via $GATEWAY
  ip route add "$(node_pods "$node")" via "$address"
  for m in $(seq "$nodes"); do
    [ "$m" = "$n" ] || ip -n "$node" route add "$(node_pods "node$m")" via "$(node_address "node$m")"
  done
  "$BED/parts/node.sh" "$NAME" "$node" make
  "$BED/parts/node.sh" "$NAME" "$node" start &
done
all_ready() { [ "$(kubectl get nodes --no-headers 2>/dev/null | grep -c ' Ready')" = "$nodes" ]; }
wait_until 90 "$nodes nodes to be Ready" all_ready
say "$nodes nodes Ready"
wait_until 60 "the service account default/default" kubectl -n default get serviceaccount default
touch "$RUN/ready"
# The first process of a pid namespace has to take in the dead whose parents are gone; bash does while it waits.
while :; do sleep 3600 & wait $!; done
