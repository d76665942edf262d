#!/usr/bin/env bash
# Compares io_uring with epoll by the server's CPU time: ./Benchmarks/FloorUring/run.sh [--rounds N] [--scenarios NAME...]
#
# Builds the server here and the load generator beside it with gcc, apart from the package, so that only who repeats the
# measurement needs liburing. All options are those of compare.py. See Documentation/Decisions/0009-io-uring.md.
set -euo pipefail
cd "$(dirname "$0")"

missing() {
    echo "$1 is missing: apt-get install $2" >&2
    exit 1
}

# has HEADER: whether the compiler finds it.
has() {
    echo "#include <$1>" | gcc -E - >/dev/null 2>&1
}

command -v gcc >/dev/null || missing gcc gcc
command -v python3 >/dev/null || missing python3 python3
has liburing.h || missing liburing liburing-dev
has openssl/ssl.h || missing OpenSSL libssl-dev
has zlib.h || missing zlib zlib1g-dev

if [[ "$(cat /proc/sys/kernel/io_uring_disabled 2>/dev/null)" == 2 ]]; then
    echo "the kernel forbids io_uring: sysctl kernel.io_uring_disabled is 2" >&2
    exit 1
fi

programs=$(mktemp --directory)
trap 'rm -r "$programs"' EXIT
gcc -std=gnu11 -O2 -Wall -Wextra -o "$programs/server" ./*.c -luring
gcc -O2 -o "$programs/generator" ../LoadGenerator/*.c -lssl -lcrypto -lz

lscpu | sed -n 's/^Model name: */processor: /p'
echo "kernel: $(uname -r), $(sysctl -n net.ipv4.tcp_congestion_control)"
python3 compare.py --programs "$programs" "$@"
