#!/usr/bin/env bash
# containerd of a node begins anew, and looks for CDI files in those directories: cdi.sh [--name NAME] NODE DIRECTORY…
set -euo pipefail
. "$(dirname "$0")/parts/places.sh"
. "$BED/parts/options.sh"
read_options "$@"
node=${REST[0]}
directories=$(printf '"%s", ' "${REST[@]:1}")
sed -i "s#^  cdi_spec_dirs = .*#  cdi_spec_dirs = [${directories%, }]#" "$RUN/nodes/$node/containerd.toml"
inside "$BED/parts/node.sh" "$NAME" "$node" containerd
