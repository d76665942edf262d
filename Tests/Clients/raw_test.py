"""Every refusal and limit over a raw socket: what is sent, what comes back, and that the next client is served."""

import asyncio
import contextlib
import os
import struct
import time
import zlib

from support import KEY, WAIT_SECONDS, Echo, Failed, Peer, Suite, expect, frame, request

suite = Suite("raw")


def head(*lines):
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


HOST = "Host: localhost"
UPGRADE = ("Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 13")

# What is refused before the connection is upgraded: a name, the bytes, the status.
REFUSED_HEADS = [
    ("the method is POST", head("POST / HTTP/1.1", HOST, *UPGRADE), 405),
    ("the method is not known", head("BREW / HTTP/1.1", HOST, *UPGRADE), 405),
    ("HTTP/1.0", head("GET / HTTP/1.0", HOST, *UPGRADE), 505),
    ("HTTP/2.0", head("GET / HTTP/2.0", HOST, *UPGRADE), 505),
    ("no version", head("GET /", HOST, *UPGRADE), 400),
    ("no Host", head("GET / HTTP/1.1", *UPGRADE), 400),
    ("two Hosts", head("GET / HTTP/1.1", HOST, "Host: example.com", *UPGRADE), 400),
    ("no Upgrade", request(drop=["Upgrade"]), 426),
    ("another Upgrade", request(Upgrade="h2c"), 426),
    ("no Connection", request(drop=["Connection"]), 400),
    ("another Connection", request(Connection="keep-alive"), 400),
    ("no key", request(drop=["Sec-WebSocket-Key"]), 400),
    ("a short key", request(Sec_WebSocket_Key="c2hvcnQ="), 400),
    ("a key that is not base64", request(Sec_WebSocket_Key="!" * 24), 400),
    ("two keys", head("GET / HTTP/1.1", HOST, *UPGRADE, f"Sec-WebSocket-Key: {KEY}"), 400),
    ("no version of the protocol", request(drop=["Sec-WebSocket-Version"]), 426),
    ("version 8", request(Sec_WebSocket_Version="8"), 426),
    ("two versions", head("GET / HTTP/1.1", HOST, *UPGRADE, "Sec-WebSocket-Version: 13"), 400),
    ("a subprotocol that is no token", request(Sec_WebSocket_Protocol="a b"), 400),
    ("a body by its length", request(Content_Length="5") + b"hello", 413),
    ("a body in chunks", request(Transfer_Encoding="chunked") + b"0\r\n\r\n", 413),
    ("two lengths, as smugglers send them", head("GET / HTTP/1.1", HOST, "Content-Length: 0", "Content-Length: 44"), 400),
    ("length and chunks", head("POST / HTTP/1.1", HOST, "Content-Length: 4", "Transfer-Encoding: chunked") + b"0\r\n\r\n", 400),
    ("a head over the limit", request(X_Padding="x" * 17_000), 431),
    ("too many fields", head("GET / HTTP/1.1", HOST, *(f"X-{number}: 1" for number in range(120)), *UPGRADE), 431),
    ("bare line feeds", request().replace(b"\r\n", b"\n"), 400),
    ("a folded line", head("GET / HTTP/1.1", HOST, "X-Folded: a", " b", *UPGRADE), 400),
    ("a space before the colon", head("GET / HTTP/1.1", "Host : localhost", *UPGRADE), 400),
    ("a field without a name", head("GET / HTTP/1.1", HOST, ": nothing", *UPGRADE), 400),
    ("a control byte in a value", head("GET / HTTP/1.1", HOST, "X-Bell: \x07", *UPGRADE), 400),
    ("a NUL in the target", head("GET /\0 HTTP/1.1", HOST, *UPGRADE), 400),
    ("TLS on a plain port", bytes.fromhex("16030100f8010000f40303") + b"\0" * 40, 400),
    ("noise", bytes(range(128, 256)), 400),
]


@suite.check("handshakes that are refused, whole and byte by byte")
async def _():
    async with Echo() as server:
        for name, data, status in REFUSED_HEADS:
            for bytewise in (False, True):
                try:
                    peer = await Peer.connect(server)
                    await peer.send(data, bytewise)
                    found, text, body = await peer.response()
                    expect(found == status, f"status {found} for {status}")
                    expect(body.strip(), "the answer has a sentence")
                    if status == 426:
                        expect("sec-websocket-version: 13" in text.lower(), "426 names the version")
                    if status == 405:
                        expect("allow: get" in text.lower(), "405 names the method")
                    expect("\r\nconnection: " in text.lower() and "close" in text.lower(), "it says that it closes")
                    await peer.ends()
                    await peer.close()
                    await server.serves()
                except Exception as error:
                    raise Failed(f"{name}{', byte by byte' if bytewise else ''}: {type(error).__name__} {error}")


@suite.check("paths and origins: 404, 403")
async def _():
    async with Echo("--path", "/echo") as server:
        for data, status in (
            (request("/other", server.port), 404),
            (request("/echo/more", server.port), 404),
            (request("/echo", server.port, Origin="http://evil.example"), 403),
            (request("/echo", server.port, Origin="null"), 403),
            (request("/echo", server.port, Origin=f"http://127.0.0.1:{server.port + 1}"), 403),
            (request("/echo", server.port, Origin=f"http://127.0.0.1:{server.port}"), 101),
            (request("/echo?room=1", server.port), 101),
        ):
            peer = await Peer.connect(server)
            await peer.send(data)
            found, _, _ = await peer.response()
            expect(found == status, f"{found} for {data.split()[1]}, expected {status}")
            await peer.close()
    async with Echo("--any-origin") as server:
        async with Peer.open(server, Origin="http://evil.example") as peer:
            await peer.echo(b"welcome")


@suite.check("handshakes that are accepted: mixed case, lists, after plain requests, frames behind the head")
async def _():
    async with Echo() as server:
        for fields in (
            {"Upgrade": "WebSocket", "Connection": "keep-alive, Upgrade"},
            {"Upgrade": "h2c, WEBSOCKET", "Connection": "upgrade,keep-alive"},
            {"Content-Length": "0"},
        ):
            async with Peer.open(server, **fields) as peer:
                await peer.echo(b"welcome")
        for bytewise in (False, True):
            peer = await Peer.connect(server)
            for path, word in (("/health", b"ok"), ("/ready", b"ready"), ("/metrics", b"starling_websockets ")):
                await peer.send(head(f"GET {path} HTTP/1.1", HOST), bytewise)
                status, _, body = await peer.response()
                expect(status == 200 and word in body, f"{path}: {status}")
            await peer.send(request() + frame(0x81, b"early") + frame(0x82, b"bird"), bytewise)
            status, text, _ = await peer.response()
            expect(status == 101 and "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in text, text)
            expect([await peer.frame(), await peer.frame()] == [(0x81, b"early"), (0x82, b"bird")], "both come back")
            await peer.close()


def compressed(payload):
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (deflater.compress(payload) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]


DEFLATE = {"Sec-WebSocket-Extensions": "permessage-deflate"}

# What ends an open connection: a name, the bytes, the close code, the fields of its handshake.
VIOLATIONS = [
    ("not masked", frame(0x81, b"hi", mask=None), 1002, {}),
    ("the second reserved bit", frame(0xA1, b"hi"), 1002, {}),
    ("the third reserved bit", frame(0x91, b"hi"), 1002, {}),
    ("the first reserved bit without an extension", frame(0xC1, b"hi"), 1002, {}),
    ("the first reserved bit of a ping", frame(0xC9, b"hi"), 1002, DEFLATE),
    ("the first reserved bit of a continuation", frame(0x41, b"hi") + frame(0xC0, b"hi"), 1002, DEFLATE),
    *((f"opcode {opcode}", frame(0x80 | opcode, b""), 1002, {}) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)),
    ("16 bits for a length of 125", frame(0x82, b"x" * 125, length=b"\x7e\x00\x7d"), 1002, {}),
    ("64 bits for a length of 65535", frame(0x82, b"", length=b"\x7f" + struct.pack(">Q", 65535)), 1002, {}),
    ("a length of 64 bits", frame(0x82, b"", length=b"\x7f" + b"\xff" * 8), 1002, {}),
    ("a ping of 126 bytes", frame(0x89, b"x" * 126), 1002, {}),
    ("a fragmented ping", frame(0x09, b"x"), 1002, {}),
    ("a fragmented close", frame(0x08, b""), 1002, {}),
    ("a continuation of nothing", frame(0x80, b"x"), 1002, {}),
    ("a continuation after the end", frame(0x81, b"x") + frame(0x80, b"x"), 1002, {}),
    ("a new message within one", frame(0x01, b"x") + frame(0x81, b"x"), 1002, {}),
    ("text that is not UTF-8", frame(0x81, b"\xc3\x28"), 1007, {}),
    ("text that ends within a character", frame(0x81, b"ab\xe2\x82"), 1007, {}),
    ("a surrogate", frame(0x81, b"\xed\xa0\x80"), 1007, {}),
    ("an overlong character", frame(0x81, b"\xc0\xaf"), 1007, {}),
    ("a bad byte in a frame that is not complete", frame(0x81, b"ab\xff" + b"c" * 100)[:20], 1007, {}),
    ("a bad byte in a message that is not complete", frame(0x01, b"\xe2\x82") + frame(0x00, b"("), 1007, {}),
    ("a close frame of one byte", frame(0x88, b"\x03"), 1002, {}),
    *((f"close code {code}", frame(0x88, struct.pack(">H", code)), 1002, {}) for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65535)),
    ("a close reason that is not UTF-8", frame(0x88, b"\x03\xe8\xff"), 1007, {}),
    ("a message over the limit, by its header alone", frame(0x82, b"", length=b"\x7f" + struct.pack(">Q", (1 << 20) + 1)), 1009, {}),
    ("a frame of 63 bits", frame(0x82, b"", length=b"\x7f\x7f" + b"\xff" * 7), 1009, {}),
    ("fragments over the limit", frame(0x02, b"x" * 600_000) + frame(0x80, b"x" * 600_000), 1009, {}),
    ("too many fragments", frame(0x02, b"") + frame(0x00, b"") * 1100, 1008, {}),
    ("a bomb: 64 MiB in 64 KiB", frame(0xC2, compressed(b"\0" * (64 << 20))), 1009, DEFLATE),
    ("what does not inflate", frame(0xC2, b"\xff\xff\xff\xff\xff"), 1007, DEFLATE),
    ("compressed text that is not UTF-8", frame(0xC1, compressed(b"\xc3\x28")), 1007, DEFLATE),
    ("more than a hundred pings in a second", frame(0x89, b"") * 150, 1008, {}),
]


@suite.check("frames that break the protocol or a limit, whole and byte by byte")
async def _():
    async with Echo() as server:
        for name, data, code, fields in VIOLATIONS:
            # What is long says nothing more byte by byte.
            for bytewise in (False, True)[:1 + (len(data) < 2000)]:
                try:
                    async with Peer.open(server, **fields) as peer:
                        await peer.send(data, bytewise)
                        expect(await peer.closes(code), "the close frame has a reason")
                    await server.serves()
                except Exception as error:
                    raise Failed(f"{name}{', byte by byte' if bytewise else ''}: {type(error).__name__} {error}")


@suite.check("frames that are legal and seldom seen")
async def _():
    async with Echo() as server:
        async with Peer.open(server) as peer:
            await peer.send(frame(0x01, b"\xe2") + frame(0x89, b"between") + frame(0x00, b"\x82") + frame(0x80, b"\xac"), True)
            expect(await peer.frame() == (0x8A, b"between"), "a ping between fragments is answered first")
            expect(await peer.frame() == (0x81, "€".encode()), "a character may be split over fragments")
            await peer.send(frame(0x8A, b"unasked") + frame(0x02, b"") + frame(0x00, b"") + frame(0x80, b""))
            expect(await peer.frame() == (0x82, b""), "an empty message in three frames")
            await peer.send(frame(0x88, struct.pack(">H", 4000) + b"bye") + frame(0x81, b"too late"))
            expect(await peer.frame() == (0x88, struct.pack(">H", 4000)), "the code comes back, and nothing after it")
            await peer.ends()


async def limited(flags, act, callback=False):
    """Starts a server with these flags, lets `act` meet the limit, and checks that the next client is served.

    The asynchronous Echo does not send to a peer that does not read: its `send` waits. The one with callbacks does.
    """
    async with Echo(*flags, callback=callback) as server:
        try:
            await act(server)
            await server.serves()
        except Exception as error:
            raise Failed(f"{' '.join(map(str, flags))}: {type(error).__name__} {error}")


async def floods(server, data, code):
    async with Peer.open(server) as peer:
        await peer.send(data)
        await peer.closes(code)


@contextlib.asynccontextmanager
async def deaf(server):
    """A peer that does not read from its socket, until it is told to."""
    async with Peer.open(server) as peer:
        peer.writer.transport.pause_reading()
        yield peer


async def is_cut_while_deaf(server):
    """Sends without reading until the server has cut the connection."""
    message = frame(0x82, b"x" * 60_000, mask=b"\0\0\0\0")
    async with deaf(server) as peer:
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while True:
                    peer.writer.write(message)
                    await peer.writer.drain()
        except ConnectionError:
            return


async def is_too_slow(server):
    """Has sent so much back to it that it cannot all wait, and finds the reason when it reads at last."""
    message = frame(0x82, b"x" * 60_000, mask=b"\0\0\0\0")
    async with deaf(server) as peer:
        for _ in range(400):
            peer.writer.write(message)
            await peer.writer.drain()
        peer.writer.transport.resume_reading()
        expect("slow" in await peer.closes(1013), "the reason says why")


async def loses_messages(server):
    """As above, where messages are left out instead."""
    message = frame(0x82, b"x" * 60_000, mask=b"\0\0\0\0")
    async with deaf(server) as peer:
        for _ in range(400):
            peer.writer.write(message)
            await peer.writer.drain()
        peer.writer.transport.resume_reading()
        await peer.send(frame(0x89, b"end"))
        count = 0
        while (received := await peer.frame())[0] != 0x8A:
            expect(received == (0x82, b"x" * 60_000), "what comes is whole")
            count += 1
        expect(0 < count < 400, f"{count} of 400 messages came")


async def is_cut(server, within, act=None):
    """A peer that says nothing (after what `act` sends) is cut within a time."""
    async with Peer.open(server) as peer:
        if act:
            await act(peer)
        started = time.monotonic()
        await peer.ends(within)
        expect(time.monotonic() - started > 0.3, "not at once")


async def stalls_in_head(server):
    peer = await Peer.connect(server)
    await peer.send(b"GET / HT")
    status, _, _ = await peer.response()
    expect(status == 408, status)
    await peer.ends()
    await peer.close()
    silent = await Peer.connect(server)
    await silent.ends(4)
    await silent.close()


async def is_full(server):
    async with Peer.open(server), Peer.open(server):
        third = await Peer.connect(server)
        await third.send(request(port=server.port))
        status, text, _ = await third.response()
        expect(status == 503 and "retry-after: " in text.lower(), text)
        await third.ends()
        await third.close()
    # Both have left: there is room again, as soon as the server has seen it.
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            peer = await Peer.connect(server)
            await peer.send(request(port=server.port))
            status, _, _ = await peer.response()
            await peer.close()
            if status == 101:
                return


async def upgrades_wait(server):
    """Those over the rate are let in one after the other."""
    began = time.monotonic()

    async def upgrade():
        peer = await Peer.connect(server)
        await peer.send(request(port=server.port))
        status, _, _ = await peer.response()
        await peer.close()
        return status

    statuses = await asyncio.gather(*(upgrade() for _ in range(40)))
    expect(set(statuses) == {101}, statuses)
    # The bucket holds twenty: the other twenty come within a second.
    expect(0.5 < time.monotonic() - began < 5, time.monotonic() - began)


async def upgrades_too_fast(server):
    statuses = []
    for _ in range(40):
        peer = await Peer.connect(server)
        await peer.send(request(port=server.port))
        status, text, _ = await peer.response()
        statuses.append(status)
        expect(status == 101 or "retry-after: " in text.lower(), text)
        await peer.close()
    expect(set(statuses) == {101, 503}, statuses)
    # A second fills the bucket.
    await asyncio.sleep(1)
    for _ in range(10):
        peer = await Peer.connect(server)
        await peer.send(request(port=server.port))
        status, text, _ = await peer.response()
        expect(status == 101, text)
        await peer.close()


async def goes_away(server):
    async with Peer.open(server) as peer:
        await peer.closes(1001)


async def does_not_answer_close(server):
    # The body's own close, by a message over the limit, would not wait; a lifetime's does.
    async with Peer.open(server) as peer:
        while (await peer.frame())[0] != 0x88:
            pass
        await peer.ends(5)


@suite.check("limits that have a flag: each is met, and the next client is served")
async def _():
    await asyncio.gather(
        limited(["--max-message", 1000], lambda server: floods(server, frame(0x82, b"x" * 1001), 1009)),
        limited(["--max-message", 1000], lambda server: floods(server, frame(0x02, b"x" * 999) + frame(0x80, b"xx"), 1009)),
        limited(["--max-fragments", 4], lambda server: floods(server, frame(0x02, b"") + frame(0x00, b"") * 4, 1008)),
        limited(["--max-message-rate", 20], lambda server: floods(server, frame(0x82, b"") * 50, 1008)),
        limited(["--max-byte-rate", 20_000], lambda server: floods(server, frame(0x82, b"x" * 30_000), 1008)),
        limited(["--handshake-timeout", 1], stalls_in_head),
        limited(["--ping-interval", 1, "--pong-timeout", 1], lambda server: is_cut(server, 5)),
        limited(["--idle-timeout", 1], goes_away),
        limited(["--max-lifetime", 1], goes_away),
        limited(["--max-lifetime", 1, "--close-timeout", 1], does_not_answer_close),
        limited(["--write-timeout", 1], is_cut_while_deaf),
        limited(["--max-outbound", 100_000, "--max-message", 100_000], is_too_slow, callback=True),
        limited(["--max-outbound", 100_000, "--max-message", 100_000, "--slow-consumer", "skip"], loses_messages, callback=True),
        limited(["--max-connections", 2], is_full),
        limited(["--max-connections-per-address", 2], is_full),
        limited(["--max-upgrade-rate", 20, "--max-upgrade-wait", 0], upgrades_too_fast),
        limited(["--max-upgrade-rate", 20], upgrades_wait),
    )


suite.run()
