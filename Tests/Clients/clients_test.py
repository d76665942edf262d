"""Python's websockets as the client, over TCP, IPv6, a Unix socket and TLS."""

import asyncio
import os
import ssl
import tempfile

from websockets.asyncio.client import connect, unix_connect
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from support import CERTIFICATES, WAIT_SECONDS, Echo, Suite, expect

suite = Suite("clients")
OPTIONS = {"proxy": None, "max_size": None, "open_timeout": WAIT_SECONDS, "ping_interval": None}


async def echoes(socket, *messages):
    for message in messages:
        await socket.send(message)
        answer = await asyncio.wait_for(socket.recv(), WAIT_SECONDS)
        expect(answer == message, f"{str(message)[:40]!r} came back as {str(answer)[:40]!r}")


TEXTS = ("", "x", "Grüße, 世界 \U0001f426", "y" * 125, "y" * 126, "y" * 65535, "y" * 65536, "z" * (1 << 20))
BYTES = tuple(text.encode()[:1 << 20] for text in TEXTS)


@suite.check("texts and bytes of all lengths come back, compressed and not")
async def _():
    async with Echo() as server:
        for compression in (None, "deflate"):
            async with connect(f"ws://{server.address}", compression=compression, **OPTIONS) as socket:
                await echoes(socket, *TEXTS, *BYTES)


@suite.check("permessage-deflate with every window and context option")
async def _():
    async with Echo() as server:
        for bits in (None, 9, 12, 15):
            for server_context in (True, False):
                for client_context in (True, False):
                    factory = ClientPerMessageDeflateFactory(
                        server_max_window_bits=bits, client_max_window_bits=bits or True,
                        server_no_context_takeover=server_context, client_no_context_takeover=client_context,
                    )
                    async with connect(f"ws://{server.address}", compression=None, extensions=[factory], **OPTIONS) as socket:
                        expect(len(socket.protocol.extensions) == 1, "the server agrees")
                        await echoes(socket, "hello " * 1000, "hello " * 1000, os.urandom(5000), b"", b"\0" * (1 << 20))


@suite.check("fragments, with pings between them")
async def _():
    async with Echo() as server:
        async with connect(f"ws://{server.address}", **OPTIONS) as socket:
            async def parts():
                for part in ("one ", "two ", "", "three"):
                    await (await socket.ping())
                    yield part
            await socket.send(parts())
            expect(await asyncio.wait_for(socket.recv(), WAIT_SECONDS) == "one two three", "joined")


@suite.check("closing: the code comes back, and the connection ends")
async def _():
    async with Echo() as server:
        for code, reason in ((1000, ""), (1000, "done"), (1001, "away"), (3000, "r" * 123), (4999, "own")):
            async with connect(f"ws://{server.address}", **OPTIONS) as socket:
                await socket.close(code, reason)
                expect(socket.close_code == code, socket.close_code)


@suite.check("a subprotocol is agreed on, or none")
async def _():
    async with Echo("--subprotocol", "chat.v2") as server:
        for offered, agreed in ((["chat.v1", "chat.v2"], "chat.v2"), (["chat.v1"], None), ([], None)):
            async with connect(f"ws://{server.address}", subprotocols=offered, **OPTIONS) as socket:
                expect(socket.subprotocol == agreed, socket.subprotocol)
                await echoes(socket, "hello")


@suite.check("IPv6, and an IPv4 client of a listener for both")
async def _():
    async with Echo(host="::1") as server:
        async with connect(f"ws://[::1]:{server.port}", **OPTIONS) as socket:
            await echoes(socket, "hello")
    async with Echo(host="::") as server:
        for host in ("[::1]", "127.0.0.1"):
            async with connect(f"ws://{host}:{server.port}", **OPTIONS) as socket:
                await echoes(socket, "hello")


@suite.check("a Unix socket, also where a killed server left one behind")
async def _():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "echo")
        for _ in range(2):
            async with Echo("--unix", path):
                async with unix_connect(path, "ws://localhost", **OPTIONS) as socket:
                    await echoes(socket, "hello")
            # Leaving the block has killed the server.
            expect(os.path.exists(path), "a killed server cannot remove its socket")


@suite.check("TLS 1.2 and 1.3")
async def _():
    async with Echo("--tls-cert", f"{CERTIFICATES}/server.pem", "--tls-key", f"{CERTIFICATES}/server-key.pem") as server:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = ssl.create_default_context(cafile=f"{CERTIFICATES}/root.pem")
            context.minimum_version = context.maximum_version = version
            async with connect(f"wss://localhost:{server.port}", ssl=context, **OPTIONS) as socket:
                await echoes(socket, *TEXTS, *BYTES)


@suite.check("a thousand clients at once, each is answered")
async def _():
    async with Echo() as server:
        async with asyncio.TaskGroup() as group:
            sockets = [group.create_task(connect(f"ws://{server.address}", compression=None, **OPTIONS | {"open_timeout": 30}).__aenter__())
                       for _ in range(1000)]
        sockets = [task.result() for task in sockets]
        for round in range(3):
            await asyncio.gather(*(socket.send(f"{index} {round}") for index, socket in enumerate(sockets)))
            answers = await asyncio.wait_for(asyncio.gather(*(socket.recv() for socket in sockets)), 30)
            expect(answers == [f"{index} {round}" for index in range(1000)], "everybody got an own answer")
        # All are cut at once; the server goes on.
        for socket in sockets:
            socket.transport.abort()
        await server.serves()


@suite.check("a client that is sent a close finds its code")
async def _():
    async with Echo("--max-message", 1000) as server:
        async with connect(f"ws://{server.address}", **OPTIONS) as socket:
            await socket.send(os.urandom(1001))
            try:
                await asyncio.wait_for(socket.recv(), WAIT_SECONDS)
                expect(False, "a message came")
            except ConnectionClosed as closed:
                expect(closed.rcvd.code == 1009 and closed.rcvd.reason, closed)


suite.run()
