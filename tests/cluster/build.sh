#!/usr/bin/env bash
# Builds every program of the test bed from its pinned Go module, and the few images that a bare cluster needs.
# The result lies in the cache, not in the checkout; the second run finds it there and does nothing. It may install
# packages of Debian that are missing; it may not fetch any program ready-made, and may not change a module file.
set -euo pipefail
. "$(dirname "$0")/parts/places.sh"
. "$BED/parts/programs.sh"

missing_programs() {
  local name rest
  while IFS='|' read -r name rest; do
    if [ -n "$name" ] && [ ! -x "$BIN/$name" ]; then echo "$name|$rest"; fi
  done <<<"$PROGRAM_LIST"
}

# Debian's package | how to see that it is there
readonly NEEDED='
gcc|command -v gcc
libc6-dev|test -e /usr/include/stdlib.h
pkg-config|command -v pkg-config
libseccomp-dev|pkg-config --exists libseccomp
busybox-static|command -v busybox
iproute2|command -v ip
nftables|command -v nft
iptables|command -v iptables
util-linux|command -v nsenter
procps|command -v sysctl
redis-server|command -v redis-server
jq|command -v jq
'

install_packages() {
  local package seen missing=() held=/usr/sbin/policy-rc.d hold=no
  while IFS='|' read -r package seen; do
    [ -n "$package" ] || continue
    bash -c "$seen" >/dev/null 2>&1 || missing+=("$package")
  done <<<"$NEEDED"
  [ ${#missing[@]} -gt 0 ] || return 0
  [ "$(id -u)" = 0 ] || die "packages are missing and only root can install them: ${missing[*]}"
  command -v apt-get >/dev/null || die "packages are missing and there is no apt-get; install what your system calls: ${missing[*]}"
  say "installing from Debian: ${missing[*]}"
  # Only the programs are wanted: no server that a package brings may be started.
  [ -e $held ] || { hold=yes; printf '#!/bin/sh\nexit 101\n' > $held; chmod 755 $held; }
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  if [ $hold = yes ]; then rm $held; fi
}

require_go() {
  local need have
  need=$(awk '$1 == "go" { print $2 }' "$BED"/modules/*/go.mod | sort -V | tail -1)
  command -v go >/dev/null || die "Go is needed (>= $need) and there is none: see go.dev/doc/install, and put its bin folder on PATH"
  have=$(cd / && GOTOOLCHAIN=local go env GOVERSION); have=${have#go}
  [ "$(printf '%s\n' "$need" "$have" | sort -V | head -1)" = "$need" ] ||
    die "Go >= $need is needed, '$(command -v go)' is $have: see go.dev/doc/install, and put the new one first on PATH"
}

# build_program NAME FOLDER PACKAGE HOW: builds beside its place and renames, so that an interrupted run leaves no half program.
build_program() {
  local name=$1 folder=$2 package=$3 how=$4 cgo=0 tags=''
  if [ "$how" = seccomp ]; then cgo=1 tags=seccomp; fi
  (cd "$BED/modules/$folder" && GOWORK=off GOFLAGS=-mod=readonly CGO_ENABLED=$cgo \
    go build -trimpath -tags "$tags" -ldflags "$(linker_flags "$how")" -o "$BIN/.$name.part" "$package")
  mv "$BIN/.$name.part" "$BIN/$name"
}

# with_heartbeat TEXT COMMAND…: says every 20 s that the command still runs; shows what it said only if it failed.
with_heartbeat() {
  local text=$1 log=$PROGRAMS/build.log pid ticks=0; shift
  ("$@") >"$log" 2>&1 & pid=$!
  while kill -0 $pid 2>/dev/null; do
    sleep 0.5
    ticks=$((ticks + 1))
    if [ $((ticks % 40)) = 0 ]; then say "$text … still building"; fi
  done
  wait $pid || { tail -40 "$log" >&2; die "$text failed; all it said is in $log"; }
}

build_programs() {
  local todo total part=0 name folder package how
  todo=$(missing_programs)
  [ -n "$todo" ] || return 0
  require_go
  total=$(wc -l <<<"$todo")
  say "building $total programs into $BIN (about 12 minutes on two cores the first time)"
  while IFS='|' read -r name folder package how; do
    part=$((part + 1))
    with_heartbeat "part $part of $total: $name" build_program "$name" "$folder" "$package" "$how"
    say "part $part of $total: $name, $(($(stat -c %s "$BIN/$name") / 1048576)) MiB"
  done <<<"$todo"
}

mkdir -p "$BIN"
exec 9>"$PROGRAMS/lock"
flock -n 9 || { say "another build is running: waiting for it"; flock 9; }
# A cache may have come to a machine that lacks them: what was built is not all that a cluster needs.
install_packages
if [ -z "$(missing_programs)" ] && [ -e "$IMAGES/complete" ]; then
  say "nothing to build: $PROGRAMS"
  exit 0
fi
build_programs
[ -e "$IMAGES/complete" ] || "$BED/images.sh" "$IMAGES"
say "built: $PROGRAMS"
