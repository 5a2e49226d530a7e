#!/usr/bin/env bash
# Ends a cluster and looks whether anything of it stayed: processes, mounts, namespaces, cgroups, kernel settings.
#   down.sh [--name NAME]
set -euo pipefail
. "$(dirname "$0")/parts/places.sh"
. "$BED/parts/options.sh"
. "$BED/parts/sysctls.sh"
read_options "$@"
# Its number may be another process's by now, after a crash of the machine: only one that runs the cluster's first script is ended.
is_ours() { tr '\0' ' ' <"/proc/$1/cmdline" 2>/dev/null | grep -qF "parts/inside.sh $NAME "; }
first=$(cat "$RUN/unshare" 2>/dev/null || true)
if [ -n "$first" ] && is_ours "$first"; then
  # unshare ignores SIGTERM; with it its child goes, and with that, the first of its pid namespace, everything.
  kill -9 "$first" 2>/dev/null || true
  if [ -e "$RUN/pid" ]; then wait_until 30 "the cluster's processes to end" bash -c "! kill -0 $(cat "$RUN/pid") 2>/dev/null"; fi
fi
cgroups() { find /sys/fs/cgroup -depth -type d \( -path "*/$CGROUP" -o -path "*/$CGROUP/*" \) 2>/dev/null; }
no_cgroups() { cgroups | xargs -r rmdir 2>/dev/null; [ -z "$(cgroups)" ]; }
wait_until 30 "the cluster's cgroups to be removed" no_cgroups
left=$(grep -F "$RUN/" /proc/mounts || true)
[ -z "$left" ] || die "mounts stayed: $left"
left=$(pgrep -af "$RUN/" || true)
[ -z "$left" ] || die "processes stayed: $left"
restore_settings
rm -rf "$RUN"
say "cluster '$NAME' is gone; nothing stayed"
