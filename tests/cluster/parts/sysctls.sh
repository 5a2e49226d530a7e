# shellcheck shell=bash
# The machine's kernel settings that a kubelet changes: noted before the first cluster starts, put back when the last one has ended, and compared. Sourced
# after places.sh. It puts back only what a kubelet is known to set; any other difference it tells, since it may be somebody else's wish.

readonly KUBELET_SETS="vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys kernel.keys.root_maxbytes"
# These change by themselves.
readonly RESTLESS='^(fs\.(dentry-state|file-nr|inode-nr|inode-state|aio-nr|quota\..*)|kernel\.(ns_last_pid|random\..*|pty\.nr|tainted)|net\.netfilter\.nf_conntrack_count) '
SETTINGS=$CACHE/run/sysctls

# All settings outside of network interfaces, which come and go.
settings() { sysctl -a 2>/dev/null | grep -vE "$RESTLESS" | grep -vE '^net\.ipv[46]\.(conf|neigh)\.' | sort; }

# Whether a cluster of this cache runs besides this one.
others_run() {
  local pid
  for pid in "$CACHE"/run/*/pid; do
    [ "$pid" != "$RUN/pid" ] && [ -e "$pid" ] && kill -0 "$(cat "$pid")" 2>/dev/null && return 0
  done
  return 1
}

note_settings() {
  if ! others_run || [ ! -e "$SETTINGS" ]; then settings >"$SETTINGS"; fi
}

# Puts the kubelet's settings back as they were, and compares all.
restore_settings() {
  local key now was other
  [ -e "$SETTINGS" ] || return 0
  if others_run; then say "another cluster runs: the machine's kernel settings are put back when it ends"; return 0; fi
  for key in $KUBELET_SETS; do
    was=$(sed -n "s/^$key = //p" "$SETTINGS") now=$(sysctl -n "$key")
    if [ "$was" != "$now" ]; then sysctl -qw "$key=$was" || die "the kernel setting $key stayed at $now; it was $was: sysctl -w $key=$was"; fi
  done
  other=$(comm -13 "$SETTINGS" <(settings)) || true
  [ -z "$other" ] || printf 'note: these kernel settings differ from before the cluster, which sets none of them:\n%s\n' "$other" >&2
  rm "$SETTINGS"
}
