"""What the suites share: an Echo to test, a peer in raw bytes, and checks that are counted."""

import asyncio
import contextlib
import os
import signal
import struct
import sys
import tempfile

PROGRAM, CERTIFICATES = sys.argv[1:3]
WAIT_SECONDS = 10
KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # the example of RFC 6455 §1.3


class Failed(Exception):
    pass


def expect(condition, what):
    if not condition:
        raise Failed(what)


class Echo:
    """An Echo with these flags, for the time of a block. It says where it listens; the port is its own choice."""

    def __init__(self, *flags, host="127.0.0.1", callback=False, **options):
        self.command = [PROGRAM + ("Callback" if callback else ""), "--host", host, "--port", "0", *map(str, flags)]
        self.options = options

    async def __aenter__(self):
        self.log = tempfile.TemporaryFile()
        self.process = await asyncio.create_subprocess_exec(
            *self.command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=self.log, **self.options
        )
        async with asyncio.timeout(WAIT_SECONDS):
            while line := await self.process.stdout.readline():
                if line.startswith(b"listening on "):
                    self.address = line.decode().removeprefix("listening on ").strip()
                    # What it says from now on is for nobody; a pipe that fills up would stop it.
                    self.drained = asyncio.create_task(self.process.stdout.read())
                    return self
        raise Failed(f"the server does not start:\n{self.output()}")

    async def __aexit__(self, *_):
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    @property
    def port(self):
        return int(self.address.rsplit(":", 1)[1])

    def output(self):
        self.log.seek(0)
        return self.log.read()[-4000:].decode(errors="replace")

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    async def exit_code(self):
        return await asyncio.wait_for(self.process.wait(), WAIT_SECONDS)

    def cpu_seconds(self):
        with open(f"/proc/{self.process.pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def serves(self):
        """The next client is served as before."""
        async with Peer.open(self) as peer:
            await peer.echo(b"still here")


def request(path="/", port=0, drop=(), **fields):
    """The head of an upgrade; underscores in names stand for hyphens, and what is in `drop` is left out."""
    head = {
        "Host": f"127.0.0.1:{port}", "Upgrade": "websocket", "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY, "Sec-WebSocket-Version": "13",
    } | {name.replace("_", "-"): value for name, value in fields.items()}
    lines = [f"{name}: {value}" for name, value in head.items() if name not in drop]
    return "\r\n".join([f"GET {path} HTTP/1.1", *lines, "", ""]).encode()


def frame(first, payload=b"", mask=b"\x01\x02\x03\x04", length=None):
    """A client's frame; `first` is its first byte, `length` its length field if it is not to be the right one."""
    count = len(payload)
    if length is None:
        length = bytes([count]) if count < 126 else b"\x7e" + struct.pack(">H", count) if count < 65536 else b"\x7f" + struct.pack(">Q", count)
    if mask is None:
        return bytes([first]) + length + payload
    masked = bytes(byte ^ mask[index & 3] for index, byte in enumerate(payload))
    return bytes([first, length[0] | 0x80]) + length[1:] + mask + masked


class Peer:
    """One TCP connection, as bytes."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, server, **options):
        return cls(*await asyncio.wait_for(asyncio.open_connection("127.0.0.1", server.port, limit=1 << 24, **options), WAIT_SECONDS))

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, server, **fields):
        """A connection that is upgraded."""
        peer = await cls.connect(server)
        try:
            await peer.send(request(port=server.port, **fields))
            await peer.upgraded()
            yield peer
        finally:
            await peer.close()

    async def send(self, data, bytewise=False):
        # A server that has refused may have closed by the time the rest is written: its answer counts, not our error.
        with contextlib.suppress(ConnectionError):
            for part in (data[index:index + 1] for index in range(len(data))) if bytewise else (data,):
                self.writer.write(part)
                await self.writer.drain()

    async def response(self):
        """Status, head and body of the next response."""
        async with asyncio.timeout(WAIT_SECONDS):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
            body = await self.reader.readexactly(int(fields.get("content-length", 0)))
        return int(head.split()[1]), head, body

    async def upgraded(self):
        """Reads the response to a handshake that must be accepted."""
        status, _, _ = await self.response()
        expect(status == 101, f"the upgrade is answered with {status}")

    async def frame(self):
        """First byte and payload of the next frame."""
        async with asyncio.timeout(WAIT_SECONDS):
            first, length = await self.reader.readexactly(2)
            if length == 126:
                length, = struct.unpack(">H", await self.reader.readexactly(2))
            elif length == 127:
                length, = struct.unpack(">Q", await self.reader.readexactly(8))
            return first, await self.reader.readexactly(length)

    async def closes(self, code, seconds=WAIT_SECONDS):
        """Reads up to a close frame with this code and a reason, and then to the end of the stream."""
        async with asyncio.timeout(seconds):
            while (received := await self.frame())[0] != 0x88:
                pass
            expect(len(received[1]) >= 2, "the close frame has no code")
            found, = struct.unpack(">H", received[1][:2])
            expect(found == code, f"close code {found}: {received[1][2:].decode()}")
            await self.ends()
            return received[1][2:].decode()

    async def ends(self, seconds=WAIT_SECONDS):
        """The server ends its direction of the stream; or cuts the connection."""
        async with asyncio.timeout(seconds):
            with contextlib.suppress(ConnectionError):
                while await self.reader.read(1 << 16):
                    pass

    async def echo(self, payload):
        await self.send(frame(0x82, payload))
        while (received := await self.frame())[0] != 0x82:
            pass
        expect(received[1] == payload, "the echo differs")

    async def close(self):
        self.writer.close()
        with contextlib.suppress(Exception):
            await self.writer.wait_closed()


class Suite:
    """Checks by name, run in order; the first that fails ends the program."""

    def __init__(self, name):
        self.name = name
        self.checks = []

    def check(self, name):
        return lambda function: self.checks.append((name, function))

    def run(self):
        asyncio.run(self.run_all())

    async def run_all(self):
        for name, function in self.checks:
            try:
                async with asyncio.timeout(90):
                    await function()
            except Exception as error:
                print(f"FAILED  {self.name}: {name}\n        {type(error).__name__}: {error}", file=sys.stderr)
                sys.exit(1)
            print(f"ok      {self.name}: {name}", flush=True)
        print(f"{len(self.checks)} checks passed: {self.name}")
