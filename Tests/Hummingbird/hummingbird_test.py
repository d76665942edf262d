"""Tries the Hummingbird application from outside: hummingbird_test.py SERVER"""

import http.client
import signal
import socket
import subprocess
import sys

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


def main():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([sys.argv[1], str(port)], stdout=subprocess.PIPE, text=True)
    try:
        for line in server.stdout:
            if line.startswith("listening on "):
                break
        else:
            raise SystemExit("the application did not start")
        run(server, port)
    finally:
        server.kill()
        server.wait()


main()
