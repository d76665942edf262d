#!/bin/sh
# Tests the chat from outside: its protocol with Python's websockets, its page and the status page with headless Chromium, its
# client for terminals.
#
#   ./Tests/Browser/run.sh [--server "COMMAND"]
#
# COMMAND starts a chat server; {port} and {members} in it become the port and the most members of a room. Without it the Chat
# example is built and started, and its protocol over a Redis and its status page are tested as well. Screenshots are left in .build-browser/.
set -eu
cd "$(dirname "$0")/../.."
. Examples/Support/setup.sh

server=""
while [ $# -gt 0 ]; do
    case "$1" in
        --server) server="${2:?--server needs a command}"; shift 2 ;;
        *) echo "usage: $0 [--server \"COMMAND\"]" >&2; exit 2 ;;
    esac
done

install_program chromium chromium
install_program redis-server redis-server

if [ -z "$server" ]; then
    install_missing $build_packages
    require_swift
    swift build $swift_traits -c release --product Chat
    swift build $swift_traits -c release --product ChatClient
    server="$(swift build $swift_traits -c release --show-bin-path)/Chat --host 127.0.0.1 --port {port} --room-members {members}"
    # The same over a Redis of our own.
    directory="$(mktemp -d)"
    redis-server --port 0 --unixsocket "$directory/redis.sock" --save "" --dir "$directory" >"$directory/log" &
    redis=$!
    trap 'kill $redis; wait; rm -rf "$directory"' EXIT
    client="$(swift build $swift_traits -c release --show-bin-path)/ChatClient"
    with_redis="$server --redis unix://$directory/redis.sock"
    token=a-password-for-the-status-page
    with_status="$server --debug-token $token"
fi

environment=.build-browser/python
python_environment "$environment" Tests/Browser/requirements.txt

export PYTHONDONTWRITEBYTECODE=1
"$environment/bin/python" Tests/Browser/protocol_test.py --server "$server"
[ -z "${with_redis:-}" ] || "$environment/bin/python" Tests/Browser/protocol_test.py --server "$with_redis"
"$environment/bin/python" Tests/Browser/page_test.py --server "$server" --output .build-browser
[ -z "${client:-}" ] || "$environment/bin/python" Tests/Browser/terminal_test.py --server "$server" --client "$client"
[ -z "${with_status:-}" ] \
    || "$environment/bin/python" Tests/Browser/status_test.py --server "$with_status" --token "$token" --output .build-browser
