#!/usr/bin/env bash
# Starts or kills one part of the control plane, from inside the cluster's namespaces: component.sh CLUSTER NAME start|kill
set -euo pipefail
. "$(dirname "$0")/places.sh"
use_cluster "$1"
name=$2 what=$3
[ -e "$RUN/commands/$name" ] || die "there is no component '$name': $(cd "$RUN/commands" && echo *)"
alive() { [ -e "$RUN/pids/$name" ] && kill -0 "$(cat "$RUN/pids/$name")" 2>/dev/null; }
case $what in
  start)
    if alive; then exit 0; fi
    setsid bash "$RUN/commands/$name" >>"$LOGS/$name.log" 2>&1 </dev/null &
    echo $! >"$RUN/pids/$name"
    ;;
  kill)
    alive || die "$name does not run"
    pid=$(cat "$RUN/pids/$name")
    kill -9 "$pid"
    while kill -0 "$pid" 2>/dev/null; do sleep 0.02; done
    ;;
  *) die "say start or kill, not '$what'" ;;
esac
