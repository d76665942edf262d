"""Restarts three nodes behind nginx, one after the other, under reconnecting clients and constant publishing, and counts what
they got and how long they were away. Started by rolling.sh."""

import argparse
import asyncio
import json
import math
import os
import resource
import secrets
import shutil
import signal
import sys
import tempfile
import time
import urllib.request

HOST = "127.0.0.1"
START_SECONDS = 20
# Longer than a client may be away, and than the last publication may take.
ANSWER_SECONDS = 30
LATE_MILLISECONDS_MAX = 1000
TOPICS_PER_CLIENT = 2


class Failed(Exception):
    pass


class Process:
    """A program that is started, and stopped whatever happens."""

    def __init__(self, name, directory, *command):
        self.name, self.command = name, [str(word) for word in command]
        self.log = os.path.join(directory, f"{name}.log")

    async def start(self, **options):
        with open(self.log, "ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.command, **{"stdin": asyncio.subprocess.DEVNULL, "stdout": log, "stderr": log, **options}, start_new_session=True
            )
        return self

    async def listens(self, port):
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self.process.returncode is not None:
                break
            try:
                _, writer = await asyncio.open_connection(HOST, port)
                writer.close()
                return
            except OSError:
                await asyncio.sleep(0.05)
        raise Failed(f"{self.name} does not listen on port {port}:\n{self.tail()}")

    def tail(self):
        with open(self.log, errors="replace") as log:
            return log.read()[-2000:]

    async def stop(self, sign=signal.SIGTERM):
        """Stops it and says in how many seconds it ended."""
        start = time.monotonic()
        if self.process.returncode is None:
            self.process.send_signal(sign)
        await asyncio.wait_for(self.process.wait(), START_SECONDS)
        return time.monotonic() - start

    def status(self, field):
        with open(f"/proc/{self.process.pid}/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith(field + ":"))

    def cpu_seconds(self):
        with open(f"/proc/{self.process.pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def get(port, path):
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}{path}", timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def figure(port, name):
    return next(int(line.split()[1]) for line in get(port, "/metrics")[1].splitlines() if line.startswith(name + " "))


async def until(condition, what):
    end = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise Failed(f"in vain: {what}")
        await asyncio.sleep(0.05)


class Run:
    def __init__(self, options, directory):
        self.options, self.directory = options, directory
        self.started = []
        port = options.port
        self.ports = {f"node{number}": port + number for number in (1, 2, 3)}
        self.redis_port = port + 9
        self.ticket_key = secrets.token_hex(16)

    async def start(self, process, port, **options):
        self.started.append(process)
        await process.start(**options)
        if port:
            await process.listens(port)
        return process

    def configure(self, source, target):
        with open(os.path.join("Examples/Cluster", source)) as file:
            text = file.read()
        words = {"DIRECTORY": self.directory, "PORT": self.options.port} | {
            name.upper(): port for name, port in self.ports.items()
        }
        for word, value in words.items():
            text = text.replace(word, str(value))
        # Two for each client, and as many again that are just ending.
        text = text.replace("worker_connections 8192", f"worker_connections {max(1024, 5 * self.options.clients)}")
        with open(os.path.join(self.directory, target), "w") as file:
            file.write(text)

    async def set_up(self):
        options = self.options
        redis = Process(
            "redis", self.directory, "redis-server", "--bind", HOST, "--port", self.redis_port, "--save", "", "--dir", self.directory
        )
        await self.start(redis, self.redis_port)
        self.nodes = {}
        for name, port in self.ports.items():
            node = Process(
                name, self.directory, options.server, "--host", HOST, "--port", port, "--redis", f"redis://{HOST}:{self.redis_port}",
                "--drain-timeout", options.drain_timeout, "--log-level", "warning", "--ticket-key", self.ticket_key,
            )
            self.nodes[name] = await self.start(node, port)
        self.configure("nginx.conf", "nginx.conf")
        self.configure("nginx-least-conn.conf", "upstream.conf")
        nginx = Process(
            "nginx", self.directory, "nginx", "-c", f"{self.directory}/nginx.conf", "-e", f"{self.directory}/nginx.log"
        )
        await self.start(nginx, options.port)
        self.client = Process(
            "client", self.directory, options.client, "--url", f"ws://{HOST}:{options.port}/topics", "--clients", options.clients,
            "--topics", options.topics, "--interval", options.interval,
        )
        pipe = asyncio.subprocess.PIPE
        await self.start(self.client, None, stdin=pipe, stdout=pipe)
        joined = (await self.answer())["joined"]
        # Fewer than two for each client: of thousands some have the same topic twice.
        self.subscriptions = self.standing()
        print(f"joined: {joined} clients, each in {TOPICS_PER_CLIENT} of {options.topics} topics: {self.subscriptions} subscriptions", flush=True)

    def say(self, word):
        self.client.process.stdin.write(f"{word}\n".encode())

    async def answer(self):
        try:
            line = await asyncio.wait_for(self.client.process.stdout.readline(), ANSWER_SECONDS)
        except asyncio.TimeoutError:
            raise Failed(f"no word from the clients:\n{self.client.tail()}{self.logs()}") from None
        if not line:
            raise Failed(f"the clients' process has ended:\n{self.client.tail()}")
        if not line.startswith(b"{"):
            raise Failed(f"not all clients come back: {line.decode()}{self.logs()}")
        return json.loads(line)

    def logs(self):
        with open(f"{self.directory}/nginx.log", errors="replace") as log:
            return "nginx:\n" + log.read()[-2000:] + "".join(f"{name}:\n{node.tail()}" for name, node in self.nodes.items())

    def standing(self):
        """Subscriptions at all nodes."""
        return sum(figure(port, "starling_subscriptions") for port in self.ports.values())

    def asked(self, *names):
        """How often the application of these nodes was asked for a subscription; nobody asks it for what a ticket is good for."""
        return sum(int(get(self.ports[name], "/asked")[1]) for name in names)

    async def restart(self, name):
        """SIGTERM, and the same node again once it has ended; how its clients fared."""
        node, port = self.nodes[name], self.ports[name]
        connections = figure(port, "starling_websockets")
        # The node's own count ends with it.
        asked = self.asked(*(self.ports.keys() - {name}))
        self.say("restart")
        seconds = await node.stop()
        if node.process.returncode != 0:
            raise Failed(f"{name} ended with {node.process.returncode}:\n{node.tail()}")
        await node.start()
        await until(lambda: self.is_ready(port), f"{name} is ready again")
        self.say("settle")
        report = await self.answer()
        asked = self.asked(*self.ports) - asked
        resumed = report["away"] - math.ceil(asked / TOPICS_PER_CLIENT)
        return report | {"connections": connections, "seconds": seconds, "resumed": resumed, "missing": self.subscriptions - self.standing()}

    @staticmethod
    def is_ready(port):
        try:
            return get(port, "/ready")[0] == 200
        except OSError:
            return False

    async def stop(self):
        for process in reversed(self.started):
            if getattr(process, "process", None) and process.process.returncode is None:
                try:
                    await process.stop()
                except asyncio.TimeoutError:
                    process.process.kill()


def check_restart(name, row):
    problems = []
    if row["resumed"] != row["away"]:
        problems.append(f"{row['away']} clients were away, and {row['resumed']} of them were resumed by their tickets")
    if row["missing"]:
        problems.append(f"{row['missing']} subscriptions are missing")
    if row["away"] != row["connections"]:
        problems.append(f"{row['away']} clients were away, and {row['connections']} were on the node")
    if row["awayTwice"]:
        problems.append(f"{row['awayTwice']} clients were away more than once")
    if row["notTold"]:
        problems.append(f"{row['notTold']} connections ended without a word when to come back")
    if row["lateMillisecondsMax"] >= LATE_MILLISECONDS_MAX:
        problems.append(f"somebody was away for its slot and {row['lateMillisecondsMax']} ms more")
    return [f"{name}: {problem}" for problem in problems]


async def run(options, directory):
    run = Run(options, directory)
    try:
        await run.set_up()
        run.say("publish")
        begin = time.monotonic()
        problems = []
        print("\nrestarted   clients on it   away   resumed   twice   not told   away ms p50   p99   max   over its slot ms p50   p99   max   tries   node stopped in")
        for name in run.ports:
            # Some time in which nothing happens but publishing.
            await asyncio.sleep(options.pause)
            row = await run.restart(name)
            problems += check_restart(name, row)
            print(
                f"{name:<9}   {row['connections']:>13}   {row['away']:>4}   {row['resumed']:>7}   {row['awayTwice']:>5}   {row['notTold']:>8}"
                f"   {row['awayMilliseconds50']:>11}   {row['awayMilliseconds99']:>3}   {row['awayMillisecondsMax']:>3}"
                f"   {row['lateMilliseconds50']:>20}   {row['lateMilliseconds99']:>3}   {row['lateMillisecondsMax']:>3}"
                f"   {row['attempts']:>5}   {row['seconds']:.1f} s",
                flush=True,
            )
        await asyncio.sleep(options.pause)
        client = run.client
        use = f"{client.status('VmHWM') >> 10} MiB at most, {client.status('Threads')} threads, {client.cpu_seconds():.0f} s of CPU time"
        run.say("end")
        total = await run.answer()
        seconds = time.monotonic() - begin
        print(
            f"\n{total['published']} publications in {seconds:.0f} s; received {total['received']} of {total['expected']}:"
            f" {total['lost']} lost, {total['duplicated']} duplicated, {total['reordered']} reordered, {total['gaps']} gaps"
        )
        print(f"the clients' process: {use}")
        for fault in ("lost", "duplicated", "reordered", "gaps"):
            if total[fault]:
                problems.append(f"{total[fault]} {fault}")
        if total["received"] < total["expected"] or not total["published"]:
            problems.append(f"received {total['received']} of {total['expected']}")
        run.client.process.stdin.close()
        if await asyncio.wait_for(run.client.process.wait(), START_SECONDS) != 0:
            problems.append(f"the clients' process failed:\n{run.client.tail()}")
        for node in run.nodes.values():
            if said := node.tail().replace(f"listening on", "").strip().splitlines():
                said = [line for line in said if "warning" in line or "error" in line or "Fatal" in line]
                problems += [f"{node.name} said: {line}" for line in said[:5]]
        return problems
    finally:
        await run.stop()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", required=True)
    parser.add_argument("--client", required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--port", type=int, default=8400)
    parser.add_argument("--topics", type=int, default=20)
    parser.add_argument("--interval", type=int, default=1000)
    parser.add_argument("--drain-timeout", type=int, default=10)
    parser.add_argument("--pause", type=float, default=3)
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if 5 * options.clients > hard:
        sys.exit(f"{options.clients} clients need {5 * options.clients} descriptors in nginx, and a process may have {hard}")
    directory = tempfile.mkdtemp()
    try:
        problems = asyncio.run(run(options, directory))
    except Failed as error:
        problems = [str(error)]
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    for problem in problems:
        print(f"FAILED  {problem}", file=sys.stderr)
    if not problems:
        print(f"ok      {options.clients} clients, three restarts: all of them resumed by their tickets, nothing lost, and nobody away for longer than asked and 1 s")
    return 1 if problems else 0


sys.exit(main())
