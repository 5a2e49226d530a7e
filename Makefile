# Everything a developer or user runs. Each target does its own set-up; `make` alone lists them.
SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
export CACHE := $(or $(MEMBOSS_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/memboss)
# Never with -p: what the package is built from would be built once more, with the features of that one alone.
CARGO := cargo --locked

.PHONY: help
help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## a real Kubernetes with memboss on simulated GPUs, shown at work and left to play with (CLUSTER=kind: on kind)
	@demo/up.sh

.PHONY: demo-down
demo-down: ## ends the demo's cluster and leaves nothing behind
	@demo/down.sh

.PHONY: test
test: setup check unit docs-test python typescript chart cluster-test ## all tests, the cheap ones first

.PHONY: setup
setup: ## what the tests need from Debian and Rust
	@tests/setup.sh

.PHONY: check
check: ## format, lints, generated files, licences
	cargo fmt --all --check
	$(CARGO) clippy --workspace --all-targets --quiet -- -D warnings
	$(CARGO) run --release --quiet --bin crdgen -- --check
	$(CARGO) run --release --quiet --bin memboss -- docs --check docs/cli.md
	@tests/deny.sh

.PHONY: unit
unit: ## all tests that need no cluster (built as the binaries are: nothing is compiled twice)
	$(CARGO) test --workspace --release --quiet

.PHONY: build
build: ## the binaries that a cluster runs
	$(CARGO) build --workspace --release --quiet

.PHONY: docs-test
docs-test: build ## the commands of docs/workstation.md, typed into a real agent with simulated GPUs (cluster-test types those of docs/cluster.md)
	@tests/docs.sh

.PHONY: python
python: build ## the Python packages: types, tests on a real agent, examples, docs (ALL=1 for each Python from 3.10 to 3.13)
	@sdk/python/check.sh

.PHONY: typescript
typescript: build ## the TypeScript packages: types, names, tests on a real agent, examples, docs
	@PATH="$$(tests/node.sh):$$PATH" sdk/typescript/check.sh

.PHONY: chart
chart: ## the chart: lint, schema, snapshots of what it renders
	@tests/cluster/build.sh
	@PATH="$$(tests/cluster/bin.sh):$$PATH" charts/check.sh

.PHONY: cluster-test
cluster-test: ## tests on a real Kubernetes of two nodes on this machine (FILTER=name for some)
	@tests/cluster-test.sh $(FILTER)

.PHONY: gpu-test
gpu-test: build ## on a machine with an NVIDIA GPU that nobody uses: the report, use, enforcement and preemption on the real thing
	@tests/gpu.py

.PHONY: bench
bench: ## measures and prints; asserts nothing
	@tests/bench.sh

.PHONY: crds
crds: ## writes the custom resources' YAML again from the Rust types
	$(CARGO) run --release --quiet --bin crdgen

.PHONY: docs
docs: ## writes the command line's manual again from the command line
	$(CARGO) run --release --quiet --bin memboss -- docs docs/cli.md
