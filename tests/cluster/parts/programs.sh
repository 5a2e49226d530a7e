# shellcheck shell=bash
# What is built for the test bed, from which module, how, in the order in which a cluster needs it. Data for build.sh;
# it builds nothing by itself. One line a program: name | module folder | package | how.

readonly PROGRAM_LIST='
etcd|etcd|go.etcd.io/etcd/server/v3|plain
kube-apiserver|kubernetes|k8s.io/kubernetes/cmd/kube-apiserver|kubernetes
kubectl|kubernetes|k8s.io/kubernetes/cmd/kubectl|kubernetes
kubeadm|kubernetes|k8s.io/kubernetes/cmd/kubeadm|kubernetes
kube-controller-manager|kubernetes|k8s.io/kubernetes/cmd/kube-controller-manager|kubernetes
kube-scheduler|kubernetes|k8s.io/kubernetes/cmd/kube-scheduler|kubernetes
kubelet|kubernetes|k8s.io/kubernetes/cmd/kubelet|kubernetes
kube-proxy|kubernetes|k8s.io/kubernetes/cmd/kube-proxy|kubernetes
containerd|containerd|github.com/containerd/containerd/v2/cmd/containerd|plain
containerd-shim-runc-v2|containerd|github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2|plain
ctr|containerd|github.com/containerd/containerd/v2/cmd/ctr|plain
runc|runc|github.com/opencontainers/runc|seccomp
bridge|cni|github.com/containernetworking/plugins/plugins/main/bridge|plain
host-local|cni|github.com/containernetworking/plugins/plugins/ipam/host-local|plain
loopback|cni|github.com/containernetworking/plugins/plugins/main/loopback|plain
portmap|cni|github.com/containernetworking/plugins/plugins/meta/portmap|plain
coredns|coredns|github.com/coredns/coredns|plain
helm|helm|helm.sh/helm/v4/cmd/helm|plain
'

# module_version FOLDER MODULE: the pinned version, as the module file has it (v1.37.2).
module_version() { awk -v m="$2" '$1 == m && $2 ~ /^v/ { print $2; exit }' "$BED/modules/$1/go.mod"; }

# linker_flags HOW: strips, and tells the Kubernetes programs their own version (clients and nodes compare it).
linker_flags() {
  local flags='-s -w' version at=k8s.io/component-base/version
  if [ "$1" = kubernetes ]; then
    version=$(module_version kubernetes k8s.io/kubernetes)
    flags+=" -X $at.gitVersion=$version -X $at.gitMajor=$(cut -d. -f1 <<<"${version#v}") -X $at.gitMinor=$(cut -d. -f2 <<<"$version")"
  fi
  echo "$flags"
}
