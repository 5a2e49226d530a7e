# shellcheck shell=bash
# The control plane's certificates and command lines. Sourced by inside.sh after places.sh; it may only write below $RUN.

make_certificates() {
  cat >"$RUN/kubeadm.yaml" <<YAML
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint: {advertiseAddress: $GATEWAY, bindPort: 6443}
nodeRegistration: {name: control-plane, criSocket: unix:///run/none.sock}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: v1.37.2
certificatesDir: $RUN/pki
networking: {serviceSubnet: $SERVICES, podSubnet: $PODS}
YAML
  kubeadm init phase certs all --config "$RUN/kubeadm.yaml" >"$LOGS/kubeadm.log" 2>&1
  kubeadm init phase kubeconfig all --config "$RUN/kubeadm.yaml" --kubeconfig-dir "$RUN/kubeconfigs" >>"$LOGS/kubeadm.log" 2>&1
  cp "$RUN/kubeconfigs/super-admin.conf" "$RUN/kubeconfig"
}

# command NAME ARGUMENT…: one component's command line, to be started again as often as a test kills it.
command_of() {
  local name=$1; shift
  { printf 'exec'; printf ' %q' "$@"; printf '\n'; } >"$RUN/commands/$name"
}

write_control_plane() {
  local pki=$RUN/pki conf=$RUN/kubeconfigs
  mkdir -p "$RUN/commands" "$RUN/pids"
  command_of etcd "$BIN/etcd" --data-dir "$RUN/etcd" --unsafe-no-fsync --listen-client-urls http://127.0.0.1:2379 \
    --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380
  command_of apiserver "$BIN/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 --advertise-address=$GATEWAY --bind-address=0.0.0.0 \
    --secure-port=6443 --client-ca-file="$pki/ca.crt" --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" \
    --kubelet-client-certificate="$pki/apiserver-kubelet-client.crt" --kubelet-client-key="$pki/apiserver-kubelet-client.key" \
    --kubelet-preferred-address-types=InternalIP --service-account-issuer=https://kubernetes.default.svc.cluster.local \
    --service-account-key-file="$pki/sa.pub" --service-account-signing-key-file="$pki/sa.key" --service-cluster-ip-range=$SERVICES \
    --requestheader-client-ca-file="$pki/front-proxy-ca.crt" --proxy-client-cert-file="$pki/front-proxy-client.crt" \
    --proxy-client-key-file="$pki/front-proxy-client.key" --requestheader-allowed-names=front-proxy-client \
    --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group \
    --requestheader-extra-headers-prefix=X-Remote-Extra- --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
    --enable-aggregator-routing=true --allow-privileged=true --profiling=false
  command_of controller-manager "$BIN/kube-controller-manager" --kubeconfig="$conf/controller-manager.conf" \
    --cluster-signing-cert-file="$pki/ca.crt" --cluster-signing-key-file="$pki/ca.key" --root-ca-file="$pki/ca.crt" \
    --service-account-private-key-file="$pki/sa.key" --use-service-account-credentials=true --allocate-node-cidrs=true \
    --cluster-cidr=$PODS --service-cluster-ip-range=$SERVICES --kube-api-qps=500 --kube-api-burst=1000 \
    --node-monitor-period=500ms --leader-elect=false
  command_of scheduler "$BIN/kube-scheduler" --kubeconfig="$conf/scheduler.conf" --leader-elect=false --kube-api-qps=500 --kube-api-burst=1000
}
