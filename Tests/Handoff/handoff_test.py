"""Restarts a server under load: nobody may notice more than a pause. See run.sh."""

import array
import json
import os
import re
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request

BINARIES, CONNECTIONS, RESTARTS = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
PUBLISHERS = 4
# The pause that a restart may cost a connection; whoever else uses the cores can spoil a round of restarts, but not three.
PAUSE_MS_MAX, ROUNDS_MAX = 1000, 3
# Enough to have some in every state; Redis and the publishers take their part of the cores.
REDIS_CONNECTIONS = 200
VERSION = 1002
MAGIC = b"starling-handoff"
HELLO, OFFER, REFUSAL, RECORDS, END, RESTORED, COMMIT, TAKEN = range(1, 9)


class Failure(Exception):
    pass


def check(condition, what):
    if not condition:
        raise Failure(what)


class Lines:
    """A process whose standard output is read line by line, each within a time."""

    def __init__(self, arguments, **options):
        self.process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, **options
        )
        self.rest = b""

    def line(self, seconds):
        end = time.monotonic() + seconds
        while b"\n" not in self.rest:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, end - time.monotonic()))
            if not ready:
                raise Failure(f"{self.process.args[0]} said nothing for {seconds} s")
            piece = os.read(self.process.stdout.fileno(), 65536)
            if not piece:
                raise Failure(f"{self.process.args[0]} ended with {self.process.wait()}")
            self.rest += piece
        line, self.rest = self.rest.split(b"\n", 1)
        return line.decode()

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class Servers:
    """The processes of one service, one after the other."""

    def __init__(self, folder, loops, name="handoff", redis=None, program="RestartServer"):
        self.program = program
        self.path = os.path.join(folder, f"{name}.sock")
        self.loops = loops
        self.redis = redis
        self.port = 0
        self.serving = None
        self.all = []
        self.log_path = os.path.join(folder, f"{name}.log")

    def start(self, path=None, loops=None):
        arguments = [
            os.path.join(BINARIES, self.program), "--port", str(self.port),
            "--handoff", path or self.path, "--loops", str(loops or self.loops),
            "--drain-timeout", "2",
            # The clients answer no pings before all of them are connected.
            "--pong-timeout", "60", "--write-timeout", "60",
        ]
        if self.redis:
            arguments += ["--redis", self.redis]
        with open(self.log_path, "ab") as log:
            server = Lines(arguments, stderr=log)
        self.all.append(server)
        return server

    def begin(self):
        self.serving = self.start()
        self.port = int(re.fullmatch(r"listening on .*:(\d+)", self.serving.line(30)).group(1))

    def restart(self, loops=None):
        """Starts the next one, and waits until the one before has ended by itself."""
        old, self.serving = self.serving, self.start(loops=loops)
        self.serving.line(30)
        status = old.process.wait(30)
        check(status == 0, f"the old process ended with {status}")

    def wait_for_socket(self, server):
        """Returns as soon as a process has made its own socket beside the path."""
        end, prefix = time.monotonic() + 20, f"{os.path.basename(self.path)}.{server.process.pid}."
        while not any(name.startswith(prefix) for name in os.listdir(os.path.dirname(self.path))):
            check(server.process.poll() is None and time.monotonic() < end, "a new process does not ask")

    def fails(self, seconds, **options):
        """Starts one that must fail; the one that serves must not care."""
        server = self.start(**options)
        status = server.process.wait(seconds)
        check(status not in (0, None), "a process took over that could not")
        check(self.serving.process.poll() is None, "the process that serves has ended")
        check(os.path.exists(self.path), "nobody waits for a successor any more")

    def end(self):
        for server in self.all:
            server.end()

    def figure(self, name):
        """A figure of the one that serves."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as response:
            lines = response.read().decode().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name + " "))

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            return log.read()


class Load:
    """The clients, which must not notice."""

    def __init__(self, port, connections, subscribers, period_ms, *publishers_port):
        numbers = (port, connections - subscribers - PUBLISHERS, subscribers, PUBLISHERS, period_ms, *publishers_port)
        self.lines = Lines([os.path.join(BINARIES, "RestartLoad"), *map(str, numbers)])
        check(self.lines.line(120) == "ready", "the clients did not connect")

    def end(self):
        self.lines.end()

    def mark(self):
        self.lines.process.stdin.write(b"mark\n")
        return json.loads(self.lines.line(20))

    def stop(self):
        self.lines.process.stdin.write(b"stop\n")
        return json.loads(self.lines.line(30))

    @staticmethod
    def check(figures):
        for name in ("disconnected", "duplicated", "reordered"):
            check(figures[name] == 0, f"{figures[name]} {name}: {figures}")
        return figures

    def runs(self, seconds):
        """Lets the load run for so long, and until replies and publications have come; the figures since the last call."""
        before, end = self.check(self.mark()), time.monotonic() + 30
        longest = before
        while True:
            time.sleep(seconds)
            after = self.check(self.mark())
            for name in ("pause_ms", "gap_ms"):
                after[name] = max(after[name], longest[name])
            longest = after
            if all(after[name] > before[name] for name in ("received", "heard", "referring", "inflated")):
                return after
            check(time.monotonic() < end, f"no replies or no publications come, or none compressed: {after}")


class Redis:
    """A Redis of the test's own."""

    def __init__(self, folder):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder],
            stdout=subprocess.DEVNULL,
        )
        end = time.monotonic() + 20
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port), 1) as client:
                    client.sendall(b"PING\r\n")
                    if client.recv(5) == b"+PONG":
                        return
            except OSError:
                pass
            check(self.process.poll() is None and time.monotonic() < end, "Redis does not start")
            time.sleep(0.05)

    def end(self):
        self.process.kill()
        self.process.wait()


class Impostor:
    """A new process that stops in the middle."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(path)
        self.rest = b""
        self.descriptors = []

    def send(self, kind, payload=b""):
        self.socket.sendall(struct.pack("<BIH", kind, len(payload), 0) + payload)

    def hello(self, version=VERSION):
        self.send(HELLO, number(len(MAGIC)) + MAGIC + number(version))

    def receive(self):
        while True:
            if len(self.rest) >= 7:
                kind, length, _ = struct.unpack("<BIH", self.rest[:7])
                if len(self.rest) >= 7 + length:
                    payload, self.rest = self.rest[7:7 + length], self.rest[7 + length:]
                    return kind, payload
            data, ancillary, _, _ = self.socket.recvmsg(1 << 18, socket.CMSG_SPACE(253 * 4))
            for level, kind, bytes_ in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    numbers = array.array("i")
                    numbers.frombytes(bytes_[:len(bytes_) - len(bytes_) % numbers.itemsize])
                    self.descriptors += numbers
            if not data:
                return None, b""
            self.rest += data

    def receive_until(self, wanted):
        while True:
            kind, payload = self.receive()
            check(kind is not None, "the old process has hung up")
            if kind == wanted:
                return payload

    def close(self):
        self.socket.close()
        for descriptor in self.descriptors:
            os.close(descriptor)


def upgrade(path, *fields):
    """The request that asks for a WebSocket."""
    lines = (
        f"GET {path} HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13", *fields, "", "",
    )
    return "\r\n".join(lines).encode()


class Visitor:
    """Somebody in a room of the example chat."""

    def __init__(self, port, nickname):
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.socket.settimeout(20)
        self.bytes = b""
        self.waiting = []
        self.socket.sendall(upgrade("/chat", "Sec-WebSocket-Protocol: starling.v1.json"))
        while b"\r\n\r\n" not in self.bytes:
            self.receive()
        head, self.bytes = self.bytes.split(b"\r\n\r\n", 1)
        check(b" 101 " in head, f"the chat answers {head[:40]}")
        self.send({"type": "request", "id": 1, "name": "join", "data": {"room": "lobby", "nickname": nickname}})
        self.member = self.next("reply")["data"]["member"]
        self.send({"type": "subscribe", "id": 2, "topic": "room:lobby"})
        self.next("subscribed")

    def receive(self):
        piece = self.socket.recv(65536)
        check(piece, "a visitor was cut")
        self.bytes += piece

    def send(self, message):
        payload = json.dumps(message).encode()
        length = bytes([0x80 | len(payload)]) if len(payload) < 126 else struct.pack(">BH", 0x80 | 126, len(payload))
        # Masked with zeros.
        self.socket.sendall(b"\x81" + length + bytes(4) + payload)

    def next(self, kind):
        """The next message of a kind; those of others wait."""
        while not any(message["type"] == kind for message in self.waiting):
            while len(self.bytes) < 2 or len(self.bytes) < sum(self.lengths()):
                self.receive()
            start, length = self.lengths()
            opcode, payload = self.bytes[0] & 15, self.bytes[start:start + length]
            self.bytes = self.bytes[start + length:]
            check(opcode != 8, f"a visitor was closed: {payload}")
            if opcode == 1:
                self.waiting.append(json.loads(payload))
                check(self.waiting[-1]["type"] != "error", f"{self.waiting[-1]}")
        found = next(message for message in self.waiting if message["type"] == kind)
        self.waiting.remove(found)
        return found

    def lengths(self):
        short = self.bytes[1]
        if short < 126:
            return 2, short
        if len(self.bytes) < 4:
            return 4, 0
        return 4, struct.unpack(">H", self.bytes[2:4])[0]

    def close(self):
        self.socket.close()


def number(value):
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


# What an impostor does before it stops.
STEPS = {
    "before it asks": lambda new: None,
    "when it has asked": lambda new: new.hello(),
    "with the listeners": lambda new: (new.hello(), new.receive_until(OFFER)),
    "while it takes": lambda new: (new.hello(), new.receive_until(OFFER), new.receive_until(RECORDS)),
    "with all connections": lambda new: (new.hello(), new.receive_until(END)),
    "before the commit": lambda new: (new.hello(), new.receive_until(END), new.send(RESTORED, number(0))),
    "after the commit": lambda new: (
        new.hello(), new.receive_until(END), new.send(RESTORED, number(0)), new.receive_until(COMMIT)
    ),
    "with nonsense": lambda new: (new.hello(), new.receive_until(END), new.send(RESTORED, number(3) + number(1 << 40))),
}


def restarts(servers, load, connections):
    """Restarts under load, with more and fewer event loops, too: the longest pause of each, and that without any."""
    pauses = []
    load.runs(1)
    usual = load.runs(1)
    for round_ in range(RESTARTS):
        servers.restart(loops=[servers.loops, 1, servers.loops + 1][round_ % 3])
        figures = load.runs(0.5 if connections <= 2000 else 2)
        pauses.append(max(figures["pause_ms"], figures["gap_ms"]))
    return max(usual["pause_ms"], usual["gap_ms"]), pauses


def short_restarts(servers, load, connections):
    """Rounds of restarts until in one of them no pause was too long."""
    for _ in range(ROUNDS_MAX):
        usual, pauses = restarts(servers, load, connections)
        print(f"  {RESTARTS} restarts with {connections} connections: longest pause of any "
              + ", ".join(f"{pause:.0f} ms" for pause in pauses) + f"; {usual:.0f} ms without a restart", flush=True)
        if max(pauses) < PAUSE_MS_MAX:
            return
    raise Failure(f"in each of {ROUNDS_MAX} rounds there was a pause of {PAUSE_MS_MAX} ms or more")


def failures(servers, load):
    """New processes that fail, at each step and in each way."""
    for name, step in STEPS.items():
        new = Impostor(servers.path)
        step(new)
        new.close()
        load.runs(0.1)
        print(f"  a new process that stops {name}: the old one serves", flush=True)

    new = Impostor(servers.path)
    new.hello(version=7)
    check(new.receive()[0] == REFUSAL, "another version was not refused")
    new.close()
    load.runs(0.1)
    print("  a new process of another version: refused", flush=True)

    for _ in range(5):
        server = servers.start()
        # Its own socket is there: next it asks, and takes.
        servers.wait_for_socket(server)
        server.process.kill()
        server.process.wait()
        check(servers.serving.process.poll() is None, "a process that was killed at once had taken over")
        load.runs(0.1)
    print("  a new process that is killed while it starts: the old one serves", flush=True)

    servers.fails(20, path=os.path.join(os.path.dirname(servers.path), "nowhere", "handoff.sock"))
    servers.fails(20, path="/proc/handoff.sock")
    load.runs(0.1)
    print("  a path that cannot be written: the new one does not start", flush=True)

    with_full_disk(servers, load)

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limit[1]))
    try:
        server = servers.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    while server.process.poll() is None:
        # Also those that come when the new process has the listeners, and gives them up.
        check(answers(servers), "a new connection was not served")
    check(server.process.wait(20) != 0, "a process took over that has too few descriptors")
    load.runs(0.1)
    print("  a new process with too few descriptors: the old one serves", flush=True)

    # The load must have the time to see the pause, and the new process to give up.
    os.kill(servers.serving.process.pid, signal.SIGSTOP)
    try:
        servers.fails(20)
    finally:
        os.kill(servers.serving.process.pid, signal.SIGCONT)
    load.runs(0.5)
    print("  an old process that hangs: the new one gives up, and the old one serves when it can", flush=True)

    new = Impostor(servers.path)
    new.hello()
    new.receive_until(END)
    begin = time.monotonic()
    check(new.receive()[0] is None, "the old process waits for ever")
    print(f"  a new process that hangs: the old one serves after {time.monotonic() - begin:.1f} s", flush=True)
    new.close()
    load.runs(0.5)


def answers(servers):
    """Whether somebody serves."""
    try:
        with socket.create_connection(("127.0.0.1", servers.port), 20) as client:
            client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return client.recv(12) == b"HTTP/1.1 200"
    except OSError:
        return False


def with_full_disk(servers, load):
    folder = tempfile.mkdtemp()
    options = ["mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=1", "tmpfs", folder]
    if os.geteuid() != 0 or subprocess.run(options, stderr=subprocess.DEVNULL, check=False).returncode != 0:
        print("  a full disk: not tested, because that takes a file system of its own, which only root may mount")
        os.rmdir(folder)
        return
    try:
        servers.fails(20, path=os.path.join(folder, "handoff.sock"))
        load.runs(0.1)
        print("  a full disk: the new one does not start", flush=True)
    finally:
        subprocess.run(["umount", folder], check=True)
        os.rmdir(folder)


def new_connections(servers):
    """Whoever connects during restarts is served."""
    count = 0
    server = servers.start()
    old, servers.serving = servers.serving, server
    while old.process.poll() is None:
        check(answers(servers), "a new connection was not served")
        count += 1
    server.line(30)
    return count


def stays(servers):
    """A connection that cannot go is closed with 1001, and told to come back."""
    with socket.create_connection(("127.0.0.1", servers.port), 10) as client:
        client.sendall(upgrade("/stays"))
        data = b""
        while b"\r\n\r\n" not in data:
            data += client.recv(4096)
        servers_old = servers.serving
        servers.serving = servers.start()
        servers.serving.line(30)
        data = data.split(b"\r\n\r\n", 1)[1]
        while len(data) < 4:
            piece = client.recv(4096)
            check(piece, "the connection was cut")
            data += piece
        check(data[:1] == b"\x88" and data[2:4] == b"\x03\xe9", f"no close with 1001: {data[:40]}")
        client.sendall(b"\x88\x82\x00\x00\x00\x00\x03\xe9")
    check(servers_old.process.wait(30) == 0, "the old process did not end well")


def without_redis(folder, started):
    servers = Servers(folder, loops=2)
    started.append(servers)
    servers.begin()
    load = Load(servers.port, CONNECTIONS, max(1, CONNECTIONS // 50), 300 if CONNECTIONS <= 2000 else 1000)
    started.append(load)
    mode = os.stat(servers.path).st_mode & 0o777
    check(mode == 0o600, f"the socket's mode is {mode:o}")
    short_restarts(servers, load, CONNECTIONS)
    count = new_connections(servers)
    print(f"  {count} connections made during a restart: all served", flush=True)
    stays(servers)
    print("  a connection that cannot go: closed with 1001", flush=True)
    failures(servers, load)
    servers.restart()
    load.runs(0.5)
    ends_well(load, servers)


def shutting_down(folder, started):
    """Whoever comes while the old process shuts down opens listeners of its own, since there is nothing to take."""
    for loops in (1, 2):
        servers = Servers(folder, loops=loops, name=f"shutdown-{loops}")
        started.append(servers)
        servers.begin()
        with socket.create_connection(("127.0.0.1", servers.port), 10) as client:
            client.sendall(upgrade("/stays"))
            check(client.recv(12) == b"HTTP/1.1 101", "no upgrade")
            # It does not answer a close: the old one waits for it until its time is up.
            old = servers.serving
            old.process.send_signal(signal.SIGTERM)
            while answers(servers):
                pass
            servers.serving = servers.start()
            servers.serving.line(30)
            check(old.process.poll() is None, "the old process has not waited for its connection")
            check(answers(servers), "the new process does not serve")
            check(old.process.wait(20) == 0, "the old process did not end well")
        check(answers(servers), "the new process does not serve alone")
        servers.restart()
        servers.serving.process.send_signal(signal.SIGTERM)
        check(servers.serving.process.wait(20) == 0, "the last process did not end well")
    print("  a new process that comes while the old one shuts down: serves at once", flush=True)


def with_redis(folder, started):
    """Subscribers that are restarted, of publishers that go on at another server: only positions tell what came meanwhile."""
    redis = Redis(folder)
    started.append(redis)
    servers, others = (Servers(folder, loops=2, name=name, redis=redis.url) for name in ("subscribers", "publishers"))
    started += [servers, others]
    servers.begin()
    others.begin()
    load = Load(servers.port, REDIS_CONNECTIONS, REDIS_CONNECTIONS // 4, 300, others.port)
    started.append(load)
    short_restarts(servers, load, REDIS_CONNECTIONS)
    read = servers.figure("starling_recoveries_total")
    print(f"  publications over Redis; the last server has read what {read} subscriptions missed from the history", flush=True)
    check(read > 0, "nobody was brought up to date from the history")
    ends_well(load, servers, others)


def chat(folder, started):
    """The example chat: after a restart its visitors are whom they were, where they were, and notice nothing."""
    servers = Servers(folder, loops=2, name="chat", program="Chat")
    started.append(servers)
    servers.begin()
    ada, bob = Visitor(servers.port, "Ada"), Visitor(servers.port, "Bob")
    try:
        for restart in range(1, 4):
            servers.restart()
            text = f"after restart {restart}"
            ada.send({
                "type": "publish", "id": 3, "topic": "room:lobby", "data": {"key": f"key-{restart:08}", "text": text},
            })
            ada.next("published")
            for visitor in (ada, bob):
                said = visitor.next("publication")["data"]
                check(said["text"] == text and said["member"] == ada.member, f"{said}")
            # Who comes now finds both of them.
            bob.send({"type": "members", "id": 4, "topic": "room:lobby"})
            present = {member["id"]: member["info"] for member in bob.next("members")["members"]}
            expected = {visitor.member["id"]: visitor.member["nickname"] for visitor in (ada, bob)}
            check(present == expected, f"present are {present}")
            late = Visitor(servers.port, "ada")
            late.close()
            check(late.member["nickname"] == "ada 2" and late.member["id"] not in present, f"{late.member}")
        print("  the chat: after 3 restarts its visitors are whom they were, where they were", flush=True)
    finally:
        ada.close()
        bob.close()
    servers.serving.process.send_signal(signal.SIGTERM)
    check(servers.serving.process.wait(20) == 0, "the chat did not end well")


def ends_well(load, *all_servers):
    figures = load.check(load.stop())
    for name in ("unanswered", "unheard"):
        check(figures[name] == 0, f"{figures[name]} {name}: {figures}")
    print(f"  {figures['sent']} messages and {figures['heard']} publications, {figures['inflated']} of them compressed with context: "
          "none lost, doubled or out of order, and no disconnect", flush=True)
    for servers in all_servers:
        servers.serving.process.send_signal(signal.SIGTERM)
        check(servers.serving.process.wait(20) == 0, "the last process did not end well")
        check(not os.path.exists(servers.path), "the socket's file was left")


def main():
    with tempfile.TemporaryDirectory() as folder:
        started = []
        try:
            without_redis(folder, started)
            shutting_down(folder, started)
            with_redis(folder, started)
            chat(folder, started)
        except (Failure, OSError, subprocess.TimeoutExpired) as failure:
            print(f"failed: {failure}", file=sys.stderr)
            for servers in started:
                if isinstance(servers, Servers):
                    print("\n".join(servers.log().splitlines()[-30:]), file=sys.stderr)
            return 1
        finally:
            for each in reversed(started):
                each.end()
    return 0


if __name__ == "__main__":
    begin = time.monotonic()
    status = main()
    print(f"{'passed' if status == 0 else 'failed'} after {time.monotonic() - begin:.0f} s")
    sys.exit(status)
