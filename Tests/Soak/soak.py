"""Soaks two servers in everything at once, and looks at what is left: see ../soak.sh."""

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter

from nodes import Cluster, Failed, Fault, spawn
from strangers import PATH, Cutter, Strangers

PROGRAMS, CERTIFICATES, MINUTES = sys.argv[1:4]
WARM_UP_SHARE, WARM_UP_SECONDS_MIN, WARM_UP_SECONDS_MAX = 0.2, 45, 120
# The time from the last fault to the end of publishing: what is broken must be whole again, and is looked at.
CALM_SECONDS = 12
SETTLE_SECONDS = 60
# A gap may be told so long after a Redis that began anew, once for each subscription: links, probes and clients come back within it.
GAP_SECONDS = 30
# What a process may have grown by between the end of the warm-up and the end of the test. The allocator keeps what was free at
# the busiest moment, in pieces, and the busiest moment of ten minutes is above that of one; a leak of 20 bytes for each of the
# connections and publications of ten minutes is above this.
MEMORY_SHARE, MEMORY_BYTES = 0.10, 4 << 20
# What a server that nobody uses has: the connection that asks for the figures, and at Redis each node's channel to itself.
EMPTY = {
    "connections": 1, "WebSockets": 0, "tasks": 1, "topics": 0, "subscriptions": 0, "timers": 1,
    "outbound bytes": 0, "channels": 2, "topics with members": 0,
}
# Swift's pool makes the threads of the other cores only when there is that much to do at once.
THREADS_MORE = (os.cpu_count() or 1) - 1
# Causes of closes that the strangers bring about: each must have been counted.
CAUSES = ["peerClosed", "connectionLost", "protocolViolation", "limitExceeded", "pingTimeout", "applicationClosed"]


def say(line):
    print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)


class Soak:
    def __init__(self, cluster):
        self.cluster = cluster
        self.problems = []
        self.faults = []  # of Redis
        self.clients = []  # figures of each SoakClient
        self.strangers = []

    # MARK: Load

    async def load(self, name, seconds):
        """Everything at once for so long; returns when everybody has left."""
        say(f"{name}: {seconds:.0f} s")
        faults_before = len(self.faults)
        strangers = Strangers(self.cluster.nodes)
        self.strangers.append(strangers)
        async with Cutter(self.cluster.plain, 10) as cutter:
            client = await spawn(
                f"{PROGRAMS}/SoakClient", "--server", cutter.url + PATH, "--server", self.cluster.tls.url + PATH,
                "--server", self.cluster.plain.url + PATH, "--trust", f"{CERTIFICATES}/root.pem",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            )
            lines = []
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self.listen(client, lines))
                    group.create_task(strangers.run(seconds - CALM_SECONDS))
                    group.create_task(self.break_redis(seconds - CALM_SECONDS))
                    ended = group.create_task(client.wait())
                    watching = group.create_task(self.watch(strangers))
                    # As long as it works.
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(asyncio.shield(ended), seconds)
                    cutter.cutting = False
                    client.stdin.close()
                    status = await asyncio.wait_for(ended, 120)
                    watching.cancel()
            finally:
                if client.returncode is None:
                    client.kill()
            restarts = [fault.ended for fault in self.faults[faults_before:] if fault.kind == "restart"]
            self.judge(name, status, lines, restarts, cutter)
        self.problems += strangers.faults

    async def listen(self, client, lines):
        while line := (await client.stdout.readline()).decode().strip():
            lines.append((time.time(), line))
            if not line.startswith(("{", "gap:", "note: subscriber")):
                say(f"SoakClient: {line}")

    async def break_redis(self, seconds):
        """Ends links, freezes and kills it, in turn."""
        end = time.monotonic() + seconds
        redis = self.cluster.redis
        while True:
            for kind in ("links", "restart", "pubsub links", "freeze", "links", "long freeze"):
                await asyncio.sleep(random.uniform(5, 8))
                if time.monotonic() > end:
                    return
                fault = Fault(kind, time.time())
                self.faults.append(fault)
                if kind == "restart":
                    await redis.restart(random.uniform(0.2, 2))
                elif kind == "links":
                    await redis.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                elif kind == "pubsub links":
                    await redis.command("CLIENT", "KILL", "TYPE", "pubsub")
                else:
                    # The long one is longer than a reply may take, so that all links are made anew.
                    await redis.freeze(7 if kind == "long freeze" else random.uniform(0.5, 2))
                fault.ended = time.time()

    async def watch(self, strangers):
        while True:
            await asyncio.sleep(15)
            memory = ", ".join(f"{node.name} {node.private_bytes() / 2**20:.1f} MiB" for node in self.cluster.nodes)
            say(f"{sum(strangers.counts.values()):,} strangers have been, Redis had {len(self.faults)} faults; {memory}")
            for node in self.cluster.nodes:
                if node.process.returncode is not None:
                    raise Failed(f"{node.name} has ended with status {node.process.returncode}")

    def judge(self, name, status, lines, restarts, cutter):
        excused = {}
        if status != 0:
            self.problems.append(f"{name}: SoakClient ended with status {status}")
        for moment, line in lines:
            if line.startswith(("LOST", "TWICE", "MISSING", "WRONG")):
                self.problems.append(f"{name}: {line}")
            elif line.startswith("gap:"):
                restart = max((restart for restart in restarts if -1 < moment - restart < GAP_SECONDS), default=None)
                if restart is None:
                    self.problems.append(f"{name}: {line}, though Redis did not begin anew before it")
                    continue
                told = excused.setdefault((restart, line), [])
                told.append(moment - restart)
                if len(told) > 1:
                    times = ", ".join(f"{seconds:.2f} s" for seconds in told)
                    self.problems.append(f"{name}: {line}, told {times} after Redis began anew")
        say(f"{name}: {len(excused)} subscriptions were told of a gap after Redis began anew")
        figures = [json.loads(line) for _, line in lines if line.startswith("{")]
        if figures:
            self.clients.append(figures[-1] | {"cuts": cutter.cuts})
        say(f"{name}: {figures[-1] if figures else 'no figures'}, {cutter.cuts} connections cut")

    # MARK: What is left

    async def figures(self):
        every = {f"{node.name}: {key}": value for node in self.cluster.nodes for key, value in (await node.figures()).items()}
        return every | {f"Redis: {key}": value for key, value in (await self.cluster.redis.figures()).items()}

    def memory(self):
        return {node.name: node.private_bytes() for node in self.cluster.nodes}

    @staticmethod
    def grown(before, now):
        """The names of what there is more of than there may be."""
        return [name for name in now if now[name] > before[name] + (THREADS_MORE if name.endswith(": threads") else 0)]

    async def settled(self, wanted=None):
        """The figures when they are no more than wanted; without a wish, when nobody's things are there any more."""
        end = time.monotonic() + SETTLE_SECONDS
        while True:
            now = await self.figures()
            wish = wanted or {name: self.empty.get(name.split(": ")[1], value) for name, value in now.items()}
            if not self.grown(wish, now) or time.monotonic() > end:
                return now
            await asyncio.sleep(0.5)

    # MARK: The whole

    async def run(self, minutes):
        seconds = minutes * 60
        warm_up = min(max(seconds * WARM_UP_SHARE, WARM_UP_SECONDS_MIN), WARM_UP_SECONDS_MAX, seconds / 3)
        # The head of the question itself, while it is answered.
        question = max(value for name, value in (await self.figures()).items() if name.endswith(": held bytes"))
        self.empty = EMPTY | {"held bytes": question}
        await self.load("warm-up", warm_up)
        baseline, memory = await self.settled(), self.memory()
        say("everybody has left: this is the baseline")
        for name, value in baseline.items():
            if value > self.empty.get(name.split(": ")[1], value):
                self.problems.append(f"after the warm-up {name}: {value}")
        await self.load("soak", seconds - warm_up)
        say("everybody has left: waiting for what they leave behind to go")
        after, memory_after = await self.settled(baseline), self.memory()
        self.report(baseline, after, memory, memory_after)
        closes = [(await node.snapshot())["closes"] for node in self.cluster.nodes]
        self.report_closes(closes)
        for node in self.cluster.nodes:
            status = await node.stop()
            if status != 0:
                self.problems.append(f"{node.name} ended with status {status}")
        self.report_logs()

    def report(self, baseline, after, memory, memory_after):
        print(f"\n| what | baseline | at the end |\n| --- | --: | --: |")
        for name, value in baseline.items():
            print(f"| {name} | {value:,} | {after[name]:,} |")
            if name in self.grown(baseline, after):
                self.problems.append(f"{name}: {after[name]}, and {value} at the baseline")
        for name, value in memory.items():
            print(f"| {name}: private memory | {value / 2**20:.1f} MiB | {memory_after[name] / 2**20:.1f} MiB |")
            if memory_after[name] > value * (1 + MEMORY_SHARE) + MEMORY_BYTES:
                self.problems.append(f"{name}: private memory has grown from {value:,} to {memory_after[name]:,} bytes")

    def report_closes(self, closes):
        print("\n| what | count |\n| --- | --: |")
        for key in self.clients[0]:
            print(f"| {key} | {sum(figures[key] for figures in self.clients):,} |")
        for kind, count in sorted(Counter(fault.kind for fault in self.faults).items()):
            print(f"| Redis: {kind} | {count} |")
        counts = {}
        for strangers in self.strangers:
            for name, count in strangers.counts.items():
                counts[name] = counts.get(name, 0) + count
        for name in sorted(counts):
            print(f"| {name} | {counts[name]:,} |")
        total = {cause: sum(each[cause] for each in closes) for cause in closes[0]}
        for cause, count in total.items():
            if count:
                print(f"| closed: {cause} | {count:,} |")
        for cause in CAUSES:
            if not total[cause]:
                self.problems.append(f"no connection was closed by {cause}")
        # Who reads nothing answers no ping either: the one may end it, or the other.
        expected = counts.get("slow readers that were ended", 0) + counts.get("silent connections that were ended", 0)
        ended = total["slowConsumer"] + total["writeTimeout"] + total["pingTimeout"]
        if ended < expected or not total["slowConsumer"] + total["writeTimeout"]:
            self.problems.append(f"{expected} slow readers and silent connections were ended, and {ended} counted")

    def report_logs(self):
        print("\n| logged above info | count |\n| --- | --: |")
        for node in self.cluster.nodes:
            counts, strange = node.warnings(self.faults)
            for why, count in sorted(counts.items()):
                print(f"| {node.name}: {why} | {count} |")
            self.problems += [f"{node.name} logged: {line}" for line in strange[:20]]


async def main():
    minutes = float(MINUTES)
    if minutes < 1:
        sys.exit("A minute is the least that tells anything.")
    task = asyncio.current_task()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel, signal.Signals(number).name)
    async with Cluster(PROGRAMS, CERTIFICATES) as cluster:
        soak = Soak(cluster)
        try:
            async with asyncio.timeout(minutes * 60 + 600):
                await soak.run(minutes)
        except (Failed, ExceptionGroup, TimeoutError) as error:
            traceback.print_exception(error)
            soak.problems.append(f"{type(error).__name__}: {error}")
            for node in cluster.nodes:
                with contextlib.suppress(OSError):
                    print(f"{node.name} logged last:\n{node.log.read_text(errors='replace')[-3000:]}")
    if soak.problems:
        print(f"\nFAILED: {len(soak.problems)} problems")
        for problem in soak.problems[:40]:
            print(f"  {problem}")
        sys.exit(1)
    print(f"\nok      soaked for {minutes:g} minutes: nothing is left, nothing was lost")


try:
    asyncio.run(main())
except asyncio.CancelledError as error:
    sys.exit(f"Interrupted by {error}; all processes have ended.")
