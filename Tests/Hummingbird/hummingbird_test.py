"""Tries the Hummingbird application from outside: hummingbird_test.py SERVER"""

import http.client
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

PATIENCE = 20


def expect(what, seen, expected):
    if seen != expected:
        raise SystemExit(f"{what}: expected {expected!r}, but got {seen!r}")
    print(f"ok: {what}")


def request(connection, method, path, body=None, cookie=None):
    connection.request(method, path, body=body, headers={"Cookie": cookie} if cookie else {})
    response = connection.getresponse()
    return response, response.read().decode()


def upgrade_after_requests(port, cookie):
    """Two pages and an upgrade on one connection, with a message in the upgrade's own segment."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        for _ in range(2):
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            page = b""
            while b"everybody" not in page:
                page += connection.recv(4096)
        frame = bytes([0x81, 0x82, 0, 0, 0, 0]) + b"hi"
        connection.sendall(
            b"GET /chat HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            b"Cookie: " + cookie.encode() + b"\r\n\r\n" + frame
        )
        answer = b""
        while b"ann: hi" not in answer:
            part = connection.recv(4096)
            if not part:
                raise SystemExit(f"the connection ended after {answer!r}")
            answer += part
        expect("an upgrade after two pages is 101", answer.split(b"\r\n")[0], b"HTTP/1.1 101 Switching Protocols")
        expect("the message in its segment is answered", b"ann: hi" in answer, True)


def figures(pages):
    """What the application's one metrics backend has, by name."""
    lines = request(pages, "GET", "/metrics")[1].splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def expect_shared_metrics(pages):
    """Starling reports once a second."""
    deadline = time.monotonic() + PATIENCE
    while (seen := figures(pages)).get("starling_websockets") != 1 and time.monotonic() < deadline:
        time.sleep(0.1)
    expect("the backend has the sockets that are open", seen.get("starling_websockets"), 1)
    expect("and the messages of both", seen.get("starling_messages_received_total"), 2)
    pages_counted = sum(value for name, value in seen.items() if name.startswith("hb.requests{"))
    expect("and Hummingbird's requests", pages_counted > 5, True)


def expect_shared_loops(server):
    """A thread of NIO's for each core, as there were without Starling, and no event loop of Starling's."""
    names = [task.joinpath("comm").read_text().strip() for task in pathlib.Path(f"/proc/{server.pid}/task").iterdir()]
    loops = [name for name in names if name.startswith("NIO-")]
    expect("one group of event loops", len(loops), len(os.sched_getaffinity(0)))
    expect("no loops of Starling's", [name for name in names if "starling" in name.lower()], [])


def expect_shared_log(path):
    lines = path.read_text().splitlines()
    of_pages = [line for line in lines if "Request" in line and "/members" in line]
    of_sockets = [line for line in lines if "ws.connection=" in line and "ws.close-code=1001" in line]
    expect("the log tells of pages", bool(of_pages), True)
    expect("and of sockets", bool(of_sockets), True)
    for line in of_pages + of_sockets:
        if " chat:" not in line and " chat " not in line:
            raise SystemExit(f"a line of another logger than the application's: {line}")
    print("ok: both with the application's logger")


def run(server, port):
    pages = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    expect("the page for everybody", request(pages, "GET", "/")[1], "A page for everybody.\n")
    expect("members only", request(pages, "GET", "/members")[0].status, 401)
    expect("no such page", request(pages, "GET", "/elsewhere")[0].status, 404)
    response, text = request(pages, "POST", "/login", body="ann")
    expect("a login", (response.status, text), (200, "Hello, ann.\n"))
    cookie = response.getheader("Set-Cookie").split(";")[0]
    expect("the page for members", request(pages, "GET", "/members", cookie=cookie)[1], "A page for members.\n")
    bob = request(pages, "POST", "/login", body="bob")[0].getheader("Set-Cookie").split(";")[0]

    url = f"ws://127.0.0.1:{port}/chat"
    for headers in ({}, {"Cookie": "session=forged"}):
        try:
            with connect(url, additional_headers=headers):
                raise SystemExit("a chat opened without a login")
        except InvalidStatus as error:
            expect("no chat without a login", error.response.status_code, 401)
            expect("and in the endpoint's words", error.response.body, b"Log in first.\n")
    try:
        with connect(url, additional_headers={"Cookie": cookie}, origin="https://elsewhere"):
            raise SystemExit("another origin's page could connect")
    except InvalidStatus as error:
        expect("no chat for other origins", error.response.status_code, 403)

    with connect(url, additional_headers={"Cookie": cookie}) as ann:
        expect("ann comes", ann.recv(PATIENCE), "ann has come")
        with connect(url, additional_headers={"Cookie": bob}) as other:
            expect("bob comes", ann.recv(PATIENCE), "bob has come")
            expect("bob sees it", other.recv(PATIENCE), "bob has come")
            ann.send("hello")
            expect("bob hears ann", other.recv(PATIENCE), "ann: hello")
            other.send("x" * 100_000)
            expect("ann hears her own", ann.recv(PATIENCE), "ann: hello")
            expect("ann hears much", ann.recv(PATIENCE), "bob: " + "x" * 100_000)
        expect("bob goes", ann.recv(PATIENCE), "bob has gone")
        expect_shared_metrics(pages)
        expect_shared_loops(server)
        expect("pages go on meanwhile", request(pages, "GET", "/")[0].status, 200)

        upgrade_after_requests(port, cookie)

        # A shutdown says 1001 to the chat, and the application ends.
        server.send_signal(signal.SIGTERM)
        try:
            while True:
                ann.recv(PATIENCE)
        except ConnectionClosed as closed:
            expect("a shutdown says 1001", closed.rcvd.code if closed.rcvd else None, 1001)
    expect("the application ends", server.wait(PATIENCE), 0)


def await_start(server, log):
    deadline = time.monotonic() + PATIENCE
    while "listening on " not in log.read_text():
        if server.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the application did not start: {log.read_text()}")
        time.sleep(0.05)


def main():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        log = pathlib.Path(folder, "log")
        with log.open("w") as output:
            server = subprocess.Popen(
                [sys.argv[1], str(port)],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | {"LOG_LEVEL": "debug"},
            )
        try:
            await_start(server, log)
            run(server, port)
        finally:
            server.kill()
            server.wait()
        expect_shared_log(log)


main()
