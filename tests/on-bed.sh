#!/usr/bin/env bash
# Runs a program of this machine in the bed's network, with the way to its API server: on-bed.sh NAME COMMAND…
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
bed=$1; shift
. "$here/cluster/parts/places.sh"
use_cluster "$bed"
exec nsenter -t "$(cat "$RUN/pid")" -n env KUBECONFIG="$RUN/kubeconfig" "$@"
