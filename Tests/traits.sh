#!/usr/bin/env bash
# Shows that a user of the native transport neither resolves nor builds SwiftNIO, and that the trait NIO brings it.
#
#   ./Tests/traits.sh
#
# Two small packages that depend on this one are made in a temporary folder, resolved, built and run.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=../Examples/Support/setup.sh
source Examples/Support/setup.sh
install_missing $build_packages
require_swift

root=$PWD
# The name of a path dependency is its folder's.
identity=$(basename "$root" | tr '[:upper:]' '[:lower:]')
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

fail() {
    echo "$0: $*" >&2
    exit 1
}

# user NAME TRAITS PRODUCT TYPE: a package NAME that uses TYPE of PRODUCT.
user() {
    local name=$1 traits=$2 product=$3 type=$4
    mkdir -p "$folder/$name/Sources/$name"
    cat >"$folder/$name/Package.swift" <<MANIFEST
// swift-tools-version: 6.2
import PackageDescription

let package = Package(
    name: "$name",
    platforms: [.macOS(.v15)],
    dependencies: [.package(path: "$root"$traits)],
    targets: [
        .executableTarget(
            name: "$name",
            dependencies: [
                .product(name: "Starling", package: "$identity"),
                .product(name: "$product", package: "$identity"),
            ]
        )
    ]
)
MANIFEST
    cat >"$folder/$name/Sources/$name/main.swift" <<MAIN
import Starling
import $product

let endpoint = WebSocketEndpoint { socket in
    for try await message in socket { try await socket.send(message) }
}
let server = WebSocketServer(transport: $type(port: 0)) { WebSocketRoute("/", endpoint) }
server.beginShutdown()
try await server.run()
print("$name has run")
MAIN
}

# resolve NAME: resolves it; leaves the list of packages in RESOLVED.
resolve() {
    local name=$1
    swift package --package-path "$folder/$name" show-dependencies --format json \
        >"$folder/$name.json" 2>"$folder/$name.log" || { cat "$folder/$name.log" >&2; fail "$name does not resolve"; }
    resolved=$(python3 - "$folder/$name.json" <<'PYTHON'
import json, sys

def names(package):
    for dependency in package["dependencies"]:
        yield dependency["identity"]
        yield from names(dependency)

text = open(sys.argv[1]).read()
print(" ".join(sorted(set(names(json.loads(text[text.index("{"):]))))))
PYTHON
    )
    echo "$name resolves: $resolved"
}

# build NAME OPTION...: builds what the options say; leaves the list of modules in BUILT, and where they are in BIN.
build() {
    local name=$1 started=$SECONDS
    shift
    swift build "$@" >"$folder/$name.log" 2>&1 || { tail -n 30 "$folder/$name.log" >&2; fail "$name does not build"; }
    bin=$(swift build "$@" --show-bin-path)
    built=$(cd "$bin" && find . -maxdepth 1 -name '*.build' -printf '%f\n' | sed 's/\.build$//' | sort | tr '\n' ' ')
    echo "$name builds in $((SECONDS - started)) s: $built"
}

user NativeOnly '' StarlingNative NativeTransport
resolve NativeOnly
grep -qE 'swift-nio' <<<"$resolved" && fail "a user of the native transport resolves SwiftNIO"
build NativeOnly --package-path "$folder/NativeOnly" --product NativeOnly
"$bin/NativeOnly"
grep -qwE 'NIOCore|NIOPosix|NIOSSL|CNIOBoringSSL' <<<"$built" && fail "a user of the native transport builds SwiftNIO"
grep -qw 'StarlingNative' <<<"$built" || fail "the native transport was not built, so that this shows nothing"

# SwiftNIO takes minutes to build, and our own build has it: in the same folder, with the same traits and versions, no more is
# built for this package than itself, and nothing anew for ours afterwards.
user WithNIO ', traits: ["NIO", "Tracing"]' StarlingNIO NIOTransport
[[ ! -e Package.resolved ]] || cp Package.resolved "$folder/WithNIO"
resolve WithNIO
grep -qw 'swift-nio-ssl' <<<"$resolved" || fail "the trait NIO does not resolve swift-nio-ssl"
build WithNIO --package-path "$folder/WithNIO" --scratch-path "$root/.build" --product WithNIO
"$bin/WithNIO"
grep -qw 'NIOCore' <<<"$built" || fail "the trait NIO does not build SwiftNIO"
echo "without the trait NIO, SwiftNIO is neither resolved nor built; with it, it is"
