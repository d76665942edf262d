"""Looks at the status page of a server that is used: with the password, and without."""

import asyncio
import base64
import contextlib
import json
import sys
import urllib.error
import urllib.request

from browser import run_checks
from support import Member, arguments, expect

CHECKS = []
PATH = "/debug/starling"
ROOM = "<b>room</b>"


def check(name):
    return lambda function: CHECKS.append((name, function))


def authorization(token):
    return "Basic " + base64.b64encode(f"operator:{token}".encode()).decode()


async def fetch(server, path, token=None):
    """Status and body of a plain request."""
    request = urllib.request.Request(server.origin + path)
    if token is not None:
        request.add_header("Authorization", authorization(token))

    def ask():
        # A proxy of the machine's is none of this server's.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=10) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    return await asyncio.to_thread(ask)


async def look(browser, server, token, **options):
    """Opens the page as somebody who knows the password."""
    tab = await browser.open("about:blank", **options)
    await tab.call("Network.enable")
    await tab.call("Network.setExtraHTTPHeaders", headers={"Authorization": authorization(token)})
    await tab.go(server.origin + PATH)
    await tab.until("document.body.dataset.state === 'live'", "it has figures")
    return tab


@contextlib.asynccontextmanager
async def crowd(server, count=6):
    """Members who chat all the time, in a room whose name is markup."""
    members = [await Member.joined(server, ROOM, f"<i>{number}</i>") for number in range(count)]

    # Told to end, not cancelled: a cancellation can be lost where something is waited for with a limit.
    is_over = asyncio.Event()

    async def chat(member):
        while not is_over.is_set():
            await member.say("a sentence of some length, again and again")
            # Well below the rate at which the chat sends a member away.
            await asyncio.sleep(0.01)

    tasks = [asyncio.create_task(chat(member)) for member in members]
    try:
        yield members
    finally:
        is_over.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        for member in members:
            await member.leave()


def expect_no_complaints(tab):
    expect(not tab.complaints, "\n".join(tab.complaints))


@check("without the password, or with a wrong one, there is nothing to see")
async def _(browser, server, output, token):
    for part in ("", "/snapshot", "/status.js", "/status.css"):
        for wrong in (None, "", "wrong", token + "x", token[:-1]):
            status, body = await fetch(server, PATH + part, wrong)
            expect(status == 401 and body == b"You may not see this.\n", f"{part}, {wrong!r}: {status}")
        expect((await fetch(server, PATH + part, token))[0] == 200, f"{part} with the password")


@check("under load the plots move, and the tables name topics, links and causes")
async def _(browser, server, output, token):
    async with crowd(server) as members:
        tab = await look(browser, server, token)
        for plot in ("messages", "bytes", "connections"):
            await tab.until(
                f"document.querySelector('[data-plot={plot}] polyline').getAttribute('points')?.split(' ').length >= 5",
                f"the plot of {plot} has points", seconds=20,
            )
        await tab.until("parseFloat(document.querySelector('[data-plot=messages] strong').textContent) > 0", "messages per second")
        await tab.until(f"document.querySelector('[data-plot=connections] strong').textContent === '{len(members)}'", "WebSockets")
        await tab.until("document.querySelector('#stage').textContent === 'serving'")
        await tab.until("document.querySelector('#ready').textContent === 'ready'")
        await tab.until("document.querySelector('#loops tbody').rows.length >= 1", "event loops")
        await tab.until("document.querySelector('#links tbody').textContent.includes('memory')", "the broadcaster")
        await tab.until("document.querySelector('#limits tbody').rows.length > 5", "limits")
        # A row for the topic, with its name as it is.
        await tab.until(f"[...document.querySelectorAll('#topics td')].some((cell) => cell.textContent.includes({json.dumps(ROOM)}))", "the topic")
        await members[0].socket.close(code=4000)
        await tab.until("document.querySelector('#causes').textContent.includes('peerClosed')", "the cause of an end", seconds=20)
        await tab.screenshot(output / "status-light.png")
        await tab.scheme("dark")
        await tab.screenshot(output / "status-dark.png")
        expect_no_complaints(tab)
        await tab.close()


@check("connections are shown page by page, and what users write is text")
async def _(browser, server, output, token):
    async with crowd(server, 3):
        tab = await look(browser, server, token)
        await tab.click("#show")
        await tab.until("[...document.querySelectorAll('#connections td')].filter((cell) => cell.textContent === 'open').length === 3", "three are open")
        await tab.until(f"document.querySelector('#connections').textContent.includes({json.dumps(ROOM)})", "their topics")
        made = await tab.value("document.querySelectorAll('main b, main i, main img').length")
        expect(made == 0, f"{made} elements were made of users' text")
        refused = await tab.value("(() => { try { document.body.insertAdjacentHTML('beforeend', '<p>'); return false } catch { return true } })()")
        expect(refused, "the policy refuses to make markup of a string")
        tab.complaints.clear()
        await tab.click("#show")
        await tab.until("document.querySelector('#connections').rows.length === 0", "hidden again")
        await tab.click("#pause")
        await tab.until("document.querySelector('#pause').ariaPressed === 'true'")
        expect_no_complaints(tab)
        await tab.close()


@check("a phone: nothing but the tables' own frames is wider than the screen")
async def _(browser, server, output, token):
    async with crowd(server, 2):
        tab = await look(browser, server, token, size=(390, 844, True))
        await tab.click("#show")
        await tab.until("document.querySelector('#connections tbody')?.rows.length >= 2")
        await tab.until("document.documentElement.scrollWidth <= innerWidth", "nothing is wider than the screen")
        await tab.until("document.querySelector('[data-plot=connections] polyline').getAttribute('points')?.split(' ').length >= 5", "points", seconds=20)
        expect(await tab.text("[data-plot=connections] strong") == "2", "both are still there")
        await tab.value("scrollTo(0, 0)")
        await tab.screenshot(output / "status-phone.png")
        expect_no_complaints(tab)
        await tab.close()


@check("a server that is gone is said to be, and one that comes back is shown again")
async def _(browser, server, output, token):
    tab = await look(browser, server, token)
    await server.kill()
    await tab.until("!document.querySelector('#trouble').hidden", "it says so")
    await tab.screenshot(output / "status-away.png")
    await server.start()
    await tab.until("document.querySelector('#trouble').hidden", "it is back", seconds=20)
    await tab.until("document.body.dataset.state === 'live'")
    tab.complaints = [line for line in tab.complaints if "net::ERR_" not in line]
    expect_no_complaints(tab)
    await tab.close()


OPTIONS = arguments("--token", "--output")
sys.exit(asyncio.run(run_checks("status page", CHECKS, OPTIONS, OPTIONS.token)))
