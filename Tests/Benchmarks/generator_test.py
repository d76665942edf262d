"""What the load generator says of servers that behave, and of those that do not: generator_test.py GENERATOR"""

import concurrent.futures
import contextlib
import json
import pathlib
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import unittest
import zlib

GENERATOR = sys.argv.pop(1)
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
DEFLATE = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


class End(Exception):
    """The client has gone."""


def frame(first_byte, payload):
    if len(payload) < 126:
        return bytes([first_byte, len(payload)]) + payload
    return bytes([first_byte, 126]) + struct.pack(">H", len(payload)) + payload


def compress(payload):
    compressor = zlib.compressobj(wbits=-15)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def inflate(payload):
    return zlib.decompressobj(wbits=-15).decompress(payload + b"\0\0\xff\xff")


class Connection:
    """A client's connection, read frame by frame. `count` is that of the messages read so far."""

    def __init__(self, server, client):
        self.server = server
        self.client = client
        self.file = client.makefile("rb")
        self.count = 0

    def read(self, byte_count):
        data = self.file.read(byte_count)
        if len(data) < byte_count:
            raise End
        return data

    def upgrade(self):
        _, self.path, _ = self.file.readline().decode().split()
        while self.file.readline().strip():
            pass
        self.client.sendall(self.server.response.encode())

    def receive(self):
        first_byte, length = self.read(2)
        length &= 0x7F
        if length == 126:
            (length,) = struct.unpack(">H", self.read(2))
        key = self.read(4)
        payload = bytes(byte ^ key[index % 4] for index, byte in enumerate(self.read(length)))
        self.count += 1
        return first_byte, payload

    def send(self, first_byte, payload):
        self.client.sendall(frame(first_byte, payload))

    def close(self):
        # A shutdown, because another thread may be reading.
        with contextlib.suppress(OSError):
            self.client.shutdown(socket.SHUT_RDWR)
        self.file.close()
        self.client.close()


class Server:
    """Calls `serve(connection)` for each connection that has been upgraded, on a thread of its own."""

    def __init__(self, serve, extensions=None, response=None, tls=None):
        self.serve = serve
        self.tls = tls
        lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
        lines.append(f"Sec-WebSocket-Accept: {ACCEPT}")
        if extensions:
            lines.append(f"Sec-WebSocket-Extensions: {extensions}")
        self.response = response or "\r\n".join(lines) + "\r\n\r\n"
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        self.lock = threading.Lock()
        self.subscribers = {}
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.handle, args=(client,), daemon=True).start()

    def handle(self, client):
        with contextlib.suppress(End, OSError, ValueError):
            if self.tls:
                client = self.tls.wrap_socket(client, server_side=True)
            connection = Connection(self, client)
            try:
                connection.upgrade()
                self.serve(connection)
            finally:
                connection.close()


# Servers. Each loops until `End`.


def echo(answer=lambda connection, first_byte, payload: [(first_byte, payload)]):
    """Answers each message with the frames that `answer` gives, and a close frame by hanging up."""

    def serve(connection):
        while True:
            first_byte, payload = connection.receive()
            if first_byte == 0x88:
                connection.send(first_byte, payload)
                return
            for reply in answer(connection, first_byte, payload):
                connection.send(*reply)

    return serve


def at(number, wrong):
    """Does the right thing for all messages but this one, for which `wrong` says what to send."""

    def answer(connection, first_byte, payload):
        if connection.count == number + 1:
            return wrong(first_byte, payload)
        return [(first_byte, payload)]

    return echo(answer)


def corrupted(first_byte, payload):
    return [(first_byte, payload[:7] + bytes([payload[7] ^ 1]) + payload[8:])]


def fan_out(deliveries=lambda topic, number, payload: [(topic, payload)]):
    """Sends what `deliveries` makes of a publication to the subscribers of the topics that it names."""

    def serve(connection):
        _, end, topic = connection.path.split("/")
        subscribers = connection.server.subscribers
        with connection.server.lock:
            here = subscribers.setdefault(topic, [])
            if end == "subscribe":
                here.append(connection)
        while True:
            first_byte, payload = connection.receive()
            for name, message in deliveries(topic, connection.count - 1, payload):
                for index, subscriber in enumerate(subscribers[name]):
                    if message is not None or index > 0:
                        subscriber.send(first_byte, payload if message is None else message)

    return serve


def out_of_order():
    held = []

    def deliveries(topic, number, payload):
        held.append(payload)
        # The first two in the wrong order, and then all as they come.
        if number == 0:
            return []
        ready = held[::-1]
        held.clear()
        return [(topic, message) for message in ready]

    return fan_out(deliveries)


def cut_when_idle(connection):
    first_byte, payload = connection.receive()
    connection.send(first_byte, payload)
    if connection.server.cut.acquire(blocking=False):
        return
    connection.receive()


def deaf_to_close(connection):
    connection.receive()
    connection.send(0x88, b"\x03\xe8")
    connection.read(1)


def answers(first_byte, payload):
    def serve(connection):
        connection.receive()
        connection.send(first_byte, payload)

    return serve


# Cases: the generator's arguments, the server, and what the generator must say of it; nothing if it behaves.

ECHO = ["echo", "--connections", "4"]
DEPTH = ["echo", "--connections", "4", "--depth", "16"]
JSON = ["echo", "--connections", "4", "--content", "json", "--payload", "500"]
DEFLATED = JSON + ["--compression", "deflate"]
FANOUT = ["fanout", "--connections", "6", "--topics", "2", "--depth", "4"]
CHURN = ["churn", "--connections", "4"]
IDLE = ["idle", "--connections", "4", "--messages", "1"]

CASES = {
    "echo": (ECHO, Server(echo()), None),
    "echo at depth 16": (DEPTH, Server(echo()), None),
    "echo of JSON": (JSON, Server(echo()), None),
    "echo of compressed JSON": (DEFLATED, Server(echo(), DEFLATE), None),
    "fan-out": (FANOUT, Server(fan_out()), None),
    "churn": (CHURN, Server(echo()), None),
    "idle": (IDLE, Server(echo()), None),
    "a corrupt byte": (ECHO, Server(at(3, corrupted)), "byte 9 of the reply to message 3 is 0x"),
    "a corrupt byte in JSON": (JSON, Server(at(2, corrupted)), "byte 11 of the reply to message 2 is 0x"),
    "a lost message": (ECHO, Server(at(3, lambda *_: [])), "silent for 5000 ms: 4 connections wait for replies"),
    "a lost message among others": (DEPTH, Server(at(3, lambda *_: [])), "of the reply to message 3 is 0x"),
    "a message twice": (ECHO, Server(at(3, lambda *message: [message] * 2)), "of the reply to message 4 is 0x"),
    "a message twice among others": (
        DEPTH,
        Server(at(3, lambda *message: [message] * 2)),
        "of the reply to message 4 is 0x",
    ),
    "a message of another kind": (ECHO, Server(at(3, lambda _, payload: [(0x81, payload)])), "is 0x81 and should be 0x82"),
    "a closed connection": (ECHO, Server(at(3, lambda *_: [(0x88, b"")])), "closed the connection at message 3"),
    "a ping": (ECHO, Server(at(3, lambda *_: [(0x89, b"")])), "sent a ping: start it with pings switched off"),
    "a cut connection": (ECHO, Server(lambda connection: connection.receive()), "the server closed a connection"),
    "no upgrade": (ECHO, Server(echo(), response="HTTP/1.1 404 Not Found\r\n\r\n"), "answered with 'HTTP/1.1 404 Not Found'"),
    "a wrong key": (
        ECHO,
        Server(echo(), response="HTTP/1.1 101 Go\r\nSec-WebSocket-Accept: x\r\n\r\n"),
        "Sec-WebSocket-Accept is wrong",
    ),
    "an extension that nobody offered": (ECHO, Server(echo(), DEFLATE), "an extension that nobody offered"),
    "compression declined": (DEFLATED, Server(echo()), "declined permessage-deflate"),
    "context takeover": (DEFLATED, Server(echo(), "permessage-deflate"), "insists on context takeover"),
    "compression agreed, not done": (
        DEFLATED,
        Server(at(1, lambda _, payload: [(0x81, inflate(payload))]), DEFLATE),
        "the reply to message 1 is not compressed",
    ),
    "compressed, corrupt": (
        DEFLATED,
        Server(at(1, lambda first, payload: [(first, compress(inflate(payload).replace(b"team", b"tean")))]), DEFLATE),
        "of the reply to message 1 is 0x6e and should be 0x6d",
    ),
    "compressed, cut short": (
        DEFLATED,
        Server(at(1, lambda first, payload: [(first, compress(inflate(payload)[:-1]))]), DEFLATE),
        "the reply to message 1 inflates to 499 bytes and should have 500",
    ),
    "compressed, too long": (
        DEFLATED,
        Server(at(1, lambda first, payload: [(first, compress(inflate(payload) + b" "))]), DEFLATE),
        "the reply to message 1 inflates to more than 500 bytes and should have 500",
    ),
    "not compressed data": (
        DEFLATED,
        Server(at(1, lambda first, payload: [(first, b"\xff" * 40)]), DEFLATE),
        "the reply to message 1 does not inflate",
    ),
    "a lost delivery": (
        FANOUT,
        Server(fan_out(lambda topic, number, payload: [(topic, None if number == 5 else payload)])),
        "of the reply to message 5 is 0x",
    ),
    "a lost publication": (
        ["fanout", "--connections", "6"],
        Server(fan_out(lambda topic, number, payload: [] if number == 5 else [(topic, payload)])),
        "silent for 5000 ms: 1 publications have not reached everybody",
    ),
    "publications out of order": (FANOUT, Server(out_of_order()), "of the reply to message 0 is 0x"),
    "a publication twice": (
        ["fanout", "--connections", "6"],
        Server(fan_out(lambda topic, number, payload: [(topic, payload)] * (2 if number == 5 else 1))),
        "of the reply to message 6 is 0x",
    ),
    "a publication of another topic": (
        FANOUT,
        Server(fan_out(lambda topic, number, payload: [("0" if number == 5 else topic, payload)])),
        "of the reply to message ",
    ),
    "a wrong close code": (CHURN, Server(answers(0x88, b"\x03\xe9")), "with code 1000 was answered with 1001"),
    "no close frame": (CHURN, Server(answers(0x8A, b"")), "a close frame was answered with 0x8a"),
    "no hanging up": (CHURN, Server(deaf_to_close), "silent for 5000 ms: 4 connections have not come to their end"),
    "an idle connection cut": (IDLE, Server(cut_when_idle), "the server cut 1 of 4 idle connections"),
}
CASES["an idle connection cut"][1].cut = threading.Semaphore(1)


def run(arguments, server):
    return subprocess.run(
        [GENERATOR, *arguments, "--port", str(server.port), "--warmup", "0.1", "--seconds", "0.2"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class GeneratorTests(unittest.TestCase):
    def test_cases(self):
        # Together, because some of them are over only after the five seconds of silence that the generator bears.
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            results = {
                name: pool.submit(run, arguments, server) for name, (arguments, server, _) in CASES.items()
            }
        for name, (_, _, words) in CASES.items():
            with self.subTest(name):
                self.check(results[name].result(), words)

    def check(self, result, words):
        if words is None:
            self.assertEqual((result.stderr, result.returncode), ("", 0))
            self.assertGreater(json.loads(result.stdout)["messages"], 0)
        else:
            self.assertIn(words, result.stderr)
            self.assertEqual(result.returncode, 1)

    def test_tls(self):
        with tempfile.TemporaryDirectory() as folder:
            tls = self.make_tls(pathlib.Path(folder))
            server = Server(echo(), tls=tls)
            for arguments in (ECHO + ["--security", "tls"], CHURN + ["--security", "tls"], CHURN + ["--security", "tls-resumed"]):
                with self.subTest(arguments[0]):
                    self.check(run(arguments, server), None)
            self.check(run(ECHO + ["--security", "tls"], Server(at(3, corrupted), tls=tls)), "byte 9 of the reply to message 3")
            tls.num_tickets = 0
            self.check(run(CHURN + ["--security", "tls-resumed"], server), "gives no TLS session ticket")

    def make_tls(self, folder):
        chain, key = folder / "chain.pem", folder / "key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
            + ["-days", "2", "-subj", "/CN=localhost", "-keyout", key, "-out", chain],
            check=True,
            capture_output=True,
        )
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(chain, key)
        return tls

    def test_no_tls(self):
        self.check(run(ECHO + ["--security", "tls"], Server(echo())), "TLS handshake: ")

    def test_arguments(self):
        for arguments in (["echo", "--connections", "0"], ["echo", "--security", "tls-resumed"], ["echo", "--topics", "201"], ["sing"]):
            with self.subTest(arguments):
                result = run(arguments, CASES["echo"][1])
                self.assertEqual(result.returncode, 2)
                self.assertIn("cannot make sense of", result.stderr)


if __name__ == "__main__":
    unittest.main()
