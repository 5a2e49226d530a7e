#!/usr/bin/env bash
# All that the TypeScript packages must pass: installs from the lock file, compares generated code, compiles (strict types are the lint), tests against a
# real agent with simulated GPUs, and runs the examples and each piece of the documentation. The binaries' folder: MEMBOSS_BIN_DIR, else
# ../../target/release (memboss, memboss-agent, memboss-sim, libmemboss_sim_nvml.so). It changes nothing outside this folder.
set -euo pipefail
cd "$(dirname "$0")"
export MEMBOSS_BIN_DIR=${MEMBOSS_BIN_DIR:-../../target/release}
unset MEMBOSS_SOCKET MEMBOSS_BIN CUDA_VISIBLE_DEVICES

npm ci --ignore-scripts
if grep -n '"resolved": *"http' package-lock.json; then
  echo "package-lock.json names a host: run npm install with this folder's .npmrc" >&2
  exit 1
fi

generated=$(mktemp -d)
trap 'rm -rf "$generated"' EXIT
./generate.sh "$generated"
diff -r "$generated" client/src/generated || { echo "generated code is not current: run ./generate.sh" >&2; exit 1; }

# What was compiled from files that are gone must not be tested.
rm -rf {client,vram,ram,tests,examples}/dist
npx --no-install prettier --check --log-level=warn .
npm run --silent build
node --test --test-reporter=spec --test-timeout=300000 ram/dist/*.test.js tests/dist/*.test.js
