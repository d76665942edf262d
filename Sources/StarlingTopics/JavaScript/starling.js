// The client of `starling.v1.json` for browsers, Deno and Node: topics that come back with everything that was missed,
// publications that are published once, requests. Documentation/TopicProtocol.md describes what it says and hears;
// starling.d.ts says how it is used. All times are in milliseconds.

// After one of these close codes the client does not come back (TopicProtocol.md, "Errors").
const finalCodes = [1000, 1002, 1003, 1007, 1008, 1009, 1010];

// A connection that was in order for so long was a good one: the next wait is a first wait.
const goodMin = 10_000;

// No hint of a server keeps a client away for longer.
const hintMax = 3_600_000;

const now = () => performance.now();
const randomKey = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => (byte + 256).toString(16).slice(1)).join("");

export class StarlingError extends Error {
  name = "StarlingError";

  constructor(code, text) {
    super(text);
    this.code = code;
  }
}

export class StarlingClient extends EventTarget {
  // What is private stands in this function, not in private fields: so the minified script stays small.
  constructor(url, {
    WebSocket = globalThis.WebSocket,
    queueMax = 1000,
    queuePolicy = "reject",
    bufferMax = 256,
    waitMin = 500,
    waitMax = 30_000,
    quietMax = 25_000,
    answerMax = 10_000,
    comesBack = () => false,
  } = {}) {
    super();
    const client = this;
    const { document, location } = globalThis;
    const topics = new Map(); // name → {name, position, readers, askedAs, isLive, wasLive}
    const asks = new Map(); // id → {text, isPublish, isSent, timer, done, reject}, in the order of asking
    const timers = {};
    let socket;
    let lastID = 0;
    let openedAt = 0; // 0 while there is no connection
    let troubleUntil = 0;
    let failures = 0; // in a row
    let hint = 0; // the least wait that the server asks for
    let holds = false; // the broker is away: subscriptions and publications wait for a timer

    // MARK: - The connection

    function open() {
      stop("retry");
      socket = new WebSocket(url.href, "starling.v1.json");
      socket.onopen = opened;
      socket.onmessage = ({ data }) => received(data);
      socket.onclose = ({ code, reason }) => lost(code, reason);
      socket.onerror = () => {}; // `close` follows; without a listener Node would end the program
      expectAnswer();
      enter({ status: "connecting" });
    }

    // What the application asks when it hears of the connection goes first: to log in, for example.
    function opened() {
      hint = 0;
      heard();
      enter({ status: "connected" });
      openedAt = now();
      flush();
    }

    function lost(code, reason) {
      if (finalCodes.includes(code) || (code >= 3000 && !comesBack(code, reason))) return finish(code, reason);
      hint = Math.min(hintMax, Math.max(hint, /retry in (\d+) ms/.exec(reason)?.[1] ?? 0));
      const wait = hint + backoff();
      abandon();
      for (const topic of topics.values()) topic.askedAs = topic.isLive = 0;
      for (const [id, ask] of asks) {
        if (ask.isSent && !ask.isPublish) fail(id, "lost", "the connection was lost");
        ask.isSent = false;
      }
      start("retry", wait, open);
      enter({ status: "waiting", until: Date.now() + wait });
    }

    function finish(code, reason) {
      abandon();
      listen("removeEventListener");
      enter({ status: "closed", code, reason });
      for (const id of asks.keys()) take(id).reject(closedError());
      // A clean end is none to complain about.
      for (const topic of topics.values()) end(topic, code === 1000 ? undefined : closedError());
    }

    // Lets go of the connection, whose end may take long if the other side is gone.
    function abandon() {
      for (const name in timers) stop(name);
      openedAt = 0;
      holds = false;
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close(1000);
    }

    function enter(state) {
      client.state = state;
      client.dispatchEvent(new Event("state"));
    }

    const isClosed = () => client.state.status === "closed";
    const gapError = () => new StarlingError("gap", "publications are lost");
    const closedError = () => new StarlingError("closed", `closed with ${client.state.code}: ${client.state.reason}`);

    // A random part of a time that doubles: clients that were lost together do not come back together.
    function backoff() {
      if (openedAt && now() - Math.max(openedAt, troubleUntil) >= goodMin) failures = 0;
      const wait = Math.random() * Math.min(waitMax, waitMin * 2 ** failures++);
      troubleUntil = now() + wait;
      return wait;
    }

    function retry() {
      if (client.state.status === "waiting") open();
    }

    // MARK: - Time

    function start(name, wait, action) {
      timers[name] ??= setTimeout(() => {
        stop(name);
        action();
      }, wait);
    }

    function stop(name) {
      clearTimeout(timers[name]);
      timers[name] = null;
    }

    // A browser's page cannot ping. To leave a topic that nobody has costs the server nothing, and must be answered.
    function probe() {
      leave(randomKey());
      expectAnswer();
    }

    function expectAnswer() {
      start("answer", answerMax, () => lost(1006, "no answer"));
    }

    function heard() {
      stop("answer");
      stop("quiet");
      start("quiet", quietMax, probe);
    }

    function listen(method) {
      for (const name of ["online", "pageshow"]) globalThis[method]?.(name, wake);
      for (const name of ["visibilitychange", "resume"]) document?.[method](name, wake);
    }

    // The network is back, or the page is looked at again: its timers may have slept for hours, and its connection be gone.
    function wake() {
      if (document?.hidden) return;
      if (!hint) retry(); // a wait that the server asked for holds
      if (openedAt) probe();
    }

    // MARK: - What is asked

    function ask(type, fields, timeout) {
      return new Promise((done, reject) => {
        if (isClosed()) throw closedError();
        const isPublish = type === "publish";
        const id = ++lastID;
        const ask = { text: JSON.stringify({ type, id, ...fields }), isPublish, done, reject };
        if (asks.size >= queueMax) makeRoom(isPublish);
        asks.set(id, ask);
        if (timeout) ask.timer = setTimeout(fail, timeout, id, "timeout", `no answer within ${timeout} ms`);
        flush();
      });
    }

    function makeRoom(isPublish) {
      const oldest = isPublish && queuePolicy === "drop-oldest" && [...asks].find(([, ask]) => ask.isPublish);
      if (!oldest) throw new StarlingError("queue-full", `${queueMax} messages wait already`);
      fail(oldest[0], "dropped", "newer ones took its place");
    }

    function take(id) {
      const ask = asks.get(id);
      clearTimeout(ask?.timer);
      asks.delete(id);
      return ask;
    }

    function fail(id, code, text) {
      take(id)?.reject(new StarlingError(code, text));
    }

    // Sends what waits: requests, then subscriptions, so that nothing is missed of what is published then.
    function flush() {
      if (!openedAt) return;
      flushAsks(false);
      if (holds) return;
      for (const topic of topics.values()) {
        if (topic.askedAs || isBehind(topic)) continue;
        topic.askedAs = say({ type: "subscribe", topic: topic.name, position: topic.position });
        expectAnswer();
      }
      flushAsks(true);
    }

    function flushAsks(isPublish) {
      for (const ask of asks.values()) {
        if (ask.isSent || ask.isPublish !== isPublish) continue;
        ask.isSent = true;
        socket.send(ask.text);
        if (isPublish) expectAnswer(); // an application may take its time over a request
      }
    }

    // The server cannot reach its broker: what it refused is sent again after a while.
    function hold() {
      holds = true;
      start("hold", backoff(), () => {
        holds = false;
        flush();
      });
    }

    function say(message) {
      socket.send(JSON.stringify({ ...message, id: ++lastID }));
      return lastID;
    }

    function leave(topic) {
      say({ type: "unsubscribe", topic });
    }

    // MARK: - What is heard

    function received(text) {
      let message;
      try {
        message = JSON.parse(text);
      } catch {}
      if (!message) return lost(1006, "not JSON");
      heard();
      const { type, id } = message;
      const position = message.position ?? undefined;
      const topic = topics.get(message.topic);
      if (type === "subscribed") {
        if (topic?.askedAs !== id) return;
        // Without a position nothing can be recovered: what was published between two subscriptions is lost.
        const isLost = message.recovered === false || (topic.wasLive && !topic.position);
        topic.isLive = topic.wasLive = true;
        topic.position = position;
        deliver(topic, { type, recovered: !isLost, position });
      } else if (type === "drain") {
        hint = +message.retry || 0;
      } else if (type === "error") {
        refused(message);
      } else if (id) {
        take(id)?.done(message);
      } else if (topic?.isLive) {
        // The publications of a subscription that was left are on their way for a while: those are not for this one.
        if (type === "publication") deliver(topic, { type: "event", event: content(message), position });
        if (type === "gap") deliver(topic, { type, position, after: message.after });
        if (/^(joined|left)$/.test(type)) deliver(topic, { type, member: message.member });
      }
    }

    function refused({ id, code, text }) {
      const ask = asks.get(id);
      const topic = id && [...topics.values()].find((topic) => topic.askedAs === id);
      if (code === "unavailable" && (topic || ask?.isPublish)) {
        if (topic) topic.askedAs = 0;
        else ask.isSent = false;
        hold();
      } else if (topic) {
        end(topic, new StarlingError(code, text));
      } else {
        fail(id, code, text);
      }
    }

    // MARK: - Topics

    // Several readers share one subscription, which lives as long as any of them.
    function read(name, position, reader) {
      if (isClosed()) return reader.end(closedError());
      if (!topics.has(name)) topics.set(name, { name, position, readers: new Set() });
      const topic = topics.get(name);
      topic.readers.add(reader);
      flush();
      return () => {
        topic.readers.delete(reader);
        if (topic.readers.size) return flush(); // the others may have waited for this one
        if (topics.get(name) !== topic) return;
        topics.delete(name);
        if (topic.askedAs) leave(name);
      };
    }

    function deliver(topic, update) {
      topic.position = update.position ?? topic.position;
      for (const reader of topic.readers) reader.take(update);
      if (!topic.isLive || !isBehind(topic)) return;
      // What comes now is not kept here, but taken up from the position when the reader has caught up.
      topic.askedAs = topic.isLive = 0;
      leave(topic.name);
    }

    const isBehind = (topic) => [...topic.readers].some((reader) => reader.isFull);

    function end(topic, error) {
      topics.delete(topic.name);
      for (const reader of topic.readers) reader.end(error);
    }

    function makeTopic(name, { position, onupdate } = {}) {
      const ends = new Set(); // of those that read by this topic

      function begin(reader) {
        const stopReading = read(name, position, reader);
        const end = () => {
          ends.delete(end);
          stopReading?.();
          reader.end();
        };
        ends.add(end);
        return end;
      }

      function iterate(pick) {
        const values = []; // an error among them rejects in its turn
        const waiting = [];
        let isEnded;
        let hasRejected; // at last: a `for await` has stopped then, and does not say so

        function hand() {
          while (waiting.length && (values.length || isEnded)) {
            const [resolve, reject] = waiting.shift();
            const value = values.shift();
            hasRejected = value instanceof StarlingError;
            if (hasRejected) reject(value);
            else resolve({ value, done: value === undefined });
          }
          if (!reader.isFull || (values.length > bufferMax / 2 && !hasRejected)) return;
          reader.isFull = false;
          flush();
        }

        const reader = {
          take(update) {
            const value = pick(update);
            if (value === undefined) return;
            values.push(value);
            hand();
            reader.isFull = values.length >= bufferMax;
            if (reader.isFull && hasRejected) {
              // Nobody takes these any more, it seems, and other readers must not wait for that.
              reader.end(gapError());
              end();
            }
          },
          end(error) {
            if (error && !isEnded) values.push(error);
            isEnded = true;
            hand();
          },
        };
        const end = begin(reader);
        return {
          next: () => new Promise((resolve, reject) => {
            waiting.push([resolve, reject]);
            hand();
          }),
          return: async (value) => {
            values.length = 0;
            end();
            return { value, done: true };
          },
          [Symbol.asyncIterator]() {
            return this;
          },
        };
      }

      if (onupdate) {
        // An error of the application's stays its own.
        const tell = (update) => queueMicrotask(() => onupdate(update));
        begin({ take: tell, end: (error) => tell({ type: "ended", error }) });
      }
      return {
        name,
        publish: (...data) => client.publish(name, ...data),
        members: () => client.members(name),
        updates: () => iterate((update) => update),
        // Without a history nobody has promised anything.
        [Symbol.asyncIterator]: () => iterate(({ type, recovered, position, event }) => (
          type === "gap" || (recovered === false && position) ? gapError() : event
        )),
        close() {
          for (const end of ends) end();
        },
      };
    }

    Object.assign(client, {
      topic: makeTopic,
      publish: async (topic, data = null, { key = randomKey() } = {}) => (await ask("publish", { topic, data, key })).position ?? undefined,
      request: async (name, data = null, { timeout = 10_000 } = {}) => (await ask("request", { name, data, timeout }, timeout)).data,
      async members(topic) {
        const members = [];
        let from;
        do {
          const page = await ask("members", { topic, from }, answerMax);
          members.push(...page.members);
          from = page.next;
        } while (from);
        return members;
      },
      retry,
      close() {
        if (!isClosed()) finish(1000, "");
      },
    });

    url = new URL(url, location?.href);
    url.protocol = url.protocol.replace("http", "ws");
    open();
    listen("addEventListener");
  }
}

// What was published: a JSON value, a text that is none, or bytes.
function content({ data, text, base64 }) {
  return text ?? (base64 ? Uint8Array.from(atob(base64), (character) => character.charCodeAt(0)) : data);
}
