"""What slow subscribers, and a lack of memory, cost a server and its other clients. Run by run.sh."""

import asyncio
import base64
import json
import os
import struct
import subprocess
import sys
import threading
import time
import urllib.request

MIB = 1 << 20
bin_path, quick = sys.argv[1], "--quick" in sys.argv[2:]
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
    async def open(cls, port, path):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 16)
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


async def publish(port, topics, byte_count, rate, count):
    publisher = await Peer.open(port, "/publish")
    publisher.writer.write(Peer.frame(f"{topics} {byte_count} {rate} {count}".encode(), 0x81))
    await publisher.take()
    publisher.writer.close()


def slow_consumers():
    topics = 10 if quick else 100
    each, stopped_each = 50, 10
    message_bytes, rate = 2000, 200 if quick else 1000
    count = (20 if quick else 200) * 1_000_000 // message_bytes
    subscribers, stopped = topics * each, topics * stopped_each
    print(f"{subscribers:,} subscribers of {topics} topics, of which {stopped:,} stop reading; {count * message_bytes / 1e6:.0f} MB published", flush=True)
    server = Server("--policy", "skip")
    crowd = subprocess.Popen(
        [f"{bin_path}/PressureCrowd", *map(str, (server.port, topics, each, stopped_each))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )

    def ask(command):
        crowd.stdin.write(command + "\n")
        crowd.stdin.flush()
        return crowd.stdout.readline()

    def settled():
        """A report when nothing has come for a second."""
        total = None
        while True:
            time.sleep(1)
            report = json.loads(ask("report"))
            if total is None:
                total = report
            else:
                for key in ("received", "bytes", "gaps", "closes"):
                    total[key] += report[key]
                total["open"] = report["open"]
            if report["received"] == 0:
                return total

    try:
        if crowd.stdout.readline() != "connected\n":
            raise SystemExit("the subscribers did not connect")
        asyncio.run(publish(server.port, topics, message_bytes, rate, count // 10))
        before = settled()
        check(before["received"] == count // 10 * each, f"all {before['received']:,} deliveries came before anybody stopped")
        memory = server.private_bytes()
        server.greatest = memory
        ask("stop")
        asyncio.run(publish(server.port, topics, message_bytes, rate, count))
        during = settled()
        reading = each - stopped_each
        check(during["received"] == count * reading, f"the {topics * reading:,} others got all of {during['received']:,} deliveries")
        growth = (server.greatest - memory) / MIB
        print(f"        latency of the others: p50 {during['p50']:.2f} ms, p99 {during['p99']:.2f} ms, longest {during['max']:.1f} ms;")
        print(f"        while all were reading: p50 {before['p50']:.2f} ms, p99 {before['p99']:.2f} ms, longest {before['max']:.1f} ms")
        check(growth < 64, f"the server's memory grew by {growth:.1f} MiB at most")
        check(during["p99"] <= 2 * before["p99"], "their p99 is at most twice what it was")
        ask("go")
        after = settled()
        figures = server.metrics()
        behind = int(figures["slow_consumers_total"])
        dropped = int(figures["slow_consumer_drops_total"])
        check(after["open"] == subscribers, "nobody was disconnected")
        check(behind >= stopped, f"{behind:,} subscribers fell behind")
        check(after["gaps"] == int(figures["slow_consumer_gaps_total"]) == stopped, f"{after['gaps']:,} gaps were told, and counted")
        got = after["received"]
        check(
            got + dropped == count * stopped_each,
            f"of {count * stopped_each:,} deliveries to them, {got:,} came late and {dropped:,} are in the gaps",
        )
        check(int(figures["held_bytes"]) == 0, "nothing is held any more")
    finally:
        crowd.kill()
        crowd.wait()
        server.end()


async def hoard(port, byte_count):
    """A peer that has a message under way, and does not complete it."""
    try:
        peer = await Peer.open(port, "/echo")
        if peer.status != 101:
            return f"status {peer.status}"
        peer.writer.write(Peer.frame(bytes(1_000_000))[:byte_count])
        opcode, payload = await peer.take()
        return f"close {struct.unpack('!H', payload[:2])[0]}" if opcode == 8 else "?"
    except (ConnectionError, asyncio.IncompleteReadError):
        return "cut"


async def deaf(port):
    """A peer that asks for much and reads nothing."""
    try:
        peer = await Peer.open(port, "/echo")
        if peer.status != 101:
            return f"status {peer.status}"
        peer.writer.transport.pause_reading()
        for _ in range(60):
            peer.writer.write(Peer.frame(bytes(60_000)))
            await peer.writer.drain()
        await asyncio.Event().wait()
    except ConnectionError:
        return "cut"


async def memory_pressure():
    limit = (16 if quick else 64) * MIB
    half = 3 * limit // 2
    hoarders, deaf_ones = half // 900_000, half // 900_000
    print(f"a budget of {limit // MIB} MiB, and peers that ask for three times as much: {hoarders} unfinished messages of 900 kB, {deaf_ones} that read nothing of 900 kB and more", flush=True)
    server = Server("--memory-max", limit)
    tasks = []
    try:
        good = [await Peer.open(server.port, "/echo") for _ in range(20)]
        base = server.private_bytes()
        server.greatest = base
        held = 0
        tasks = [asyncio.create_task(hoard(server.port, 900_000)) for _ in range(hoarders)]
        tasks += [asyncio.create_task(deaf(server.port)) for _ in range(deaf_ones)]
        deadline = time.monotonic() + (8 if quick else 20)
        latencies, refused = [], 0
        while time.monotonic() < deadline:
            for peer in good:
                began = time.monotonic()
                peer.writer.write(Peer.frame(b"still here"))
                opcode, payload = await asyncio.wait_for(peer.take(), 10)
                assert (opcode, payload) == (2, b"still here"), (opcode, payload)
                latencies.append(time.monotonic() - began)
            figures = await asyncio.to_thread(server.metrics)
            held = max(held, int(figures["held_bytes"]))
            if held > limit * 3 // 4 and len(tasks) < hoarders + deaf_ones + 50:
                tasks.append(asyncio.create_task(hoard(server.port, 900_000)))
        refused = sum(value for name, value in figures.items() if name.startswith("handshakes_refused_total") and "memory" in name)
        growth = server.greatest - base
        latencies.sort()
        print(f"        held at most {held / MIB:.1f} MiB; {len(latencies):,} echoes meanwhile, p99 {latencies[len(latencies) * 99 // 100] * 1000:.1f} ms;")
        print(f"        {int(figures['memory_pauses_total'])} pauses, {int(figures['memory_sheds_total'])} shed, {int(refused)} upgrades refused for want of memory")
        check(held > limit * 3 // 4, "there was pressure: the budget was scarce")
        check(held <= limit + 2 * MIB, "the budget held throughout")
        check(growth <= limit + 16 * MIB, f"the process grew by {growth / MIB:.1f} MiB at most: the budget, and 16 MiB")
        check(len(latencies) > 100, "the clients that were there before went on")
        outcomes = {}
        for task in tasks:
            if task.done():
                outcomes[task.result()] = outcomes.get(task.result(), 0) + 1
        print(f"        outcomes so far: {outcomes}")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        server.end()


slow_consumers()
if "--slow-only" not in sys.argv:
    asyncio.run(memory_pressure())
if failures:
    raise SystemExit(f"{len(failures)} of the above failed")
