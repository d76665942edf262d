"""What both tests need: a server to start and to kill, a member to chat with, and checks that are counted."""

import argparse
import asyncio
import collections
import contextlib
import itertools
import json
import os
import secrets
import shlex
import signal
import socket
import sys
import tempfile
import time

from websockets.asyncio.client import connect

ROOM_MEMBERS_MAX = 8
WAIT_SECONDS = 10


def arguments(*more):
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", required=True, help="command; {port} and {members} are replaced")
    for name in more:
        parser.add_argument(name, required=True)
    return parser.parse_args()


class Server:
    """The server under test: one port, and as many processes, one after the other, as a test wants."""

    def __init__(self, command):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.command = shlex.split(command.replace("{port}", str(self.port)).replace("{members}", str(ROOM_MEMBERS_MAX)))
        self.process = None
        self.log = tempfile.TemporaryFile()

    @property
    def origin(self):
        return f"http://127.0.0.1:{self.port}"

    async def start(self):
        # A session of its own, so that `kill` reaches what the command may have started in turn.
        self.process = await asyncio.create_subprocess_exec(
            *self.command, stdin=asyncio.subprocess.DEVNULL, stdout=self.log, stderr=self.log, start_new_session=True
        )
        deadline = time.monotonic() + 30
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.close()
                return
            except ConnectionRefusedError:
                if self.process.returncode is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the server does not listen on port {self.port}:\n{self.output()}")
                await asyncio.sleep(0.02)

    async def kill(self):
        """Ends the server as a power cut would."""
        if self.process is not None and self.process.returncode is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            await self.process.wait()

    def output(self):
        self.log.seek(0)
        return self.log.read()[-4000:].decode(errors="replace")


class Member:
    """One WebSocket that speaks the chat's protocol. What it hears is told as {"type", "room", …}: message, joined, left, typing, error."""

    def __init__(self, socket):
        self.socket = socket
        self.ids = itertools.count(1)
        self.heard = collections.deque()
        self.welcome = None

    @classmethod
    async def connect(cls, server, query=""):
        return cls(await connect(
            f"ws://127.0.0.1:{server.port}/chat{query}", subprotocols=["starling.v1.json"], proxy=None, origin=server.origin, max_size=None
        ))

    @classmethod
    async def joined(cls, server, room, nickname):
        member = await cls.connect(server)
        await member.join(room, nickname)
        return member

    async def ask(self, type, **fields):
        id = next(self.ids)
        await self.socket.send(json.dumps({"type": type, "id": id, **fields}))
        return id

    async def send(self, type, **fields):
        """Asks for what the chat knows: to join, to say something, that one is typing; everything else as it is."""
        room = self.welcome["room"] if self.welcome else "nowhere"
        match type:
            case "join":
                return await self.ask("request", name="join", data=fields)
            case "say":
                # A key that breaks the chat's rule may break the subprotocol's, too, which is not what is asked here.
                return await self.ask("publish", topic=f"room:{room}", data=fields, key=fields["key"][:64] or "empty")
            case "typing":
                return await self.ask("publish", topic=f"typing:{room}", data=None)
            case _:
                return await self.ask(type, **fields)

    async def receive_text(self):
        return await asyncio.wait_for(self.socket.recv(), WAIT_SECONDS)

    async def answer(self, id):
        """The answer with this id; what comes before it is heard later."""
        async with asyncio.timeout(WAIT_SECONDS):
            while (message := json.loads(await self.receive_text())).get("id") != id:
                self.heard.append(message)
        return message

    async def receive(self):
        """The next message that is no acknowledgement."""
        while True:
            message = self.heard.popleft() if self.heard else json.loads(await self.receive_text())
            kind, _, room = message.get("topic", "").partition(":")
            match message["type"]:
                case "publication":
                    expect((message.get("position") is not None) == (kind == "room"), message)
                    return {"type": "message" if kind == "room" else "typing", "room": room, **message["data"]}
                case "joined" | "left":
                    there = message["member"]
                    return {"type": message["type"], "room": room, "member": {"id": there["id"], "nickname": there["info"]}}
                case "error":
                    return message

    async def until(self, type, **fields):
        """The next message of that type with those fields; what comes before it is passed over."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                message = await self.receive()
                if message["type"] == type and all(message.get(name) == value for name, value in fields.items()):
                    return message

    async def join(self, room, nickname):
        if self.welcome:
            for topic in ("room", "typing"):
                await self.answer(await self.ask("unsubscribe", topic=f"{topic}:{self.welcome['room']}"))
        answer = await self.answer(await self.send("join", room=room, nickname=nickname))
        expect(answer["type"] == "reply", answer)
        welcome = answer["data"]
        topic = f"room:{welcome['room']}"
        # In one breath: the answers come in this order.
        asked = [
            await self.ask("subscribe", topic=topic, position=welcome["position"]),
            await self.ask("subscribe", topic=f"typing:{welcome['room']}"),
        ]
        for id in asked:
            answer = await self.answer(id)
            expect(answer["type"] == "subscribed" and answer["recovered"], answer)
        next, members = {}, []
        while next is not None:
            listed = await self.answer(await self.ask("members", topic=topic, **next))
            members += [{"id": there["id"], "nickname": there["info"]} for there in listed["members"]]
            next = {"from": listed["next"]} if listed.get("next") else None
        # Ids of one node grow; who is present is listed in no order.
        members.sort(key=lambda there: (len(there["id"]), there["id"]))
        history = [{"type": "message", "room": welcome["room"], **said} for said in welcome["history"]]
        self.welcome = welcome | {"members": members, "history": history}
        # Its own `joined` is the last thing that joining brings.
        await self.until("joined", member=welcome["member"])
        return self.welcome

    async def say(self, text, key=None):
        """Says it, waits until it comes back, and returns that."""
        key = key or secrets.token_hex(16)
        await self.send("say", key=key, text=text)
        return await self.until("message", key=key)

    async def refused(self, code, **message):
        id = await self.send(**message)
        answer = await self.receive()
        expect(answer["type"] == "error" and answer["code"] == code, f"{code} expected for {str(message)[:80]}: {answer}")
        expect(answer["id"] == id, answer)
        expect(isinstance(answer["text"], str) and answer["text"], "an error has a text")
        return answer

    async def quiet(self):
        """Checks that nothing else was on its way: an answer to something asked now comes next."""
        await self.refused("invalid-message", type="nonsense")

    async def close_code(self):
        await asyncio.wait_for(self.socket.wait_closed(), WAIT_SECONDS)
        return self.socket.close_code

    async def leave(self):
        await self.socket.close()


class Failed(Exception):
    pass


def expect(condition, what):
    if not condition:
        raise Failed(what)


class Checks:
    """Counts and reports; the first failure ends the run, with what the server wrote."""

    def __init__(self, server):
        self.server = server
        self.count = 0

    @contextlib.asynccontextmanager
    async def check(self, name):
        try:
            async with asyncio.timeout(90):
                yield
        except Exception as error:
            print(f"FAILED  {name}\n        {type(error).__name__}: {error}", file=sys.stderr)
            print(f"--- the server wrote:\n{self.server.output()}", file=sys.stderr)
            raise
        self.count += 1
        print(f"ok      {name}", flush=True)


async def run_on(server, what, checks, *more):
    """Starts the server, and runs checks: each gets it, and what else there is. The program's exit status."""
    counted = Checks(server)
    try:
        await server.start()
        for name, function in checks:
            async with counted.check(f"{what}: {name}"):
                await function(server, *more)
    except Exception:
        return 1
    finally:
        await server.kill()
    print(f"{counted.count} checks of the {what} passed")
    return 0
