"""Three chat nodes behind nginx: what is said reaches everybody once and in one order, whatever happens to a node or to Redis."""

import asyncio
import json
import os
import secrets
import signal
import sys
import time

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from cluster import Cluster, expect

ROOMS = 30
MEMBERS = 10
PORT = 18480
CHECKS = []


def check(name):
    return lambda function: CHECKS.append((name, function))


class Client:
    """A client as the page is one: it comes back, joins again, and says again what has not come back to it."""

    def __init__(self, room, nickname, port=PORT):
        self.room, self.nickname, self.port = room, nickname, port
        self.shown = {}  # id → text, in the order of arrival
        self.pending = {}  # key → text
        self.left = []
        self.connections = 0
        self.joined = asyncio.Event()
        self.task = asyncio.create_task(self.run())

    async def run(self):
        while True:
            try:
                async with connect(
                    f"ws://127.0.0.1:{self.port}/chat", subprotocols=["starling.v1.json"], proxy=None, open_timeout=5
                ) as self.socket:
                    self.connections += 1
                    self.id = 0
                    self.joining = await self.ask("request", name="join", data={"room": self.room, "nickname": self.nickname})
                    async for text in self.socket:
                        await self.received(json.loads(text))
            except (OSError, ConnectionClosed, InvalidHandshake, TimeoutError):
                pass
            self.joined.clear()
            await asyncio.sleep(secrets.randbelow(500) / 1000)

    async def ask(self, type, **fields):
        self.id += 1
        await self.socket.send(json.dumps({"type": type, "id": self.id, **fields}))
        return self.id

    async def received(self, message):
        match message["type"]:
            case "reply":
                for said in message["data"]["history"]:
                    self.show(said)
                await self.ask("subscribe", topic=f"room:{self.room}", position=message["data"]["position"])
                for key, text in self.pending.items():
                    await self.publish(key, text)
                self.joined.set()
            case "publication":
                self.show(message["data"])
            case "left":
                self.left.append(message["member"]["info"])
            case "error" if message["code"] == "unavailable":
                # Redis is away: it comes back, to another node perhaps, and asks again.
                await self.socket.close()
            case "error":
                raise AssertionError(message)

    async def publish(self, key, text):
        await self.ask("publish", topic=f"room:{self.room}", data={"key": key, "text": text}, key=key)

    def show(self, message):
        self.pending.pop(message["key"], None)
        self.shown.setdefault(message["id"], message["text"])

    async def say(self, text):
        key = secrets.token_hex(16)
        self.pending[key] = text
        if self.joined.is_set():
            try:
                await self.publish(key, text)
            except ConnectionClosed:
                pass  # it is said again after coming back

    async def close(self):
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def until(condition, what, seconds=40):
    end = time.monotonic() + seconds
    while not condition():
        expect(time.monotonic() < end, f"in vain: {what}")
        await asyncio.sleep(0.05)


async def settle(rooms, said):
    """Waits until everybody has seen all that was said in its room, and checks that nothing came twice or in another order."""
    for room, clients in rooms.items():
        expected = sorted(said[room])
        for client in clients:
            await until(lambda: len(client.shown) >= len(expected), f"{client.nickname} sees {len(expected)} messages")
            expect(sorted(client.shown.values()) == expected, f"{room}: {len(client.shown)} of {len(expected)}")
            expect(list(client.shown) == list(clients[0].shown), f"{room}: two orders")


async def join(prefix, rooms=ROOMS, members=MEMBERS):
    joined = {f"{prefix} {room}": [] for room in range(rooms)}
    for room, clients in joined.items():
        clients += [Client(room, f"M{number}") for number in range(members)]
    everybody = [client for clients in joined.values() for client in clients]
    await asyncio.wait_for(asyncio.gather(*(client.joined.wait() for client in everybody)), 60)
    return joined, everybody


async def saying(rooms, said, seconds, pause):
    """A member of each room says something, again and again. Rooms remember 50 messages: no more may be said while one is away."""
    end = time.monotonic() + seconds
    number = 0
    while time.monotonic() < end:
        for room, clients in rooms.items():
            text = f"{number} of {room}"
            said[room].append(text)
            await clients[number % len(clients)].say(text)
        number += 1
        await asyncio.sleep(pause)


@check(f"{ROOMS * MEMBERS} clients in {ROOMS} rooms: everybody sees everything once, in one order")
async def _(cluster):
    rooms, everybody = await join("calm")
    said = {room: [] for room in rooms}
    await saying(rooms, said, 3, 0.1)
    await settle(rooms, said)
    print(f"        {sum(map(len, said.values()))} said, {sum(len(client.shown) for client in everybody)} received")
    expect(all(client.connections == 1 for client in everybody), "nobody had to come back")
    await asyncio.gather(*(client.close() for client in everybody))


@check("a frozen Redis: what was said comes through when it goes on")
async def _(cluster):
    rooms, everybody = await join("frozen", rooms=5, members=6)
    said = {room: [] for room in rooms}
    os.kill(cluster.redis, signal.SIGSTOP)
    try:
        await saying(rooms, said, 8, 0.5)
    finally:
        os.kill(cluster.redis, signal.SIGCONT)
    await saying(rooms, said, 1, 0.2)
    await settle(rooms, said)
    print(f"        {sum(client.connections - 1 for client in everybody)} came back")
    await asyncio.gather(*(client.close() for client in everybody))


@check("a killed node, and its return: its clients come back, its members leave once, and nothing is missing")
async def _(cluster):
    rooms, everybody = await join("killed", rooms=5, members=6)
    witnesses = [Client(room, "Witness", port=PORT + 2) for room in rooms]
    await asyncio.gather(*(client.joined.wait() for client in witnesses))
    # Somebody who does not come back.
    ghost = Client("killed 0", "Ghost", port=PORT + 1)
    await ghost.joined.wait()
    said = {room: [] for room in rooms}
    with open(f"/proc/{cluster.node}/cmdline", "rb") as file:
        command = file.read().rstrip(b"\0").split(b"\0")
    talk = asyncio.create_task(saying(rooms, said, 7, 0.2))
    await asyncio.sleep(1)
    os.kill(cluster.node, signal.SIGKILL)
    await ghost.close()
    # It returns while people talk, under the same name.
    await asyncio.sleep(3)
    returned_node = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    late = [Client(room, "Late", port=PORT + 1) for room in rooms]
    await asyncio.gather(*(client.joined.wait() for client in late))
    for client in late:
        rooms[client.room].append(client)
    await talk
    await settle(rooms, said)
    returned = sum(client.connections - 1 for client in everybody)
    expect(returned > 0, "nobody was on the killed node")
    await until(lambda: "Ghost" in witnesses[0].left, "the ghost leaves", 20)
    await asyncio.sleep(2)
    expect(witnesses[0].left.count("Ghost") == 1, witnesses[0].left)
    print(f"        {returned} came back, and the ghost has left")
    await asyncio.gather(*(client.close() for client in everybody + witnesses + late))
    returned_node.terminate()
    expect(await asyncio.wait_for(returned_node.wait(), 20) == 0, "the node that returned ends well")


async def main():
    cluster = Cluster(PORT)
    await cluster.start()
    try:
        for name, function in CHECKS:
            try:
                async with asyncio.timeout(120):
                    await function(cluster)
            except Exception as error:
                print(f"FAILED  cluster: {name}\n        {type(error).__name__}: {error}", file=sys.stderr)
                return 1
            print(f"ok      cluster: {name}", flush=True)
    finally:
        await cluster.stop()
    print(f"{len(CHECKS)} checks of the cluster passed")
    return 0


sys.exit(asyncio.run(main()))
