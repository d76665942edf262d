#!/usr/bin/env bash
# Tries the benchmarks' load generator against servers that lose, corrupt, repeat or exchange messages: each must end it
# with a sentence that says what was wrong, because a figure that such a server reaches is worth nothing. And whether the run with a
# million connections says which limit of a machine binds, and begins nothing above it.
#
#   ./Tests/Benchmarks/run.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=../../Examples/Support/setup.sh
source Examples/Support/setup.sh
install_missing $build_packages openssl
install_program python3 python3
require_swift
swift build $swift_traits --configuration release --product LoadGenerator
generator=$(swift build $swift_traits --configuration release --show-bin-path)/LoadGenerator
export PYTHONDONTWRITEBYTECODE=1
python3 Tests/Benchmarks/capacity_test.py
python3 Tests/Benchmarks/generator_test.py "$generator"
