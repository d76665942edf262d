"""What goes wrong in production: no descriptors left, a port in use, a shutdown that a client does not answer."""

import asyncio
import contextlib
import resource
import struct
import time

from support import PROGRAM, WAIT_SECONDS, Echo, Peer, Suite, expect, frame, request

suite = Suite("bad day")


@suite.check("no descriptors are left: the server idles, serves whom it has, and accepts again when some leave")
async def _():
    few = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    async with Echo("--loops", 1, preexec_fn=few) as server:
        served = []
        waiting = []
        for _ in range(100):
            peer = await Peer.connect(server)  # by the kernel, whoever accepts it
            await peer.send(request(port=server.port))
            try:
                async with asyncio.timeout(0.2 if waiting else 1):
                    await peer.upgraded()
                served.append(peer)
            except TimeoutError:
                waiting.append(peer)
                if len(waiting) == 5:
                    break
        expect(30 < len(served) < 64 and len(waiting) == 5, f"{len(served)} are served, {len(waiting)} wait")

        before, started = server.cpu_seconds(), time.monotonic()
        while time.monotonic() - started < 2:
            for peer in served[:3]:
                await peer.echo(b"still here")
            await asyncio.sleep(0.1)  # a pace, not a wait: what the server needs for it is measured
        share = (server.cpu_seconds() - before) / (time.monotonic() - started)
        expect(share < 0.05, f"the server takes {share:.0%} of a core")

        for peer in served[:10]:
            await peer.close()
        started = time.monotonic()
        for peer in waiting:
            await peer.upgraded()
            await peer.echo(b"served at last")
        expect(time.monotonic() - started < 1, "the waiting ones are served within a second")
        expect("accepting pauses" in server.output(), "the log says it")
        for peer in served[10:] + waiting:
            await peer.close()


@suite.check("SIGTERM: everybody gets 1001, nobody new is let in, and a client that does not answer holds nothing up")
async def _():
    async with Echo("--drain-timeout", 3) as server:
        async with contextlib.AsyncExitStack() as stack:
            peers = [await stack.enter_async_context(Peer.open(server)) for _ in range(20)]
            for peer in peers:
                await peer.echo(b"before")
            started = time.monotonic()
            server.terminate()

            async def answers(peer):
                received = await asyncio.wait_for(peer.frame(), WAIT_SECONDS)
                expect(received[:1] == (0x88,) and received[1][:2] == struct.pack(">H", 1001), received)
                told = time.monotonic() - started
                await peer.send(frame(0x88, received[1][:2]))
                await peer.ends()
                return told

            # The last one never answers.
            told = await asyncio.gather(*(answers(peer) for peer in peers[:-1]))
            expect(max(told) - min(told) > 0.5, "they are told one after the other")
            code = await server.exit_code()
            expect(code == 0, f"exit code {code}\n{server.output()}")
            expect(time.monotonic() - started < 5, "within the drain timeout")


@suite.check("SIGTERM without connections ends at once")
async def _():
    async with Echo() as server:
        started = time.monotonic()
        server.terminate()
        expect(await server.exit_code() == 0, server.output())
        expect(time.monotonic() - started < 2, "nothing to wait for")


@suite.check("a port that is in use, an address that is not ours, a file that is missing: an error that says so")
async def _():
    async with Echo() as server:
        for flags, words in (
            (["--port", server.port], ["in use", str(server.port)]),
            (["--host", "192.0.2.1", "--port", 0], ["192.0.2.1"]),
            (["--host", "no such host", "--port", 0], ["no such host"]),
            (["--unix", "/no/such/folder/socket"], ["/no/such/folder/socket"]),
            (["--tls-cert", "/no/such/file", "--tls-key", "/no/such/file"], ["/no/such/file"]),
            (["--port", 70000], ["--port"]),
            (["--tls-cert", "/no/such/file"], ["--tls-key"]),
        ):
            process = await asyncio.create_subprocess_exec(
                PROGRAM, *map(str, flags), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
            )
            output, _ = await asyncio.wait_for(process.communicate(), WAIT_SECONDS)
            text = output.decode()
            expect(process.returncode not in (0, None) and process.returncode > 0, f"{flags}: exit code {process.returncode}")
            expect(all(word in text for word in words), f"{flags}: {text}")


suite.run()
