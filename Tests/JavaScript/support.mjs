// What the tests share: a server that does what a test tells it, for the faults that no real one shows when asked.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { test as nodeTest } from "node:test";

// Debian's node-ws; imports look for no packages there.
const ws = createRequire(import.meta.url)("/usr/share/nodejs/ws");
const { StarlingClient } = await import(process.env.STARLING_SCRIPT);

const waitMax = 10_000;

/** A test that cannot hang. */
export const test = (name, body) => nodeTest(name, { timeout: 4 * waitMax }, body);

/** Resolves as the promise does, or rejects after a bounded time. */
export function soon(promise, what) {
  let timer;
  const late = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error(`in vain: ${what}`)), waitMax); });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Things that come one after the other, and are taken in that order. */
export class Arrivals {
  #arrived = [];
  #waiting = [];

  arrive(value) {
    const resolve = this.#waiting.shift();
    if (resolve) resolve(value);
    else this.#arrived.push(value);
  }

  next(what = "something arrives") {
    if (this.#arrived.length > 0) return Promise.resolve(this.#arrived.shift());
    return soon(new Promise((resolve) => this.#waiting.push(resolve)), what);
  }

  get count() {
    return this.#arrived.length;
  }
}

/** One connection, seen from the server. */
class Peer {
  messages = new Arrivals();
  closed = new Promise((resolve) => { this.resolveClosed = resolve; });

  constructor(socket) {
    this.socket = socket;
    socket.on("message", (data) => this.messages.arrive(JSON.parse(data)));
    socket.on("close", (code) => this.resolveClosed(code));
  }

  send(message) {
    this.socket.send(JSON.stringify(message));
  }

  /** The next message, which must have this type and these fields. */
  async expect(type, fields = {}) {
    const message = await this.messages.next(`a message of the type ${type}`);
    assert.deepEqual({ ...message, ...fields, type }, message);
    return message;
  }

  /** Answers the next message, which must ask for a subscription to this topic. */
  async subscribe(topic, answer = {}) {
    const message = await this.expect("subscribe", { topic });
    this.send({ type: "subscribed", id: message.id, topic, position: message.position ?? null, recovered: true, ...answer });
    return message;
  }

  publish(topic, data, position) {
    this.send({ type: "publication", topic, data, position });
  }

  async end() {
    this.socket.terminate();
    await this.closed;
  }
}

/** A server for the time of a test. */
export async function serve(test, port = 0) {
  const server = new ws.WebSocketServer({ port, host: "127.0.0.1", handleProtocols: (offered) => [...offered][0] });
  const peers = new Arrivals();
  server.on("connection", (socket) => {
    assert.equal(socket.protocol, "starling.v1.json");
    peers.arrive(new Peer(socket));
  });
  await new Promise((resolve) => server.on("listening", resolve));
  const stop = () => new Promise((resolve) => {
    for (const socket of server.clients) socket.terminate();
    server.close(resolve);
  });
  test.after(stop);
  return { url: `ws://127.0.0.1:${server.address().port}`, port: server.address().port, accept: () => peers.next("a connection"), stop };
}

/** A client that comes back fast, and the states it passes through. */
export function connect(test, url, options = {}) {
  const client = new StarlingClient(url, { WebSocket: ws.WebSocket, waitMin: 20, waitMax: 100, ...options });
  const states = new Arrivals();
  client.addEventListener("state", () => states.arrive(client.state));
  client.states = states;
  client.until = async (status) => {
    for (;;) {
      const state = await states.next(`the state ${status}`);
      if (state.status === status) return state;
    }
  };
  test.after(() => client.close());
  return client;
}

/** The updates of a topic, as `onupdate` gets them. */
export function listen(client, name, options = {}) {
  const updates = new Arrivals();
  const topic = client.topic(name, { ...options, onupdate: (update) => updates.arrive(update) });
  return Object.assign(topic, { next: () => updates.next(`an update of ${name}`), updatesThere: () => updates.count });
}
