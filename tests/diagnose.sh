#!/usr/bin/env bash
# Prints what helps to understand a failure on a bed: diagnose.sh NAME. It changes nothing.
here=$(cd "$(dirname "$0")" && pwd)
k() { "$here/cluster/k.sh" --name "$1" kubectl "${@:2}" 2>&1; }
echo "=== what the bed looked like"
k "$1" get nodes,pods -A -o wide | head -60
k "$1" get vramleases -A -o wide | head -40
k "$1" get memorynodes
k "$1" get events -A --sort-by=.lastTimestamp | tail -30
for app in operator agent; do
  echo "=== memboss-$app, last lines"
  k "$1" -n memboss-system logs -l app.kubernetes.io/component=$app --all-containers --prefix --tail=25
done
