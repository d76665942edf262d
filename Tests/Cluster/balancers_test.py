"""The load balancers' configurations: whoever comes back lands on the same node, and on another one when that is gone."""

import asyncio
import os
import re
import signal
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from cluster import Cluster, expect

PORT = 18580
CLIENTS = 60


async def visit(cookie):
    """Connects, and returns the cookie that the browser would have then."""
    headers = {"Cookie": f"starling_node={cookie}"} if cookie else {}
    for _ in range(20):
        try:
            async with connect(
                f"ws://127.0.0.1:{PORT}/chat", proxy=None, open_timeout=5, additional_headers=headers
            ) as socket:
                field = socket.response.headers.get("Set-Cookie")
                await socket.close()
                return re.match(r"starling_node=([^;]*)", field)[1] if field else cookie
        except (OSError, ConnectionClosed, InvalidHandshake, TimeoutError):
            await asyncio.sleep(0.2)
    raise AssertionError("nobody answers")


def node(cookie):
    return cookie.split(".")[0]


async def check(balancer, spreads):
    cluster = Cluster(PORT, balancer)
    await cluster.start()
    try:
        cookies = await asyncio.gather(*(visit(None) for _ in range(CLIENTS)))
        nodes = {node(cookie) for cookie in cookies}
        expect(len(nodes) == (3 if spreads else 1), f"clients are on {nodes}")
        if balancer == "nginx-hash":
            # The first connection had no cookie to hash.
            cookies = await asyncio.gather(*(visit(cookie) for cookie in cookies))
        again = await asyncio.gather(*(visit(cookie) for cookie in cookies))
        hits = sum(node(before) == node(after) for before, after in zip(cookies, again))
        print(f"        {balancer}: {hits} of {CLIENTS} came back to their node")
        # The fewest connections say nothing of where one was before.
        expect(hits == CLIENTS or balancer == "nginx-least-conn", "somebody landed elsewhere")

        os.kill(cluster.node, signal.SIGKILL)
        after = await asyncio.gather(*(visit(cookie) for cookie in again))
        expect("node1" not in {node(cookie) for cookie in after}, "a dead node answers")
        moved = sum(node(before) != node(after) for before, after in zip(again, after))
        stayed = [pair for pair in zip(again, after) if node(pair[0]) == node(pair[1])]
        sessions = all(before.split(".")[1] == now.split(".")[1] for before, now in zip(again, after))
        expect(sessions, "a session has another name on another node")
        print(f"        {balancer}: node1 is killed: {moved} went to another node, {len(stayed)} stayed on theirs")
    finally:
        await cluster.stop()


async def main():
    for balancer in ["nginx-cookie", "nginx-hash", "haproxy", "nginx-ip-hash", "nginx-least-conn"]:
        try:
            async with asyncio.timeout(90):
                await check(balancer, spreads=balancer != "nginx-ip-hash")
        except Exception as error:
            print(f"FAILED  balancers: {balancer}\n        {type(error).__name__}: {error}", file=sys.stderr)
            return 1
        print(f"ok      balancers: {balancer}", flush=True)
    print("5 balancers passed")
    return 0


sys.exit(asyncio.run(main()))
