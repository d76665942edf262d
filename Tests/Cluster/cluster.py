"""What the tests share: a cluster as a user starts it."""

import asyncio
import os
import re
import signal


def expect(condition, what):
    if not condition:
        raise AssertionError(what)


class Cluster:
    """./Examples/cluster.sh, and the processes that it says it has started."""

    def __init__(self, port, balancer="nginx-cookie"):
        self.arguments = ["--port", str(port), "--balancer", balancer]

    async def start(self):
        self.script = await asyncio.create_subprocess_exec(
            "./Examples/cluster.sh", *self.arguments,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, start_new_session=True,
        )
        self.output = ""
        while "Ctrl-C stops" not in self.output:
            line = await self.script.stdout.readline()
            if not line:
                raise RuntimeError(f"cluster.sh has ended:\n{self.output}")
            self.output += line.decode()
        self.node = int(re.search(r"kill -9 (\d+)", self.output)[1])
        self.redis = int(re.search(r"kill -STOP (\d+)", self.output)[1])

    async def stop(self):
        os.kill(self.script.pid, signal.SIGTERM)
        await asyncio.wait_for(self.script.wait(), 30)
