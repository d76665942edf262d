#!/usr/bin/env bash
# Builds the documentation of every library module into .build-docs/, and fails if anything is wrong with it: a link that
# leads nowhere, a public symbol without a comment, Swift code in a text that no compiled file has.
#
#   ./Documentation/build.sh           builds and checks; needs a debug build, and makes one if there is none
#   ./Documentation/build.sh --serve   the same, and then shows it at http://127.0.0.1:8000/documentation/
set -euo pipefail
cd "$(dirname "$0")/.."
# With all that there is to document, and so with the build of `Tests/run.sh`.
export STARLING_SWIFT_TRAITS="--traits NIO,Tracing"
# shellcheck source=../Examples/Support/setup.sh
source Examples/Support/setup.sh
install_missing $build_packages
install_program python3 python3
require_swift

case "${1:-}" in
    "" | --serve) ;;
    *)
        echo "usage: $0 [--serve]" >&2
        exit 2
        ;;
esac

output=$PWD/.build-docs
checks=Documentation/Checks
mkdir -p "$output"
export PYTHONDONTWRITEBYTECODE=1

# A toolchain's tool, on the path or beside `swift`.
tool() {
    command -v "$1" || echo "$(dirname "$(readlink -f "$(command -v swift)")")/$1"
}

echo "== The checks find what they are for"
python3 $checks/checks_test.py

echo "== Links"
python3 $checks/links.py

echo "== Swift code"
swift package describe --type json >"$output/package.json"
modules=$(python3 $checks/modules.py "$output/package.json")
for target in Snippets $modules; do swift build $swift_traits --quiet --target "$target"; done
python3 $checks/snippets.py "$output/package.json"

echo "== Comments"
build=$(swift build $swift_traits --show-bin-path)
triple=$(swift -print-target-info | sed -n 's/.*"triple": "\(.*\)",/\1/p' | head -1)
rm -rf "$output/symbols" && mkdir -p "$output/symbols"
clang_options=()
for map in "$build"/*.build/module.modulemap {.,.build/checkouts/*}/Sources/*/{include/,}module.modulemap; do
    [[ -e $map ]] && clang_options+=(-Xcc "-fmodule-map-file=$map")
done
for module in $modules; do
    mkdir "$output/symbols/$module"
    "$(tool swift-symbolgraph-extract)" -module-name "$module" -target "$triple" -I "$build/Modules" \
        "${clang_options[@]}" -minimum-access-level public -skip-synthesized-members \
        -output-dir "$output/symbols/$module"
done
(cd "$output/symbols" && python3 "$OLDPWD/$checks/comments.py" $modules)

echo "== Pages"
python3 $checks/catalogs.py "$output/catalogs"
archives=()
dependencies=()
for module in $modules; do
    archive=$output/archives/$module.doccarchive
    rm -rf "$archive" && mkdir -p "$output/archives"
    "$(tool docc)" convert "$output/catalogs/$module.docc" --output-path "$archive" --warnings-as-errors \
        --additional-symbol-graph-dir "$output/symbols/$module" \
        --fallback-display-name "$module" --fallback-bundle-identifier "starling.$module" --fallback-default-module-kind Module \
        --enable-experimental-external-link-support ${dependencies[@]+"${dependencies[@]}"} | sed "/^$/d"
    archives+=("$archive")
    dependencies+=(--dependency "$archive")
done
rm -rf "$output/site"
"$(tool docc)" merge "${archives[@]}" --output-path "$output/site" \
    --synthesized-landing-page-name Starling --synthesized-landing-page-topics-style list
echo "The documentation is in .build-docs/site"

if [[ ${1:-} == --serve ]]; then
    echo "http://127.0.0.1:8000/documentation/"
    exec python3 -m http.server --bind 127.0.0.1 --directory "$output/site" 8000
fi
