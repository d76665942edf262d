#!/usr/bin/env bash
# Looks for inputs that break what must hold, with libFuzzer and the address sanitizer.
#
#   ./Tests/fuzz.sh                              every target, 60 seconds each
#   ./Tests/fuzz.sh --seconds 600 Frames         one target, ten minutes
#
# The seeds run first. What the fuzzer finds interesting is kept in .build-fuzz for the next run; an input that breaks
# something is reported with its path, and belongs into Tests/Fuzz/Seeds with a name once the fault is fixed.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=../Examples/Support/setup.sh
source Examples/Support/setup.sh

seconds=60
targets=()
while (($#)); do
    case "$1" in
        --seconds) seconds=${2:?} && shift 2 ;;
        -*)
            echo "usage: $0 [--seconds N] [TARGET...]" >&2
            exit 2
            ;;
        *) targets+=("$1") && shift ;;
    esac
done
seeds=$PWD/Tests/Fuzz/Seeds
((${#targets[@]})) || mapfile -t targets < <(ls "$seeds")

install_missing $build_packages
require_swift
export STARLING_FUZZ=1
build=(swift build --configuration release --scratch-path .build-fuzz --product FuzzRunner)
"${build[@]}"
runner=$("${build[@]}" --show-bin-path)/FuzzRunner

# Swift's own crash report would take the place of libFuzzer's, which writes the input to a file.
export SWIFT_BACKTRACE=enable=no
failed=()
for target in "${targets[@]}"; do
    corpus=$PWD/.build-fuzz/corpus/$target
    findings=$PWD/.build-fuzz/findings/$target
    mkdir -p "$corpus" "$findings"
    log=$findings/log.txt
    options=(-timeout=10 -rss_limit_mb=2048 -artifact_prefix="$findings/" -print_final_stats=1)
    # Anything longer than this says the same again.
    options+=(-max_len=8192 -use_value_profile=1)
    [[ -e Tests/Fuzz/Dictionaries/$target.dict ]] && options+=(-dict="Tests/Fuzz/Dictionaries/$target.dict")
    echo "$target: seeds, then $seconds seconds of new inputs"
    export STARLING_FUZZ_TARGET=$target
    if "$runner" "${options[@]}" -runs=0 "$seeds/$target" >"$log" 2>&1 &&
        "$runner" "${options[@]}" -max_total_time="$seconds" "$corpus" "$seeds/$target" >>"$log" 2>&1; then
        awk -v target="$target" '
            /^stat::number_of_executed_units/ { runs = $2 }
            / cov: / { for (i = 1; i < NF; i++) if ($i == "cov:") coverage = $(i + 1) }
            END { printf "%s: nothing found in %d inputs, %d edges covered\n", target, runs, coverage }' "$log"
    else
        failed+=("$target")
        grep -aE "Fatal error|ERROR:|SUMMARY:|Test unit written" "$log" || tail -20 "$log"
        echo "$target: failed; see $log" >&2
    fi
done
((${#failed[@]} == 0)) || exit 1
