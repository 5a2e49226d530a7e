#!/usr/bin/env bash
# Makes an image from programs of this machine, as an OCI layout in a tar file, without a registry or a daemon:
#   image.sh NAME TAR [--user UID] [--entrypoint PATH] [--env KEY=VALUE]… FILE[:DST]… [LINK->TARGET]…
# A dynamically linked program brings its loader and the libraries that ldd names along. The same files give the same
# bytes. DST is /usr/local/bin/<file name> unless given; the first FILE is the entrypoint unless given. It may only
# read the files named and write TAR.
set -euo pipefail

usage() { sed -n '3p' "$0" | cut -c5- >&2; exit 2; }
[ $# -ge 3 ] || usage
name=$1 tar=$2; shift 2
user='' entrypoint='' env=() files=()
while [ $# -gt 0 ]; do
  case $1 in
    --user) user=$2; shift 2 ;;
    --entrypoint) entrypoint=$2; shift 2 ;;
    --env) env+=("$2"); shift 2 ;;
    -*) usage ;;
    *) files+=("$1"); shift ;;
  esac
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$root"/{etc,tmp,run,usr/local/bin} "$work/out/blobs/sha256"
# What the C library looks up by itself: names of users, and that host names come from files and DNS.
printf 'root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' > "$root/etc/passwd"
printf 'root:x:0:\nnobody:x:65534:\n' > "$root/etc/group"
printf 'hosts: files dns\n' > "$root/etc/nsswitch.conf"

put() { # put FILE DST: the file itself, also where the name is a link
  mkdir -p "$root/$(dirname "$2")"
  cp -L --remove-destination "$1" "$root/$2"
  if [ -x "$1" ]; then chmod 755 "$root/$2"; else chmod 644 "$root/$2"; fi
}

libraries() { # the paths that the loader opens for this program; none for a static one
  # An unmet need is an error here, not at the first start of the container.
  local listed
  listed=$(ldd "$1" 2>/dev/null) || return 0
  if grep -F 'not found' <<<"$listed" >&2; then echo "error: '$1' needs libraries that this machine lacks" >&2; exit 1; fi
  grep -oE '/[^ ]+' <<<"$listed"
}

for entry in "${files[@]}"; do
  case $entry in
    *'->'*)
      mkdir -p "$root/$(dirname "${entry%%->*}")"
      ln -sf "${entry##*->}" "$root/${entry%%->*}"
      continue ;;
    *:*) from=${entry%%:*} to=${entry#*:} ;;
    *) from=$entry to=/usr/local/bin/$(basename "$entry") ;;
  esac
  [ -f "$from" ] || { echo "error: '$from' is not a file" >&2; exit 1; }
  put "$from" "$to"
  : "${entrypoint:=$to}"
  while read -r library; do put "$library" "$library"; done < <(libraries "$from")
done

find "$root" -type d -exec chmod 755 {} +
chmod 1777 "$root/tmp"
pack() { tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --format=gnu -C "$1" -cf "$2" "${@:3}"; }
digest() { sha256sum "$1" | cut -d' ' -f1; }
store() { # store FILE: moves it among the blobs and prints its digest
  local sum
  sum=$(digest "$1")
  mv "$1" "$work/out/blobs/sha256/$sum"
  echo "$sum"
}

case $(uname -m) in x86_64) arch=amd64 ;; aarch64) arch=arm64 ;; *) arch=$(uname -m) ;; esac
pack "$root" "$work/layer" .
layer_size=$(stat -c %s "$work/layer")
layer=$(store "$work/layer")
jq -cn --arg arch "$arch" --arg user "$user" --arg entry "$entrypoint" --arg layer "sha256:$layer" '
  {architecture: $arch, os: "linux",
   config: {Entrypoint: [$entry], Env: (["PATH=/usr/local/bin:/usr/bin:/bin"] + $ARGS.positional), User: $user, WorkingDir: "/"},
   rootfs: {type: "layers", diff_ids: [$layer]}}' --args ${env[@]+"${env[@]}"} > "$work/config"
config_size=$(stat -c %s "$work/config")
config=$(store "$work/config")
jq -cn --arg config "sha256:$config" --argjson config_size "$config_size" --arg layer "sha256:$layer" --argjson layer_size "$layer_size" '
  {schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json",
   config: {mediaType: "application/vnd.oci.image.config.v1+json", digest: $config, size: $config_size},
   layers: [{mediaType: "application/vnd.oci.image.layer.v1.tar", digest: $layer, size: $layer_size}]}' > "$work/manifest"
manifest_size=$(stat -c %s "$work/manifest")
manifest=$(store "$work/manifest")
jq -cn --arg name "$name" --arg tag "${name##*:}" --arg manifest "sha256:$manifest" --argjson size "$manifest_size" '
  {schemaVersion: 2, manifests: [{mediaType: "application/vnd.oci.image.manifest.v1+json", digest: $manifest, size: $size,
   annotations: {"io.containerd.image.name": $name, "org.opencontainers.image.ref.name": $tag}}]}' > "$work/out/index.json"
printf '{"imageLayoutVersion":"1.0.0"}' > "$work/out/oci-layout"
mkdir -p "$(dirname "$tar")"
pack "$work/out" "$tar.part" oci-layout index.json blobs
mv "$tar.part" "$tar"
