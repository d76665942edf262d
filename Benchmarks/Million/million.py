"""Opens as many connections as the machine can hold, up to a million, and measures them: see ../million.sh."""

import argparse
import asyncio
import math
import os
import platform
import resource
import signal
import sys
import time
from pathlib import Path

import capacity
import report
from children import Children, Failed

CONNECTIONS_DEFAULT = 1_000_000
TOPICS = 1_000
PINGS_PER_SECOND_MAX = 16_000
PING_INTERVAL_MIN = 25
PUBLICATIONS = 3
PAYLOAD_BYTES = 100
DROPPED_SHARE = 0.05
OVERALL_SECONDS = 15 * 60
ARRIVAL_SECONDS = 120
STILL_SECONDS_MAX = 60  # without one more connection


def say(text):
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def machine_busy_seconds():
    """Processor seconds of everything on the machine, interrupts included."""
    words = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    user, nice, system, _, _, interrupts, soft_interrupts = words[:7]
    return (user + nice + system + interrupts + soft_interrupts) / os.sysconf("SC_CLK_TCK")


def socket_memory():
    """Bytes of data in TCP sockets."""
    line = next(line for line in Path("/proc/net/sockstat").read_text().splitlines() if line.startswith("TCP:"))
    words = line.split()
    return int(words[words.index("mem") + 1]) * os.sysconf("SC_PAGE_SIZE")


class Million:
    """One run: its processes, and what was measured so far."""

    def __init__(self, children, programs, connections):
        self.children = children
        self.programs = programs
        self.connections = connections
        self.each = capacity.per_process()
        self.pairs = math.ceil(connections / self.each)
        self.ping_interval = max(PING_INTERVAL_MIN, math.ceil(connections / PINGS_PER_SECOND_MAX))
        self.published = 0
        self.result = {
            "connections": connections,
            "servers": self.pairs,
            "connectionsPerServer": min(self.each, connections),
            "topics": TOPICS,
            "payloadBytes": PAYLOAD_BYTES,
            "pingIntervalSeconds": self.ping_interval,
        }

    # MARK: The parts

    async def start(self):
        say(f"starting {self.pairs} servers, {self.pairs} clients and a Redis")
        self.redis, url = await self.children.redis()
        self.servers, self.clients = [], []
        for number in range(self.pairs):
            self.servers.append(
                await self.children.start(
                    f"server {number}", f"{self.programs}/MillionServer", "--redis", url, "--ping-interval",
                    self.ping_interval, "--payload", PAYLOAD_BYTES,
                )
            )
        for number, server in enumerate(self.servers):
            port = (await server.hear()).removeprefix("listening ")
            first = number * self.each
            self.clients.append(
                await self.children.start(
                    f"client {number}", f"{self.programs}/LoadGenerator", "crowd", "--port", port,
                    "--connections", min(self.each, self.connections - first), "--source", 2 + number * capacity.SOURCES_PER_CLIENT,
                    "--topics", TOPICS, "--first", first,
                )
            )
        await self.figures()  # All answer.

    async def open(self):
        before, processors = self.memory(), self.processors()
        course = [(0, 0)]
        began = time.monotonic()
        await self.gather("open", lambda seconds, count: course.append((round(seconds, 1), count)))
        seconds = time.monotonic() - began
        # What is freed late is not a connection's.
        await asyncio.sleep(1)
        growth = {name: (after - before[name]) / self.connections for name, after in self.memory().items()}
        self.result["open"] = {
            "seconds": seconds,
            "perSecond": self.connections / seconds,
            "processorSeconds": self.spent(processors),
            "course": course,
        }
        self.result["bytesPerConnection"] = growth
        say(
            f"{self.connections:,} connections in {seconds:.1f} s, {self.connections / seconds:,.0f} a second; bytes of each: "
            + ", ".join(f"{name} {value:,.0f}" for name, value in growth.items())
        )

    async def hold(self):
        seconds = self.ping_interval + 5
        say(f"holding them for {seconds} s, each is pinged every {self.ping_interval} s")
        pings, processors, busy, began = await self.sum("pings"), self.processors(), machine_busy_seconds(), time.monotonic()
        for second in range(1, seconds + 1):
            await asyncio.sleep(1)
            if second % 10 == 0:
                say(f"held for {second} s")
        took = time.monotonic() - began
        rates = {name: spent / took for name, spent in self.spent(processors).items()}
        rates["machine"] = (machine_busy_seconds() - busy) / took
        pings = (await self.sum("pings") - pings) / took
        self.result["idle"] = {"seconds": took, "pingsPerSecond": pings, "processors": rates}
        say(f"{pings:,.0f} pings a second; processors busy: " + ", ".join(f"{k} {v:.2f}" for k, v in rates.items()))
        await self.check_open()

    async def publish(self, topics=None):
        """One publication to everybody, or one to each topic; every connection must receive exactly one."""
        number, self.published = self.published, self.published + 1
        processors, began = self.processors(), time.monotonic()
        self.servers[number % self.pairs].say(f"publish {number}" + (f" {topics}" if topics else ""))
        await self.servers[number % self.pairs].hear()
        confirmed = time.monotonic() - began
        arrived = 0
        while arrived < self.connections and time.monotonic() - began < ARRIVAL_SECONDS:
            await asyncio.sleep(0.25)
            arrived = sum(figures["arrived"][number] for figures in await self.figures())
        processors = self.spent(processors)
        for client in self.clients:
            client.say(f"latencies {number}")
        buckets = {}
        for client in self.clients:
            for edge, count in (await client.hear_event("latencies"))["buckets"]:
                buckets[edge] = buckets.get(edge, 0) + count
        latencies = report.Latencies(buckets)
        lost = self.connections - arrived
        what = f"one to each of {topics:,} topics" if topics else "one to everybody"
        say(
            f"published {what}: p50 {latencies.quantile(0.5):.2f} s, p99 {latencies.quantile(0.99):.2f} s, the last "
            f"after {latencies.max():.2f} s; lost {lost}"
        )
        self.result.setdefault("publications", []).append(
            {
                "what": what,
                "confirmedSeconds": confirmed,
                "arrived": arrived,
                "lost": lost,
                "p50Seconds": latencies.quantile(0.5),
                "p99Seconds": latencies.quantile(0.99),
                "maxSeconds": latencies.max(),
                "processorSeconds": processors,
                "course": latencies.course(),
            }
        )
        if lost:
            # Says whether connections are missing, or publications.
            await self.check_open()
            raise Failed(f"{lost:,} deliveries were lost")

    async def drop(self):
        count = int(self.connections * DROPPED_SHARE)
        say(f"dropping {count:,} connections, which come back")
        shares = [count * (number + 1) // self.pairs - count * number // self.pairs for number in range(self.pairs)]
        began = time.monotonic()
        await self.gather([f"drop {share}" for share in shares])
        seconds = time.monotonic() - began
        self.result["reconnect"] = {"connections": count, "seconds": seconds, "perSecond": count / seconds}
        say(f"{count:,} are back after {seconds:.1f} s, {count / seconds:,.0f} a second")

    async def check_open(self):
        """Nobody may be missing, and nothing may have arrived twice or at the wrong place."""
        every = await self.figures()
        self.result["totals"] = {
            name: sum(figures[name] for figures in every) for name in ("open", "pings", "cut", "duplicates", "strays")
        }
        totals = self.result["totals"]
        if totals["open"] != self.connections or totals["cut"] or totals["duplicates"] or totals["strays"]:
            raise Failed(f"of {self.connections:,} connections: {totals}")

    # MARK: All clients

    async def gather(self, orders, progress=lambda seconds, count: None):
        """Gives the order, or each client its own, and waits until all connections are open; reports how many are meanwhile."""
        began = time.monotonic()
        counts = [0] * self.pairs
        for number, client in enumerate(self.clients):
            client.say(orders if isinstance(orders, str) else orders[number])

        async def follow(number, client):
            while True:
                answer = await client.hear_event("gathering", "gathered")
                counts[number] = answer["open"]
                if answer["event"] == "gathered":
                    return

        async def watch():
            known, still = 0, 0
            while True:
                await asyncio.sleep(1)
                seconds = time.monotonic() - began
                progress(seconds, sum(counts))
                if int(seconds) % 5 == 0:
                    say(f"{sum(counts):,} of {self.connections:,} are open")
                known, still = sum(counts), still + 1 if sum(counts) == known else 0
                if still == STILL_SECONDS_MAX:
                    raise Failed(f"only {known:,} of {self.connections:,} connections opened")

        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch())
            async with asyncio.TaskGroup() as followers:
                for number, client in enumerate(self.clients):
                    followers.create_task(follow(number, client))
            watching.cancel()
        progress(time.monotonic() - began, sum(counts))

    async def figures(self):
        for client in self.clients:
            client.say("figures")
        return [await client.hear_event("figures") for client in self.clients]

    async def sum(self, name):
        return sum(figures[name] for figures in await self.figures())

    def memory(self):
        now = capacity.memory()
        return {
            "server": sum(server.private_bytes() for server in self.servers),
            "client": sum(client.private_bytes() for client in self.clients),
            "kernel": now["Slab"] + now["KernelStack"] + now["PageTables"] + socket_memory(),
            "all": now["MemTotal"] - now["MemAvailable"],
        }

    def processors(self):
        return {
            "servers": sum(server.processor_seconds() for server in self.servers),
            "clients": sum(client.processor_seconds() for client in self.clients),
            "Redis": self.redis.processor_seconds(),
        }

    def spent(self, before):
        """Processor seconds since then."""
        return {name: after - before[name] for name, after in self.processors().items()}


async def run(programs, connections):
    async with Children() as children:
        million = Million(children, programs, connections)
        try:
            async with asyncio.timeout(OVERALL_SECONDS):
                await million.start()
                await million.open()
                await million.hold()
                for _ in range(PUBLICATIONS):
                    await million.publish()
                await million.publish(TOPICS)
                await million.drop()
                await million.publish()
                await million.check_open()
        except TimeoutError:
            raise Failed(f"not done within {OVERALL_SECONDS} s") from None
        say("ending all processes")
        return million.result


def choose(asked):
    """How many connections to open; says what the machine can hold."""
    limits = sorted(capacity.limits(), key=lambda limit: limit.connections)
    print("This machine can hold, by")
    for limit in limits:
        print(f"  {limit.name:36} {limit.connections:>12,}   {limit.found}")
    print(f"The limit that binds: {limits[0].name}, {limits[0].connections:,} connections.")
    if asked is None:
        return min(CONNECTIONS_DEFAULT, limits[0].connections)
    if asked > limits[0].connections:
        sys.exit(f"{asked:,} connections are more than this machine can hold; nothing was started.")
    return asked


def main():
    parser = argparse.ArgumentParser(prog="million.sh", description=__doc__)
    parser.add_argument("connections", nargs="?", type=int, help="at most; 1,000,000, or what the machine can hold")
    parser.add_argument("--programs", required=True, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=Path("Benchmarks/Results"), help="a folder for the results")
    parser.add_argument("--dry-run", action="store_true", help="only say what the machine can hold")
    options = parser.parse_args()
    if options.connections is not None and options.connections < TOPICS:
        parser.error(f"fewer than {TOPICS} connections tell nothing")
    connections = choose(options.connections)
    if options.dry_run:
        return
    if connections < TOPICS:
        sys.exit("That is too little for a measurement.")
    _, descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)
    descriptors = min(descriptors, capacity.DESCRIPTORS_PER_PROCESS_MAX)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

    async def interruptible():
        task = asyncio.current_task()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await run(options.programs, connections)

    try:
        result = asyncio.run(interruptible())
    except asyncio.CancelledError:
        sys.exit("Interrupted; all processes have ended.")
    except (Failed, ExceptionGroup) as error:
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        sys.exit(f"FAILED: {error}")
    result["machine"] = {
        "kernel": platform.release(),
        "processors": os.cpu_count(),
        "memoryBytes": capacity.memory()["MemTotal"],
        "day": time.strftime("%Y-%m-%d"),
    }
    report.write(result, options.output)


main()
