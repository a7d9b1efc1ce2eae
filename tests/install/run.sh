#!/usr/bin/env bash
# Installs a build to a scratch prefix and uses it as a stranger would: with pkg-config in C and C++, and
# with the CMake package.
#
#   tests/install/run.sh BUILD
set -euo pipefail
build=$(realpath "$1")
here=$(realpath "$(dirname "$0")")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
prefix=$scratch/prefix

fail() {
    printf 'install: %s\n' "$*" >&2
    exit 1
}

# expect WHAT OUTPUT: what a program of use.c prints.
expect() {
    [[ $2 == '0.1.0 CONNECTION' || $2 == '0.1.0 TIMED_OUT' ]] || fail "$1 printed: $2"
    printf 'ok    %s\n' "$1"
}

cmake --install "$build" --prefix "$prefix" >/dev/null
for file in bin/adamd bin/adamctl include/adamd/client.h include/adamd/plugin.h; do
    [[ -e $prefix/$file ]] || fail "$file is not installed"
done
find "$prefix" -name adamd.conf | grep -q . || fail 'the sample configuration is not installed'
# Nothing but the client library is anyone's to link; plugin.h is for those whom the daemon loads.
unexpected=$(find "$prefix/include" -type f ! -path '*/adamd/client.h' ! -path '*/adamd/plugin.h')
[[ -z $unexpected ]] || fail "also installs $unexpected"
[[ $("$prefix/bin/adamd" --version) == *0.1.0* ]] || fail 'adamd --version'
[[ $("$prefix/bin/adamctl" version 2>/dev/null || "$prefix/bin/adamctl" --version) == *0.1.0* ]] ||
    fail 'adamctl version'
printf 'ok    files\n'

pkgconfig=$(dirname "$(find "$prefix" -name adamd-client.pc)")
libraries=$(dirname "$(find "$prefix" -name 'libadamd-client.so' | head -n 1)")
export PKG_CONFIG_PATH=$pkgconfig LD_LIBRARY_PATH=$libraries
read -r -a flags < <(pkg-config --cflags --libs adamd-client)
gcc -std=c99 -Wall -Wextra -Wpedantic -Werror -o "$scratch/use_c" "$here/use.c" "${flags[@]}"
expect 'pkg-config, C99' "$("$scratch/use_c")"
g++ -std=c++11 -Wall -Wextra -Wpedantic -Werror -x c++ -o "$scratch/use_cxx" "$here/use.c" \
    -x none "${flags[@]}"
expect 'pkg-config, C++11' "$("$scratch/use_cxx")"

cmake -S "$here" -B "$scratch/build" -G Ninja -DCMAKE_PREFIX_PATH="$prefix" >/dev/null
cmake --build "$scratch/build" >"$scratch/log" || {
    cat "$scratch/log"
    fail 'the CMake package'
}
unset LD_LIBRARY_PATH # CMake's build has the path
expect 'CMake package, C99' "$("$scratch/build/use_c")"
expect 'CMake package, C++11' "$("$scratch/build/use_cxx")"
"$scratch/build/train_digits" --help | grep -q 'usage: train_digits' || fail 'train_digits --help'
printf 'ok    the example outside the tree\n'

# The library exports what its header declares, and nothing else.
declared=$(grep -oE '\badamd_[a-z_]+\(' "$prefix/include/adamd/client.h" | tr -d '(' | sort -u)
exported=$(nm -D --defined-only "$libraries/libadamd-client.so" | awk '$2 == "T" { print $3 }' |
    sed 's/@.*//' | sort -u)
hidden=$(comm -13 <(printf '%s\n' "$declared") <(printf '%s\n' "$exported"))
[[ -z $hidden ]] || fail "exported but not declared: $hidden"
printf 'ok    exported names, %s\n' "$(wc -l <<<"$exported")"
readelf -d "$libraries/libadamd-client.so" | grep -q 'SONAME.*libadamd-client\.so\.[0-9]' ||
    fail 'the library has no versioned soname'
printf 'ok    soname\n'
