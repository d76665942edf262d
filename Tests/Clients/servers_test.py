"""Our client against other people's servers: Python's websockets, Node's ws, and nginx in front of them and of ours."""

import asyncio
import contextlib
import http
import os
import shutil
import socket
import ssl
import tempfile
import urllib.parse

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

from support import CERTIFICATES, PROGRAM, WAIT_SECONDS, Echo, Failed, Suite, expect

suite = Suite("servers")
CHECKS = os.path.join(os.path.dirname(PROGRAM), "ClientChecks")
# Absolute, because nginx looks beside its configuration.
SERVER_CERTIFICATE = tuple(os.path.abspath(f"{CERTIFICATES}/{name}.pem") for name in ("server", "server-key"))


async def passes(url, *flags, checks):
    """The client's checks pass, all of them."""
    process = await asyncio.create_subprocess_exec(
        CHECKS, "--server", url, "--trust", f"{CERTIFICATES}/root.pem", *flags,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    output = output.decode(errors="replace")
    expect(process.returncode == 0, f"{url}:\n{output}")
    expect(len(output.splitlines()) == checks, f"{checks} checks expected:\n{output}")


class PythonServer:
    """A server of websockets with the paths that ClientChecks.swift names."""

    def __init__(self, tls=False):
        self.tls = tls
        self.closed = None

    async def __aenter__(self):
        context = None
        if self.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*SERVER_CERTIFICATE)
        self.server = await serve(
            self.handle, "127.0.0.1", 0, ssl=context, max_size=16 << 20, process_request=self.refuse,
            select_subprotocol=self.select, subprotocols=["chat.v2"],
        )
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()
        await self.server.wait_closed()

    def refuse(self, connection, request):
        url = urllib.parse.urlsplit(request.path)
        if url.path == "/refuse":
            status = int(urllib.parse.parse_qs(url.query)["status"][0])
            return connection.respond(http.HTTPStatus(status), f"refused with {status}")

    def select(self, connection, offered):
        if connection.request.path == "/stranger":
            return "stranger"
        return "chat.v2" if "chat.v2" in offered else None

    async def handle(self, connection):
        url = urllib.parse.urlsplit(connection.request.path)
        query = urllib.parse.parse_qs(url.query, keep_blank_values=True)
        match url.path:
            case "/echo":
                self.closed = asyncio.get_running_loop().create_future()
                closed = self.closed
                with contextlib.suppress(ConnectionClosed):
                    async for message in connection:
                        await connection.send(message)
                closed.set_result(f"{connection.close_code} {connection.close_reason}")
            case "/deflate":
                extensions = [extension.name for extension in connection.protocol.extensions]
                await connection.send(", ".join(extensions) or "none")
            case "/subprotocol":
                await connection.send(connection.subprotocol or "none")
            case "/fragments":
                async def parts():
                    for part in ("one ", "two ", "", "three, Gr", "üße"):
                        await connection.ping()
                        yield part
                await connection.send(parts())
            case "/pings":
                for data in (b"", b"one", b"two" * 40):
                    await (await connection.ping(data))
                await connection.send("answered")
            case "/closes":
                await connection.close(int(query["code"][0]), query["reason"][0])
            case "/closed":
                await connection.send(await asyncio.wait_for(self.closed, WAIT_SECONDS))
        await connection.wait_closed()


class NodeServer:
    """A server of Node's ws."""

    def __init__(self, tls=False):
        self.arguments = SERVER_CERTIFICATE if tls else ()

    async def __aenter__(self):
        script = os.path.join(os.path.dirname(__file__), "ws_server.cjs")
        self.process = await asyncio.create_subprocess_exec(
            "node", script, *self.arguments, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(WAIT_SECONDS):
            line = (await self.process.stdout.readline()).decode()
        expect(line.startswith("listening on "), "the server does not start")
        self.port = int(line.rsplit(":", 1)[1])
        return self

    async def __aexit__(self, *_):
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


class Nginx:
    """nginx in front of a server: in plain, and where TLS ends."""

    def __init__(self, port):
        self.behind = port

    async def __aenter__(self):
        self.directory = tempfile.mkdtemp(prefix="starling-nginx-")
        self.port, self.tls_port = free_port(), free_port()
        temporary = "\n".join(
            f"{kind}_temp_path {self.directory}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        configuration = os.path.join(self.directory, "nginx.conf")
        with open(configuration, "w") as file:
            file.write(f"""
daemon off;
master_process off;
pid {self.directory}/pid;
error_log stderr warn;
events {{}}
http {{
    access_log off;
    {temporary}
    server {{
        listen 127.0.0.1:{self.port};
        listen 127.0.0.1:{self.tls_port} ssl;
        ssl_certificate {SERVER_CERTIFICATE[0]};
        ssl_certificate_key {SERVER_CERTIFICATE[1]};
        location / {{
            proxy_pass http://127.0.0.1:{self.behind};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
            proxy_set_header Host $http_host;
        }}
    }}
}}
""")
        program = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
        self.log = open(os.path.join(self.directory, "log"), "w+b")
        self.process = await asyncio.create_subprocess_exec(
            program, "-c", configuration, "-e", "stderr", stdin=asyncio.subprocess.DEVNULL, stdout=self.log, stderr=self.log
        )
        for port in (self.port, self.tls_port):
            await self.listens(port)
        return self

    async def listens(self, port):
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                with contextlib.suppress(ConnectionRefusedError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    return writer.close()
                if self.process.returncode is not None:
                    self.log.seek(0)
                    raise Failed(f"nginx does not start:\n{self.log.read().decode(errors='replace')}")
                await asyncio.sleep(0.02)

    async def __aexit__(self, *_):
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        self.log.close()
        shutil.rmtree(self.directory, ignore_errors=True)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@suite.check("Python's websockets")
async def _():
    async with PythonServer() as server:
        await passes(f"ws://127.0.0.1:{server.port}", checks=11)


@suite.check("Python's websockets over TLS")
async def _():
    async with PythonServer(tls=True) as server:
        await passes(f"wss://localhost:{server.port}", checks=11)


@suite.check("Node's ws")
async def _():
    async with NodeServer() as server:
        await passes(f"ws://127.0.0.1:{server.port}", checks=11)


@suite.check("Node's ws over TLS")
async def _():
    async with NodeServer(tls=True) as server:
        await passes(f"wss://localhost:{server.port}", checks=11)


@suite.check("nginx in front of Python's websockets, in plain and where TLS ends")
async def _():
    async with PythonServer() as server, Nginx(server.port) as nginx:
        await passes(f"ws://127.0.0.1:{nginx.port}", checks=11)
        await passes(f"wss://localhost:{nginx.tls_port}", checks=11)


@suite.check("nginx in front of Node's ws, in plain and where TLS ends")
async def _():
    async with NodeServer() as server, Nginx(server.port) as nginx:
        await passes(f"ws://127.0.0.1:{nginx.port}", checks=11)
        await passes(f"wss://localhost:{nginx.tls_port}", checks=11)


@suite.check("nginx in front of ours, in plain and where TLS ends")
async def _():
    limits = ("--max-message", 16 << 20, "--path", "/echo", "--subprotocol", "chat.v2")
    async with Echo(*limits) as server, Nginx(server.port) as nginx:
        await passes(f"ws://127.0.0.1:{nginx.port}", "--echo-only", checks=5)
        await passes(f"wss://localhost:{nginx.tls_port}", "--echo-only", checks=5)


suite.run()
