"""Uses the chat's page as people do: tabs of a real Chromium, a server that is killed, a phone, a keyboard."""

import asyncio
import sys

from browser import run_checks
from support import Member, arguments, expect

CHECKS = []
MARKUP = "<img src=x onerror=alert(1)></script><b>bold</b>"


def check(name):
    return lambda function: CHECKS.append((name, function))


async def enter(browser, server, nickname, room, **options):
    """Opens a tab and joins a room by the dialog, as a person does who comes for the first time."""
    tab = await browser.open(server.origin, **options)
    await tab.until("document.querySelector('#hello').open", "the dialog asks for a name")
    for selector, text in (("#nickname", nickname), ("#first-room", room)):
        await tab.value(f"document.querySelector('{selector}').select()")
        await tab.click(selector)
        await tab.value(f"document.querySelector('{selector}').select()")
        await tab.type(text)
    await tab.click("#enter button")
    await tab.until("document.body.dataset.link === 'online'", "it is online")
    return tab


async def say(tab, text):
    await tab.click("#text")
    await tab.type(text)
    await tab.press("Enter")


async def is_shown_once(tab, text):
    await tab.until_text("#log .text", text)
    count = await tab.value(f"[...document.querySelectorAll('#log .text')].filter((made) => made.textContent === {text!r}).length")
    expect(count == 1, f"{text!r} is shown {count} times")


def expect_no_complaints(tab, but=None):
    """The console is empty and no policy was violated, but for what a test has brought about itself."""
    complaints = [line for line in tab.complaints if but is None or but not in line]
    expect(not complaints, "\n".join(complaints))


@check("two tabs chat: messages, who is typing, who is here, coming and going")
async def _(browser, server, output):
    ada = await enter(browser, server, "Ada", "lobby")
    await ada.until("!document.querySelector('#empty').hidden", "an empty room says so")
    await ada.screenshot(output / "empty-room.png")
    grace = await enter(browser, server, "Grace", "lobby")
    await ada.until_text("#here bdi", "Grace")
    await ada.until_text("#here-count", "2")
    await say(ada, "Good morning, Grace")
    for tab in (ada, grace):
        await is_shown_once(tab, "Good morning, Grace")
    await grace.click("#text")
    await grace.type("And a good")
    await ada.until_text("#typing", "Grace is typing…")
    await grace.type(" morning to you, Ada. This one is long enough to need a second line in a narrow window, and it has "
                     "a-word-that-goes-on-and-on-" + "and-on" * 20)
    await grace.press("Enter")
    await ada.until("document.querySelector('#typing').textContent === ''", "nobody is typing any more")
    await say(ada, "Shift and Enter")
    await ada.click("#text")
    await ada.type("first line")
    await ada.press("Enter", shift=True)
    await ada.type("second line")
    await ada.press("Enter")
    await is_shown_once(grace, "first line\nsecond line")
    # A crowd, so that the pictures show a room in use.
    crowd = [await Member.joined(server, "lobby", name) for name in ("Edsger", "Barbara", "Donald", "Ada")]
    for member, text in zip(crowd, ("Has anybody measured it?", "Yes: see the benchmarks.", "Premature, as ever.", "I am another Ada.")):
        await member.say(text)
    await ada.until_text("#here bdi", "Ada 2")
    await is_shown_once(ada, "I am another Ada.")
    await ada.screenshot(output / "desktop-light.png")
    await ada.scheme("dark")
    await ada.screenshot(output / "desktop-dark.png")
    for member in crowd:
        await member.leave()
    await grace.close()
    await ada.until_text("#here-count", "1")
    expect_no_complaints(ada)
    await ada.close()


@check("what was said is there when one joins, and rooms are apart")
async def _(browser, server, output):
    ada = await enter(browser, server, "Ada", "history")
    await say(ada, "said before")
    await is_shown_once(ada, "said before")
    grace = await enter(browser, server, "Grace", "history")
    await is_shown_once(grace, "said before")
    await grace.click("#other-room")
    await grace.type("elsewhere")
    await grace.press("Enter")
    await grace.until_text("#room", "elsewhere")
    await ada.until_text("#here-count", "1")
    await say(grace, "said elsewhere")
    await is_shown_once(grace, "said elsewhere")
    await say(ada, "still in history")
    await is_shown_once(ada, "still in history")
    expect("said elsewhere" not in await ada.text("#log"), "rooms are apart")
    await grace.value("history.back()")
    await grace.until_text("#room", "history")
    await is_shown_once(grace, "still in history")
    for tab in (ada, grace):
        expect_no_complaints(tab)
        await tab.close()


@check("what people write never becomes markup: texts, names, rooms")
async def _(browser, server, output):
    ada = await enter(browser, server, "<i>Ada</i>", "<b>room</b>")
    await ada.until_text("#here bdi", "<i>Ada</i>")
    await ada.until_text("#room", "<b>room</b>")
    await say(ada, MARKUP)
    await is_shown_once(ada, MARKUP)
    member = await Member.joined(server, "<b>room</b>", "<u>Mallory</u>")
    await member.say("<svg onload=alert(2)>")
    await is_shown_once(ada, "<svg onload=alert(2)>")
    await ada.until_text("#here bdi", "<u>Mallory</u>")
    made = await ada.value("document.querySelectorAll('main img, main b, main i:not(#link i), main u, main svg[onload], aside i, aside u').length")
    expect(made == 0, f"{made} elements were made of users' text")
    refused = await ada.value("(() => { try { document.body.insertAdjacentHTML('beforeend', '<p>'); return false } catch { return true } })()")
    expect(refused, "the policy refuses to make markup of a string")
    ada.complaints.clear()
    await member.leave()
    await ada.close()


@check("a killed server is survived: both come back, and what was typed meanwhile is said once")
async def _(browser, server, output):
    ada = await enter(browser, server, "Ada", "restart")
    grace = await enter(browser, server, "Grace", "restart")
    await say(ada, "before")
    await is_shown_once(grace, "before")
    await server.kill()
    await ada.until("document.body.dataset.link !== 'online'", "it shows that it is away")
    await say(ada, "while away")
    await ada.until("document.querySelector('#pending').textContent.includes('Will be sent when you are back online')", "it says what becomes of it")
    await ada.screenshot(output / "reconnecting.png")
    await server.start()
    for tab in (ada, grace):
        await tab.until("document.body.dataset.link === 'online'", "it comes back by itself", seconds=40)
        await is_shown_once(tab, "while away")
    await ada.until("document.querySelector('#pending').childElementCount === 0", "nothing is pending")
    await say(grace, "after")
    await is_shown_once(ada, "after")
    await ada.until_text("#here-count", "2")
    for tab in (ada, grace):
        expect_no_complaints(tab, but="WebSocket connection to")
        await tab.close()


@check("the keyboard is enough, and a reload brings one back into the room")
async def _(browser, server, output):
    ada = await browser.open(server.origin)
    await ada.until("document.activeElement?.id === 'nickname'", "the first field has the focus")
    await ada.screenshot(output / "dialog.png")
    await ada.type("Ada")
    await ada.press("Tab")
    await ada.value("document.activeElement.select()")
    await ada.type("keys")
    await ada.press("Enter")
    await ada.until("document.body.dataset.link === 'online' && document.activeElement?.id === 'text'", "one can type at once")
    await ada.type("by keyboard")
    await ada.press("Enter")
    await is_shown_once(ada, "by keyboard")
    reached = set()
    for _ in range(30):
        await ada.press("Tab")
        reached.add(await ada.value("document.activeElement?.id || document.activeElement?.closest('[id]')?.id"))
    expect({"rooms", "other-room", "rename", "scroller", "text"} <= reached, f"Tab reaches {reached}")
    await ada.click("#rename")
    await ada.until("document.querySelector('#hello').open")
    await ada.press("Escape")
    await ada.until("!document.querySelector('#hello').open", "Escape closes the dialog")
    await ada.reload()
    await ada.until("document.body.dataset.link === 'online'", "it remembers name and room")
    await is_shown_once(ada, "by keyboard")
    expect_no_complaints(ada)
    await ada.close()


@check("a phone: the panel opens and closes, and nothing is wider than the screen")
async def _(browser, server, output):
    ada = await enter(browser, server, "Ada", "phone", size=(390, 844, True))
    member = await Member.joined(server, "phone", "Grace")
    for text in ("Shall we meet at noon?", "w" * 200, "Or at one."):
        await member.say(text)
    await say(ada, "Noon is fine.")
    await is_shown_once(ada, "Noon is fine.")
    width = "document.documentElement.scrollWidth <= innerWidth && document.querySelector('#scroller').scrollWidth <= innerWidth"
    await ada.until(width, "nothing is wider than the screen")
    await ada.screenshot(output / "phone.png")
    await ada.click("#menu")
    await ada.until("document.querySelector('#menu').ariaExpanded === 'true' && document.querySelector('#side').checkVisibility()", "the panel is open")
    await ada.screenshot(output / "phone-panel.png")
    await ada.press("Escape")
    await ada.until("document.querySelector('#menu').ariaExpanded === 'false'", "Escape closes the panel")
    await ada.until(width)
    await member.leave()
    expect_no_complaints(ada)
    await ada.close()


sys.exit(asyncio.run(run_checks("page", CHECKS, arguments("--output"))))
