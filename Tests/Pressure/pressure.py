"""What slow subscribers, and a lack of memory, cost a server and its other clients. Run by run.sh."""

import argparse
import asyncio
import base64
import json
import os
import re
import socket
import struct
import subprocess
import threading
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, replace

MIB = 1 << 20
parser = argparse.ArgumentParser()
parser.add_argument("bin_path")
parser.add_argument("--quick", action="store_true", help="a tenth of the subscribers and of the bytes")
parser.add_argument("--policy", choices=["skip", "disconnect", "conflate", "recover"], help="subscribers with this policy alone")
parser.add_argument("--slow-only", action="store_true", help="slow subscribers alone")
parser.add_argument("--memory-only", action="store_true", help="the lack of memory alone")
options = parser.parse_args()
bin_path, quick = options.bin_path, options.quick
failures = []


def check(holds, words):
    print(("  ok    " if holds else "  FAILS ") + words, flush=True)
    if not holds:
        failures.append(words)


class Server:
    """A server process, and its memory."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen([f"{bin_path}/PressureServer", *map(str, arguments)], stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        if not line.startswith("listening on "):
            raise SystemExit("the server did not start")
        self.port = int(line.split()[-1])
        # The head of the question itself, while it is answered.
        self.question_bytes = 0
        self.question_bytes = self.metrics()["held_bytes"]
        self.greatest = 0
        self.ended = threading.Event()
        threading.Thread(target=self.watch, daemon=True).start()

    def private_bytes(self):
        with open(f"/proc/{self.process.pid}/smaps_rollup") as file:
            return sum(int(line.split()[1]) for line in file if line.startswith("Private_")) << 10

    def watch(self):
        while not self.ended.wait(0.05):
            try:
                self.greatest = max(self.greatest, self.private_bytes())
            except (OSError, ValueError):
                return

    def metrics(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as response:
            lines = response.read().decode().splitlines()
        figures = {}
        for line in lines:
            if not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                figures[name.removeprefix("starling_")] = float(value)
        figures["held_bytes"] -= self.question_bytes
        return figures

    def end(self):
        self.ended.set()
        self.process.kill()
        self.process.wait()


class Peer:
    """A WebSocket in bytes, for peers that misbehave."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, port, path, receive_bytes=None):
        end = socket.socket()
        end.setblocking(False)
        if receive_bytes:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        await asyncio.get_running_loop().sock_connect(end, ("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=end, limit=1 << 16)
        key = base64.b64encode(os.urandom(16)).decode()
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        peer = cls(reader, writer)
        peer.status = int(head.split()[1])
        peer.head = head.decode()
        return peer

    @staticmethod
    def frame(payload, opcode=0x82):
        # The mask is zeros: what is masked with it stays as it is.
        count = len(payload)
        if count < 126:
            head = struct.pack("!BB", opcode, 0x80 | count)
        elif count < 1 << 16:
            head = struct.pack("!BBH", opcode, 0x80 | 126, count)
        else:
            head = struct.pack("!BBQ", opcode, 0x80 | 127, count)
        return head + bytes(4) + payload

    async def take(self):
        """A frame of the server: opcode and payload."""
        first, length = await self.reader.readexactly(2)
        if length == 126:
            (length,) = struct.unpack("!H", await self.reader.readexactly(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", await self.reader.readexactly(8))
        return first & 15, await self.reader.readexactly(length)


class Crowd:
    """The subscribers of a server, and what they have counted."""

    def __init__(self, server, *arguments):
        self.server = server
        self.process = subprocess.Popen(
            [f"{bin_path}/PressureCrowd", *map(str, (server.port, *arguments))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if self.process.stdout.readline() != "connected\n":
            raise SystemExit("the subscribers did not connect")

    def ask(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline()

    def report(self):
        return json.loads(self.ask("report"))

    def until(self, is_done):
        """The report, and the server's figures, as soon as the two say that all is done, and half a minute after that at the latest."""
        deadline = time.monotonic() + 30
        while True:
            report, counted = self.report(), self.server.metrics()
            if is_done(report, counted) or time.monotonic() > deadline:
                return report, counted
            time.sleep(0.05)

    def end(self):
        self.process.kill()
        self.process.wait()


async def publish(port, topics, byte_count, rate, count, burst, first):
    publisher = await Peer.open(port, "/publish")
    publisher.writer.write(Peer.frame(f"{topics} {byte_count} {rate} {count} {burst} {first}".encode(), 0x81))
    await publisher.take()
    publisher.writer.close()


@dataclass
class Slowness:
    """Subscribers of which some stop reading while more is published than a ring keeps, and read again while publishing goes on."""

    name: str
    policy: str
    topics: int
    each: int  # subscribers of a topic
    stopped_each: int
    rate: int  # publications per second
    count: int  # publications to each topic while some have stopped
    burst: int = 16  # publications at once
    history: int = 1  # publications of a topic
    keys: int = 1  # of a topic's publications
    sips: int = 0  # How often those that have stopped read a little, and stop again.
    # Measurements of the latency of which one must hold: whoever else uses the cores spoils one. 0 if it is only printed.
    latency_tries: int = 0

    message_bytes = 2000

    def run(self):
        subscribers, self.stopped = self.topics * self.each, self.topics * self.stopped_each
        print(
            f"{self.name}: {subscribers:,} subscribers of {self.topics} topics, of which {self.stopped:,} stop reading; "
            f"{self.count * self.topics * self.message_bytes / 1e6:.0f} MB published",
            flush=True,
        )
        self.published = 0
        server = Server("--policy", self.policy, "--history", self.history, "--keys", self.keys)
        try:
            crowd = Crowd(server, self.topics, self.each, self.stopped_each, self.keys)
            try:
                self.check(server, crowd)
            finally:
                crowd.end()
        finally:
            server.end()
        if self.is_late and self.latency_tries > 1:
            print("        their p99 is more than twice what it was: again, and shorter, in case that was somebody else's doing")
            replace(self, count=max(400, self.count // 5), latency_tries=self.latency_tries - 1).run()

    def publish(self, server, count):
        """Publishes so much to each topic."""
        arguments = (server.port, self.topics, self.message_bytes, self.rate, count * self.topics, self.burst, self.published + 1)
        self.published += count
        asyncio.run(publish(*arguments))

    def check(self, server, crowd):
        reading = self.topics * (self.each - self.stopped_each)
        self.publish(server, max(1, self.count // 10))
        want = self.published * (reading + self.stopped)
        before, _ = crowd.until(lambda report, _: report["received"] + report["late"] >= want)
        check(before["received"] + before["late"] == want, f"all {want:,} deliveries came before anybody stopped")
        memory = server.private_bytes()
        server.greatest = memory
        crowd.ask("stop")
        self.publish(server, self.count)
        during, _ = crowd.until(lambda report, _: report["received"] >= self.published * reading)
        growth = (server.greatest - memory) / MIB
        print(f"        latency of the others: p50 {during['p50']:.2f} ms, p99 {during['p99']:.2f} ms, longest {during['max']:.1f} ms;")
        print(f"        while all were reading: p50 {before['p50']:.2f} ms, p99 {before['p99']:.2f} ms, longest {before['max']:.1f} ms")
        # What a history keeps is no cost of slow subscribers.
        kept = 0 if self.history == 1 else self.history * self.topics * self.message_bytes / MIB
        words = f", {kept:.1f} MiB of that in histories" if kept else ""
        check(growth < 64 + kept, f"the server's memory grew by {growth:.1f} MiB at most{words}")
        self.is_late = during["p99"] > 2 * before["p99"]
        if self.latency_tries == 1 or (self.latency_tries > 1 and not self.is_late):
            check(not self.is_late, "their p99 is at most twice what it was")
        for _ in range(self.sips):
            # Less than a page of a history.
            crowd.ask("sip 100000")
            self.publish(server, self.count // 2)
        crowd.ask("go")
        if self.policy != "disconnect":
            self.publish(server, max(1, self.count // 10))
        self.check_account(server, crowd, reading)

    def check_account(self, server, crowd, reading):
        """What the clients have seen, and what the server has counted."""

        def is_done(report, counted):
            left_out = counted["slow_consumer_drops_total"] + counted["slow_consumer_conflations_total"]
            is_complete = report["late"] + left_out >= self.published * self.stopped or self.policy == "disconnect"
            goes = self.stopped if self.policy == "disconnect" else 0
            return (
                is_complete and report["received"] >= self.published * reading and counted["held_bytes"] == 0
                and report["open"] == reading + self.stopped - goes
            )

        crowd.until(is_done)
        # Once more, so that something behind what was expected shows.
        report, figures = crowd.until(lambda report, counted: True)
        counted = {
            name: int(figures[f"slow_consumer{'s' if name == 'behind' else '_' + name}_total"])
            for name in ("behind", "disconnects", "drops", "conflations", "gaps", "recoveries")
        }
        print("        the server counted " + ", ".join(f"{count:,} {name}" for name, count in counted.items()))
        print(
            f"        the slow ones had {report['late']:,} of {self.published * self.stopped:,} publications, and {report['gaps']:,} gaps of "
            f"{report['in_gaps']:,}; {report['holes']:,} are left out without one"
        )
        check(report["received"] == self.published * reading, f"the {reading:,} others got all of {report['received']:,} deliveries")
        check(counted["behind"] >= self.stopped, "those that had stopped fell behind")
        check(report["repeated"] == 0, f"{report['repeated']} publications came twice, or late")
        check(report["cuts"] == report["other_closes"] == 0, f"{report['cuts'] + report['other_closes']} were cut, or closed for something else")
        check(report["behind_close"] == 0, f"{report['behind_close']} frames came behind a close frame")
        check(report["closes_1013"] == counted["disconnects"], f"{report['closes_1013']:,} were disconnected with 1013, and counted")
        check(report["gaps"] == counted["gaps"], f"{report['gaps']:,} gaps were told, and {counted['gaps']:,} counted")
        check(report["odd_gaps"] == 0, f"{report['odd_gaps']} gaps did not begin where the subscriber stood")
        check(int(figures["held_bytes"]) == 0, "nothing is held any more")
        if self.policy == "disconnect":
            check(counted["disconnects"] == self.stopped, "each of those that had stopped was")
            check(report["holes"] == 0, "what they had had until then had no holes")
            check(counted["drops"] == counted["conflations"] == counted["recoveries"] == 0, "nothing else was counted")
            return
        left_out = counted["drops"] + counted["conflations"]
        check(
            report["late"] + left_out == self.published * self.stopped,
            f"what came late and what was counted as left out, {report['late']:,} and {left_out:,}, is what was published",
        )
        check(counted["disconnects"] == 0, "nobody was disconnected")
        if self.policy == "conflate":
            is_over = self.keys * self.message_bytes > 256 << 10
            if is_over:
                check(counted["drops"] > 0 and counted["gaps"] >= self.stopped, "keys for which there was no room are dropped, and told")
                check(report["stale"] <= counted["drops"], f"the newest of {report['stale']:,} keys are missing, and counted")
            else:
                check(counted["conflations"] > 0, "newer publications took the place of others")
                check(counted["drops"] == counted["gaps"] == 0, "nothing else is left out")
                check(report["stale"] == 0, "all have the newest of each key")
            return
        check(report["holes"] == 0, "nothing is left out without a gap")
        check(report["in_gaps"] == counted["drops"], f"{report['in_gaps']:,} publications are in gaps, and {counted['drops']:,} counted")
        if self.policy == "recover":
            check(counted["recoveries"] >= self.stopped, "those that had stopped were served from the history")
            if self.sips:
                check(counted["gaps"] > 0, "the history had passed some on their way")
            else:
                check(counted["gaps"] == 0, "nothing is left out")
        else:
            check(counted["gaps"] >= self.stopped, "those that had stopped were told of a gap")


def slow_consumers():
    full = [
        Slowness("skip", "skip", topics=100, each=50, stopped_each=10, rate=1000, count=1000, latency_tries=3),
        Slowness("skip, a topic in bursts", "skip", topics=1, each=5000, stopped_each=1000, rate=100, count=1000, burst=100),
    ]
    small = [
        Slowness("skip", "skip", topics=10, each=50, stopped_each=10, rate=2000, count=500, latency_tries=3),
        Slowness("skip, a topic in bursts", "skip", topics=1, each=500, stopped_each=100, rate=500, count=500, burst=100),
    ]
    others = [
        Slowness("disconnect", "disconnect", topics=10, each=50, stopped_each=10, rate=4000, count=400),
        Slowness("conflate", "conflate", topics=10, each=50, stopped_each=10, rate=4000, count=400, keys=20),
        Slowness("conflate, more keys than fit", "conflate", topics=10, each=50, stopped_each=10, rate=4000, count=600, keys=300),
        Slowness("recover", "recover", topics=10, each=50, stopped_each=10, rate=4000, count=400, history=1000),
        Slowness("recover, a short history", "recover", topics=10, each=50, stopped_each=10, rate=4000, count=400, history=500, sips=3),
    ]
    for slowness in (small if options.quick else full) + others:
        if options.policy in (None, slowness.policy):
            slowness.run()


OUT_OF_MEMORY = re.compile(r"the server is out of memory, of which this connection held \d+ bytes")


class Stranger:
    """A peer that takes memory of the server, and what became of it."""

    # Of a message of a million bytes; or of what a peer that reads nothing is sent back.
    BYTES = 900_000
    receive_bytes = None
    path = "/echo"

    def __init__(self, port, ends):
        self.port, self.ends = port, ends

    async def run(self):
        """The outcome: shed, refused or served, or what is none of these."""
        try:
            peer = await Peer.open(self.port, self.path, self.receive_bytes)
            if peer.status == 503:
                seconds = re.search(r"\r\nretry-after: (\d+)\r\n", peer.head, re.IGNORECASE)
                return "refused" if seconds and int(seconds[1]) > 0 else "503 without Retry-After"
            if peer.status != 101:
                return f"status {peer.status}"
            try:
                return await self.stay(peer)
            finally:
                peer.writer.close()
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            return f"cut: {error!r}"

    @staticmethod
    async def outcome(peer, byte_count):
        """How it ends for a peer that waits for a message of so many bytes, and then closes."""
        is_served = False
        while True:
            opcode, answer = await peer.take()
            if opcode == 8:
                code, reason = struct.unpack("!H", answer[:2])[0], answer[2:].decode()
                if code == 1013 and OUT_OF_MEMORY.fullmatch(reason):
                    return "shed"
                return "served" if is_served and code == 1000 else f"close {code} {reason}"
            # Whoever is shed still gets the rest of what it was being sent: the close frame tells.
            if len(answer) == byte_count:
                is_served = True
                peer.writer.write(Peer.frame(struct.pack("!H", 1000), 0x88))


class Hoarder(Stranger):
    """Has a message under way, and completes it only in the end."""

    async def stay(self, peer):
        message = bytes(1_000_000)
        frame = Peer.frame(message)
        peer.writer.write(frame[: self.BYTES])
        ending = asyncio.create_task(self.outcome(peer, len(message)))
        await asyncio.wait([ending, asyncio.create_task(self.ends.wait())], return_when=asyncio.FIRST_COMPLETED)
        peer.writer.write(frame[self.BYTES :])
        return await ending


class DeafOne(Stranger):
    """Asks for much, and reads only in the end."""

    # What the kernel takes for a peer that reads nothing is no measure of the server: megabytes, otherwise.
    receive_bytes = 16 << 10

    async def stay(self, peer):
        peer.writer.transport.pause_reading()
        asking = asyncio.create_task(self.ask(peer))
        await self.ends.wait()
        asking.cancel()
        peer.writer.transport.resume_reading()
        # Two bytes come back, from either path: the message, or as many as it asks for.
        peer.writer.write(Peer.frame(b"02", 0x81))
        return await self.outcome(peer, 2)

    async def ask(self, peer):
        for _ in range(4):
            peer.writer.write(Peer.frame(bytes(self.BYTES)))
            await peer.writer.drain()


class Fetcher(DeafOne):
    """Asks for much with a few bytes, and reads only in the end."""

    path = "/fetch"

    async def ask(self, peer):
        peer.writer.write(Peer.frame(str(self.BYTES).encode(), 0x81))


class Guest:
    """A client that was there before, and asks for little all the time."""

    def __init__(self, peer):
        self.peer = peer
        self.latencies, self.answered = [], []

    async def run(self):
        while True:
            began = time.monotonic()
            self.peer.writer.write(Peer.frame(b"still here"))
            async with asyncio.timeout(10):
                opcode, payload = await self.peer.take()
            assert (opcode, payload) == (2, b"still here"), (opcode, payload)
            self.answered.append(time.monotonic())
            self.latencies.append(self.answered[-1] - began)
            await asyncio.sleep(0.05)

    def longest_silence(self, began, ended):
        times = [began, *self.answered, ended]
        return max(after - before for before, after in zip(times, times[1:]))


def refused_for_memory(figures):
    return int(figures['refusals_total{cause="memory"}'])


# An echo takes less than a millisecond where nothing else is to be done. While memory is scarce each takes its turn behind megabytes that
# are received and echoed, with the peers' own process on the same cores: some tens of milliseconds. A second is what a person notices.
GUEST_SECONDS_MAX = 1


async def memory_pressure():
    limit = (16 if quick else 64) * MIB
    count = 3 * limit // 2 // Stranger.BYTES
    print(f"a budget of {limit // MIB} MiB, and peers that ask for three times as much: {count} unfinished messages of 900 kB, {count} that read none of the 900 kB that they are sent, and more who come", flush=True)
    server = Server("--memory-max", limit)
    tasks = []
    ends = asyncio.Event()
    try:
        guests = [Guest(await Peer.open(server.port, "/echo")) for _ in range(20)]
        base = server.private_bytes()
        server.greatest = base
        held = 0
        began = time.monotonic()
        going_on = [asyncio.create_task(guest.run()) for guest in guests]
        tasks += going_on
        strangers = [asyncio.create_task(kind(server.port, ends).run()) for kind in [Hoarder] * count + [DeafOne] * count]
        tasks += strangers
        deadline = began + (8 if quick else 20)
        while time.monotonic() < deadline:
            figures = await asyncio.to_thread(server.metrics)
            held = max(held, int(figures["held_bytes"]))
            # There is always somebody who comes.
            strangers.append(asyncio.create_task(Hoarder(server.port, ends).run()))
            tasks.append(strangers[-1])
            await asyncio.sleep(0.2)
        ended = time.monotonic()
        for task in going_on:
            task.cancel()
        await asyncio.wait(going_on)
        growth = server.greatest - base
        # Everybody completes what it had begun, and reads.
        ends.set()
        await asyncio.wait(strangers, timeout=60)
        figures = await asyncio.to_thread(server.metrics)
        latencies = sorted(latency for guest in guests for latency in guest.latencies)
        p99 = latencies[len(latencies) * 99 // 100]
        silence = max(guest.longest_silence(began, ended) for guest in guests)
        refused = refused_for_memory(figures)
        pauses, sheds = int(figures["memory_pauses_total"]), int(figures["memory_sheds_total"])
        outcomes = Counter(task.result() if task.done() else "nothing" for task in strangers)
        print(f"        held at most {held / MIB:.1f} MiB; {len(latencies):,} echoes meanwhile, p99 {p99 * 1000:.1f} ms, longest {latencies[-1] * 1000:.1f} ms;")
        print(f"        {pauses:,} pauses, {sheds} shed, {refused} upgrades refused for want of memory; the peers saw {dict(outcomes)}")
        check(held > limit * 3 // 4, "there was pressure: the budget was scarce")
        check(held <= limit + 2 * MIB, "the budget held throughout")
        check(growth <= limit + 16 * MIB, f"the process grew by {growth / MIB:.1f} MiB at most: the budget, and 16 MiB")
        check(pauses > 0, "reading was paused")
        check(sheds > 0 and outcomes["shed"] == sheds, "connections were shed, and each was told so, with 1013 and how much it held")
        check(outcomes["refused"] == refused, "upgrades that were refused were told so, with 503 and when to come back")
        check(outcomes.keys() <= {"shed", "refused", "served"}, "all others were served in the end")
        check(all(task.cancelled() for task in going_on), "none of the clients that were there before was closed")
        check(p99 < GUEST_SECONDS_MAX, f"p99 of their echoes is below {GUEST_SECONDS_MAX} s")
        check(silence < 2 * GUEST_SECONDS_MAX, f"none of them went without an answer for longer than {silence * 1000:.0f} ms")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        server.end()


async def full_memory():
    """Shedding makes room at once, but where frames have begun, which must be completed: enough of these, and the budget stays full."""
    limit = 4 * MIB
    print(f"a budget of {limit // MIB} MiB, and peers that read none of the 900 kB that they are sent, one after the other until it is full", flush=True)
    server = Server("--memory-max", limit)
    tasks = []
    ends = asyncio.Event()
    try:
        guest = Guest(await Peer.open(server.port, "/echo"))
        began = time.monotonic()
        going_on = asyncio.create_task(guest.run())
        tasks.append(going_on)
        fetchers = []
        full = 0
        while full <= limit and len(fetchers) < 2 * limit // Stranger.BYTES:
            fetchers.append(asyncio.create_task(Fetcher(server.port, ends).run()))
            tasks.append(fetchers[-1])
            # All of it but what the kernel takes.
            before = full
            full = await held_bytes(server, lambda held: held > before + Stranger.BYTES // 2)
        check(limit < full <= limit + MIB, f"{full / MIB:.1f} MiB are held: there is no room left, and one of them was too many")
        newcomers = [await Hoarder(server.port, ends).run() for _ in range(10)]
        refused = refused_for_memory(await asyncio.to_thread(server.metrics))
        check(newcomers == ["refused"] * 10 and refused == 10, f"{refused} of 10 upgrades were refused, with 503 and when to come back")
        ends.set()
        await asyncio.wait(fetchers, timeout=60)
        outcomes = Counter(task.result() if task.done() else "nothing" for task in fetchers)
        sheds = int((await asyncio.to_thread(server.metrics))["memory_sheds_total"])
        check(outcomes["shed"] == sheds > 0, f"{sheds} were shed, and told so when they read")
        check(outcomes.keys() <= {"shed", "served"}, f"the others were served: {dict(outcomes)}")
        check(await held_bytes(server, lambda held: held == 0) == 0, "nothing is held any more")
        check(await Hoarder(server.port, ends).run() == "served", "whoever comes now is served")
        silence = guest.longest_silence(began, time.monotonic())
        check(not going_on.done() and silence < 2 * GUEST_SECONDS_MAX, f"who was there before was never without an answer for longer than {silence * 1000:.0f} ms")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        server.end()


async def held_bytes(server, is_it):
    """What is held, as soon as that is so, and after half a minute at the latest."""
    deadline = time.monotonic() + 30
    while True:
        held = int((await asyncio.to_thread(server.metrics))["held_bytes"])
        if is_it(held) or time.monotonic() > deadline:
            return held
        await asyncio.sleep(0.05)


if not options.memory_only:
    slow_consumers()
if not options.slow_only and options.policy is None:
    asyncio.run(memory_pressure())
    asyncio.run(full_memory())
if failures:
    raise SystemExit(f"{len(failures)} of the above failed")
