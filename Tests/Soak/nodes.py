"""The servers of the soak test and their Redis, with what they hold at a moment."""

import asyncio
import base64
import contextlib
import json
import os
import re
import signal
import socket
import ssl
import tempfile
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

START_SECONDS = 20
TOKEN = "a token of the soak test"

# What a server may log above `info`: the pattern, which faults of Redis explain it, and how many seconds after the end of one of them
# it may still come. Everything else ends the test, and so does any of it at another time.
EVERY_FAULT = ("links", "pubsub links", "restart", "freeze", "long freeze")
EXPLAINED = [
    (r"warning starling\.redis: .*a link to Redis has ended", EVERY_FAULT, 3),
    (r"warning starling\.redis: .*presence cannot be kept up", EVERY_FAULT, 3),
    (r"warning starling\.redis: .*a history cannot be read", EVERY_FAULT, 3),
    (r"error starling\.redis: .*a link to Redis is up but delivers nothing", ("freeze", "long freeze"), 3),
    (r"error starling\.redis: .*cannot be published|warning starling\.redis: .*was not published", EVERY_FAULT, 3),
]


@dataclass
class Fault:
    """What is done to Redis, and from when to when."""

    kind: str
    began: float
    ended: float = float("inf")


class Failed(Exception):
    pass


async def spawn(*command, **options):
    """A process that dies with this one, however that ends."""
    return await asyncio.create_subprocess_exec("setpriv", "--pdeathsig", "KILL", *map(str, command), **options)


class Redis:
    """A Redis that keeps nothing: when it starts anew, all histories begin new epochs."""

    def __init__(self, folder):
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}"

    async def start(self):
        self.process = await spawn(
            "redis-server", "--port", self.port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
            "--dir", self.folder, "--logfile", "redis.log",
        )
        async with asyncio.timeout(START_SECONDS):
            while await self.command("PING") != "PONG":
                await asyncio.sleep(0.02)

    async def command(self, *words):
        process = await asyncio.create_subprocess_exec(
            "redis-cli", "-p", str(self.port), *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        return (await process.communicate())[0].decode().strip()

    async def restart(self, away):
        self.process.kill()
        await self.process.wait()
        await asyncio.sleep(away)
        await self.start()

    async def freeze(self, seconds):
        self.process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.process.send_signal(signal.SIGCONT)

    async def figures(self):
        keys = (await self.command("--scan", "--pattern", "starling:p:*")).split()
        return {
            "channels": len((await self.command("PUBSUB", "CHANNELS")).split()),
            "topics with members": len(keys),
        }

    def stop(self):
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()


class Node:
    """A TopicServer; its log goes to a file."""

    def __init__(self, name, program, redis, folder, tls=None):
        self.name = name
        self.log = Path(folder) / f"{name}.log"
        # Deadlines and limits that a test can wait for.
        self.command = [
            program, "--host", "127.0.0.1", "--port", "0", "--redis", redis.url, "--debug-token", TOKEN,
            "--ping-interval", 4, "--pong-timeout", 4, "--handshake-timeout", 3, "--write-timeout", 6,
            "--max-outbound", 1 << 18, "--max-message", 1 << 17,
        ]
        self.context = None
        if tls:
            self.command += ["--tls-cert", f"{tls}/server.pem", "--tls-key", f"{tls}/server-key.pem"]
            self.context = ssl.create_default_context(cafile=f"{tls}/root.pem")

    async def start(self):
        with self.log.open("wb") as log:
            self.process = await spawn(*self.command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=log)
        async with asyncio.timeout(START_SECONDS):
            while line := await self.process.stdout.readline():
                if line.startswith(b"listening on "):
                    self.port = int(line.decode().strip().rsplit(":", 1)[1])
                    return
        raise Failed(f"{self.name} does not start:\n{self.log.read_text()}")

    @property
    def url(self):
        return f"wss://localhost:{self.port}" if self.context else f"ws://127.0.0.1:{self.port}"

    @property
    def options(self):
        """What `asyncio.open_connection` needs beside the port."""
        return {"ssl": self.context, "server_hostname": "localhost"} if self.context else {}

    async def get(self, path):
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 24, **self.options)
            password = base64.b64encode(f"soak:{TOKEN}".encode()).decode()
            writer.write(
                f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Basic {password}\r\n\r\n".encode()
            )
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            writer.close()
            with contextlib.suppress(OSError, ssl.SSLError):
                await writer.wait_closed()
        if b" 200 " not in head.split(b"\r\n")[0] + b" ":
            raise Failed(f"{self.name} answers {path} with {head[:100]}")
        return body

    async def snapshot(self):
        return json.loads(await self.get("/debug/starling/snapshot"))

    async def figures(self):
        """What it holds, the question's own connection included; memory apart."""
        snapshot = await self.snapshot()
        totals = snapshot["totals"]
        return {
            "descriptors": len(os.listdir(f"/proc/{self.process.pid}/fd")),
            "threads": self.status("Threads"),
            "connections": totals["connections"],
            "WebSockets": totals["websockets"],
            "tasks": totals["tasks"],
            "topics": totals["topics"],
            "subscriptions": totals["subscriptions"],
            "timers": sum(loop["timerCount"] for loop in snapshot["loops"]),
            "held bytes": snapshot["memory"]["heldBytes"],
            "outbound bytes": totals["outbound_bytes"],
        }

    def status(self, name):
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1])
        raise Failed(f"the kernel does not tell {name} of {self.name}")

    def private_bytes(self):
        lines = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))

    def warnings(self, faults):
        """How often lines of each kind were logged after which fault, and the lines that no fault explains."""
        counts, strange = Counter(), []
        for line in self.log.read_text(errors="replace").splitlines():
            if re.match(r"\S+ (trace|debug|info|notice) ", line):
                continue
            if why := self.explanation(line, faults):
                counts[why] += 1
            else:
                strange.append(line)
        return counts, strange

    @staticmethod
    def explanation(line, faults):
        """What was logged, and the newest fault that explains it; None if nothing does."""
        for pattern, kinds, seconds in EXPLAINED:
            if words := re.search(pattern, line):
                # A log's time is cut to seconds.
                moment = datetime.fromisoformat(line.split(" ", 1)[0]).timestamp()
                for fault in reversed(faults):
                    if fault.kind in kinds and fault.began - 1 <= moment <= fault.ended + seconds:
                        return f"{words[0].rsplit('] ', 1)[-1]}, after {fault.kind}"
        return None

    async def stop(self):
        """Asks it to end, and says how it did."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            return await asyncio.wait_for(self.process.wait(), 20)
        except TimeoutError:
            self.process.kill()
            return None

    def kill(self):
        if self.process.returncode is None:
            self.process.kill()


class Cluster:
    """Everything that serves; nothing of it outlives the block."""

    def __init__(self, programs, certificates):
        self.folder = tempfile.TemporaryDirectory(prefix="starling-soak-")
        self.redis = Redis(self.folder.name)
        program = f"{programs}/TopicServer"
        self.plain = Node("plain", program, self.redis, self.folder.name)
        self.tls = Node("tls", program, self.redis, self.folder.name, tls=certificates)
        self.nodes = [self.plain, self.tls]

    async def __aenter__(self):
        await self.redis.start()
        for node in self.nodes:
            await node.start()
        return self

    async def __aexit__(self, *_):
        for node in self.nodes:
            with contextlib.suppress(AttributeError, ProcessLookupError):
                node.kill()
        self.redis.stop()
        self.folder.cleanup()
