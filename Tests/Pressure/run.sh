#!/usr/bin/env bash
# Puts a server under pressure, and asserts what it costs and whom.
#
#   ./Tests/Pressure/run.sh            5,000 subscribers of which 1,000 stop reading while 200 MB are published, and of one topic in
#                                      bursts; 500 with each of the other policies; then three times as much memory asked for as there
#                                      is: three minutes
#   ./Tests/Pressure/run.sh --quick    a tenth of the subscribers and of the bytes: half a minute
#   ./Tests/Pressure/run.sh --policy conflate     subscribers with that policy alone: skip, disconnect, conflate or recover
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=../../Examples/Support/setup.sh
source Examples/Support/setup.sh
install_missing $build_packages python3
require_swift
# Subscribers are descriptors of both processes.
ulimit -n "$(ulimit -H -n)"
swift build $swift_traits -c release --product PressureServer
swift build $swift_traits -c release --product PressureCrowd
exec python3 Tests/Pressure/pressure.py "$(swift build $swift_traits -c release --show-bin-path)" "$@"
