#!/bin/sh
# Tests a running Echo with clients that are not ours: Python's websockets, raw sockets, openssl.
#
#   ./Tests/Clients/run.sh
set -eu
cd "$(dirname "$0")/../.."
. Examples/Support/setup.sh

command -v python3 >/dev/null || install_missing python3
python3 -c 'import ensurepip' 2>/dev/null || install_missing python3-venv
install_missing $build_packages openssl
require_swift
swift build -c release --product Echo
swift build -c release --product EchoCallback
echo_server="$(swift build -c release --show-bin-path)/Echo"

environment=.build-clients/python
if ! cmp -s Tests/Clients/requirements.txt "$environment/requirements.txt"; then
    python3 -m venv --clear "$environment"
    "$environment/bin/pip" install --quiet --disable-pip-version-check --requirement Tests/Clients/requirements.txt
    cp Tests/Clients/requirements.txt "$environment/requirements.txt"
fi
certificates=.build-clients/certificates
rm -rf "$certificates"
mkdir -p "$certificates"
./Tests/certificates.sh "$certificates"

export PYTHONDONTWRITEBYTECODE=1
for suite in clients raw tls bad_day; do
    "$environment/bin/python" "Tests/Clients/${suite}_test.py" "$echo_server" "$certificates"
done
