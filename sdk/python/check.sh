#!/usr/bin/env bash
# Checks the Python packages: types, style, tests on a real agent with simulated GPUs, examples, documentation. On the python3 that is found, or with ALL=1 on
# each of Python 3.10 to 3.13 that is. What it installs goes to a cache outside the checkout; the agent's binaries are those of the build (MEMBOSS_BIN_DIR).
set -euo pipefail
cd "$(dirname "$0")"
cache=${MEMBOSS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/memboss}/sdk-python
export MEMBOSS_BIN_DIR=${MEMBOSS_BIN_DIR:-$PWD/../../target/release}

# Prints each interpreter that will do, once for each version.
pythons() {
    local candidate version seen=" "
    local candidates=(python3)
    if [[ ${ALL:-} ]]; then
        candidates=(python3 python3.10 python3.11 python3.12 python3.13 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[0-3].*/bin/python3)
    fi
    for candidate in "${candidates[@]}"; do
        version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
        if [[ $version =~ ^3\.1[0-3]$ && $seen != *" $version "* ]]; then
            seen+="$version "
            "$candidate" -c 'import sys; print(sys.executable)'
        fi
    done
}

# A virtual environment with the tools and the packages; made again when what they need has changed.
environment() {
    local python=$1 version=$2 place wanted
    place=$cache/$version
    wanted=$("$python" -VV | cat - requirements.txt memboss-*/pyproject.toml | sha256sum)
    if [[ $(cat "$place/wanted" 2>/dev/null) != "$wanted" ]]; then
        rm -rf "$place"
        "$python" -m venv "$place"
        "$place/bin/pip" install --quiet --disable-pip-version-check -r requirements.txt
        echo "$wanted" > "$place/wanted"
    fi
    # Built as they are published, not linked to this folder: what a wheel lacks is missed.
    local wheels
    wheels=$(mktemp -d)
    "$place/bin/pip" wheel --quiet --disable-pip-version-check --no-build-isolation --no-deps --wheel-dir "$wheels" \
        ./memboss-client ./memboss-vram ./memboss-ram
    "$place/bin/pip" install --quiet --disable-pip-version-check --no-deps --force-reinstall "$wheels"/*.whl
    rm -rf "$wheels"
}

mkdir -p "$cache"
found=$(pythons)
[[ $found ]] || { echo "no Python 3.10 to 3.13 was found: install one, or put it into PATH" >&2; exit 1; }
for python in $found; do
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    echo "Python $version"
    environment "$python" "$version"
    bin=$cache/$version/bin
    "$bin/ruff" check --quiet --no-cache .
    "$bin/ruff" format --quiet --no-cache --check .
    "$bin/mypy" --cache-dir "$cache/mypy-$version" -p memboss_client -p memboss_vram -p memboss_ram
    MYPYPATH=tests "$bin/mypy" --cache-dir "$cache/mypy-$version" tests examples
    PYTHONDONTWRITEBYTECODE=1 "$bin/pytest" -q -p no:cacheprovider "$@"
done
