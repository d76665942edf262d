#!/bin/sh
# Tests restarts without a disconnect: starts a server, gives it load, and starts the next one beside it, again and again; then
# breaks the hand-off in every way; then the same with publications over a Redis, and with the example chat.
#
#   ./Tests/Handoff/run.sh               1,000 connections, as CI does
#   ./Tests/Handoff/run.sh 10000         as many as are named, 19,000 at most
#   ./Tests/Handoff/run.sh 10000 10      and so many restarts
set -eu
cd "$(dirname "$0")/../.."
export STARLING_SWIFT_TRAITS="--traits Tracing --scratch-path .build-release"
. Examples/Support/setup.sh
install_missing $build_packages
install_program python3 python3
install_program redis-server redis-server
require_swift

ulimit -n 20000 || {
    echo "a process must be able to have 20,000 descriptors here" >&2
    exit 1
}
for product in RestartServer RestartLoad Chat; do
    swift build $swift_traits --configuration release --product "$product" >&2
done
binaries=$(swift build $swift_traits --configuration release --show-bin-path)
export PYTHONDONTWRITEBYTECODE=1
exec python3 Tests/Handoff/handoff_test.py "$binaries" "${1:-1000}" "${2:-3}"
