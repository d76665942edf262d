#!/usr/bin/env bash
# Runs every test. Installs missing Debian packages first.
#
#   ./Tests/run.sh            all tests, and those that count allocations in a release build too
#   ./Tests/run.sh --tsan     all tests under ThreadSanitizer
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=../Examples/Support/setup.sh
source Examples/Support/setup.sh
install_missing $build_packages openssl redis-server
require_swift

case "${1:-}" in
    "")
        swift test
        # What the hot path allocates shows only when it is optimised.
        swift test --configuration release --filter AllocationTests
        ./Tests/Clients/run.sh
        ./Tests/Browser/run.sh
        ./Tests/Cluster/run.sh
        ;;
    --tsan) swift test --sanitize=thread --scratch-path .build-tsan ;;
    *)
        echo "usage: $0 [--tsan]" >&2
        exit 2
        ;;
esac
