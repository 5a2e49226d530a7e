#!/usr/bin/env bash
# Checks the chart: lint, and what it renders against charts/snapshots, so that a change shows what it changes. `--update` writes the snapshots anew.
# It needs helm, on PATH or among what the test bed fetched, and no cluster.
set -euo pipefail
cd "$(dirname "$0")"

helm=$(command -v helm || ls -d "${MEMBOSS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/memboss}"/testbed/*/bin/helm 2>/dev/null | head -n 1) || true
[ -n "$helm" ] || { echo "there is no helm: put it on PATH" >&2; exit 2; }

# A password of its own, since one is drawn otherwise. The custom resources are compared with the Rust types elsewhere.
render() {
  "$helm" template memboss memboss --namespace memboss-system --kube-version 1.33.0 --set redis.password=snapshot --set crds.enabled=false "$@"
}
snapshot() { # snapshot NAME [helm options…]
  local file=snapshots/$1.yaml; shift
  if [ "${update:-}" ]; then render "$@" > "$file"; return; fi
  if ! diff -u "$file" <(render "$@"); then
    echo "$file is not what the chart renders: if that is right, run charts/check.sh --update" >&2
    failed=1
  fi
}
refused() { # refused WORDS [helm options…]: rendering must fail and say so
  local words=$1 said; shift
  said=$("$helm" template memboss memboss --namespace memboss-system "$@" 2>&1 >/dev/null) && { echo "not refused: $*" >&2; failed=1; return; }
  grep -qF -- "$words" <<< "$said" || { echo "refused without the words '$words': $said" >&2; failed=1; }
}

update='' failed=''
case ${1:-} in
  '') ;;
  --update) update=1 ;;
  *) sed -n '2,3p' "$0" | cut -c3- >&2; exit 2 ;;
esac

"$helm" lint --quiet --strict memboss --namespace memboss-system
[ "$("$helm" template memboss memboss --namespace memboss-system | grep -c '^kind: CustomResourceDefinition')" = "$(ls memboss/files/crds/*.yaml | wc -l)" ] ||
  { echo "not every custom resource is rendered" >&2; failed=1; }
snapshot default
snapshot external-redis --set redis.mode=external --set redis.url=redis://store.example:6379 --set redis.existingSecret=store
snapshot monitoring --set monitoring.serviceMonitor.enabled=true,monitoring.podMonitor.enabled=true,monitoring.prometheusRule.enabled=true,monitoring.dashboard.enabled=true
refused "namespace 'default'" --namespace default
refused "redis.url is empty" --set redis.mode=external
refused "operatr" --set operatr.replicas=3
refused "replicas" --set operator.replicas=many
[ -z "$failed" ] && echo "the chart is as it should be"
