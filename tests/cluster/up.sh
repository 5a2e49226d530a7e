#!/usr/bin/env bash
# Starts a cluster: one control plane and some nodes, in namespaces of their own on this machine. Says how it goes; ends when all nodes are Ready.
#   up.sh [--name NAME] [--nodes N]
# It may not change the machine but for kernel settings that the kubelet changes (noted for down.sh) and cgroups of the cluster's name.
set -euo pipefail
. "$(dirname "$0")/parts/places.sh"
. "$BED/parts/options.sh"
. "$BED/parts/sysctls.sh"
read_options "$@"
nodes=${NODES:-2}
[ "$(id -u)" = 0 ] || die "a cluster needs root for its namespaces"
[ -x "$BIN/kubelet" ] || die "the programs are not built yet: run $BED/build.sh"
if running; then die "cluster '$NAME' runs already: end it with $BED/down.sh --name $NAME"; fi
rm -rf "$RUN"
mkdir -p "$LOGS"
note_settings

say "starting cluster '$NAME' with $nodes node(s)"
setsid unshare --mount --net --pid --fork --mount-proc --kill-child --propagation private \
  "$BED/parts/inside.sh" "$NAME" "$nodes" >"$LOGS/inside.log" 2>&1 </dev/null &
echo $! >"$RUN/unshare"
shown=0
while [ ! -e "$RUN/ready" ]; do
  if [ "$(wc -l <"$LOGS/inside.log")" -gt "$shown" ]; then
    tail -n +$((shown + 1)) "$LOGS/inside.log"; shown=$(wc -l <"$LOGS/inside.log")
  fi
  kill -0 "$(cat "$RUN/unshare")" 2>/dev/null || { tail -5 "$LOGS"/*.log >&2; die "the cluster did not start; its logs are in $LOGS"; }
  sleep 0.1
done
tail -n +$((shown + 1)) "$LOGS/inside.log"
pgrep -P "$(cat "$RUN/unshare")" >"$RUN/pid"
say "up; reach it with $BED/k.sh --name $NAME kubectl get nodes"
