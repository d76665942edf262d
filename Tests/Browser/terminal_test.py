"""ChatClient, the chat in a terminal: a real process whose input is typed and whose output is read."""

import asyncio
import sys

from support import WAIT_SECONDS, Member, Server, arguments, expect, run_on


class Terminal:
    def __init__(self, process):
        self.process = process

    @classmethod
    async def start(cls, program, server, room, nickname):
        return cls(await asyncio.create_subprocess_exec(
            program, f"ws://127.0.0.1:{server.port}", "--room", room, "--nickname", nickname,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        ))

    async def until(self, line, seconds=WAIT_SECONDS):
        """The lines up to this one."""
        lines = []
        try:
            async with asyncio.timeout(seconds):
                while not lines or lines[-1] != line:
                    read = await self.process.stdout.readline()
                    expect(read, f"it ended before it said {line!r}: {lines}")
                    lines.append(read.decode().rstrip("\n"))
        except TimeoutError:
            expect(False, f"it does not say {line!r}: {lines}")

    def type(self, line):
        self.process.stdin.write(f"{line}\n".encode())

    async def end(self):
        self.process.stdin.close()
        return await asyncio.wait_for(self.process.wait(), WAIT_SECONDS)


async def chat(server, program):
    """It shows what was said, says what is typed, comes back from a killed server, and says once what was typed meanwhile."""
    ada = await Member.joined(server, "terminal", "Ada")
    await ada.say("said before")
    terminal = await Terminal.start(program, server, "terminal", "Grace & Co")
    await terminal.until("Ada: said before")
    await terminal.until("* Grace & Co joined")
    terminal.type("Grüße, <b>Ada</b>")
    expect((await ada.until("message"))["text"] == "Grüße, <b>Ada</b>", "Ada hears it")
    await terminal.until("Grace & Co: Grüße, <b>Ada</b>")
    await ada.say("and to you")
    await terminal.until("Ada: and to you")
    await ada.leave()
    await terminal.until("* Ada left")
    await server.kill()
    async with asyncio.timeout(WAIT_SECONDS):
        while not (await terminal.process.stdout.readline()).startswith(b"* the next attempt is in"):
            pass
    terminal.type("typed while away")
    await server.start()
    await terminal.until("Grace & Co: typed while away", seconds=40)
    ada = await Member.joined(server, "terminal", "Ada")
    expect([said["text"] for said in ada.welcome["history"]] == ["typed while away"], ada.welcome)
    expect([there["nickname"] for there in ada.welcome["members"]] == ["Grace & Co", "Ada"], ada.welcome)
    expect(await terminal.end() == 0, "the end of the input ends it")
    await ada.until("left")
    await ada.leave()


async def refused(server, program):
    """A name that cannot be is a reason to end, and is said."""
    terminal = await Terminal.start(program, server, "", "Nobody")
    output, _ = await asyncio.wait_for(terminal.process.communicate(), WAIT_SECONDS)
    expect(terminal.process.returncode != 0 and b"invalid-room" in output, output.decode())


CHECKS = [("chats, and comes back", chat), ("says why it cannot", refused)]
options = arguments("--client")
sys.exit(asyncio.run(run_on(Server(options.server), "terminal", CHECKS, options.client)))
