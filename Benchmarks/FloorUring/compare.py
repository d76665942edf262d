"""Compares kinds of I/O of the server beside it by the CPU time that it takes: see run.sh.

A round measures every kind once, one after the other, and what counts is the ratio to epoll-edge of the same round: what
others do on the machine changes more between rounds than within one. What others disturb is measured again, and rounds
that were disturbed nevertheless are told apart. It matters: a thread that submits a thousand sends at once is preempted
less than one that makes a thousand calls, and on a busy machine that alone looks like a gain.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

BASELINE = "epoll-edge"
KINDS = [BASELINE, "epoll-level", "batch", "poll", "receive", "full", "completed", "fixed", "bundles", "incremental"]
SERVER_CORE = 0
WARMUP_SECONDS = 0.2
TRICKLE_CONNECTIONS = 100
TRICKLE_PER_SECOND = 1000
IDLE_CONNECTIONS = 10_000
# The share of one core that others may have during a measurement, how often it is tried, and how long it waits for that.
OTHERS_MAX = 0.12
ATTEMPTS = 2
QUIET_SECONDS = 0.1
UNREST_SECONDS_MAX = 2

LOADS = {
    "echo": ["echo", "--depth", "1"],
    "echo-depth-16": ["echo", "--depth", "16"],
    "echo-1k": ["echo", "--payload", "1024"],
    "echo-64k": ["echo", "--payload", "65536"],
    "echo-2000": ["echo", "--connections", "2000"],
    "fanout": ["fanout", "--connections", "1000", "--payload", "100"],
    "fanout-depth-16": ["fanout", "--connections", "1000", "--payload", "100", "--depth", "16"],
}
TRICKLE = "trickle"
IDLE = "idle"


class Failed(Exception):
    pass


def on_core(core, policy=os.SCHED_OTHER):
    def prepare():
        os.sched_setaffinity(0, {core})
        os.sched_setscheduler(0, policy, os.sched_param(0))

    return prepare


@contextlib.contextmanager
def server(bench, kind):
    """A running server: its process and port."""
    process = subprocess.Popen(
        [bench.programs / "server", "--io", kind], stdout=subprocess.PIPE, text=True, preexec_fn=on_core(SERVER_CORE)
    )
    try:
        line = process.stdout.readline()
        if not line.startswith("listening on "):
            raise Failed(f"the server {kind} does not start")
        yield process, int(line.split()[-1])
        if process.poll() is not None:
            raise Failed(f"the server {kind} has ended with status {process.returncode}")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        process.stdout.close()


def generator(bench, port, arguments, **options):
    # On the server's core a generator that wakes up would otherwise interrupt it after every other send.
    preparation = on_core(SERVER_CORE, os.SCHED_BATCH) if bench.one_core else on_core(1 - SERVER_CORE)
    return subprocess.Popen(
        [bench.programs / "generator", *arguments, "--port", str(port)],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=preparation,
        **options,
    )


def report(process):
    """The line that a load generator prints."""
    line = process.stdout.readline()
    if not line:
        raise Failed("the load generator has failed")
    return json.loads(line)


def measure_load(bench, kind, arguments):
    """Nanoseconds that the server, and the load generator, take for a message."""
    with server(bench, kind) as (process, port):
        times = ["--warmup", str(WARMUP_SECONDS), "--seconds", str(bench.seconds), "--server-pid", str(process.pid)]
        with generator(bench, port, [*arguments, *times]) as load:
            figures = report(load)
        if load.returncode != 0 or figures["messages"] == 0:
            raise Failed("the load generator has failed")
        return {
            "server": figures["serverNanoseconds"] / figures["messages"],
            "generator": figures["generatorNanoseconds"] / figures["messages"],
        }


def dial(port):
    connection = socket.create_connection(("127.0.0.1", port), timeout=5)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(b"GET /echo HTTP/1.1\r\n\r\n")
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        part = connection.recv(4096)
        if not part:
            raise Failed("the server has closed a connection")
        head += part
    return connection


def cpu_nanoseconds(pid):
    """User and system time of a process, as clock_getcpuclockid(3) would find it."""
    return time.clock_gettime_ns((~pid << 3) | 2)


def measure_trickle(bench, kind):
    """Nanoseconds that the server takes for a message when there is a pause before each."""
    frame = b"\x82\x94\0\0\0\0" + b"twenty bytes of talk"
    with server(bench, kind) as (process, port), contextlib.ExitStack() as stack:
        connections = [stack.enter_context(dial(port)) for _ in range(TRICKLE_CONNECTIONS)]
        count = int(TRICKLE_PER_SECOND * bench.seconds)
        due = time.monotonic()
        before = cpu_nanoseconds(process.pid)
        for number in range(count):
            due += 1 / TRICKLE_PER_SECOND
            time.sleep(max(0, due - time.monotonic()))
            connection = connections[number % len(connections)]
            connection.sendall(frame)
            if connection.recv(4096) != b"\x82\x14" + frame[6:]:
                raise Failed("a reply is wrong")
        return {"server": (cpu_nanoseconds(process.pid) - before) / count}


def private_bytes(pid):
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * 1024


def available_bytes():
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) * 1024


def slab_bytes():
    """Bytes of the kernel's objects in use, by cache; needs root."""
    lines = (line.split() for line in Path("/proc/slabinfo").read_text().splitlines()[2:])
    return {words[0]: int(words[1]) * int(words[3]) for words in lines}


def measure_idle(bench, kind):
    """Bytes that a connection adds: to the server, to all the machine uses, and to the kernel's caches.

    Both ends are on the machine, and the sockets of both in its memory.
    """
    with server(bench, kind) as (process, port):
        before = private_bytes(process.pid), available_bytes(), slab_bytes()
        arguments = ["idle", "--connections", str(IDLE_CONNECTIONS), "--messages", "1"]
        with generator(bench, port, arguments, stdin=subprocess.PIPE) as load:
            report(load)
            after = private_bytes(process.pid), available_bytes(), slab_bytes()
            load.stdin.close()
        if load.returncode != 0:
            raise Failed("the load generator has failed")
    figures = {
        "user": (after[0] - before[0]) / IDLE_CONNECTIONS,
        "machine": (before[1] - after[1]) / IDLE_CONNECTIONS,
        "slabs": (sum(after[2].values()) - sum(before[2].values())) / IDLE_CONNECTIONS,
    }
    for name in after[2]:
        grown = (after[2][name] - before[2].get(name, 0)) / IDLE_CONNECTIONS
        if grown > 16:
            figures[name] = grown
    return figures


def busy_seconds():
    """Processor seconds of everything on the machine."""
    words = Path("/proc/stat").read_text().splitlines()[0].split()
    user, nice, system, _, _, interrupts, soft_interrupts = map(int, words[1:8])
    return (user + nice + system + interrupts + soft_interrupts) / os.sysconf("SC_CLK_TCK")


def own_seconds():
    """Processor seconds of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def await_quiet():
    deadline = time.monotonic() + UNREST_SECONDS_MAX
    while time.monotonic() < deadline:
        before = busy_seconds()
        time.sleep(QUIET_SECONDS)
        if busy_seconds() - before <= OTHERS_MAX * QUIET_SECONDS:
            return


def measure_quietly(bench, kind, scenario):
    """The figures of the least disturbed attempt, and the share of a core that others took meanwhile."""
    attempts = []
    for _ in range(ATTEMPTS):
        await_quiet()
        start, busy, own = time.monotonic(), busy_seconds(), own_seconds()
        figures = measure(bench, kind, scenario)
        others = (busy_seconds() - busy - own_seconds() + own) / (time.monotonic() - start)
        attempts.append((others, figures))
        if others <= OTHERS_MAX:
            break
    others, figures = min(attempts, key=lambda attempt: attempt[0])
    return figures, others


def measure(bench, kind, scenario):
    if scenario == TRICKLE:
        return measure_trickle(bench, kind)
    if scenario == IDLE:
        return measure_idle(bench, kind)
    return measure_load(bench, kind, LOADS[scenario])


def ratios(rounds, kind, names):
    """Of each round, the kind's figures by those of epoll-edge, as quartiles."""
    values = [sum(r[kind][n] for n in names) / sum(r[BASELINE][n] for n in names) for r in rounds]
    if len(values) == 1:
        return values * 3
    return statistics.quantiles(values, n=4, method="inclusive")


def print_times(scenario, rounds):
    print(f"\n{scenario}: CPU time of the server by message, and ratios to {BASELINE} (quartiles), {len(rounds)} rounds")
    print(f"{'':12} {'ns':>8} {'server':>22} {'with generator':>22}")
    for kind in rounds[0]:
        nanoseconds = statistics.median(r[kind]["server"] for r in rounds)
        columns = [["server"]] + ([["server", "generator"]] if "generator" in rounds[0][kind] else [])
        quartiles = (ratios(rounds, kind, names) for names in columns)
        cells = (f"{median:.3f} ({low:.3f}–{high:.3f})" for low, median, high in quartiles)
        print(f"{kind:12} {nanoseconds:8.0f} " + " ".join(f"{cell:>22}" for cell in cells))


def print_bytes(scenario, rounds):
    print(f"\n{scenario}: bytes by connection, medians of {len(rounds)} rounds")
    for kind in rounds[0]:
        names = [name for name in rounds[0][kind] if all(name in r[kind] for r in rounds)]
        cells = (f"{name} {statistics.median(r[kind][name] for r in rounds):.0f}" for name in names)
        print(f"{kind:12} " + ", ".join(cells))


def print_figures(scenario, rounds):
    print_bytes(scenario, rounds) if scenario == IDLE else print_times(scenario, rounds)
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", type=Path, required=True, help="the folder of server and generator")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2, help="of each measurement")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help=f"beside {BASELINE}")
    parser.add_argument(
        "--one-core", action="store_true", help="server and generator take turns on one core, and do not wake each other"
    )
    scenarios = [*LOADS, TRICKLE, IDLE]
    parser.add_argument("--scenarios", nargs="+", choices=scenarios, default=scenarios)
    options = parser.parse_args()
    kinds = [BASELINE] + [kind for kind in options.kinds if kind != BASELINE]
    for scenario in options.scenarios:
        rounds, disturbed = [], []
        for number in range(options.rounds):
            # Each is the first in turn: who runs after a pause has it easier.
            turn = kinds[number % len(kinds) :] + kinds[: number % len(kinds)]
            found = {kind: measure_quietly(options, kind, scenario) for kind in turn}
            shares = " ".join(f"{kind} {found[kind][1]:.2f}" for kind in kinds)
            print(f"{scenario}, round {number + 1}: others took {shares}", file=sys.stderr)
            is_quiet = all(others <= OTHERS_MAX for _, others in found.values())
            (rounds if is_quiet else disturbed).append({kind: found[kind][0] for kind in kinds})
        if disturbed:
            print(f"\n{scenario}: {len(disturbed)} of {options.rounds} rounds were disturbed")
            print_figures(scenario, rounds + disturbed)
        if rounds:
            print_figures(scenario, rounds)


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        raise SystemExit(f"compare.py: {failure}") from failure
