#!/usr/bin/env bash
# Finds the current PyTorch that adamd is compared with, or installs it, and prints the path of its python.
#
#   python=$(tests/interop/torch_env.sh)            finds it, or makes it: 5.4 GB, a minute or two
#   python=$(tests/interop/torch_env.sh --find)     finds it, or fails without a word
#
# A virtual environment outside the checkout, named by the version of torch, so that every clone shares it:
# ~/.cache/adamd/torch-VERSION, or ADAMD_TORCH_ENV. It is built aside and renamed under a lock: whoever sees
# it sees all of it. A newer version here makes a new one and leaves the old one alone.
set -euo pipefail

torch_version=2.15.0
environment=${ADAMD_TORCH_ENV:-$HOME/.cache/adamd/torch-$torch_version}
needed_gib=8 # while it is being installed: the wheels, and what comes out of them

fail() {
    printf 'torch_env.sh: %s\n' "$1" >&2
    exit 1
}

# The name alone does not tell: the system's python, to which the environment points, may be another by now.
is_whole() {
    "$environment/bin/python" - "$torch_version" 2>/dev/null <<'PY'
import importlib.metadata as metadata
import sys

sys.exit(not (metadata.version("torch") == sys.argv[1]
              and metadata.version("numpy") and metadata.version("safetensors")))
PY
}

# Lets go of what an interrupted run left, since the lock is ours: nobody is building.
make() {
    local parent=$1 aside=$environment.partial free_kib
    if [[ -e $environment ]]; then
        [[ -z ${ADAMD_TORCH_ENV:-} ]] || fail "$environment is there, and has no torch $torch_version"
        rm -rf "$environment"
    fi
    free_kib=$(df --output=avail -k "$parent" | tail -n 1)
    ((free_kib > needed_gib * 1024 * 1024)) || fail "$parent has less than $needed_gib GiB free"
    rm -rf "$aside"
    python3 -m venv "$aside" >&2 || fail 'no virtual environment: is python3-venv installed?'
    "$aside/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir \
        "torch==$torch_version" numpy safetensors >&2 || fail "torch $torch_version was not installed"
    mv -T "$aside" "$environment"
    is_whole || fail "$environment does not work"
}

case ${1:-} in
--find) is_whole || exit 1 ;;
'')
    if ! is_whole; then
        parent=$(dirname "$environment")
        mkdir -p "$parent"
        exec {lock}>"$environment.lock"
        flock "$lock"
        is_whole || make "$parent" # another run may have made it while this one waited
    fi
    ;;
*) fail 'usage: torch_env.sh [--find]' ;;
esac
printf '%s\n' "$environment/bin/python"
