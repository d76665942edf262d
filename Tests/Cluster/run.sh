#!/bin/sh
# Tests the chat on three nodes with a real Redis, nginx and HAProxy: starts ./Examples/cluster.sh, as a user would, joins it with
# Python's websockets, and breaks it.
set -eu
cd "$(dirname "$0")/../.."
. Examples/Support/setup.sh
command -v python3 >/dev/null || install_missing python3
# Here and not by cluster.sh, whose time the tests bound.
PATH="$PATH:/usr/sbin"
command -v redis-server >/dev/null || install_missing redis-server
command -v nginx >/dev/null || install_missing nginx-light
command -v haproxy >/dev/null || install_missing haproxy
python3 -c 'import ensurepip' 2>/dev/null || install_missing python3-venv

environment=.build-browser/python
if ! cmp -s Tests/Browser/requirements.txt "$environment/requirements.txt"; then
    python3 -m venv --clear "$environment"
    "$environment/bin/pip" install --quiet --disable-pip-version-check --requirement Tests/Browser/requirements.txt
    cp Tests/Browser/requirements.txt "$environment/requirements.txt"
fi
export PYTHONDONTWRITEBYTECODE=1
"$environment/bin/python" Tests/Cluster/cluster_test.py
"$environment/bin/python" Tests/Cluster/balancers_test.py
