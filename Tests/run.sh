#!/usr/bin/env bash
# Runs every test. Installs missing Debian packages first.
#
#   ./Tests/run.sh            all tests, and those that count allocations in a release build too
#   ./Tests/run.sh --tsan     the Swift tests under ThreadSanitizer, without SwiftNIO
set -euo pipefail
cd "$(dirname "$0")/.."
# What is started is optimised and does without SwiftNIO, which takes minutes to build; in a folder of its own, because
# another choice of traits in the same one would build everything anew.
export STARLING_SWIFT_TRAITS="--traits Tracing --scratch-path .build-release"
# shellcheck source=../Examples/Support/setup.sh
source Examples/Support/setup.sh
install_missing $build_packages openssl redis-server
require_swift

# `swift test`, and its failures once more at the end, where they are found. With `skips_fail` nothing may be left out.
run_tests() {
    local log status=0
    log=$(mktemp)
    swift test "$@" 2>&1 | tee "$log" || status=$?
    if [ "$status" -eq 0 ] && [ -n "${skips_fail:-}" ] && grep -aE '(Suite|Test) .* skipped' "$log" >&2; then
        echo "swift test $* has left these out" >&2
        status=1
    elif [ "$status" -ne 0 ]; then
        echo "swift test $* has failed:" >&2
        grep -aE '✘|error:|Fatal error' "$log" >&2 || tail -20 "$log" >&2
    fi
    rm -f "$log"
    return "$status"
}

# All tests, in groups one after the other: those that wait for a Redis, or for a peer, have deadlines, and would miss them
# beside those that keep every core busy.
run_all_tests() {
    local group groups=("StarlingRedisTests" "StarlingNativeTests" "StarlingNIOTests" "StarlingTestingTests|ExampleTests")
    run_tests "$@" --skip "$(IFS='|' && echo "${groups[*]}")"
    for group in "${groups[@]}"; do run_tests "$@" --skip-build --filter "$group"; done
}

case "${1:-}" in
    "")
        run_all_tests --traits NIO,Tracing
        # What the hot path allocates shows only when it is optimised. Without the other test targets, which would be built too.
        skips_fail=yes STARLING_TEST_TARGETS="StarlingCoreTests StarlingTests" run_tests $swift_traits --configuration release --filter AllocationTests
        ./Tests/traits.sh
        ./Tests/Clients/run.sh
        ./Tests/JavaScript/run.sh
        ./Tests/Browser/run.sh
        ./Tests/Cluster/run.sh
        ./Tests/Deploys/rolling.sh --quick
        ./Tests/Benchmarks/run.sh
        ./Tests/Handoff/run.sh
        # What takes minutes by itself, in its small form: two minutes together.
        ./Tests/Pressure/run.sh --quick
        ./Tests/Overload/storm.sh 2000
        ./Tests/soak.sh 1
        ;;
    # Without SwiftNIO, which would have to be built for it as well, and without what no test runs: with the sanitizer the compiler
    # refuses handlers that change a connection's state in place, as those of the documentation do. One test after the other: so slow,
    # those that run beside others miss the deadlines of real connections.
    --tsan)
        export STARLING_TEST_TARGETS=all
        export TSAN_OPTIONS="suppressions=$PWD/Tests/Support/thread-sanitizer.suppressions"
        run_all_tests --sanitize=thread --scratch-path .build-tsan --no-parallel
        ;;
    *)
        echo "usage: $0 [--tsan]" >&2
        exit 2
        ;;
esac
