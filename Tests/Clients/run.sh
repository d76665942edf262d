#!/bin/sh
# Tests a running Echo with clients that are not ours: Python's websockets, raw sockets, openssl; and our client with servers that
# are not ours: Python's websockets, Node's ws, nginx.
#
#   ./Tests/Clients/run.sh
set -eu
cd "$(dirname "$0")/../.."
. Examples/Support/setup.sh

install_missing $build_packages openssl node-ws
install_program nginx nginx-light
require_swift
swift build $swift_traits -c release --product Echo
swift build $swift_traits -c release --product EchoCallback
swift build $swift_traits -c release --product ClientChecks
echo_server="$(swift build $swift_traits -c release --show-bin-path)/Echo"

environment=.build-clients/python
python_environment "$environment" Tests/Clients/requirements.txt
certificates=.build-clients/certificates
rm -rf "$certificates"
mkdir -p "$certificates"
./Tests/certificates.sh "$certificates"

export PYTHONDONTWRITEBYTECODE=1
for suite in clients raw tls bad_day servers; do
    "$environment/bin/python" "Tests/Clients/${suite}_test.py" "$echo_server" "$certificates"
done
