"""Checks a chat server against Examples/Chat/PROTOCOL.md, with Python's websockets as the client."""

import asyncio
import json
import secrets
import sys
import time

from websockets.exceptions import InvalidStatus

from support import ROOM_MEMBERS_MAX, Member, Server, arguments, expect, run_on

CHECKS = []


def check(name):
    return lambda function: CHECKS.append((name, function))


@check("welcome names the member, the room, who is there and what was said")
async def _(server):
    ada = await Member.joined(server, "welcome", "Ada")
    expect(set(ada.welcome) == {"member", "room", "history", "position", "members"}, ada.welcome)
    expect(ada.welcome["member"]["nickname"] == "Ada" and ada.welcome["room"] == "welcome", ada.welcome)
    expect(ada.welcome["members"] == [ada.welcome["member"]] and ada.welcome["history"] == [], ada.welcome)
    said = await ada.say("Good morning\nand a tab\t")
    expect(set(said) == {"type", "room", "id", "member", "key", "text", "time"}, said)
    expect(said["member"] == ada.welcome["member"] and said["text"] == "Good morning\nand a tab\t", said)
    expect(type(said["time"]) is int and abs(said["time"] / 1000 - time.time()) < 60, said)
    grace = await Member.joined(server, "welcome", "Grace")
    expect(grace.welcome["members"] == [ada.welcome["member"], grace.welcome["member"]], grace.welcome)
    expect(grace.welcome["history"] == [said], grace.welcome)
    expect((await ada.until("joined"))["member"] == grace.welcome["member"], "Ada hears of Grace")
    await grace.leave()
    left = await ada.until("left")
    expect(left == {"type": "left", "room": "welcome", "member": grace.welcome["member"]}, left)
    await ada.leave()


@check("all members receive the same bytes in the same order")
async def _(server):
    members = [await Member.joined(server, "bytes", name) for name in ("Ada", "Grace", "Edsger")]
    for index, member in enumerate(members):
        for later in members[index + 1:]:
            await member.until("joined", member=later.welcome["member"])
    for round in range(5):
        for member in members:
            await member.send(type="say", key=secrets.token_hex(16), text=f"{round} “é” \U0001f426")
    heard = []
    for member in members:
        texts = []
        while len(texts) < 15:
            text = await member.receive_text()
            if json.loads(text)["type"] != "published":
                texts.append(text)
        heard.append(texts)
    expect(heard[0] == heard[1] == heard[2], heard)
    for member in members:
        await member.quiet()
    for member in members:
        await member.leave()


@check("a taken nickname gets a number, and stays within 32 characters")
async def _(server):
    long = "N" * 32
    for wished, given in (("Ada", "Ada"), ("ada", "ada 2"), (" Ada ", "Ada 3"), (long, long), (long, "N" * 30 + " 2")):
        member = await Member.joined(server, "names", wished)
        expect(member.welcome["member"]["nickname"] == given, f"{wished!r} became {member.welcome['member']}")
    ids = [there["id"] for there in member.welcome["members"]]
    expect(len(set(ids)) == len(ids) == 5, member.welcome)
    await member.leave()


@check("join switches rooms, and joining the same room again renames")
async def _(server):
    ada = await Member.joined(server, "one", "Ada")
    grace = await Member.joined(server, "one", "Grace")
    await ada.until("joined", member=grace.welcome["member"])
    first = grace.welcome["member"]
    await grace.join("one", "Hopper")
    expect(await ada.receive() == {"type": "left", "room": "one", "member": first}, "left before joined")
    expect(await ada.receive() == {"type": "joined", "room": "one", "member": {"id": first["id"], "nickname": "Hopper"}}, "joined")
    expect([there["nickname"] for there in grace.welcome["members"]] == ["Ada", "Hopper"], grace.welcome)
    await grace.join("two", "Grace")
    await ada.until("left")
    await ada.say("only in one")
    await grace.say("only in two")
    await ada.quiet()
    await grace.quiet()
    await ada.leave()
    await grace.leave()


@check("a refused join changes nothing")
async def _(server):
    ada = await Member.joined(server, "stay", "Ada")
    await ada.refused("invalid-room", type="join", room="", nickname="Ada")
    await ada.refused("invalid-nickname", type="join", room="elsewhere", nickname=" ")
    said = await ada.say("still here")
    expect(said["room"] == "stay", said)
    await ada.leave()


@check("names: white space at the ends goes, the limits hold, controls are refused")
async def _(server):
    ada = await Member.connect(server)
    for name in ("", " \u2003\n", "x" * 33, "a\nb", "a\u0000b", "a\u202eb", "a\u200bb", "a\u2028b"):
        await ada.refused("invalid-room", type="join", room=name, nickname="Ada")
        await ada.refused("invalid-nickname", type="join", room="fine", nickname=name)
    await ada.refused("invalid-room", type="join", room="", nickname="")
    for name, kept in ((" \u2003x\n", "x"), ("\U0001f426" * 32, "\U0001f426" * 32), ("\U0001f469\u200d\U0001f680", "\U0001f469\u200d\U0001f680")):
        welcome = await ada.join(name, name)
        expect(welcome["room"] == kept and welcome["member"]["nickname"] == kept, welcome)
    await ada.leave()


@check("a room's name is compared by canonical equivalence and keeps its first spelling")
async def _(server):
    ada = await Member.joined(server, "caf\u00e9", "Ada")
    grace = await Member.joined(server, "cafe\u0301", "Grace")
    expect(list(map(ord, grace.welcome["room"])) == list(map(ord, "caf\u00e9")), grace.welcome)
    expect(len(grace.welcome["members"]) == 2, grace.welcome)
    await ada.leave()
    await grace.leave()


@check("say: text and key limits")
async def _(server):
    ada = await Member.joined(server, "say", "Ada")
    key = secrets.token_hex(16)
    for text in ("", " \n\t", "x" * 2001, "a\u0000b", "a\rb", "a\u009fb"):
        await ada.refused("invalid-text", type="say", key=key, text=text)
    for key in ("", "short12", "x" * 65, "spaces are not", "ümlaut-ümlaut"):
        await ada.refused("invalid-key", type="say", key=key, text="fine")
    for text in ("x", "\U0001f426" * 2000, "a\u202eb", "<img src=x onerror=alert(1)>\\\"\u2028"):
        expect((await ada.say(text))["text"] == text, "text comes back as it was sent")
    await ada.leave()


@check("say and typing need a room")
async def _(server):
    ada = await Member.connect(server)
    await ada.refused("not-joined", type="say", key="k" * 8, text="")
    await ada.refused("not-joined", type="typing")
    await ada.refused("not-joined", type="subscribe", topic="room:nowhere")
    await ada.refused("not-joined", type="members", topic="room:nowhere")
    await ada.join("somewhere", "Ada")
    await ada.refused("not-joined", type="subscribe", topic="room:elsewhere")
    await ada.refused("not-joined", type="publish", topic="else", data={"key": "k" * 8, "text": "x"})
    await ada.leave()


@check("a room in the address is joined, a name that cannot be is refused with 403")
async def _(server):
    ada = await Member.joined(server, "address", "Ada")
    grace = await Member.connect(server, "?room=address&nickname=Grace+%26%20Co")
    answer = await grace.answer(await grace.send("subscribe", topic="room:address"))
    expect(answer["type"] == "subscribed", answer)
    expect((await ada.until("joined"))["member"]["nickname"] == "Grace & Co", "Ada hears of her")
    await grace.join("elsewhere", "Grace")
    await ada.leave()
    await grace.leave()
    for query in ("?room=&nickname=Ada", "?room=address", "?room=address&nickname=%0A"):
        try:
            await Member.connect(server, query)
            expect(False, f"{query} is let in")
        except InvalidStatus as refused:
            expect(refused.response.status_code == 403 and b"invalid-" in refused.response.body, refused.response)


@check("what is not a message of the protocol is refused, and the connection goes on")
async def _(server):
    ada = await Member.joined(server, "invalid", "Ada")
    for text in ("", "{", "null", "[]", '"say"', "{}", '{"type":1}', '{"type":"welcome"}', '{"type":"join","room":"x"}',
                 '{"type":"join","room":"x","nickname":null}', '{"type":"say","text":"x"}', '{"type":"say","key":1,"text":"x"}',
                 '{"type":"say","key":"kkkkkkkk","text":"\\ud800"}', "[" * 20_000):
        await ada.socket.send(text)
        answer = await ada.receive()
        expect(answer["type"] == "error" and answer["code"] == "invalid-message", f"{text[:60]}: {answer}")
    answer = await ada.answer(await ada.send(type="join", room="invalid", nickname="Ada", unknown={"ignored": True}))
    expect(answer["type"] == "reply", answer)
    await ada.leave()


@check("a key that is in the history is acknowledged and published once")
async def _(server):
    ada = await Member.joined(server, "once", "Ada")
    grace = await Member.joined(server, "once", "Grace")
    said = await ada.say("once", key="once-once-once")
    expect(await grace.receive() == said, "Grace hears it")
    again = await Member.joined(server, "once", "Ada")
    answer = await again.answer(await again.send(type="say", key="once-once-once", text="once"))
    expect(answer["type"] == "published" and answer["position"] == again.welcome["position"], "it is the message that is kept")
    await again.quiet()
    await grace.until("joined")
    await grace.quiet()
    expect((await Member.joined(server, "once", "Edsger")).welcome["history"] == [said], "it is kept once")
    for member in (ada, grace, again):
        await member.leave()


@check("the history keeps the last 50 messages, and at most 64 KiB")
async def _(server):
    ada = await Member.joined(server, "history", "Ada")
    said = [await ada.say(str(number)) for number in range(60)]
    kept = (await ada.join("history", "Ada"))["history"]
    expect(kept == said[10:], [message["text"] for message in kept])
    for number in range(40):
        await ada.say(f"{number:04}" + "x" * 1996)
    kept = (await ada.join("history", "Ada"))["history"]
    numbers, text = sum("x" * 1996 in message["text"] for message in kept), json.dumps(kept)
    expect(25 <= numbers < 40 and len(text.encode()) < 68 * 1024, f"{numbers} messages, {len(text)} characters")
    await ada.leave()


@check("typing reaches the room, at most once a second, and is not kept")
async def _(server):
    ada = await Member.joined(server, "typing", "Ada")
    grace = await Member.joined(server, "typing", "Grace")
    await ada.until("joined")
    for _ in range(5):
        await ada.send(type="typing")
    heard = await grace.receive()
    expect(heard == {"type": "typing", "room": "typing", "member": ada.welcome["member"]}, heard)
    said = await ada.say("done")
    expect(await grace.receive() == said, "the other four were dropped")
    expect((await grace.join("typing", "Grace"))["history"] == [said], "typing is not kept")
    await ada.leave()
    await grace.leave()


@check(f"a room with {ROOM_MEMBERS_MAX} members is full for others, not for its own")
async def _(server):
    members = [await Member.joined(server, "full", f"M{number}") for number in range(ROOM_MEMBERS_MAX)]
    late = await Member.connect(server)
    await late.refused("room-full", type="join", room="full", nickname="Late")
    await members[0].join("full", "Renamed")
    await members[1].leave()
    await members[0].until("left", member=members[1].welcome["member"])
    await late.join("full", "Late")
    for member in members[2:] + [members[0], late]:
        await member.leave()


@check("a connection that is cut leaves its room")
async def _(server):
    ada = await Member.joined(server, "cut", "Ada")
    grace = await Member.joined(server, "cut", "Grace")
    grace.socket.transport.abort()
    await ada.until("left", member=grace.welcome["member"])
    await ada.leave()


@check("close codes: 1003 for binary, 1009 over 32 KiB; others chat on")
async def _(server):
    witness = await Member.joined(server, "close", "Witness")
    binary = await Member.joined(server, "close", "Binary")
    await binary.socket.send(b"{}")
    expect(await binary.close_code() == 1003, binary.socket.close_code)
    long = await Member.joined(server, "close", "Long")
    await long.socket.send('{"type":"typing"}' + " " * 32 * 1024)
    expect(await long.close_code() == 1009, long.socket.close_code)
    widest = await Member.joined(server, "close", "Widest")
    text = "\U0001f426" * 2000  # json.dumps escapes each as 12 bytes
    expect((await widest.say(text))["text"] == text, "the largest valid message passes")
    await witness.until("message", text=text)
    await witness.leave()
    await widest.leave()


@check("a burst of 30 messages is fine")
async def _(server):
    ada = await Member.joined(server, "burst", "Ada")
    for number in range(30):
        await ada.send(type="say", key=f"burst-{number:04}", text=str(number))
    expect([(await ada.until("message"))["text"] for _ in range(30)] == [str(number) for number in range(30)], "in order")
    await ada.leave()


sys.exit(asyncio.run(run_on(Server(arguments().server), "protocol", CHECKS)))
