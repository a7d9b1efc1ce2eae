#!/usr/bin/env bash
# What can be found without running anything: format, clang-tidy, shellcheck, buf. Zero findings.
#
#   tests/lint.sh [--fast] [FILE...]
#
# --fast leaves clang-tidy and buf out. With FILEs, only those C files are looked at. clang-tidy reads
# the compile commands of $ADAMD_LINT_BUILD, else of build/dev, which must be configured and built (the
# generated headers are needed).
set -euo pipefail
cd "$(dirname "$0")/.."

build=${ADAMD_LINT_BUILD:-build/dev}
buf_version=1.75.0
failures=0

# check NAME COMMAND...: says how it went, and goes on.
check() {
    local name=$1 output
    shift
    if output=$("$@" 2>&1); then
        printf 'ok    %s\n' "$name"
    else
        printf '%s\n' "$output"
        printf 'FAIL  %s\n' "$name"
        failures=$((failures + 1))
    fi
}

tracked() {
    git ls-files --cached --others --exclude-standard -- "$@"
}

# The names of the files that the formatter would change, and not each place.
run_clang_format() {
    local output
    output=$(clang-format --dry-run -Werror "$@" 2>&1) && return
    grep -o '^[^: ]*:[0-9]*:[0-9]*: error' <<<"$output" | cut -d: -f1 | uniq -c |
        awk '{print $2 ": " $1 " places; clang-format -i " $2}'
    return 1
}

# One file a process: version 14 carries state from file to file, and then finds fault with a va_list.
# Without its count of what it did not show.
run_clang_tidy() {
    local output status=0
    output=$(printf '%s\0' "$@" |
        xargs -0 -r -n 1 -P "$(nproc)" clang-tidy -p "$build" --quiet 2>&1) || status=1
    grep -vE '^[0-9]+ warnings? generated\.$' <<<"$output" || true
    return "$status"
}

# The sources that the build compiles, of the rooms that are shipped. Tests are held to the format
# and to the compiler's warnings.
compiled_sources() {
    python3 - "$build/compile_commands.json" <<'PY'
import json, os, sys
files = {os.path.relpath(c["file"]) for c in json.load(open(sys.argv[1]))}
print("\n".join(sorted(f for f in files if f.split(os.sep)[0] in ("core", "server", "client"))))
PY
}

run_buf() {
    local tools=build/tools/buf-$buf_version
    if [[ ! -x $tools/bin/buf ]]; then
        rm -rf "$tools"
        python3 -m venv "$tools"
        "$tools/bin/pip" install --quiet --disable-pip-version-check "buf-bin==$buf_version"
    fi
    (cd proto && "../$tools/bin/buf" lint && "../$tools/bin/buf" build -o /dev/null)
}

fast=false
if [[ ${1:-} == --fast ]]; then
    fast=true
    shift
fi
mapfile -t sources < <(if (($# > 0)); then printf '%s\n' "$@"; else tracked '*.c' '*.h'; fi)
mapfile -t scripts < <(tracked '*.sh' .ci/run)

check "clang-format, ${#sources[@]} files" run_clang_format "${sources[@]}"
# SC2317: functions that are called by name look unreachable to it.
check "shellcheck, ${#scripts[@]} files" shellcheck -e SC2317 "${scripts[@]}"
if ! $fast; then
    if [[ ! -f $build/compile_commands.json ]]; then
        printf 'lint.sh: %s is not configured: cmake --preset dev\n' "$build" >&2
        exit 2
    fi
    mapfile -t compiled < <(if (($# > 0)); then printf '%s\n' "$@" | grep '\.c$'; else compiled_sources; fi)
    check "clang-tidy, ${#compiled[@]} files" run_clang_tidy "${compiled[@]}"
    check "buf lint" run_buf
fi
exit $((failures > 0))
