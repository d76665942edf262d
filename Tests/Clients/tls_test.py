"""TLS through the whole server: Python's ssl, openssl, certificates of clients, and peers that get it wrong."""

import asyncio
import socket
import ssl
import struct
import subprocess
import time

from support import CERTIFICATES, WAIT_SECONDS, Echo, Peer, Suite, expect, request

suite = Suite("TLS")


def server(*flags):
    return Echo("--tls-cert", f"{CERTIFICATES}/server.pem", "--tls-key", f"{CERTIFICATES}/server-key.pem", *flags)


def client(root="root", certificate=None):
    context = ssl.create_default_context(cafile=f"{CERTIFICATES}/{root}.pem")
    context.set_alpn_protocols(["h2", "http/1.1"])
    if certificate:
        context.load_cert_chain(f"{CERTIFICATES}/{certificate}.pem", f"{CERTIFICATES}/{certificate}-key.pem")
    return context


async def serves(server, **options):
    """A client with these options is upgraded and answered."""
    peer = await Peer.connect(server, ssl=client(**options), server_hostname="localhost")
    await peer.send(request(port=server.port))
    await peer.upgraded()
    await peer.echo(b"over TLS" * 10_000)
    protocol = peer.writer.get_extra_info("ssl_object").selected_alpn_protocol()
    expect(protocol == "http/1.1", f"ALPN chose {protocol}")
    await peer.close()


async def is_refused(server, **options):
    """The handshake fails; or, in TLS 1.3, the first read after it, when the server has seen the client's certificate."""
    try:
        peer = await Peer.connect(server, ssl=client(**options), server_hostname="localhost")
        await peer.send(request(port=server.port))
        await peer.response()
    except (ssl.SSLError, ConnectionError, asyncio.IncompleteReadError) as error:
        return error
    expect(False, "the client was let in")


@suite.check("openssl s_client: the chain is verified, TLS 1.2 and 1.3, http/1.1")
async def _():
    async with server() as echo:
        for version in ("-tls1_2", "-tls1_3"):
            process = await asyncio.create_subprocess_exec(
                "openssl", "s_client", "-connect", echo.address, version, "-CAfile", f"{CERTIFICATES}/root.pem",
                "-verify_return_error", "-verify_hostname", "localhost", "-alpn", "h2,http/1.1", "-ign_eof",
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )
            get = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            output, _ = await asyncio.wait_for(process.communicate(get), WAIT_SECONDS)
            text = output.decode(errors="replace")
            expect("HTTP/1.1 200 OK" in text, text[-1500:])
            expect("ALPN protocol: http/1.1" in text and "Verify return code: 0 (ok)" in text, text[-1500:])


@suite.check("a client that does not trust the root goes away, and the next one is served")
async def _():
    async with server() as echo:
        error = await is_refused(echo, root="stranger-root")
        expect(isinstance(error, ssl.SSLCertVerificationError), error)
        await serves(echo)


@suite.check("certificates of clients: ours is let in; none, or a stranger's, is not, and the next one is served")
async def _():
    async with server("--tls-client-ca", f"{CERTIFICATES}/root.pem") as echo:
        for _ in range(2):
            await serves(echo, certificate="client")
            expect(isinstance(await is_refused(echo), ssl.SSLError), "the client is told by an alert")
            expect(isinstance(await is_refused(echo, certificate="stranger"), ssl.SSLError), "the client is told by an alert")
        await serves(echo, certificate="client")


@suite.check("the PROXY protocol comes before the TLS handshake, and nobody is let in without it")
async def _():
    address = socket.inet_aton("203.0.113.9") + socket.inet_aton("127.0.0.1") + struct.pack(">HH", 4711, 443)
    headers = [
        b"PROXY TCP4 203.0.113.9 127.0.0.1 4711 443\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + struct.pack(">H", len(address)) + address,
    ]
    async with server("--proxy-protocol", "--trust-proxy", "127.0.0.1") as echo:
        for header in headers:
            peer = await Peer.connect(echo)
            await peer.send(header)
            await asyncio.wait_for(peer.writer.start_tls(client(), server_hostname="localhost"), WAIT_SECONDS)
            await peer.send(request(port=echo.port))
            await peer.upgraded()
            await peer.echo(b"behind a proxy")
            await peer.close()
        await is_refused(echo)


@suite.check("plain HTTP on the TLS port is told so")
async def _():
    async with server() as echo:
        peer = await Peer.connect(echo)
        await peer.send(request(port=echo.port))
        status, _, body = await peer.response()
        expect(status == 400 and b"TLS" in body, (status, body))
        await peer.ends()
        await peer.close()
        await serves(echo)


@suite.check("a peer that stalls in the TLS handshake, or after it, is cut at the deadline")
async def _():
    async with server("--handshake-timeout", 1) as echo:
        started = time.monotonic()
        silent = await Peer.connect(echo)
        stalled = await Peer.connect(echo)
        await stalled.send(bytes.fromhex("16030100c8010000c40303"))
        idle = await Peer.connect(echo, ssl=client(), server_hostname="localhost")
        for peer in (silent, stalled, idle):
            await peer.ends(4)
            await peer.close()
        expect(time.monotonic() - started > 0.9, "not before the deadline")
        await serves(echo)


@suite.check("two hundred handshakes at once")
async def _():
    async with server() as echo:
        await asyncio.gather(*(serves(echo) for _ in range(200)))


suite.run()
