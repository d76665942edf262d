"""starling.js in a real Chromium: it recovers from another node what it missed, and comes back when the network or the page does."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile

from websockets.asyncio.client import connect

from browser import Browser
from support import WAIT_SECONDS, Server, arguments, expect, run_on

CHECKS = []


def check(name):
    return lambda function: CHECKS.append((name, function))


async def open_client(browser, server, topic, **options):
    """A page with a client, what it has heard of a topic, and the states it has been in."""
    tab = await browser.open(server.origin)
    await tab.value(f"""
        import("/starling.js").then(({{StarlingClient}}) => {{
            window.states = [];
            window.heard = [];
            window.client = new StarlingClient("/topics", {json.dumps(options)});
            client.addEventListener("state", () => states.push(client.state.status));
            client.topic({json.dumps(topic)}, {{onupdate: (update) => heard.push(update)}});
        }})""")
    await tab.until("heard.length > 0", "it is subscribed")
    return tab


async def publish(server, topic, *events):
    """Publishes as another client does, and waits until each is acknowledged."""
    async with connect(f"ws://127.0.0.1:{server.port}/topics", subprotocols=["starling.v1.json"], proxy=None) as socket:
        for id, data in enumerate(events, 1):
            await socket.send(json.dumps({"type": "publish", "id": id, "topic": topic, "data": data}))
            answer = json.loads(await asyncio.wait_for(socket.recv(), WAIT_SECONDS))
            expect(answer["type"] == "published" and answer["position"], answer)


async def is_away(tab):
    await tab.until("client.state.status === 'waiting'", "it waits to come back")


async def is_back(tab, subscriptions):
    await tab.until(
        f"heard.filter(({{type}}) => type === 'subscribed').length === {subscriptions}", "it is subscribed again", seconds=40
    )


@check("a node is killed: what was published by way of another one arrives once, in order, and what the page publishes too")
async def _(server, browser, other):
    tab = await open_client(browser, server, "room:killed")
    subscriptions = 1
    expected = []
    for round in range(3):
        await publish(other, "room:killed", f"{round} before")
        await tab.until(f"heard.at(-1).event === '{round} before'")
        await server.kill()
        await is_away(tab)
        await publish(other, "room:killed", *(f"{round} away {number}" for number in range(100)))
        await tab.value(f"window.published = client.publish('room:killed', {{mine: {round}}}); 0")
        await server.start()
        subscriptions += 1
        await is_back(tab, subscriptions)
        position = await tab.value("published")
        await tab.until(f"heard.at(-1).event?.mine === {round}", "what it published itself is the last")
        expect(await tab.value("heard.at(-1).position") == position, "an acknowledgement has the position")
        expected += [f"{round} before", *(f"{round} away {number}" for number in range(100)), {"mine": round}]
    events = await tab.value("heard.filter(({type}) => type === 'event').map(({event}) => event)")
    expect(events == expected, f"{len(events)} events, expected {len(expected)}: {events[:5]} … {events[-5:]}")
    expect(await tab.value("heard.every(({recovered}) => recovered !== false)"), "everything is recovered")
    await tab.close()


@check("the network returns: the page comes back at once")
async def _(server, browser, other):
    tab = await open_client(browser, server, "room:network", waitMin=1e9, waitMax=1e9)
    await tab.call("Network.enable")
    offline = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    await tab.call("Network.emulateNetworkConditions", offline=True, **offline)
    await server.kill()
    await is_away(tab)
    await server.start()
    expect(await tab.value("client.state.until - Date.now() > 1e6"), "it would wait long")
    await tab.call("Network.emulateNetworkConditions", offline=False, **offline)
    await is_back(tab, 2)
    await tab.close()


@check("the page is thawed: it comes back at once, and asks whether the link is there if it has one")
async def _(server, browser, other):
    tab = await open_client(browser, server, "room:frozen", waitMin=1e9, waitMax=1e9)
    await server.kill()
    await is_away(tab)
    await server.start()
    # A headless page is never hidden, and so never frozen: the browser's events are sent by hand.
    await tab.value("document.dispatchEvent(new Event('resume'))")
    await is_back(tab, 2)
    # A server that hangs: the question is not answered.
    await tab.value("client.close()")
    tab2 = await open_client(browser, server, "room:frozen", answerMax=500)
    os.killpg(server.process.pid, signal.SIGSTOP)
    try:
        await tab2.value("dispatchEvent(new Event('online'))")
        await is_away(tab2)
    finally:
        os.killpg(server.process.pid, signal.SIGCONT)
    await is_back(tab2, 2)
    await tab.close()
    await tab2.close()


@check("a page reads by iteration, and leaves")
async def _(server, browser, other):
    tab = await open_client(browser, server, "room:iterated")
    await tab.value("""(async () => {
        window.iterated = [];
        for await (const event of client.topic("room:iterated")) if (iterated.push(event) === 2) break;
        client.close();
    })() && 0""")
    await publish(other, "room:iterated", {"text": "<b>one</b>"}, None, "three")
    await tab.until("client.state.status === 'closed'")
    expect(await tab.value("iterated") == [{"text": "<b>one</b>"}, None], await tab.value("iterated"))
    await tab.close()


async def main():
    options = arguments()
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "redis.sock")
        redis = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", path, "--save", "", "--dir", directory], stdout=subprocess.DEVNULL
        )
        server, other = (Server(f"{options.server} --redis unix://{path}") for _ in range(2))
        try:
            await other.start()
            async with Browser() as browser:
                return await run_on(server, "script", CHECKS, browser, other)
        finally:
            await other.kill()
            redis.kill()
            redis.wait()


sys.exit(asyncio.run(main()))
