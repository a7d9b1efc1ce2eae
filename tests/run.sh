#!/usr/bin/env bash
# Installs what testing needs, builds every preset and runs every suite. What a person runs before a
# change goes out, and all that CI runs.
#
#   tests/run.sh                    all stages, in order
#   tests/run.sh STAGE...           some of them: tests/run.sh build-dev unit-dev
#   tests/run.sh --list             their names
#
# A stage that fails does not stop the others. Logs are in build/tests/STAGE.log. Environment:
#
#   FUZZ_SECONDS   for each fuzz target (10); 3600 for a long run
#   SOAK_SECONDS   of soak (60); 1800 for the half hour that a release gets
#   JOBS           compilers and tests at a time (one for each processor)
set -euo pipefail
cd "$(dirname "$0")/.."

export FUZZ_SECONDS=${FUZZ_SECONDS:-10} SOAK_SECONDS=${SOAK_SECONDS:-60}
export PYTHONDONTWRITEBYTECODE=1 CTEST_OUTPUT_ON_FAILURE=1
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=1}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
export TSAN_OPTIONS=${TSAN_OPTIONS:-second_deadlock_stack=1:halt_on_error=1}
jobs=${JOBS:-$(nproc)}
logs=$PWD/build/tests
counts=$logs/counts
mkdir -p "$logs"

# ------------------------------------------------------------------------------------ counting

# count PASSED FAILED: adds to the totals.
count() {
    printf '%s %s\n' "$1" "$2" >>"$counts"
}

# As a test: `attempt COMMAND...` counts one, passed or failed.
attempt() {
    if "$@"; then
        count 1 0
    else
        printf 'failed: %s\n' "$*"
        count 0 1
        return 1
    fi
}

# Check says how many tests a program ran; a program that says nothing is one test.
count_ctest() {
    awk '
        function close_test() {
            if (!open) return
            if (checks == 0) { if (good) passed++; else failed++ }
            else {
                passed += checks - broken
                failed += broken
                if (!good && broken == 0) failed++
            }
        }
        /^[0-9]+\/[0-9]+ Testing: / { close_test(); open = 1; good = checks = broken = 0 }
        /^[0-9]+%: Checks: [0-9]+, Failures: / {
            gsub(/[:,]/, ""); checks += $3; broken += $5 + $7
        }
        /^Test Passed\.$/ { good = 1 }
        END { close_test(); print passed + 0, failed + 0 }
    ' "$1"
}

# ------------------------------------------------------------------------------------- stages

# ThreadSanitizer of this age cannot place its shadow where the kernel randomises more than 28 bits.
with_fixed_addresses() {
    local bits=0
    [[ -r /proc/sys/vm/mmap_rnd_bits ]] && bits=$(</proc/sys/vm/mmap_rnd_bits)
    if ((bits > 28)) && setarch -R true 2>/dev/null; then
        setarch -R "$@"
    else
        "$@"
    fi
}

# build PRESET
build() {
    cmake --preset "$1" -DBUILD_TESTING=ON
    cmake --build --preset "$1" --parallel "$jobs"
}

# unit PRESET SCALE: the limits of time of Check's tests are multiplied by SCALE.
unit() {
    local status=0 passed failed
    rm -rf "build/$1/Testing"
    export CK_TIMEOUT_MULTIPLIER=$2
    with_fixed_addresses ctest --preset "$1" --parallel "$jobs" --no-tests=error || status=$?
    read -r passed failed < <(count_ctest "build/$1/Testing/Temporary/LastTest.log")
    if ((status != 0 && failed == 0)); then
        failed=1
    fi
    count "$passed" "$failed"
    return "$status"
}

# One file of the integration suite, in a process of its own: python_suite LOG MODULE
python_suite() {
    local log=$1 module=$2 status=0
    (cd tests/integration && with_fixed_addresses python3 -m unittest -v "$module") \
        >"$log" 2>&1 || status=$?
    if ((status != 0)); then
        cat "$log"
    fi
    python3 - "$log" "$status" >>"$counts" <<'PY'
import re, sys
text, status = open(sys.argv[1], errors="replace").read(), int(sys.argv[2])
ran = sum(int(n) for n in re.findall(r"^Ran (\d+) tests? in", text, re.M))
last = (re.findall(r"^(?:OK|FAILED).*$", text, re.M) or [""])[-1]
bad = sum(int(n) for n in re.findall(r"(?:failures|errors|unexpected successes)=(\d+)", last))
bad = max(bad, 1) if status else bad
print(max(ran - bad, 0), bad)
PY
    return "$status"
}

# Against the daemon of a preset: integration PRESET SCALE. Every limit of time is multiplied by SCALE:
# sanitizers are slow, and several suites share the processors.
integration() {
    local preset=$1 module modules=() running=0 status=0
    ADAMD_BIN=$PWD/build/$preset/bin/adamd
    export ADAMD_BIN ADAMD_TEST_SCALE=$2
    for module in tests/integration/test_*.py; do
        modules+=("$(basename "$module" .py)")
    done
    for module in "${modules[@]}"; do
        if ((running > jobs)); then # one more, since they wait a good part of their time
            wait -n || status=1
            running=$((running - 1))
        fi
        python_suite "$logs/$preset-$module.log" "$module" &
        running=$((running + 1))
    done
    while ((running > 0)); do
        wait -n || status=1
        running=$((running - 1))
    done
    return "$status"
}

cuda() {
    if [[ -d cuda ]]; then
        echo 'There is a cuda/ room, and no stage of this script executes its suite.'
        return 1
    fi
    echo 'CUDA: this tree has no cuda/ room, so there is no CUDA suite to execute.'
}

lint() {
    attempt tests/lint.sh
}

rooms() {
    attempt python3 tests/rooms.py build/dev
}

install() {
    attempt tests/install/run.sh build/release
}

quickstart() {
    attempt deploy/quickstart.sh
}

fuzz() {
    attempt tests/fuzz/run.sh
}

bench() {
    attempt tests/bench/smoke.sh build/release
}

# Each keeps one processor busy.
fuzz_and_soak() {
    local status=0 soaking
    soak &
    soaking=$!
    fuzz || status=1
    wait "$soaking" || status=1
    return "$status"
}

soak() {
    ADAMD_BIN=$PWD/build/release/bin/adamd attempt python3 tests/soak/soak.py --seconds "$SOAK_SECONDS"
}

stages=(
    'packages           deploy/packages.sh test'
    'build-dev          build dev'
    'lint               lint'
    'unit-dev           unit dev 3'
    'rooms              rooms'
    'build-release      build release'
    'integration        integration release 2'
    'install            install'
    'quickstart         quickstart'
    'build-asan         build asan'
    'unit-asan          unit asan 10'
    'integration-asan   integration asan 4'
    'build-tsan         build tsan'
    'unit-tsan          unit tsan 20'
    'integration-tsan   integration tsan 6'
    'fuzz-and-soak      fuzz_and_soak'
    'bench              bench'
    'cuda               cuda'
)

# stage NAME COMMAND...: in the background, so that `set -e` holds inside; then waits.
stage() {
    local name=$1 started=$SECONDS status=0 before after
    shift
    before=$(total 1)
    ("$@") >"$logs/$name.log" 2>&1 </dev/null &
    wait "$!" || status=$?
    after=$(total 1)
    if ((status == 0)); then
        printf 'ok    %-18s %4d s' "$name" $((SECONDS - started))
        ((after > before)) && printf '  %d passed' $((after - before))
        printf '\n'
    else
        tail -n 60 "$logs/$name.log" | sed 's/^/    /'
        printf 'FAIL  %-18s %4d s  build/tests/%s.log\n' "$name" $((SECONDS - started)) "$name"
        failed_stages+=("$name")
    fi
}

# total COLUMN: 1 passed, 2 failed.
total() {
    awk -v column="$1" '{ sum += $column } END { print sum + 0 }' "$counts"
}

is_wanted() {
    local name
    ((${#wanted[@]} == 0)) && return
    for name in "${wanted[@]}"; do
        [[ $name == "$1" ]] && return
    done
    return 1
}

wanted=("$@")
failed_stages=()
: >"$counts"
rm -f "$logs/cuda.log"
if [[ ${1:-} == --list ]]; then
    printf '%s\n' "${stages[@]}" | awk '{ print $1 }'
    exit 0
fi
for name in "${wanted[@]}"; do
    if ! printf '%s\n' "${stages[@]}" | grep -q "^$name "; then
        printf 'run.sh: there is no stage %s; see tests/run.sh --list\n' "$name" >&2
        exit 2
    fi
done
for row in "${stages[@]}"; do
    read -r -a words <<<"$row"
    if is_wanted "${words[0]}"; then
        stage "${words[@]}"
    fi
done

if [[ -f $logs/cuda.log ]]; then
    cat "$logs/cuda.log"
fi
failed=$(total 2)
if ((failed < ${#failed_stages[@]})); then
    failed=${#failed_stages[@]}
fi
if ((${#failed_stages[@]} > 0)); then
    printf 'failed stages: %s\n' "${failed_stages[*]}"
fi
printf '%d s; logs in build/tests\n' "$SECONDS"
printf '%d passed, %d failed\n' "$(total 1)" "$failed"
exit $((failed > 0))
