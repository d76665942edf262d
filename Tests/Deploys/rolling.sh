#!/bin/sh
# Restarts three nodes behind nginx, one after the other, under thousands of reconnecting clients and constant publishing. Prints for
# each restart how many clients were away, how often and how long, and in the end what was lost, came twice, or in another order; fails if
# anything was, or if a client was not resumed by its ticket, was away more than once for a node, or for longer than it was asked to and 1 s.
#
#   ./Tests/Deploys/rolling.sh [clients]     3,000 unless told otherwise; takes less than a minute
#   ./Tests/Deploys/rolling.sh --quick       300, and short drains: twenty seconds
set -eu
cd "$(dirname "$0")/../.."
. Examples/Support/setup.sh

clients=3000
flags=""
case "${1:-}" in
    "") ;;
    --quick) clients=300 flags="--drain-timeout 4 --pause 1" ;;
    *[!0-9]*) echo "usage: $0 [clients | --quick]" >&2; exit 2 ;;
    *) clients=$1 ;;
esac

install_missing $build_packages python3
install_program redis-server redis-server
install_program nginx nginx-light
PATH="$PATH:/usr/sbin"
require_swift
for product in TopicServer RollingClient; do swift build $swift_traits -c release --product "$product"; done
binaries="$(swift build $swift_traits -c release --show-bin-path)"
# shellcheck disable=SC2086
PYTHONDONTWRITEBYTECODE=1 exec python3 Tests/Deploys/rolling_test.py --server "$binaries/TopicServer" --client "$binaries/RollingClient" \
    --clients "$clients" $flags
