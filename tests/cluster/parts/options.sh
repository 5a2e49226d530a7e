# shellcheck shell=bash
# The options that the scripts share, and the way into a cluster. Sourced after places.sh; it changes nothing.

# read_options ARG…: takes --name and --nodes off the front; the rest is in REST.
read_options() {
  local name=test
  NODES='' REST=()
  while [ $# -gt 0 ]; do
    case $1 in
      --name) name=${2:?--name needs a name}; shift 2 ;;
      --nodes) NODES=${2:?--nodes needs a number}; shift 2 ;;
      *) break ;;
    esac
  done
  # shellcheck disable=SC2034 # read by whoever sources this
  REST=("$@")
  use_cluster "$name"
}

running() { [ -e "$RUN/pid" ] && kill -0 "$(cat "$RUN/pid")" 2>/dev/null; }

# inside COMMAND…: in the cluster's namespaces, as its administrator.
inside() {
  running || die "cluster '$NAME' does not run: start it with $BED/up.sh --name $NAME"
  nsenter -t "$(cat "$RUN/pid")" --mount --net --pid env PATH="$BIN:$PATH" KUBECONFIG="$RUN/kubeconfig" MEMBOSS_CACHE="$CACHE" "$@"
}
