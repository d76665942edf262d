// starling.js with a server of ours, whose command line stands in STARLING_SERVER.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { connect, listen, soon, test } from "./support.mjs";

const command = process.env.STARLING_SERVER.split(" ");

/** A server for the time of a test. */
async function start(t, port = 0, ...flags) {
  const child = spawn(command[0], [...command.slice(1), "--host", "127.0.0.1", "--port", String(port), ...flags], { stdio: ["ignore", "pipe", "inherit"] });
  const exited = new Promise((resolve) => child.on("exit", resolve));
  t.after(() => child.kill("SIGKILL"));
  const address = await soon(new Promise((resolve) => {
    createInterface({ input: child.stdout }).on("line", (line) => {
      if (line.startsWith("listening on ")) resolve(line.slice("listening on ".length));
    });
  }), "the server listens");
  return {
    url: `ws://${address}/topics`,
    origin: `http://${address}`,
    port: Number(address.split(":")[1]),
    async end(signal) {
      child.kill(signal);
      return soon(exited, `the server ends after ${signal}`);
    },
  };
}

test("events, requests, presence, and what is refused", async (t) => {
  const { url } = await start(t);
  const ada = connect(t, url);
  const grace = connect(t, url);
  await ada.request("enter", "Ada");
  await grace.request("enter", "Grace");
  const heard = listen(ada, "room:a");
  assert.equal((await heard.next()).type, "subscribed");
  assert.equal((await heard.next()).member.info, "Ada");
  const other = listen(grace, "room:a");
  assert.equal((await heard.next()).member.info, "Grace");
  assert.deepEqual((await ada.members("room:a")).map(({ info }) => info).sort(), ["Ada", "Grace"]);
  const data = { text: "Grüße, 世界 \u{1f426} \" \\ \u2028 \u0000", number: -1.5e-7, deep: [[[null, true]]] };
  const position = await grace.publish("room:a", data);
  assert.deepEqual(await heard.next(), { type: "event", event: data, position });
  other.close();
  const left = await heard.next();
  assert.equal(left.type, "left");
  assert.equal(left.member.info, "Grace");
  assert.deepEqual(await ada.request("reversed", ["a", "b"]), ["b", "a"]);
  await assert.rejects(ada.request("reversed", 7), { code: "invalid-data" });
  await assert.rejects(ada.request("unheard-of"), { code: "unknown-request" });
  await assert.rejects(ada.request("never", null, { timeout: 50 }), { code: "timeout" });
  await assert.rejects(ada.topic("secret:a").updates().next(), { code: "forbidden" });
  await assert.rejects(ada.members("secret:a"), { code: "forbidden" });
  await assert.rejects(ada.publish("$starling:x", 1), { code: "forbidden" });
});

test("texts and bytes that a server's application publishes", async (t) => {
  const { url } = await start(t);
  const client = connect(t, url);
  const events = client.topic("room:texts")[Symbol.asyncIterator]();
  await client.members("room:texts"); // answered after the subscription
  await client.request("publish-text", "no JSON {");
  await client.request("publish-text", "{\"json\": [1]}");
  await client.request("publish-bytes", [0, 127, 128, 255]);
  const heard = [];
  while (heard.length < 3) heard.push((await soon(events.next(), "an event")).value);
  assert.deepEqual(heard, ["no JSON {", { json: [1] }, new Uint8Array([0, 127, 128, 255])]);
});

test("a client that was away gets what it missed, once and in order", async (t) => {
  const { url } = await start(t);
  const writer = connect(t, url);
  const client = connect(t, url, { comesBack: (code) => code === 4000 });
  const topic = listen(client, "room:missed");
  const fleeting = listen(client, "fleeting");
  assert.equal((await topic.next()).type, "subscribed");
  assert.equal((await fleeting.next()).recovered, true);
  for (let round = 0; round < 3; round += 1) {
    client.request("close", 4000).catch(() => {});
    await client.until("waiting");
    for (let number = 0; number < 20; number += 1) await writer.publish("room:missed", round * 20 + number);
    const { type, recovered } = await topic.next();
    assert.deepEqual({ type, recovered }, { type: "subscribed", recovered: true });
    for (let number = 0; number < 20; number += 1) assert.equal((await topic.next()).event, round * 20 + number);
    assert.equal((await fleeting.next()).recovered, false);
  }
});

test("a slow iteration gets everything, without holding it all", async (t) => {
  const { url } = await start(t);
  const writer = connect(t, url);
  const client = connect(t, url, { bufferMax: 16 });
  const updates = client.topic("room:slow").updates();
  assert.equal((await updates.next()).value.recovered, true);
  await Promise.all(Array.from({ length: 500 }, (_, number) => writer.publish("room:slow", number)));
  let expected = 0;
  let subscriptions = 0;
  while (expected < 500) {
    const { value } = await soon(updates.next(), `event ${expected}`);
    if (value.type === "subscribed") {
      assert.equal(value.recovered, true);
      subscriptions += 1;
    } else {
      assert.equal(value.event, expected);
      expected += 1;
    }
  }
  assert.ok(subscriptions > 0, "the topic was left and taken up again");
});

test("a position that a page has kept is taken up again by another client", async (t) => {
  const { url } = await start(t);
  const first = connect(t, url);
  const { position } = await listen(first, "room:kept").next();
  await first.publish("room:kept", "one");
  first.close();
  const second = connect(t, url);
  const topic = listen(second, "room:kept", { position });
  assert.equal((await topic.next()).recovered, true);
  assert.equal((await topic.next()).event, "one");
  const third = connect(t, url);
  assert.equal((await listen(third, "room:kept", { position: "0.17" }).next()).recovered, false);
});

test("a server that was killed: publications wait for it, and it says that its memory is gone", async (t) => {
  const first = await start(t);
  const client = connect(t, first.url);
  const topic = listen(client, "room:killed");
  const events = client.topic("room:killed")[Symbol.asyncIterator]();
  await client.publish("room:killed", "before");
  for (const type of ["subscribed", "event"]) assert.equal((await topic.next()).type, type);
  await first.end("SIGKILL");
  await client.until("waiting");
  const published = ["one", "two"].map((data) => client.publish("room:killed", data));
  await start(t, first.port);
  await Promise.all(published);
  assert.equal((await topic.next()).recovered, false);
  assert.equal((await topic.next()).event, "one");
  assert.equal((await topic.next()).event, "two");
  assert.equal((await events.next()).value, "before");
  await assert.rejects(events.next(), { code: "gap" });
  for (const data of ["one", "two"]) assert.equal((await events.next()).value, data);
});

test("a server that shuts down says when to come back", async (t) => {
  const server = await start(t);
  const client = connect(t, server.url);
  await client.until("connected");
  const ended = server.end("SIGTERM");
  const { until } = await client.until("waiting");
  assert.ok(until > Date.now());
  assert.equal(await ended, 0);
});

test("the client is served, and asked for again only if it has changed", async (t) => {
  const { origin } = await start(t);
  const first = await fetch(`${origin}/starling.js`);
  assert.equal(first.status, 200);
  assert.equal(first.headers.get("content-type"), "text/javascript; charset=utf-8");
  assert.equal(first.headers.get("cache-control"), "no-cache");
  const { readFile } = await import("node:fs/promises");
  assert.equal(await first.text(), await readFile(process.env.STARLING_SERVED, "utf8"));
  const tag = first.headers.get("etag");
  for (const [value, status] of [[tag, 304], [`W/${tag}`, 304], ["*", 304], [`"other", ${tag}`, 304], ["\"other\"", 200], ["", 200]]) {
    const again = await fetch(`${origin}/starling.js`, { headers: { "if-none-match": value } });
    assert.equal(again.status, status, value);
    assert.equal((await again.text()).length > 0, status === 200);
  }
});
