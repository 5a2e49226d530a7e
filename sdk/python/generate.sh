#!/usr/bin/env bash
# Writes the messages of agent.proto as Python again: generate.sh [DIRECTORY], else in place. Needs a Python with grpcio-tools (PYTHON). It changes
# nothing else; a test runs it into an empty folder and compares.
set -euo pipefail
cd "$(dirname "$0")"
out=${1:-memboss-client/src/memboss_client}
python=${PYTHON:-python3}
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
# The file gets a name of its own: all Python packages of a process register their proto files under one roof.
"$python" -m grpc_tools.protoc --proto_path=memboss/agent/v1=../../agent-api/proto \
    --python_out="$temporary" --pyi_out="$temporary" memboss/agent/v1/agent.proto
# The check of versions would tie the package to one major version of protobuf; what is generated is a descriptor that all of them read.
sed -e '/import runtime_version/d' -e '/^_runtime_version\./,/^)$/d' -e 's/memboss\.agent\.v1\.agent_pb2/memboss_client.agent_pb2/' \
    -e '/^# Protobuf Python Version/d' "$temporary/memboss/agent/v1/agent_pb2.py" > "$temporary/messages.py"
grep -q AddSerializedFile "$temporary/messages.py"
mkdir -p "$out"
install -m 644 "$temporary/messages.py" "$out/agent_pb2.py"
install -m 644 "$temporary/memboss/agent/v1/agent_pb2.pyi" "$out/agent_pb2.pyi"
