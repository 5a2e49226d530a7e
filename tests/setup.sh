#!/usr/bin/env bash
# Installs what the tests need and the machine lacks: packages of Debian, and Rust's formatter and linter. It may not touch the checkout.
set -euo pipefail
cd "$(dirname "$0")/.."
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

command -v cargo >/dev/null || die "Rust is needed: see rustup.rs; the version stands in rust-toolchain.toml"
cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 || rustup component add rustfmt clippy

missing=()
need() { command -v "$2" >/dev/null || missing+=("$1"); }
need redis-server redis-server
need util-linux unshare
need jq jq
need gcc gcc
need procps pgrep
need python3 python3
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
[ ${#missing[@]} = 0 ] && exit 0
[ "$(id -u)" = 0 ] || die "packages are missing and only root can install them: ${missing[*]}"
echo "installing from Debian: ${missing[*]}"
held=/usr/sbin/policy-rc.d
# Only the programs are wanted: no server that a package brings may be started.
if [ ! -e $held ]; then printf '#!/bin/sh\nexit 101\n' >$held; chmod 755 $held; trap 'rm -f $held' EXIT; fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
