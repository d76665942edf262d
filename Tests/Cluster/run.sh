#!/bin/sh
# Tests the chat on three nodes with a real Redis, nginx and HAProxy: starts ./Examples/cluster.sh, as a user would, joins it with
# Python's websockets, and breaks it.
set -eu
cd "$(dirname "$0")/../.."
. Examples/Support/setup.sh
# Here and not by cluster.sh, whose time the tests bound.
install_program redis-server redis-server
install_program nginx nginx-light
install_program haproxy haproxy

environment=.build-browser/python
python_environment "$environment" Tests/Browser/requirements.txt
export PYTHONDONTWRITEBYTECODE=1
"$environment/bin/python" Tests/Cluster/cluster_test.py
"$environment/bin/python" Tests/Cluster/balancers_test.py
