#!/bin/sh
# A reconnect storm: 15,000 clients connect within one second, while 300 others are connected and measure how long their echoes
# take. Once without limits, and once with a rate of upgrades that is far below the storm's, where some wait for their turn and others are
# told when to come back. Everybody must be connected in the end, nobody go without an answer, and p99 of the echoes stay below 250 ms.
#
#   ./Tests/Overload/storm.sh [clients]      half a minute
set -eu
cd "$(dirname "$0")/../.."
. Examples/Support/setup.sh

clients=${1:-15000}
install_missing $build_packages
require_swift
for product in EchoCallback StormClient; do swift build $swift_traits -c release --product "$product"; done
binaries="$(swift build $swift_traits -c release --show-bin-path)"
ulimit -n "$(ulimit -H -n)"

# The server on one core, its clients on the others.
on_first="" on_others=""
cores=$(nproc)
if [ "$cores" -gt 1 ] && command -v taskset >/dev/null; then
    on_first="taskset -c 0" on_others="taskset -c 1-$((cores - 1))"
fi
output=$(mktemp)
server=""
trap 'if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; fi; rm -f "$output"' EXIT

# storm TITLE TRIES FLAG…
storm() {
    title=$1 tries=$2
    shift 2
    $on_first "$binaries/EchoCallback" --port 0 --loops 1 --drain-timeout 1 --ping-interval 300 "$@" >"$output" 2>&1 &
    server=$!
    for _ in $(seq 100); do
        grep -q '^listening on' "$output" && break
        sleep 0.1
    done
    port=$(sed -n 's/^listening on .*://p' "$output")
    [ -n "$port" ] || { cat "$output" >&2; exit 1; }
    echo "$title:"
    $on_others "$binaries/StormClient" "$port" / "$clients" 300 "$tries" 250
    echo "  the server: $(sed -n 's/^VmHWM:[[:space:]]*//p' "/proc/$server/status") at most"
    kill "$server"
    wait "$server"
    server=""
}

storm "$clients clients within a second, no limits" 1
storm "$clients clients within a second, $((clients / 6)) upgrades a second, who would wait for over 2 s comes back" 2 \
    --max-upgrade-rate $((clients / 6)) --max-upgrade-wait 2
echo "ok      two storms: everybody is connected, and those who were there did not notice much"
