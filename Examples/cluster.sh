#!/usr/bin/env bash
# Starts a Redis, three chat nodes and a load balancer in front of them, as one chat on http://127.0.0.1:8080, and stops them
# all on Ctrl-C.
#
#   ./Examples/cluster.sh [--port PORT] [--balancer nginx-cookie|nginx-hash|nginx-ip-hash|nginx-least-conn|haproxy]
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=Support/setup.sh
source Examples/Support/setup.sh

port=8080
balancer=nginx-cookie
while [ $# -gt 0 ]; do
    case "$1" in
        --port) port="${2:?--port needs a number}" ;;
        --balancer) balancer="${2:?--balancer needs a name}" ;;
        *) echo "usage: $0 [--port PORT] [--balancer nginx-cookie|nginx-hash|nginx-ip-hash|nginx-least-conn|haproxy]" >&2; exit 2 ;;
    esac
    shift 2
done
case "$balancer" in
    nginx-cookie | nginx-hash | nginx-ip-hash | nginx-least-conn | haproxy) ;;
    *) echo "there is no configuration for '$balancer'" >&2; exit 2 ;;
esac

# shellcheck disable=SC2086
install_missing $build_packages
PATH="$PATH:/usr/sbin"
install_program redis-server redis-server
if [ "$balancer" = haproxy ]; then
    install_program haproxy haproxy
else
    install_program nginx nginx-light
fi
require_swift
swift build $swift_traits -c release --product Chat
chat="$(swift build $swift_traits -c release --show-bin-path)/Chat"

directory="$(mktemp -d)"
started=()
stop() {
    trap - EXIT INT TERM
    # The nodes first, so that they can say goodbye by way of the others.
    for ((index = ${#started[@]} - 1; index >= 0; index--)); do kill "${started[index]}" 2>/dev/null || true; done
    wait
    rm -rf "$directory"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Starts a program in a session of its own, so that Ctrl-C reaches this script alone.
start() {
    local name="$1"
    shift
    setsid "$@" >"$directory/$name.out" 2>&1 &
    started+=($!)
}

# Waits for a port, or says why it does not open.
await() {
    local name="$1" pid="${started[-1]}"
    for _ in $(seq 200); do
        if (exec 3<>"/dev/tcp/127.0.0.1/$2") 2>/dev/null; then return 0; fi
        if ! kill -0 "$pid" 2>/dev/null; then break; fi
        sleep 0.05
    done
    echo "$name does not listen on port $2:" >&2
    tail -n 5 "$directory/$name.out" >&2
    exit 1
}

redis_port=$((port + 9))
start redis redis-server --bind 127.0.0.1 --port "$redis_port" --save "" --dir "$directory"
await redis "$redis_port"

# The same on all nodes. HAProxy says whose connection it is before the connection's first byte, nginx in a header field.
key="$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')"
proxy=(--trust-proxy 127.0.0.1)
if [ "$balancer" = haproxy ]; then proxy+=(--proxy-protocol); fi
for number in 1 2 3; do
    start "node$number" "$chat" --host 127.0.0.1 --port $((port + number)) --redis "redis://127.0.0.1:$redis_port" \
        --node "node$number" --affinity-key "$key" "${proxy[@]}"
    await "node$number" $((port + number))
done

# Puts this machine's ports into a configuration.
configure() {
    sed -e "s|DIRECTORY|$directory|g" -e "s|PORT|$port|g" -e "s|NODE1|$((port + 1))|g" -e "s|NODE2|$((port + 2))|g" \
        -e "s|NODE3|$((port + 3))|g" "Examples/Cluster/$1" >"$directory/$2"
}
if [ "$balancer" = haproxy ]; then
    configure haproxy.cfg haproxy.cfg
    start haproxy haproxy -db -f "$directory/haproxy.cfg"
    await haproxy "$port"
else
    configure nginx.conf nginx.conf
    configure "$balancer.conf" upstream.conf
    start nginx nginx -c "$directory/nginx.conf" -e "$directory/nginx.log"
    await nginx "$port"
fi

cat <<TEXT

The chat is on http://127.0.0.1:$port, served by three nodes behind ${balancer%%-*}. Open it in several windows.

  Each node by itself:   http://127.0.0.1:$((port + 1))  http://127.0.0.1:$((port + 2))  http://127.0.0.1:$((port + 3))  (not behind haproxy)
  Kill a node:           kill -9 ${started[1]}     its windows come back on another node, and nothing is missing
  Freeze Redis:          kill -STOP ${started[0]}; sleep 8; kill -CONT ${started[0]}
  What travels:          redis-cli -p $redis_port monitor

Ctrl-C stops all of it.
TEXT
# Until Ctrl-C, even if a node is killed.
while true; do wait || true; sleep 1; done
