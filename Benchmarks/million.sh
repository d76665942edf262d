#!/bin/sh
# Opens a million WebSocket connections on this machine, or as many as it can hold, to Starlings with a Redis between them: holds
# them, publishes to all of them, drops some, and says what that cost.
#
#   ./Benchmarks/million.sh [connections] [--output FOLDER] [--dry-run] [--help]
#
# A calculation of what the machine can hold comes first, and more is never started. It changes no setting of the system, ends
# by itself within 15 minutes, and takes everything with it that it has started. The results go to Benchmarks/Results.
set -eu
cd "$(dirname "$0")/.."
. Examples/Support/setup.sh

install_missing $build_packages
install_program redis-server redis-server
install_program python3 python3
require_swift
swift build $swift_traits -c release --product LoadGenerator
swift build $swift_traits -c release --product MillionServer
export PYTHONDONTWRITEBYTECODE=1
exec python3 Benchmarks/Million/million.py --programs "$(swift build $swift_traits -c release --show-bin-path)" "$@"
