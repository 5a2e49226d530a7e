# shellcheck shell=bash
# Where the things of the test bed lie, and how it speaks. Sourced by every script here;
# it may only compute paths and print: it starts nothing and changes nothing.

BED=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${MEMBOSS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/memboss}
# Debian keeps ip, nft and sysctl where an ordinary PATH does not look.
PATH=$PATH:/usr/sbin:/sbin

# The fixed addresses of a cluster. Every cluster has a network namespace of its own, so all may use the same.
readonly GATEWAY=192.168.77.1      # the bridge that joins the nodes; the control plane listens here
readonly SERVICES=10.96.0.0/16
readonly DNS_ADDRESS=10.96.0.10
readonly PODS=10.244.0.0/16
node_address() { echo "192.168.77.$((10 + ${1#node}))"; }
node_pods() { echo "10.244.${1#node}.0/24"; }

started_at=$EPOCHREALTIME
seconds() { awk -v a="$started_at" -v b="$EPOCHREALTIME" 'BEGIN { printf "%6.1f", b - a }'; }
say() { printf '[%s s] %s\n' "$(seconds)" "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# wait_until SECONDS WHAT COMMAND…: tries the command until it succeeds, or ends with what was waited for.
wait_until() {
  local limit=$1 what=$2 end; shift 2
  end=$((SECONDS + limit))
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$end" ] || die "after $limit s still waiting for $what"
    sleep 0.05
  done
}

# Everything that decides what the built programs are; a change gives another folder, so that an old cluster keeps its own.
programs_key() { cat "$BED"/modules/*/go.{mod,sum} "$BED/parts/programs.sh" | sha256sum | cut -c1-12; }
images_key() { cat "$BED/image.sh" "$BED/images.sh" "$BED/parts/pause.c" | sha256sum | cut -c1-12; }
PROGRAMS=$CACHE/testbed/$(programs_key)
BIN=$PROGRAMS/bin
IMAGES=$PROGRAMS/images-$(images_key)

# use_cluster NAME: sets the paths of one cluster. The name ends up in cgroup and folder names, so it is kept plain.
use_cluster() {
  [[ $1 =~ ^[a-z][a-z0-9-]{0,20}$ ]] || die "cluster name '$1' is not usable: lower-case letters, digits and '-', at most 21"
  NAME=$1
  RUN=$CACHE/run/$NAME
  LOGS=$RUN/logs
  CGROUP=memboss-bed-$NAME
  case "$(realpath -m "$RUN")/" in
    /etc/* | /var/* | /opt/* | /run/* | /proc/* | /sys/*) die "the cache folder '$CACHE' lies where the nodes have a view of their own; set MEMBOSS_CACHE to a folder elsewhere" ;;
  esac
}
