#!/usr/bin/env bash
# Ends a cluster and looks whether anything of it stayed: processes, mounts, namespaces, cgroups, sysctls. down.sh [--name NAME]
set -euo pipefail
. "$(dirname "$0")/parts/places.sh"
. "$BED/parts/options.sh"
read_options "$@"
if [ -e "$RUN/unshare" ]; then
  # unshare ignores SIGTERM; with it its child goes, and with that, the first of its pid namespace, everything.
  kill -9 "$(cat "$RUN/unshare")" 2>/dev/null || true
  if [ -e "$RUN/pid" ]; then wait_until 30 "the cluster's processes to end" bash -c "! kill -0 $(cat "$RUN/pid") 2>/dev/null"; fi
fi
cgroups() { find /sys/fs/cgroup -depth -type d -path "*/$CGROUP*" 2>/dev/null; }
no_cgroups() { cgroups | xargs -r rmdir 2>/dev/null; [ -z "$(cgroups)" ]; }
wait_until 30 "the cluster's cgroups to be removed" no_cgroups
if [ -e "$RUN/sysctls" ]; then
  while IFS='=' read -r key value; do sysctl -qw "$key=$value"; done <"$RUN/sysctls"
fi
left=$(grep -F "$RUN" /proc/mounts || true)
[ -z "$left" ] || die "mounts stayed: $left"
left=$(pgrep -af "$RUN" | grep -v down.sh || true)
[ -z "$left" ] || die "processes stayed: $left"
rm -rf "$RUN"
say "cluster '$NAME' is gone; nothing stayed"
