#!/usr/bin/env bash
# Writes the messages of agent.proto as TypeScript again: generate.sh [DIRECTORY], else in place. It needs `npm ci` and changes nothing else; check.sh runs it
# into an empty folder and compares.
set -euo pipefail
cd "$(dirname "$0")"
out=$(realpath -m "${1:-client/src/generated}")
mkdir -p "$out"
./node_modules/.bin/buf generate --output / --template "{
  \"version\": \"v2\",
  \"plugins\": [{ \"local\": \"$PWD/node_modules/.bin/protoc-gen-es\", \"out\": \"$out\", \"opt\": [\"target=ts\", \"import_extension=js\"] }]
}" ../../agent-api/proto
