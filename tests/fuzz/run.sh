#!/usr/bin/env bash
# tests/fuzz/run.sh [SECONDS] [TARGET...]: builds the fuzz targets and lets each run that long, from its
# seeds. What a run finds is left in build/fuzz/found/<target>; the seeds stay as they are.
set -euo pipefail
cd "$(dirname "$0")/../.."

seconds=${1:-${FUZZ_SECONDS:-20}}
shift || true
targets=("$@")
if ((${#targets[@]} == 0)); then
    targets=(envelope guard hooks json message pt safetensors state_map)
fi

failures=0
cmake --preset fuzz >/dev/null
cmake --build --preset fuzz --target "${targets[@]/#/fuzz_}"

for target in "${targets[@]}"; do
    found=build/fuzz/found/$target
    grown=build/fuzz/corpus/$target
    mkdir -p "$found" "$grown"
    dictionary=()
    if [[ -f tests/fuzz/$target.dict ]]; then
        dictionary=("-dict=tests/fuzz/$target.dict")
    fi
    echo "== $target, $seconds s"
    if ! "build/fuzz/bin/fuzz_$target" -max_total_time="$seconds" -timeout=5 -rss_limit_mb=1024 \
        -max_len=16384 -print_final_stats=1 -verbosity=0 "${dictionary[@]}" \
        -artifact_prefix="$found/" "$grown" "tests/fuzz/corpus/$target" >"$found.log" 2>&1; then
        tail -n 60 "$found.log"
        echo "FAIL  $target: the input is in $found" >&2
        failures=$((failures + 1))
    fi
    grep '^stat::' "$found.log" || true
done
exit $((failures > 0))
