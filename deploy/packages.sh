#!/usr/bin/env bash
# The one list of Debian 12 packages that adamd needs, and the way to install them.
#
#   deploy/packages.sh build          installs what building needs
#   deploy/packages.sh test           installs that, and what the tests need
#   deploy/packages.sh --list test    prints the names, one a line
#
# Installs nothing, and needs no rights and no network, if everything is there.
set -euo pipefail

build_packages=(
    gcc libc6-dev cmake ninja-build pkgconf
    protobuf-compiler protobuf-c-compiler libprotobuf-dev libprotobuf-c-dev
    libmicrohttpd-dev libuv1-dev libcjson-dev libxxhash-dev
    curl
)
test_packages=(
    git g++ check
    clang clang-format clang-tidy clang-tools libclang-rt-14-dev
    python3 python3-venv python3-torch python3-numpy shellcheck
)

fail() {
    printf 'packages.sh: %s\n' "$1" >&2
    exit 1
}

is_installed() {
    local status
    status=$(dpkg-query -W -f='${Status}\n' "$1" 2>/dev/null) || return 1
    grep -q '^install ok installed$' <<<"$status"
}

only_list=false
if [[ ${1:-} == --list ]]; then
    only_list=true
    shift
fi
case ${1:-} in
build) wanted=("${build_packages[@]}") ;;
test) wanted=("${build_packages[@]}" "${test_packages[@]}") ;;
*) fail 'usage: packages.sh [--list] build|test' ;;
esac
if $only_list; then
    printf '%s\n' "${wanted[@]}"
    exit 0
fi

command -v dpkg-query >/dev/null || fail "this is no Debian: install by hand ${wanted[*]}"
missing=()
for package in "${wanted[@]}"; do
    is_installed "$package" || missing+=("$package")
done
if ((${#missing[@]} == 0)); then
    exit 0
fi

printf 'Installing %s\n' "${missing[*]}"
as_root=()
if ((EUID != 0)); then
    command -v sudo >/dev/null || fail "not root and no sudo; ask for: apt-get install ${missing[*]}"
    as_root=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
