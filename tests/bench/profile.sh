#!/usr/bin/env bash
# Where the daemon's time goes while bench_push_step_pull runs: functions by their own share.
#
#     tests/bench/profile.sh [build/release] [bench_push_step_pull's arguments...]
set -euo pipefail
cd "$(dirname "$0")/../.."
build=$PWD/${1:-build/release}
shift || true
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT

# The process that perf watches becomes the daemon, so that signals and the exit status are its own.
cat >"$directory/adamd" <<WRAPPER
#!/bin/sh
perf record -q -F 2000 -o "$directory/data" -p \$\$ 2>/dev/null &
sleep 0.3
exec "$build/bin/adamd" "\$@"
WRAPPER
chmod +x "$directory/adamd"

"$build/bin/bench_push_step_pull" --daemon "$directory/adamd" "$@"
sleep 1
perf report --stdio --no-children --percent-limit 0.7 --sort comm,dso,symbol \
    -i "$directory/data" 2>/dev/null | sed -n '/^# Overhead/,$p' | grep -v '^$'
