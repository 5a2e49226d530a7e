#!/usr/bin/env bash
# The chart's life on a bed where memboss is installed: helm test, an upgrade under a running lease, an uninstall that ends the leases and keeps the
# custom resources, and one that takes them along. The last of the cluster tests: memboss is gone afterwards. chart-life.sh NAME
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
bed=$1
on_bed() { "$here/cluster/k.sh" --name "$bed" "$@"; }
k() { on_bed kubectl "$@"; }
fail() { echo "chart: $*" >&2; exit 1; }

on_bed helm test memboss -n memboss-system --timeout 2m >/dev/null || fail "helm test failed"
echo "chart: helm test passed"

k create namespace chart-life >/dev/null
k -n chart-life run held --image=docker.io/local/memboss:bed --image-pull-policy=Never --annotations=memboss.dev/vram=1Gi \
  --command -- memboss-workload --alloc 1Gi >/dev/null
k -n chart-life wait --for=condition=Ready pod/held --timeout=60s >/dev/null
token() { k -n chart-life get vramleases -o jsonpath='{.items[0].status.allocation.token}'; }
before=$(token)
on_bed helm upgrade memboss "$root/charts/memboss" -n memboss-system --reuse-values --set operator.podAnnotations.upgraded=yes \
  --set agent.podAnnotations.upgraded=yes --wait --timeout 3m >/dev/null
[ "$(token)" = "$before" ] || fail "an upgrade changed a running lease: $before, then $(token)"
[ "$(k -n chart-life get pod held -o jsonpath='{.status.containerStatuses[0].restartCount}')" = 0 ] || fail "an upgrade restarted a holder"
echo "chart: an upgrade leaves leases and holders alone"

on_bed helm uninstall memboss -n memboss-system --wait --timeout 4m >/dev/null
[ -z "$(k get vramleases -A -o name)" ] || fail "leases are left: $(k get vramleases -A)"
k get crd vramleases.memboss.dev >/dev/null || fail "the custom resources went with the uninstall"
left=$(k get mutatingwebhookconfiguration,validatingadmissionpolicy,clusterrole,priorityclass -o name | grep memboss || true)
[ -z "$left" ] || fail "these are left: $left"
k -n chart-life delete pod held --ignore-not-found --wait --grace-period=1 >/dev/null
echo "chart: an uninstall ends the leases, keeps the custom resources, and leaves nothing else"

"$here/install.sh" "$bed" --set crds.keep=false >/dev/null
k get crd vramleases.memboss.dev >/dev/null || fail "the custom resources that were kept are not taken over"
on_bed helm uninstall memboss -n memboss-system --wait --timeout 4m >/dev/null
left=$(k get crd -o name | grep memboss || true)
[ -z "$left" ] || fail "these are left, though they were not to be kept: $left"
k delete namespace chart-life memboss-system --wait --timeout=60s >/dev/null || fail "a namespace does not go"
echo "chart: told not to keep the custom resources, an uninstall takes them along"
