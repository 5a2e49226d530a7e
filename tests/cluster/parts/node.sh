#!/usr/bin/env bash
# One node of a cluster, from inside the cluster's namespaces: node.sh CLUSTER NODE make|start|stop|reboot|enter COMMAND…
# A node is a network namespace, and a mount and UTS namespace that one sleeping process holds: containerd, the kubelet and kube-proxy run in them.
# It may touch only its own folders, namespaces and cgroups.
set -euo pipefail
. "$(dirname "$0")/places.sh"
use_cluster "$1"
node=$2 what=$3; shift 3
HOME_OF=$RUN/nodes/$node
export PATH=$BIN:$PATH

make() {
  mkdir -p "$HOME_OF"/{kubelet,containerd,memboss,sim,cdi,identity,commands,pids,log}
  new_boot_id
  kubeadm init phase kubeconfig kubelet --config <(sed "s/name: control-plane/name: $node/" "$RUN/kubeadm.yaml") \
    --kubeconfig-dir "$HOME_OF" >>"$LOGS/kubeadm.log" 2>&1
  "$BED/parts/node-config.sh" "$NAME" "$node"
  local controller parent
  for controller in /sys/fs/cgroup/*/ /sys/fs/cgroup/; do
    [ -e "$controller/cgroup.procs" ] || continue
    mkdir -p "$controller/$CGROUP/$node"
    # v1: a cpuset without processors takes no process.
    if [ -e "$controller/cpuset.mems" ] && [ -e "$controller/$CGROUP/cpuset.mems" ] && [ ! -e "$controller/cgroup.controllers" ]; then
      for parent in "$CGROUP" "$CGROUP/$node"; do
        cat "$controller/cpuset.cpus" >"$controller/$parent/cpuset.cpus"
        cat "$controller/cpuset.mems" >"$controller/$parent/cpuset.mems"
      done
    fi
  done
}

new_boot_id() { cat /proc/sys/kernel/random/uuid >"$HOME_OF/identity/boot-id"; }

# Makes the node's view of the file system and holds it.
hold() {
  nsenter --net="/run/netns/$node" unshare --mount --uts --propagation private bash -c '
    set -e
    home=$1 node=$2
    hostname "$node"
    for folder in /run /var/log /etc/cni /opt; do mount -t tmpfs tmpfs $folder; done
    mkdir -p /run/cdi /run/containerd /etc/cni/net.d /var/lib/kubelet /var/lib/memboss /etc/cdi /etc/memboss-node /run/memboss-sim
    mount --make-shared /run
    mount --bind "$home/kubelet" /var/lib/kubelet; mount --make-shared /var/lib/kubelet
    mount --bind "$home/memboss" /var/lib/memboss; mount --make-shared /var/lib/memboss
    mount --bind "$home/cdi" /etc/cdi
    mount --bind "$home/identity" /etc/memboss-node
    mount --bind "$home/sim" /run/memboss-sim
    cp "$home/cni.json" /etc/cni/net.d/10-bed.conflist
    touch "$home/held"
    exec sleep infinity' hold "$HOME_OF" "$node" >>"$HOME_OF/log/hold.log" 2>&1 </dev/null &
  echo $! >"$HOME_OF/holder"
  wait_until 10 "the namespaces of $node" test -e "$HOME_OF/held"
  rm "$HOME_OF/held"
}

enter() { nsenter -t "$(cat "$HOME_OF/holder")" --mount --uts --net "$@"; }

start_process() { # start_process NAME: unless it runs
  if [ -e "$HOME_OF/pids/$1" ] && kill -0 "$(cat "$HOME_OF/pids/$1")" 2>/dev/null; then return; fi
  # exec, so that the pid noted is the program's own.
  (exec nsenter -t "$(cat "$HOME_OF/holder")" --mount --uts --net setsid bash "$HOME_OF/commands/$1") >>"$HOME_OF/log/$1.log" 2>&1 </dev/null &
  echo $! >"$HOME_OF/pids/$1"
}

stop_process() { # stop_process NAME SIGNAL
  local pid
  pid=$(cat "$HOME_OF/pids/$1" 2>/dev/null) || return 0
  kill "-$2" "$pid" 2>/dev/null || return 0
  while kill -0 "$pid" 2>/dev/null; do sleep 0.02; done
}

start() {
  hold
  start_process containerd
  wait_until 30 "containerd of $node" enter ctr -a /run/containerd/containerd.sock version
  if [ ! -e "$HOME_OF/imported" ]; then
    local image
    for image in "$IMAGES"/*.tar; do
      enter ctr -a /run/containerd/containerd.sock -n k8s.io images import --local "$image" >>"$HOME_OF/log/import.log" 2>&1
    done
    touch "$HOME_OF/imported"
  fi
  start_process kube-proxy
  start_process kubelet
}

# Kills all that belongs to the node, as a power cut would: whoever is in its namespaces or cgroups.
stop() {
  local view proc left=1 path
  view=$(readlink "/proc/$(cat "$HOME_OF/holder")/ns/mnt")
  while [ $left -gt 0 ]; do
    left=0
    for proc in /proc/[0-9]*; do
      if [ "$(readlink "$proc/ns/mnt" 2>/dev/null)" = "$view" ] || grep -qs "/$CGROUP/$node/" "$proc/cgroup"; then
        # A process that is dead already and waits for its parent takes no signal.
        grep -qs '^State:.Z' "$proc/status" && continue
        kill -9 "${proc#/proc/}" 2>/dev/null && left=$((left + 1))
      fi
    done
    sleep 0.05
  done
  rm -f "$HOME_OF"/pids/*
  ip -n "$node" link del cni0 2>/dev/null || true
  for path in /sys/fs/cgroup/*/"$CGROUP/$node"/kubepods /sys/fs/cgroup/"$CGROUP/$node"/kubepods; do
    [ ! -d "$path" ] || find "$path" -depth -type d -exec rmdir {} \; 2>/dev/null || true
  done
}

case $what in
  make) make ;;
  start) start ;;
  stop) stop ;;
  reboot) stop; new_boot_id; start ;;
  enter) enter "$@" ;;
  kubelet)
    case $1 in
      start) start_process kubelet ;;
      stop) stop_process kubelet TERM ;;
      kill) stop_process kubelet 9 ;;
      restart) stop_process kubelet TERM; start_process kubelet ;;
      *) die "say start, stop, kill or restart, not '$1'" ;;
    esac ;;
  containerd) stop_process containerd TERM; start_process containerd ;;
  *) die "a node can do make, start, stop, reboot, enter, kubelet, containerd; not '$what'" ;;
esac
