#!/usr/bin/env bash
# Each benchmark once, with small numbers: that they run, not what they measure.
#
#     tests/bench/smoke.sh [build/release]
set -euo pipefail
cd "$(dirname "$0")/../.."
build=${1:-build/release}

"$build/bin/bench_step" 1000000 3
"$build/bin/bench_push_step_pull" --count 200000 --rounds 3
python3 tests/bench/bench_upload.py --build "$build" --bytes $((8 << 20)) --rounds 2
for python in python3 /usr/bin/python3; do # the first that has torch
    if "$python" -c 'import torch' 2>/dev/null; then
        "$python" tests/bench/bench_remote_adam.py --build "$build" --count 200000 --rounds 3
        break
    fi
done
