"""The processes of the benchmark: each is told what to do by lines, and answers by lines."""

import asyncio
import contextlib
import json
import tempfile
import time
from pathlib import Path

START_SECONDS = 60


class Failed(Exception):
    pass


class Child:
    """A process that dies with the benchmark, however that ends."""

    def __init__(self, name, process):
        self.name = name
        self.process = process

    @classmethod
    async def start(cls, name, *command):
        # The kernel ends it if this process is killed and can end nobody.
        process = await asyncio.create_subprocess_exec(
            "setpriv", "--pdeathsig", "KILL", *map(str, command),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 22,
        )
        return cls(name, process)

    def say(self, line):
        self.process.stdin.write(line.encode() + b"\n")

    async def hear(self):
        line = await self.process.stdout.readline()
        if not line:
            raise Failed(f"{self.name} has ended with status {await self.process.wait()}")
        return line.decode().strip()

    async def hear_event(self, *events):
        """The next answer, which must be one of these."""
        answer = json.loads(await self.hear())
        if answer["event"] not in events:
            raise Failed(f"{self.name} answers {answer['event']}, and {events} was expected")
        return answer

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    def private_bytes(self):
        """Memory that is its own."""
        with self.must_live():
            lines = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))

    def processor_seconds(self):
        # The kernel's clock of a process, as clock_getcpuclockid(3) makes it: nanoseconds, where /proc counts hundredths.
        with self.must_live():
            return time.clock_gettime(~self.process.pid << 3 | 2)

    @contextlib.contextmanager
    def must_live(self):
        """What the kernel tells of a process it tells only while there is one."""
        try:
            yield
        except OSError:
            raise Failed(f"{self.name} has ended") from None


class Children:
    """All of them; none outlives the block."""

    def __init__(self):
        self.all = []
        self.folder = tempfile.TemporaryDirectory(prefix="starling-million-")

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        # The Redis last: nobody is to complain of its end.
        for child in reversed(self.all):
            child.kill()
        await asyncio.gather(*(child.process.wait() for child in self.all))
        self.folder.cleanup()

    async def start(self, name, *command):
        child = await Child.start(name, *command)
        self.all.append(child)
        return child

    async def redis(self):
        """Starts a Redis that keeps nothing; returns it and its URL."""
        path = f"{self.folder.name}/redis.sock"
        redis = await self.start(
            "redis-server", "redis-server", "--port", 0, "--unixsocket", path, "--save", "", "--appendonly", "no",
            "--dir", self.folder.name, "--logfile", "redis.log",
        )
        async with asyncio.timeout(START_SECONDS):
            while not Path(path).exists():
                if redis.process.returncode is not None:
                    raise Failed("redis-server does not start")
                await asyncio.sleep(0.02)
        return redis, f"unix://{path}"
