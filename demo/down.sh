#!/usr/bin/env bash
# Ends the demo's cluster; nothing of it stays.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
if [ "${CLUSTER:-bed}" = kind ]; then exec "$root/demo/kind.sh" down; fi
exec "$root/tests/cluster/down.sh" --name demo
