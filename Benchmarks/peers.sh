#!/usr/bin/env bash
# Installs and builds the servers that Starling is measured beside: ./Benchmarks/peers.sh [NAME]...
#
# Names: nio, beast, socketify, gorilla, ws, websockets; all of them unless told. From Debian come Node and ws, Go and
# gorilla/websocket, Boost; from PyPI websockets and socketify. Each becomes Benchmarks/Peers/.build/NAME/server, with its
# version beside it. One that cannot be built is left out with its reason, which the benchmarks repeat, and the others go on.
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=../Examples/Support/setup.sh
source ../Examples/Support/setup.sh

peers=$PWD/Peers
output=$peers/.build
mkdir -p "$output"

# launcher NAME VERSION COMMAND...: the server, and what it is a version of.
launcher() {
    local folder=$output/$1
    echo "$2" >"$folder/version"
    {
        echo "#!/bin/sh"
        printf 'exec'
        printf " '%s'" "${@:3}"
        echo ' "$@"'
    } >"$folder/server"
    chmod +x "$folder/server"
}

debian_version() {
    dpkg-query --show --showformat '${source:Upstream-Version}' "$1" | sed 's/[+~].*//'
}

build_nio() {
    require_swift
    swift build -c release --package-path "$peers/NIOWebSocket" >&2
    launcher nio "SwiftNIO $(sed -n 's/.*swift-nio", exact: "\(.*\)").*/\1/p' "$peers/NIOWebSocket/Package.swift")" \
        "$peers/NIOWebSocket/.build/release/NIOWebSocketPeer"
}

build_beast() {
    install_missing g++ libboost-dev libboost-system-dev libssl-dev
    local version
    version=$(sed -n 's/#define BOOST_LIB_VERSION "\(.*\)"/\1/p' /usr/include/boost/version.hpp | tr _ .)
    g++ -std=c++17 -O3 -DNDEBUG -o "$output/beast/peer" "$peers/Beast/main.cpp" -lssl -lcrypto -pthread
    launcher beast "Boost.Beast of Boost $version" "$output/beast/peer"
}

build_gorilla() {
    install_missing golang-go golang-github-gorilla-websocket-dev
    (cd "$peers/gorilla" && GO111MODULE=off GOPATH=/usr/share/gocode GOCACHE=$output/gorilla/cache \
        go build -o "$output/gorilla/peer" .)
    launcher gorilla "gorilla/websocket $(debian_version golang-github-gorilla-websocket-dev) on $(go version | cut -d' ' -f3)" \
        "$output/gorilla/peer"
}

build_ws() {
    install_program node nodejs
    install_missing node-ws
    launcher ws "ws $(debian_version node-ws) on Node $(node --version)" \
        env NODE_PATH=/usr/share/nodejs node "$peers/ws/server.cjs"
}

build_websockets() {
    local python=$output/websockets/python/bin/python
    python_environment "$output/websockets/python" "$peers/websockets/requirements.txt"
    # Without its C extension it would be another, much slower library.
    "$python" -c 'import websockets.speedups' || {
        echo "its C extension is missing" >"$output/websockets/skipped"
        return 1
    }
    launcher websockets "$("$python" -c '
import platform, uvloop, websockets.version
print("websockets", websockets.version.version, "with its C extension on CPython", platform.python_version(), "and uvloop", uvloop.__version__)')" \
        "$python" "$peers/websockets/server.py"
}

build_socketify() {
    install_missing libuv1
    local python=$output/socketify/python/bin/python
    python_environment "$output/socketify/python" "$peers/socketify/requirements.txt"
    "$python" -c 'import socketify'
    launcher socketify "$("$python" -c '
import importlib.metadata, platform
print("socketify", importlib.metadata.version("socketify"), "on CPython", platform.python_version())')" \
        "$python" "$peers/socketify/server.py"
}

names=("$@")
[ $# -gt 0 ] || names=(nio beast socketify gorilla ws websockets)
missing=0
for name in "${names[@]}"; do
    declare -F "build_$name" >/dev/null || { echo "$0: there is no peer '$name'" >&2; exit 2; }
    mkdir -p "$output/$name"
    rm -f "$output/$name/server" "$output/$name/skipped"
    echo "== $name" >&2
    # A shell of its own, so that the first command that fails ends this peer and no other. (After `||` or `if` it would not.)
    set +e
    (set -e; "build_$name")
    set -e
    if [ -x "$output/$name/server" ]; then
        echo "$name: $(cat "$output/$name/version")"
    else
        [ -s "$output/$name/skipped" ] || echo "its build failed, as Benchmarks/peers.sh $name shows" >"$output/$name/skipped"
        echo "$name: skipped: $(cat "$output/$name/skipped")"
        missing=$((missing + 1))
    fi
done
[ "$missing" -eq 0 ]
