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
notes=$logs/notes
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

# One file of a suite in Python, in a process of its own: python_suite LOG PYTHON FOLDER MODULE
python_suite() {
    local log=$1 python=$2 folder=$3 module=$4 status=0
    (cd "$folder" && with_fixed_addresses "$python" -m unittest -v "$module") \
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
skipped = sum(int(n) for n in re.findall(r"skipped=(\d+)", last))
bad = max(bad, 1) if status else bad
print(max(ran - skipped - bad, 0), bad)
PY
    return "$status"
}

# Every file of a folder's suite against the daemon of a preset: python_suites LABEL PRESET SCALE PYTHON
# FOLDER. Every limit of time is multiplied by SCALE: sanitizers are slow, and several suites share the
# processors.
python_suites() {
    local label=$1 preset=$2 python=$4 folder=$5 file module running=0 status=0
    ADAMD_BIN=$PWD/build/$preset/bin/adamd
    export ADAMD_BIN ADAMD_TEST_SCALE=$3
    for file in "$folder"/test_*.py; do
        if ((running > jobs)); then # one more, since they wait a good part of their time
            wait -n || status=1
            running=$((running - 1))
        fi
        module=$(basename "$file" .py)
        python_suite "$logs/$label-$module.log" "$python" "$folder" "$module" &
        running=$((running + 1))
    done
    while ((running > 0)); do
        wait -n || status=1
        running=$((running - 1))
    done
    return "$status"
}

# integration PRESET SCALE
integration() {
    python_suites "$1" "$1" "$2" python3 tests/integration
}

# Beside current PyTorch where it is or may be installed, and beside Debian's, with what that one has.
interop() {
    local python status=0
    if python=$(tests/interop/torch_env.sh --find) ||
        { [[ ${CI:-} == true || -n ${ADAMD_TORCH_ENV:-} ]] && python=$(tests/interop/torch_env.sh); }; then
        python_suites torch release 2 "$python" tests/interop || status=1
    elif [[ ${CI:-} == true || -n ${ADAMD_TORCH_ENV:-} ]]; then
        return 1
    else
        cat >>"$notes" <<'TEXT'
Current PyTorch is not installed: its bits were compared by the vectors in tests/interop only, and the Python
client was tested with Debian's PyTorch only. tests/interop/torch_env.sh installs it (5.4 GB, outside this tree).
TEXT
    fi
    python_suites debian-torch release 2 /usr/bin/python3 tests/interop || status=1
    return "$status"
}

cuda() {
    if [[ -d cuda ]]; then
        echo 'There is a cuda/ room, and no stage of this script executes its suite.'
        return 1
    fi
    echo 'CUDA: this tree has no cuda/ room, so there is no CUDA suite to execute.' >>"$notes"
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
    'interop            interop'
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
: >"$notes"
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

cat "$notes"
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
