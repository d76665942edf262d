// What starling.js says and does, told by a server that can be told everything.

import assert from "node:assert/strict";
import { connect, listen, serve, soon, test } from "./support.mjs";

const code = (code) => (error) => error.name === "StarlingError" && error.code === code;

test("events of all kinds arrive, and updates with everything else", async (t) => {
  const server = await serve(t);
  const client = connect(t, server.url);
  const updates = listen(client, "room:é", { position: "e.1" });
  const events = client.topic("room:é")[Symbol.asyncIterator]();
  const peer = await server.accept();
  assert.equal((await peer.subscribe("room:é")).position, "e.1");
  peer.publish("room:é", { said: "Hello" }, "e.2");
  peer.publish("room:é", null, "e.3");
  peer.send({ type: "joined", topic: "room:é", member: { id: "ada", info: "Ada" } });
  peer.send({ type: "publication", topic: "room:é", text: "no JSON", position: "e.4" });
  peer.send({ type: "gap", topic: "room:é", after: "e.4", position: "e.9" });
  peer.send({ type: "publication", topic: "room:é", base64: "AP8=", position: "e.10" });
  peer.send({ type: "left", topic: "room:é", member: { id: "ada", info: "Ada" } });
  const member = { id: "ada", info: "Ada" };
  const expected = [
    { type: "subscribed", recovered: true, position: "e.1" },
    { type: "event", event: { said: "Hello" }, position: "e.2" },
    { type: "event", event: null, position: "e.3" },
    { type: "joined", member },
    { type: "event", event: "no JSON", position: "e.4" },
    { type: "gap", after: "e.4", position: "e.9" },
    { type: "event", event: new Uint8Array([0, 255]), position: "e.10" },
    { type: "left", member },
  ];
  for (const update of expected) assert.deepEqual(await updates.next(), update);
  for (const { type, event } of expected) {
    if (type === "event") assert.deepEqual((await events.next()).value, event);
    if (type === "gap") await assert.rejects(events.next(), code("gap"));
  }
});

test("plain iteration rejects in its turn where publications are lost, and goes on behind it", async (t) => {
  const server = await serve(t);
  const client = connect(t, server.url);
  const events = client.topic("room")[Symbol.asyncIterator]();
  let peer = await server.accept();
  await peer.subscribe("room", { position: "e.1" });
  peer.publish("room", "two", "e.2");
  peer.send({ type: "gap", topic: "room", position: "e.7" });
  peer.publish("room", "eight", "e.8");
  assert.equal((await events.next()).value, "two");
  await assert.rejects(events.next(), code("gap"));
  assert.equal((await events.next()).value, "eight");
  await peer.end();
  peer = await server.accept();
  await peer.subscribe("room", { recovered: false, position: "f.1" });
  peer.publish("room", "after", "f.2");
  const [lost, after] = await Promise.allSettled([events.next(), events.next()]);
  assert.ok(code("gap")(lost.reason), `${lost.reason}`);
  assert.equal(after.value.value, "after");
  await peer.end();
  peer = await server.accept();
  await peer.subscribe("room"); // recovered
  peer.publish("room", "last", "f.3");
  assert.equal((await events.next()).value, "last");
  client.close();
  assert.equal((await events.next()).done, true);
});

test("without a history nobody has promised anything: plain iteration goes on", async (t) => {
  const server = await serve(t);
  const client = connect(t, server.url);
  const events = client.topic("fleeting")[Symbol.asyncIterator]();
  const updates = client.topic("fleeting").updates();
  for (const round of [1, 2]) {
    const peer = await server.accept();
    await peer.subscribe("fleeting", { recovered: round === 1 });
    peer.publish("fleeting", round);
    assert.equal((await updates.next()).value.recovered, round === 1);
    assert.equal((await updates.next()).value.event, round);
    assert.equal((await events.next()).value, round);
    await peer.end();
  }
});

test("updates() has gaps as values, those of servers too that do not say where they begin", async (t) => {
  const server = await serve(t);
  const client = connect(t, server.url);
  const updates = client.topic("room").updates();
  const peer = await server.accept();
  await peer.subscribe("room", { recovered: false, position: "e.1" });
  peer.send({ type: "gap", topic: "room", position: "e.7" });
  assert.deepEqual((await updates.next()).value, { type: "subscribed", recovered: false, position: "e.1" });
  assert.deepEqual((await updates.next()).value, { type: "gap", position: "e.7", after: undefined });
});

test("a for await that stopped at a gap holds up no other reader, and ends when too much waits for it", async (t) => {
  const server = await serve(t);
  const client = connect(t, server.url, { bufferMax: 4 });
  const stopped = client.topic("room")[Symbol.asyncIterator]();
  const peer = await server.accept();
  await peer.subscribe("room", { position: "e.0" });
  const heard = [];
  peer.publish("room", 1, "e.1");
  peer.send({ type: "gap", topic: "room", position: "e.5" });
  await assert.rejects(async () => { for await (const event of stopped) heard.push(event); }, code("gap"));
  assert.deepEqual(heard, [1]);
  const other = listen(client, "room");
  for (let number = 6; number <= 20; number += 1) {
    peer.publish("room", number, `e.${number}`);
    assert.equal((await other.next()).event, number);
  }
  assert.equal(peer.messages.count, 0, "the topic was not left");
  for (const number of [6, 7, 8, 9]) assert.equal((await stopped.next()).value, number);
  await assert.rejects(stopped.next(), code("gap"));
  assert.equal((await stopped.next()).done, true);
  other.close();
  await peer.expect("unsubscribe", { topic: "room" }); // nobody is left
});

test("a for await that stopped at a gap while it was behind gives the topic back", async (t) => {
  const server = await serve(t);
  const client = connect(t, server.url, { bufferMax: 4 });
  const stopped = client.topic("room")[Symbol.asyncIterator]();
  const peer = await server.accept();
  await peer.subscribe("room", { position: "e.0" });
  peer.send({ type: "gap", topic: "room", position: "e.1" });
  for (const number of [2, 3, 4]) peer.publish("room", number, `e.${number}`);
  await peer.expect("unsubscribe", { topic: "room" });
  const other = listen(client, "room");
  await assert.rejects(stopped.next(), code("gap"));
  assert.equal((await peer.subscribe("room")).position, "e.4");
  assert.equal((await other.next()).type, "subscribed");
  for (const number of [5, 6, 7]) {
    peer.publish("room", number, `e.${number}`);
    assert.equal((await other.next()).event, number);
  }
  assert.equal(peer.messages.count, 0, "the topic was not left again");
});

test("readers of a topic share a subscription, and the last one ends it", async (t) => {
  const server = await serve(t);
  const client = connect(t, server.url);
  const peer = await server.accept();
  const first = client.topic("shared")[Symbol.asyncIterator]();
  const second = client.topic("shared").updates();
  await peer.subscribe("shared");
  peer.publish("shared", 1);
  assert.equal((await first.next()).value, 1);
  const pending = first.next();
  assert.deepEqual(await first.return("away"), { value: "away", done: true });
  assert.deepEqual(await soon(pending, "a waiting next() ends"), { value: undefined, done: true });
  assert.equal((await second.next()).value.type, "subscribed");
  assert.equal((await second.next()).value.event, 1);
  peer.publish("shared", 2);
  for await (const update of second) {
    assert.equal(update.event, 2);
    break;
  } // which calls return()
  await peer.expect("unsubscribe", { topic: "shared" });
  assert.equal((await second.next()).done, true);
});

test("a topic that is closed ends all that it began, and no other", async (t) => {
  const server = await serve(t);
  const client = connect(t, server.url);
  const peer = await server.accept();
  const topic = listen(client, "a");
  const other = client.topic("a").updates();
  const iterator = topic.updates();
  await peer.subscribe("a");
  assert.equal((await topic.next()).type, "subscribed");
  topic.close();
  assert.deepEqual(await topic.next(), { type: "ended", error: undefined });
  assert.equal((await iterator.next()).value.type, "subscribed");
  assert.equal((await iterator.next()).done, true);
  peer.publish("a", "still there");
  await other.next();
  assert.equal((await other.next()).value.event, "still there");
  assert.equal(peer.messages.count, 0);
});

test("a connection that is lost comes back with positions, keys and order", async (t) => {
  const server = await serve(t);
  const client = connect(t, server.url);
  const topic = listen(client, "room");
  const plain = listen(client, "no history");
  let peer = await server.accept();
  await peer.subscribe("room", { position: "e.5" });
  await peer.subscribe("no history");
  peer.publish("room", "six", "e.6");
  for (const type of ["subscribed", "event"]) assert.equal((await topic.next()).type, type);
  assert.deepEqual(await plain.next(), { type: "subscribed", recovered: true, position: undefined });
  const acknowledged = client.publish("room", "zero");
  const first = await peer.expect("publish", { data: "zero" });
  assert.match(first.key, /^[0-9a-f]{32}$/);
  peer.send({ type: "published", id: first.id, position: "e.7" });
  assert.equal(await acknowledged, "e.7");
  const published = [client.publish("room", "one"), client.publish("room", "two")];
  const request = client.request("lost?");
  const lost = assert.rejects(request, code("lost"));
  const keys = [(await peer.expect("publish", { data: "one" })).key, (await peer.expect("publish", { data: "two" })).key];
  await peer.expect("request", { name: "lost?", data: null });
  await peer.end();
  await lost;
  published.push(client.publish("room", "three")); // while away

  peer = await server.accept();
  assert.equal((await peer.subscribe("room")).position, "e.6");
  await peer.subscribe("no history");
  for (const [index, data] of ["one", "two", "three"].entries()) {
    const message = await peer.expect("publish", { data });
    if (index < 2) assert.equal(message.key, keys[index]);
    peer.send({ type: "published", id: message.id, position: `e.${8 + index}` });
  }
  assert.deepEqual(await Promise.all(published), ["e.8", "e.9", "e.10"]);
  assert.deepEqual(await topic.next(), { type: "subscribed", recovered: true, position: "e.6" });
  assert.equal((await plain.next()).recovered, false, "what was published meanwhile is lost, and it says so");
});

test("what is asked before there is a connection waits for it", async (t) => {
  const server = await serve(t);
  const client = connect(t, server.url);
  const reply = client.request("greet", { name: "Ada" });
  const members = client.members("room");
  const peer = await server.accept();
  const request = await peer.expect("request", { name: "greet", data: { name: "Ada" }, timeout: 10_000 });
  let page = await peer.expect("members", { topic: "room" });
  peer.send({ type: "members", id: page.id, topic: "room", members: [{ id: "a", info: "A" }], next: "7" });
  page = await peer.expect("members", { topic: "room", from: "7" });
  peer.send({ type: "members", id: page.id, topic: "room", members: [{ id: "b", info: "B" }], next: null });
  peer.send({ type: "reply", id: request.id, data: "Hello" });
  assert.equal(await reply, "Hello");
  assert.deepEqual((await members).map(({ id }) => id), ["a", "b"]);
});

test("what the application asks when it hears of the connection goes first", async (t) => {
  const server = await serve(t);
  const client = connect(t, server.url);
  listen(client, "room");
  client.publish("room", 1).catch(() => {});
  client.addEventListener("state", () => {
    if (client.state.status === "connected") client.request("log-in", "token").catch(() => {});
  });
  for (let round = 0; round < 2; round += 1) {
    const peer = await server.accept();
    await peer.expect("request", { name: "log-in", data: "token" });
    await peer.subscribe("room");
    await peer.expect("publish");
    await peer.end();
  }
});

test("requests are refused, and do not wait forever", async (t) => {
  const server = await serve(t);
  const client = connect(t, server.url);
  const peer = await server.accept();
  const refused = client.request("unknown");
  const message = await peer.expect("request");
  peer.send({ type: "error", id: message.id, code: "unknown-request", text: "no such request" });
  await assert.rejects(refused, { code: "unknown-request", message: "no such request" });
  const late = client.request("slow", null, { timeout: 30 });
  const slow = await peer.expect("request", { timeout: 30 });
  await assert.rejects(late, code("timeout"));
  peer.send({ type: "reply", id: slow.id, data: "too late" });
  const next = client.request("next");
  peer.send({ type: "reply", id: (await peer.expect("request")).id, data: "in time" });
  assert.equal(await next, "in time");
  const cyclic = {};
  cyclic.itself = cyclic;
  await assert.rejects(client.publish("room", cyclic), TypeError);
  assert.equal(peer.messages.count, 0);
});

for (const [closeCode, comesBack] of [
  [1000, false], [1001, true], [1002, false], [1003, false], [1007, false], [1008, false], [1009, false], [1010, false], [1011, true],
  [1012, true], [1013, true], [1014, true], [3000, false], [4000, false], [4001, true], [4999, false],
]) {
  test(`close code ${closeCode}: ${comesBack ? "comes back" : "stays away"}`, async (t) => {
    const server = await serve(t);
    const client = connect(t, server.url, { comesBack: (code) => code === 4001 });
    const topic = client.topic("room").updates();
    const peer = await server.accept();
    await peer.subscribe("room");
    await topic.next();
    peer.socket.close(closeCode, "because");
    if (comesBack) {
      await client.until("waiting");
      await server.accept();
      return;
    }
    assert.deepEqual(await client.until("closed"), { status: "closed", code: closeCode, reason: "because" });
    if (closeCode === 1000) assert.equal((await topic.next()).done, true);
    else await assert.rejects(topic.next(), code("closed"));
    assert.equal((await topic.next()).done, true, "an error is thrown once");
    await assert.rejects(client.publish("room", 1), code("closed"));
    await assert.rejects(client.topic("room").updates().next(), code("closed"));
  });
}

test("close() ends everything, cleanly", async (t) => {
  const server = await serve(t);
  const client = connect(t, server.url);
  const topic = listen(client, "room");
  const iterator = client.topic("room").updates();
  const peer = await server.accept();
  await peer.subscribe("room");
  const published = client.publish("room", 1);
  client.close();
  client.close();
  await assert.rejects(published, code("closed"));
  assert.equal(await soon(peer.closed, "the connection ends"), 1000);
  assert.equal((await iterator.next()).value?.type ?? "ended", "ended");
  assert.deepEqual(await topic.next(), { type: "ended", error: undefined });
  assert.equal((await client.until("closed")).code, 1000);
});

test("a server's hint is waited for: of a drain, of a close reason", async (t) => {
  const server = await serve(t);
  const client = connect(t, server.url);
  for (const end of [
    (peer) => { peer.send({ type: "drain", retry: 600 }); peer.socket.close(1001); },
    (peer) => peer.socket.close(1013, "too slow; retry in 600 ms"),
    (peer) => { peer.send({ type: "drain", retry: 600 }); peer.socket.close(1012, "retry in 20 ms"); },
  ]) {
    const peer = await server.accept();
    await client.until("connected");
    end(peer);
    const { until } = await client.until("waiting");
    const wait = until - Date.now();
    assert.ok(wait > 400 && wait <= 701, `${wait} ms`); // a hint, and a wait of its own
  }
  await server.accept();
});

test("a hint that is none brings nobody back at once, and none keeps away for ever", async (t) => {
  const server = await serve(t);
  const client = connect(t, server.url);
  for (const retry of [-5, "soon", null, undefined, {}]) {
    const peer = await server.accept();
    await client.until("connected");
    peer.send({ type: "drain", retry });
    peer.socket.close(1001);
    const { until } = await client.until("waiting");
    assert.ok(until - Date.now() <= 110);
  }
  const peer = await server.accept();
  await client.until("connected");
  peer.socket.close(1001, `retry in ${"9".repeat(100)} ms`);
  const { until } = await client.until("waiting");
  assert.ok(until - Date.now() <= 3_600_101);
  client.retry();
  await server.accept();
});

test("waits double up to a ceiling, and a random part of them is waited", async (t) => {
  const server = await serve(t);
  await server.stop(); // nobody listens any more
  t.mock.method(Math, "random", () => 0.5);
  const client = connect(t, server.url, { waitMin: 20, waitMax: 100 });
  const waits = [];
  client.addEventListener("state", () => {
    if (client.state.status === "waiting") waits.push(client.state.until - Date.now()); // at once, when the wait begins
  });
  while (waits.length < 6) await client.until("waiting");
  for (const [index, half] of [10, 20, 40, 50, 50, 50].entries()) {
    assert.ok(Math.abs(waits[index] - half) <= 5, `waits ${waits}`);
  }
});

test("a server that is silent is asked, and given up if it does not answer", async (t) => {
  const server = await serve(t);
  const client = connect(t, server.url, { quietMax: 50, answerMax: 1500 });
  let peer = await server.accept();
  await client.until("connected");
  const topic = listen(client, "room");
  await peer.subscribe("room");
  for (let count = 0; count < 3; count += 1) {
    const probe = await peer.expect("unsubscribe");
    assert.notEqual(probe.topic, "room");
    peer.send({ type: "unsubscribed", id: probe.id, topic: probe.topic });
  }
  assert.equal(client.state.status, "connected");
  await peer.expect("unsubscribe"); // without an answer
  await client.until("waiting");
  peer = await server.accept();
  await peer.subscribe("room");
  for (let count = 0; count < 2; count += 1) assert.equal((await topic.next()).type, "subscribed");
});

test("a server that accepts no connection is given up", async (t) => {
  const { createServer } = await import("node:net");
  const sockets = new Set();
  const server = createServer((socket) => sockets.add(socket));
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  const client = connect(t, `http://127.0.0.1:${server.address().port}`, { answerMax: 50 });
  await client.until("waiting");
});

test("the queue is bounded, by refusing or by dropping", async (t) => {
  const server = await serve(t);
  await server.stop();
  for (const queuePolicy of ["reject", "drop-oldest"]) {
    const client = connect(t, server.url, { queueMax: 3, queuePolicy });
    const outcomes = [1, 2, 3, 4].map((data) => client.publish("room", data).catch((error) => error.code));
    if (queuePolicy === "reject") assert.equal(await outcomes[3], "queue-full");
    else assert.equal(await outcomes[0], "dropped");
    await assert.rejects(client.request("one more"), code("queue-full"));
    client.close();
    assert.equal((await Promise.all(outcomes)).filter((outcome) => outcome === "closed").length, 3);
  }
});

test("an iteration that is behind leaves the topic, and takes it up again from its position", async (t) => {
  const server = await serve(t);
  const client = connect(t, server.url, { bufferMax: 4 });
  const events = client.topic("fast")[Symbol.asyncIterator]();
  const peer = await server.accept();
  await peer.subscribe("fast", { position: "e.0" });
  for (let number = 1; number <= 9; number += 1) peer.publish("fast", number, `e.${number}`);
  await peer.expect("unsubscribe", { topic: "fast" });
  assert.equal((await events.next()).value, 1);
  const published = client.publish("fast", "unrelated");
  await peer.expect("publish"); // and not yet a subscription
  assert.equal((await events.next()).value, 2);
  const again = await peer.subscribe("fast");
  assert.equal(again.position, "e.4");
  for (let number = 5; number <= 9; number += 1) {
    assert.equal((await events.next()).value, number - 2);
    peer.publish("fast", number, `e.${number}`);
  }
  for (const number of [8, 9]) assert.equal((await events.next()).value, number);
  published.catch(() => {});
});

test("what a server cannot do now is asked again, in vain or not", async (t) => {
  const server = await serve(t);
  const client = connect(t, server.url);
  const topic = listen(client, "room");
  const peer = await server.accept();
  const refuse = ({ id }) => peer.send({ type: "error", id, code: "unavailable", text: "the broker is away" });
  refuse(await peer.expect("subscribe"));
  for (const id of [0, undefined]) peer.send({ type: "error", id, code: "internal", text: "an answer to nobody" });
  await peer.subscribe("room");
  assert.equal((await topic.next()).type, "subscribed");
  const published = [client.publish("room", "one"), client.publish("room", "two")];
  const keys = [await peer.expect("publish"), await peer.expect("publish")].map((message) => {
    refuse(message);
    return message.key;
  });
  for (const key of keys) {
    const { id } = await peer.expect("publish", { key });
    peer.send({ type: "published", id });
  }
  assert.deepEqual(await Promise.all(published), [undefined, undefined]);
});

test("a subscription that is refused ends its readers with the reason", async (t) => {
  const server = await serve(t);
  const client = connect(t, server.url);
  const topic = listen(client, "secret");
  const iterator = client.topic("secret")[Symbol.asyncIterator]();
  const peer = await server.accept();
  const { id } = await peer.expect("subscribe");
  peer.send({ type: "error", id, code: "forbidden", text: "not you" });
  await assert.rejects(iterator.next(), { code: "forbidden", message: "not you" });
  const { type, error } = await topic.next();
  assert.equal(type, "ended");
  assert.equal(error.code, "forbidden");
  topic.close();
  listen(client, "secret"); // asks again
  await peer.subscribe("secret");
});

test("publications of a subscription that was left do not reach the next one", async (t) => {
  const server = await serve(t);
  const client = connect(t, server.url);
  const peer = await server.accept();
  const first = listen(client, "room");
  const old = await peer.subscribe("room");
  await first.next();
  first.close();
  const second = listen(client, "room");
  await peer.expect("unsubscribe");
  const { id } = await peer.expect("subscribe");
  peer.publish("room", "old");
  peer.send({ type: "subscribed", id: old.id, topic: "room", recovered: true });
  peer.publish("room", "old");
  peer.send({ type: "subscribed", id, topic: "room", recovered: true });
  peer.publish("room", "new");
  assert.equal((await second.next()).type, "subscribed");
  assert.equal((await second.next()).event, "new");
});

test("whatever a server sends, the client goes on", async (t) => {
  const server = await serve(t);
  const client = connect(t, server.url);
  const topic = listen(client, "room");
  let peer = await server.accept();
  await peer.subscribe("room");
  assert.equal((await topic.next()).type, "subscribed");
  for (const message of [
    {}, [], "text", 1, true, { type: "publication" }, { type: "publication", topic: "else", data: 1 }, { type: "reply", id: 77 },
    { type: "error" }, { type: "error", id: "x", code: 1 }, { type: "subscribed", id: 1e9, topic: "room" }, { type: "new", topic: "room", id: {} },
    { type: "gap", topic: 1 }, { type: "joined" }, { type: "constructor" }, { topic: "__proto__", type: "left" },
  ]) peer.send(message);
  peer.publish("room", "after all that");
  assert.equal((await topic.next()).event, "after all that");
  for (const garbage of ["", "{", "null", "\u0000"]) {
    peer.socket.send(garbage);
    await client.until("waiting");
    peer = await server.accept();
    await peer.subscribe("room");
    assert.equal((await topic.next()).type, "subscribed");
  }
});

test("an error in the application's onupdate stays its own", async (t) => {
  const server = await serve(t);
  const client = connect(t, server.url);
  const caught = new Promise((resolve) => process.setUncaughtExceptionCaptureCallback(resolve));
  t.after(() => process.setUncaughtExceptionCaptureCallback(null));
  client.topic("room", { onupdate: ({ type }) => { if (type === "subscribed") throw new Error("the application's"); } });
  const topic = listen(client, "room");
  const peer = await server.accept();
  await peer.subscribe("room");
  assert.equal((await topic.next()).type, "subscribed");
  assert.equal((await soon(caught, "the error surfaces")).message, "the application's");
  assert.equal(client.state.status, "connected");
});

test("a URL that is none is refused at once", async (t) => {
  assert.throws(() => connect(t, "not a URL"), TypeError);
});
