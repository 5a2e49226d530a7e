#!/usr/bin/env bash
# Makes the images that every cluster of the test bed has: pause, busybox, coredns, redis. Called by build.sh with the
# folder to fill. It may only write there.
set -euo pipefail
. "$(dirname "$0")/parts/places.sh"
folder=${1:?usage: images.sh FOLDER}
mkdir -p "$folder"

say "image docker.io/local/pause:1"
gcc -static -Os -o "$folder/pause" "$BED/parts/pause.c"
"$BED/image.sh" docker.io/local/pause:1 "$folder/pause.tar" "$folder/pause:/pause"
rm "$folder/pause"

say "image docker.io/local/busybox:1"
links=()
for applet in $(busybox --list); do
  if [ "$applet" != busybox ]; then links+=("/bin/$applet->busybox"); fi
done
"$BED/image.sh" docker.io/local/busybox:1 "$folder/busybox.tar" --entrypoint /bin/sh "$(command -v busybox):/bin/busybox" "${links[@]}"

say "image docker.io/local/redis:7"
"$BED/image.sh" docker.io/local/redis:7 "$folder/redis.tar" --user 65532:65532 \
  /usr/bin/redis-server:/usr/local/bin/redis-server /usr/bin/redis-cli:/usr/local/bin/redis-cli

say "image docker.io/local/coredns:1"
"$BED/image.sh" docker.io/local/coredns:1 "$folder/coredns.tar" "$BIN/coredns:/coredns"
touch "$folder/complete"
