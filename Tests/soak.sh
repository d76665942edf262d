#!/bin/sh
# Lets two servers with a Redis between them, one of them with TLS, work for a while under everything at once: clients that come and
# go, that publish and check what they get, that do not read, that attack; a Redis that is killed, cut off and frozen. Then everybody
# leaves, and nothing may be left: no descriptor, memory, task, timer or subscription, no log that is not explained, and nothing lost.
#
#   ./Tests/soak.sh [minutes]     10 if not given, at least 1
set -eu
cd "$(dirname "$0")/.."
. Examples/Support/setup.sh

install_missing $build_packages openssl
install_program redis-server redis-server
install_program python3 python3
require_swift
swift build $swift_traits -c release --product TopicServer
swift build $swift_traits -c release --product SoakClient

certificates=.build-soak/certificates
rm -rf .build-soak
mkdir -p "$certificates"
./Tests/certificates.sh "$certificates"
export PYTHONDONTWRITEBYTECODE=1
exec python3 Tests/Soak/soak.py "$(swift build $swift_traits -c release --show-bin-path)" "$certificates" "${1:-10}"
