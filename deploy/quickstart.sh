#!/usr/bin/env bash
# From a clean clone to a trained network, in a minute after the build:
#
#   deploy/quickstart.sh
#
# Installs what building needs (Debian 12, root or sudo; nothing if it is there), builds, starts the
# daemon on a free loopback port, and trains a network on handwritten digits with four workers in step.
# In the middle it kills one of them with SIGKILL and starts it again. Fails below 96 % accuracy on
# digits that were held out. Leaves build/release/ and the saved state, and no process.
set -euo pipefail
cd "$(dirname "$0")/.."
unset "${!ADAMD_@}" # what is set for another daemon is not meant for this one

workers=4
steps=1000
kill_at=400
required=96
lease_ms=2000
bin=$PWD/build/release/bin
saved=$PWD/build/digits-state.safetensors
scratch=$(mktemp -d)
daemon=
worker_pids=()

say() {
    printf '\n==> %s\n' "$*"
}

fail() {
    printf '\nquickstart: %s\n' "$*" >&2
    exit 1
}

clean_up() {
    local status=$? pid
    for pid in "${worker_pids[@]}" $daemon; do
        if kill "$pid" 2>/dev/null; then
            wait "$pid" 2>/dev/null || true
        fi
    done
    if ((status != 0)) && [[ -s $scratch/adamd.log ]]; then
        printf '\nThe last lines of the daemon:\n' >&2
        tail -n 20 "$scratch/adamd.log" >&2
    fi
    rm -rf "$scratch"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# ----------------------------------------------------------------------------------- building

say 'What building needs'
deploy/packages.sh build

say 'Building (release)'
if [[ -f build/release/CMakeCache.txt ]]; then
    cmake --preset release >/dev/null
else
    cmake --preset release -DBUILD_TESTING=OFF >/dev/null
fi
cmake --build --preset release --target adamd adamctl train_digits
started=$SECONDS

# ----------------------------------------------------------------------------------- the daemon

say 'Starting the daemon'
"$bin/adamd" --listen 127.0.0.1:0 --port-file "$scratch/port" 2>"$scratch/adamd.log" &
daemon=$!

for _ in {1..100}; do
    kill -0 "$daemon" 2>/dev/null || fail 'the daemon did not start'
    [[ -s $scratch/port ]] && break
    sleep 0.05
done
[[ -s $scratch/port ]] || fail 'the daemon did not say where it listens'
url=http://127.0.0.1:$(<"$scratch/port")
curl --fail --silent --show-error --retry 5 --retry-connrefused "$url/readyz" >/dev/null
printf 'adamd serves %s\n' "$url"

# ----------------------------------------------------------------------------------- training

# The model's version: the number of steps taken.
version() {
    curl --fail --silent --show-error "$url/v1/models/digits" |
        sed -n 's/.*"version": *"\([0-9]*\)".*/\1/p'
}

# await_version N SECONDS
await_version() {
    local end=$((SECONDS + $2)) now
    while ((SECONDS <= end)); do
        now=$(version)
        if ((${now:-0} >= $1)); then
            return
        fi
        sleep 0.02
    done
    fail "the model did not come to version $1 within $2 s; it is at ${now:-?}"
}

# start_worker RANK [OPTION...]
start_worker() {
    local rank=$1
    shift
    "$bin/train_digits" --endpoint "$url" --rank "$rank" --workers "$workers" --steps "$steps" "$@" &
    worker_pids[rank]=$!
}

say "Training on handwritten digits with $workers workers, a step whenever all have pushed"
start_worker 0 --create --min-workers $((workers - 1)) --lease-ms "$lease_ms" --report 100
for ((rank = 1; rank < workers; rank++)); do
    start_worker "$rank"
done
for _ in {1..100}; do
    curl --silent --fail --output /dev/null "$url/v1/models/digits" && break
    sleep 0.05
done
await_version "$kill_at" 30

victim=2
kill -KILL "${worker_pids[victim]}"
wait "${worker_pids[victim]}" 2>/dev/null || true
at=$(version)
say "Killed worker $victim with SIGKILL at version $at; the others go on when its lease of $((lease_ms / 1000)) s ends"
await_version $((at + 50)) 15
say "At version $(version) with three workers; worker $victim starts again, with no memory of its own"
start_worker "$victim"

for ((rank = 0; rank < workers; rank++)); do
    wait "${worker_pids[rank]}" || fail "worker $rank failed"
done
worker_pids=()

say 'The model on the digits that no worker trained on'
"$bin/train_digits" --endpoint "$url" --eval --require-accuracy "$required" ||
    fail "the accuracy is below $required %"

# ----------------------------------------------------------------------------------- the state

say 'Saving parameters, moments and options with curl'
curl --fail --silent --show-error --output "$saved" "$url/v1/models/digits/state"
printf '%s, %s bytes (safetensors)\n' "${saved#"$PWD/"}" "$(stat -c %s "$saved")"
"$bin/adamctl" --endpoint "$url" status

say 'Ending the daemon with SIGTERM'
kill -TERM "$daemon"
status=0
wait "$daemon" || status=$?
daemon=
((status == 0)) || fail "the daemon ended with status $status"

cat <<TXT
The daemon ended cleanly. $((SECONDS - started)) s after the build.

Where to look next:
  README.md                     the curl tour: every call by hand
  build/release/bin/adamd       the daemon; --help, --print-config
  build/release/bin/adamctl     status, model list, steps --follow
  client/examples/              the trainer that you saw, in plain C
TXT
