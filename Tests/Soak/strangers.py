"""The clients that do not behave: they come and go, break off, do not read, and attack."""

import asyncio
import contextlib
import json
import os
import random
import socket
import ssl
import struct
import sys
import zlib
from pathlib import Path

# The raw client of the other suites; it takes what it tests from the arguments, which are the same in number.
sys.path.insert(0, str(Path(__file__).parent.parent / "Clients"))
from support import Failed, Peer, expect, frame, request  # noqa: E402

PATH = "/topics"
WAIT_SECONDS = 15
# The flood fills the socket's buffers, then the outbound buffer: long enough for both, and for the deadline of a write.
SLOW_SECONDS = 15
# A ping after four seconds, and four to answer it.
SILENT_SECONDS = 14
STRANGER_SECONDS_MAX = 60


class Counts(dict):
    def add(self, name, count=1):
        self[name] = self.get(name, 0) + count


async def connect(node, **options):
    return await Peer.connect(node, **node.options, **options)


async def upgraded(node, topics=True, **fields):
    if topics:
        fields["Sec_WebSocket_Protocol"] = "starling.v1.json"
    peer = await connect(node)
    await peer.send(request(PATH, node.port, **fields))
    await peer.upgraded()
    return peer


def text(message):
    return frame(0x81, json.dumps(message).encode(), mask=os.urandom(4))


class Unavailable(Exception):
    """Redis was away for too long: who asks is told so."""


async def answer(peer, kind):
    """The next message of this kind; what else is published meanwhile is skipped."""
    while True:
        first, payload = await peer.frame()
        if first == 0x88:
            raise Failed(f"the server closed: {payload!r}")
        if first == 0x89:
            await peer.send(frame(0x8A, payload))
        elif first == 0x81:
            message = json.loads(payload)
            if message["type"] == kind:
                return message
            if message["type"] == "error":
                raise Unavailable if message["code"] == "unavailable" else Failed(f"the server answers {message}")


def cut(peer):
    """Resets the connection: nothing is said, and what is underway is lost."""
    # It may be over already.
    with contextlib.suppress(OSError):
        connection = peer.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.writer.transport.abort()


async def leave(peer):
    """Ends the stream; Python's TLS may wait for ever for the other end's word after a reset."""
    try:
        async with asyncio.timeout(5):
            await peer.close()
    except TimeoutError:
        peer.writer.transport.abort()


# MARK: Those that come and go


async def visit(node, counts):
    """Upgrades, subscribes, perhaps enters, and leaves in one of the ways that clients leave."""
    peer = await upgraded(node)
    try:
        room = f"room:visitors-{random.randrange(20)}"
        if random.random() < 0.5:
            await peer.send(text({"type": "request", "id": 1, "name": "enter", "data": "Ann"}))
            await answer(peer, "reply")
        await peer.send(text({"type": "subscribe", "id": 2, "topic": room}))
        await answer(peer, "subscribed")
        if random.random() < 0.3:
            # Not awaited: the connection may end in the middle of it.
            await peer.send(text({"type": "publish", "id": 3, "topic": room, "data": "x" * random.randrange(4000)}))
        if random.random() < 0.2:
            await peer.send(text({"type": "request", "id": 4, "name": "never"}))
        await asyncio.sleep(random.random() * 2)
        way = random.choice(("close", "reset", "end", "half a frame"))
        counts.add(f"left by {way}")
        if way == "close":
            await peer.send(frame(0x88, struct.pack(">H", 1000)))
            while (await peer.frame())[0] != 0x88:
                pass
            await peer.ends()
        elif way == "reset":
            cut(peer)
        elif way == "half a frame":
            await peer.send(text({"type": "publish", "topic": room, "data": "y" * 500})[:200])
            cut(peer)
    finally:
        await leave(peer)


async def vanish(node, counts):
    """Leaves in the middle of a handshake."""
    peer = await connect(node)
    await peer.send(request(PATH, node.port)[: random.randrange(1, 120)])
    await asyncio.sleep(random.random() / 2)
    cut(peer)
    counts.add("left during the handshake")


async def vanish_in_tls(node, counts):
    """Begins a TLS handshake, and ends it with noise or not at all."""
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    writer.write(bytes.fromhex("16030100f8010000f40303") + os.urandom(random.randrange(300)))
    with contextlib.suppress(OSError):
        await asyncio.wait_for(reader.read(), random.random())
    cut(Peer(reader, writer))
    counts.add("left during TLS")


# MARK: Those that are slow or silent


async def read_nothing(node, counts):
    """Subscribes to the flood and stops reading: the server must end the connection, and keep what it holds for it bounded."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", node.port))
    # A stream with a small limit stops to read from the socket.
    peer = Peer(*await asyncio.open_connection(sock=connection, limit=1024, **node.options))
    try:
        await peer.send(request(PATH, node.port, Sec_WebSocket_Protocol="starling.v1.json"))
        await peer.upgraded()
        await peer.send(text({"type": "subscribe", "id": 1, "topic": "flood"}))
        await asyncio.sleep(SLOW_SECONDS)
        # If it were not over, there would be no end to what can be read now.
        with contextlib.suppress(ssl.SSLError):
            await peer.ends(WAIT_SECONDS)
        counts.add("slow readers that were ended")
    finally:
        await leave(peer)


async def say_nothing(node, counts):
    """Connects, and does not send a request."""
    peer = await connect(node)
    with contextlib.suppress(ssl.SSLError):
        await peer.ends(WAIT_SECONDS)
    await leave(peer)
    counts.add("connections without a request that were ended")


async def send_slowly(node, counts):
    """Sends a request byte by byte, too slowly for the deadline."""
    peer = await connect(node)
    ended = asyncio.create_task(peer.ends(WAIT_SECONDS))
    for byte in request(PATH, node.port):
        if ended.done():
            break
        await peer.send(bytes([byte]))
        await asyncio.sleep(0.1)
    with contextlib.suppress(ssl.SSLError):
        await ended
    await leave(peer)
    counts.add("slow requests that were ended")


async def answer_nothing(node, counts):
    """Upgrades, and answers no ping."""
    peer = await upgraded(node)
    with contextlib.suppress(ssl.SSLError):
        await peer.ends(SILENT_SECONDS)
    await leave(peer)
    counts.add("silent connections that were ended")


# MARK: Those that attack


def compressed(payload):
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (deflater.compress(payload) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]


DEFLATE = {"Sec-WebSocket-Extensions": "permessage-deflate"}
BOMB = frame(0xC2, compressed(b"\0" * (16 << 20)))
GARBAGE = text({"type": "no such thing"})

# A name, the bytes, the close code, the fields of the handshake.
ATTACKS = [
    ("a frame that is not masked", frame(0x81, b"hi", mask=None), 1002, {}),
    ("a reserved bit", frame(0xA1, b"hi"), 1002, {}),
    ("an unknown opcode", frame(0x83, b""), 1002, {}),
    ("a ping of 126 bytes", frame(0x89, b"x" * 126), 1002, {}),
    ("a continuation of nothing", frame(0x80, b"x"), 1002, {}),
    ("text that is not UTF-8", frame(0x81, b"\xc3\x28"), 1007, {}),
    ("a length of 63 bits", frame(0x82, b"", length=b"\x7f\x7f" + b"\xff" * 7), 1009, {}),
    ("a length of 64 bits", frame(0x82, b"", length=b"\x7f" + b"\xff" * 8), 1002, {}),
    ("fragments over the limit", (frame(0x02, b"x" * 60_000) + frame(0x00, b"x" * 60_000)) * 2, 1002, {}),
    ("too many fragments", frame(0x02, b"") + frame(0x00, b"") * 1100, 1008, {}),
    ("a bomb", BOMB, 1009, DEFLATE),
    ("what does not inflate", frame(0xC2, b"\xff\xff\xff\xff\xff"), 1007, DEFLATE),
    ("a flood of pings", frame(0x89, b"") * 150, 1008, {}),
    ("messages that nobody understands", GARBAGE * 20, 1008, {}),
]
HEADS = [
    (request(PATH, drop=["Sec-WebSocket-Key"]), 400),
    (request(PATH, Sec_WebSocket_Version="8"), 426),
    (request(PATH, X_Padding="x" * 17_000), 431),
    (request(PATH, Origin="http://evil.example"), 403),
    (request("/elsewhere"), 404),
    (request(PATH, Content_Length="5") + b"hello", 413),
    (os.urandom(64).replace(b"\n", b"") + b"\r\n\r\n", 400),
]


async def attack(node, counts):
    """Breaks the protocol or a limit, and is told which."""
    name, data, code, fields = random.choice(ATTACKS)
    peer = await upgraded(node, **fields)
    try:
        await peer.send(data)
        try:
            await peer.closes(code)
        except asyncio.IncompleteReadError:
            raise Failed(f"{name}: the connection ended without a close frame") from None
        except Exception as error:
            raise Failed(f"{name}: {type(error).__name__} {error}") from None
        counts.add("attacks that were closed")
    finally:
        await leave(peer)


async def attack_handshake(node, counts):
    data, expected = random.choice(HEADS)
    peer = await connect(node)
    try:
        await peer.send(data)
        found, _, _ = await peer.response()
        expect(found == expected, f"{data[:60]!r} is answered with {found}, not {expected}")
        counts.add("handshakes that were refused")
    finally:
        await leave(peer)


# MARK: All of them


class Strangers:
    """All of these for a while: each kind again and again, some at a time."""

    # How many of a kind there are at a time, on each node; and the longest pause between one and the next.
    KINDS = [
        (visit, 12, 0.5), (vanish, 2, 0.5), (read_nothing, 2, 1), (say_nothing, 2, 1), (send_slowly, 1, 1),
        (answer_nothing, 2, 1), (attack, 2, 0.5), (attack_handshake, 1, 0.5),
    ]

    def __init__(self, nodes):
        self.nodes = nodes
        self.counts = Counts()
        self.faults = []

    async def run(self, seconds):
        """Returns when the last one has left."""
        self.end = asyncio.get_running_loop().time() + seconds
        async with asyncio.TaskGroup() as group:
            for node in self.nodes:
                for kind, count, pause in self.KINDS + ([(vanish_in_tls, 1, 0.5)] if node.context else []):
                    for _ in range(count):
                        group.create_task(self.repeat(kind, node, pause))

    async def repeat(self, kind, node, pause):
        while asyncio.get_running_loop().time() < self.end:
            try:
                async with asyncio.timeout(STRANGER_SECONDS_MAX):
                    await kind(node, self.counts)
            except Unavailable:
                self.counts.add("visitors who were told that a topic cannot be had")
            except Exception as error:
                self.faults.append(f"{kind.__name__} at {node.name}: {type(error).__name__} {error}")
            await asyncio.sleep(random.random() * pause)


class Cutter:
    """A proxy to a node that resets its connections after a while."""

    def __init__(self, node, seconds_max):
        self.node = node
        self.seconds_max = seconds_max
        self.cuts = 0
        self.cutting = True

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()

    @property
    def url(self):
        return f"ws://127.0.0.1:{self.port}"

    async def serve(self, reader, writer):
        try:
            peer_reader, peer_writer = await asyncio.open_connection("127.0.0.1", self.node.port)
        except OSError:
            writer.transport.abort()
            return

        async def forward(source, target):
            with contextlib.suppress(OSError):
                while data := await source.read(1 << 16):
                    target.write(data)
                    await target.drain()

        ways = [asyncio.create_task(forward(reader, peer_writer)), asyncio.create_task(forward(peer_reader, writer))]
        while True:
            done, _ = await asyncio.wait(ways, timeout=random.uniform(1, self.seconds_max), return_when=asyncio.FIRST_COMPLETED)
            if done or self.cutting:
                break
        self.cuts += not done
        for task in ways:
            task.cancel()
        cut(Peer(reader, writer))
        cut(Peer(peer_reader, peer_writer))
