#!/usr/bin/env bash
# Writes the configuration and command lines of one node's programs: node-config.sh CLUSTER NODE. It starts nothing.
set -euo pipefail
. "$(dirname "$0")/places.sh"
use_cluster "$1"
node=$2
home=$RUN/nodes/$node

cat >"$home/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /$CGROUP/$node
cgroupsPerQOS: true
enforceNodeAllocatable: [pods]
failSwapOn: false
makeIPTablesUtilChains: false
nodeStatusUpdateFrequency: 1s
clusterDNS: [$DNS_ADDRESS]
clusterDomain: cluster.local
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
podLogsDir: $home/podlogs
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $RUN/pki/ca.crt}}
authorization: {mode: Webhook}
resolvConf: ""
podCIDR: $(node_pods "$node")
kubeReserved: {memory: 1Gi}
evictionHard: {nodefs.available: "1%", imagefs.available: "1%", memory.available: 100Mi}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
maxPods: 110
# Tests kill the same container again and again: the kubelet may not make them wait longer each time.
crashLoopBackOff: {maxContainerRestartPeriod: 1s}
featureGates: {KubeletCrashLoopBackOffMax: true}
YAML
cat >"$home/containerd.toml" <<TOML
version = 3
root = "$home/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  disable_apparmor = true
  cdi_spec_dirs = ["/etc/cdi", "/run/cdi"]
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["$BIN"]
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      BinaryName = "$BIN/runc"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "docker.io/local/pause:1"
TOML
cat >"$home/cni.json" <<JSON
{"cniVersion": "1.0.0", "name": "bed", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "/run/cni-ipam", "ranges": [[{"subnet": "$(node_pods "$node")"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
JSON
cat >"$home/kube-proxy.yaml" <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: $PODS
clientConnection: {kubeconfig: $RUN/kubeconfig}
conntrack: {maxPerCore: 0}
hostnameOverride: $node
YAML

command_of() {
  local name=$1; shift
  { printf 'export PATH=%q:$PATH\nexec' "$BIN"; printf ' %q' "$@"; printf '\n'; } >"$home/commands/$name"
}
command_of containerd "$BIN/containerd" -c "$home/containerd.toml"
command_of kube-proxy "$BIN/kube-proxy" --config "$home/kube-proxy.yaml"
command_of kubelet "$BIN/kubelet" --config "$home/kubelet.yaml" --kubeconfig "$home/kubelet.conf" --hostname-override "$node" \
  --node-ip "$(node_address "$node")" --root-dir /var/lib/kubelet -v 2
