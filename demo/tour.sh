#!/usr/bin/env bash
# Shows the main job on the demo's cluster, with what to try next: pods share a GPU, one waits and says why, an URGENT one gets its memory from a
# BATCH one after a notice. $K runs a command in the cluster, and $MEMBOSS is the command line there. It may only touch the namespace `demo`.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
k() { $K kubectl "$@"; }
title() { if [ -t 1 ]; then printf '\n\033[1m%s\033[0m\n' "$*"; else printf '\n%s\n' "$*"; fi; }
show() { k -n demo get vramleases; }
lease_is() { [ "$(k -n demo get vramleases -o jsonpath="{.items[?(@.spec.subject.podName=='$1')].status.phase}")" = "$2" ]; }
until_is() { # until_is POD PHASE…
  local pod=$1; shift
  for _ in $(seq 300); do
    for phase in "$@"; do if lease_is "$pod" "$phase"; then return; fi; done
    sleep 0.2
  done
  echo "error: the lease of $pod did not become $*" >&2; show >&2; exit 1
}

# Each agent reports once it has looked at its GPUs.
agents=$(k -n memboss-system get daemonset memboss-agent -o jsonpath='{.status.desiredNumberScheduled}')
for _ in $(seq 150); do
  [ "$(k get memorynodes --no-headers 2>/dev/null | grep -c Healthy)" -lt "$agents" ] || break
  sleep 0.2
done
title "The nodes and their (simulated) GPUs"
k get memorynodes

k create namespace demo --dry-run=client -o yaml | k apply -f - >/dev/null
k annotate namespace demo --overwrite memboss.dev/max-class=urgent >/dev/null
k -n demo delete pods,jobs --all --wait --grace-period=1 >/dev/null 2>&1 || true
k -n demo delete vramleases --all --wait=false >/dev/null 2>&1 || true
gpu=$(k get memorynode "${NODE:-node1}" -o jsonpath='{.status.gpus[0].uuid}')
pods() { sed "s/\$GPU/$gpu/" "$here/$1" | k -n demo apply -f - >/dev/null; }

title "Two pods ask for 8Gi and 12Gi of one 24 GiB GPU; a third asks for 8Gi more and waits, with its place and the reason"
pods sharing.yaml
until_is small Active; until_is large Active; until_is third Waiting
sleep 1
show

title "An URGENT pod needs 10Gi there. The BATCH pod 'large' is told, has its time, and gives way"
pods urgent.yaml
until_is large Revoking Stopping Ended
show
until_is urgent Active
title "... and the URGENT pod runs"
show

title "The same in bars, by the command line"
$K "$MEMBOSS" vram status 2>/dev/null

cat <<TEXT

What to try (K='$K' MEMBOSS=$MEMBOSS):
  \$K kubectl get vramleases -A -o wide                   who holds or waits for what, and why
  \$K kubectl -n demo describe pod third                  the events tell the story
  \$K \$MEMBOSS vram top                                  a live screen
  \$K \$MEMBOSS lease why demo/third                      why it waits; --by api doctor looks at the installation
  \$K kubectl -n demo delete pod small                    the waiting one gets the memory
  \$K kubectl get memorynodes -o yaml                     what each agent sees
  \$K kubectl -n demo run wrong --image=x --annotations=memboss.dev/vram=lots     refused, with what would be right
  make demo-down                                         ends all of it
TEXT
