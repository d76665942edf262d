#!/bin/sh
# Builds the chat and starts it on http://127.0.0.1:8080. Arguments go to the chat: ./Examples/chat.sh --port 9000
set -eu
cd "$(dirname "$0")/.."
. Examples/Support/setup.sh
install_missing $build_packages
require_swift
swift build $swift_traits -c release --product Chat
exec "$(swift build $swift_traits -c release --show-bin-path)/Chat" "$@"
