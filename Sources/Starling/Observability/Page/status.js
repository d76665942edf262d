// Polls the snapshot, keeps the last minutes, and shows them. Every text goes in as text: nothing here makes markup of a string.

const base = document.querySelector("meta[name=starling-base]").content;
const intervalMilliseconds = 1000;
const pointsMax = 180;
const $ = (selector) => document.querySelector(selector);

/* What is drawn: each plot has a title, a form for its numbers, and one or two lines made of two successive snapshots. */

const rate = (name) => (now, before, seconds) => (now.totals[name] - before.totals[name]) / seconds;
const sum = (counts) => Object.values(counts).reduce((all, one) => all + one, 0);

const plots = {
  connections: { title: "WebSockets", form: count, lines: [["open", (now) => now.totals.websockets]] },
  messages: {
    title: "Messages per second",
    form: count,
    lines: [["received", rate("messages_received_total")], ["sent", rate("messages_sent_total")]],
  },
  bytes: {
    title: "Bytes per second",
    form: bytes,
    lines: [["received", rate("bytes_received_total")], ["sent", rate("bytes_sent_total")]],
  },
  lag: {
    title: "Loop lag",
    form: nanoseconds,
    // What a message from another thread waits: the slowest loop's answer. A loop that does not answer waits for longer.
    lines: [["slowest answer", (now) => Math.max(0, ...now.loops.map((loop) => (loop.hasAnswered ? loop.answerNanoseconds : 1e9)))]],
  },
  held: {
    title: "Held bytes",
    form: bytes,
    lines: [["held", (now) => now.memory.heldBytes], ["wait for peers", (now) => now.memory.outboundBytes]],
  },
  closes: {
    title: "Closed per second",
    form: count,
    lines: [
      ["closed", (now, before, seconds) => (sum(now.closes) - sum(before.closes)) / seconds],
      ["refused", (now, before, seconds) => (sum(now.refusals) - sum(before.refusals)) / seconds],
    ],
  },
};

/* Forms of numbers */

function count(value) {
  if (value >= 1e6) return `${(value / 1e6).toFixed(value >= 1e7 ? 0 : 1)} M`;
  if (value >= 1e4) return `${(value / 1e3).toFixed(value >= 1e5 ? 0 : 1)} k`;
  return Number.isInteger(value) ? `${value}` : value.toFixed(value < 10 ? 1 : 0);
}

function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit += 1; }
  return `${unit === 0 ? Math.round(value) : value.toFixed(value < 10 ? 1 : 0)} ${units[unit]}`;
}

function nanoseconds(value) {
  if (value >= 1e9) return `${(value / 1e9).toFixed(1)} s`;
  if (value >= 1e6) return `${(value / 1e6).toFixed(1)} ms`;
  return `${Math.round(value / 1e3)} µs`;
}

function duration(seconds) {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

/* Elements */

function make(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function shape(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

for (const figure of document.querySelectorAll("[data-plot]")) {
  const plot = plots[figure.dataset.plot];
  plot.points = plot.lines.map(() => []);
  plot.value = make("strong", { textContent: "–" });
  plot.greatest = make("span");
  plot.svg = shape("svg", { viewBox: `0 0 ${pointsMax - 1} 100`, preserveAspectRatio: "none", role: "img" });
  for (const y of [0, 50, 100]) plot.svg.append(shape("line", { class: "grid", x1: 0, x2: pointsMax - 1, y1: y, y2: y }));
  plot.drawn = plot.lines.map((_, index) => shape("polyline", { class: index === 0 ? "first" : "second" }));
  plot.svg.append(...plot.drawn);
  const keys = make("span");
  if (plot.lines.length > 1) {
    keys.append(...plot.lines.map(([name], index) => make("span", { className: index === 0 ? "key" : "key second", textContent: name })));
  }
  figure.append(
    make("figcaption", {}, make("span", { textContent: plot.title }), plot.value),
    plot.svg,
    make("div", { className: "below" }, keys, plot.greatest),
  );
}

function draw(plot) {
  const greatest = Math.max(...plot.points.flat(), 0);
  const scale = greatest > 0 ? 100 / greatest : 0;
  plot.points.forEach((points, index) => {
    const start = pointsMax - points.length;
    plot.drawn[index].setAttribute("points", points.map((value, place) => `${start + place},${(100 - value * scale).toFixed(2)}`).join(" "));
  });
  const latest = plot.points.map((points) => points.at(-1) ?? 0);
  plot.value.textContent = latest.map(plot.form).join(" / ");
  plot.greatest.textContent = `at most ${plot.form(greatest)}`;
  plot.svg.setAttribute("aria-label", `${plot.title}: ${plot.value.textContent}, ${plot.greatest.textContent}`);
}

/* A table: columns are [title, value, class]; a value is text, or a number that is shown to the right. */
function fill(table, columns, rows, nothing) {
  const cell = (name, text, type) => make(name, { className: type ?? "", textContent: text ?? "–", title: type === "wide" ? text ?? "" : "" });
  const head = make("thead", {}, make("tr", {}, ...columns.map(([title, , type]) => cell("th", title, type))));
  const body = make("tbody");
  for (const row of rows) {
    body.append(make("tr", {}, ...columns.map(([, value, type]) => {
      const made = cell("td", `${value(row) ?? "–"}`, type);
      if (type === "state") made.className = { up: "good", joining: "warn", down: "bad" }[made.textContent] ?? "";
      return made;
    })));
  }
  if (rows.length === 0) body.append(make("tr", {}, make("td", { className: "none", colSpan: columns.length, textContent: nothing })));
  table.replaceChildren(head, body);
}

const number = "number";

function tables(now) {
  fill($("#loops"), [
    ["Loop", (loop) => loop.index],
    ["Answers in", (loop) => (loop.hasAnswered ? nanoseconds(loop.answerNanoseconds) : "no answer"), number],
    ["WebSockets", (loop) => count(loop.webSockets), number],
    ["Connections", (loop) => count(loop.connections), number],
    ["Topics", (loop) => count(loop.topics), number],
    ["Subscriptions", (loop) => count(loop.subscriptions), number],
    ["Tasks", (loop) => count(loop.tasks), number],
    ["Ticks", (loop) => count(loop.ticks), number],
    ["Longest tick", (loop) => nanoseconds(loop.longestTickNanoseconds), number],
    ["Waiting bytes", (loop) => bytes(loop.outboundBytes), number],
    ["Mailbox", (loop) => count(loop.mailboxCount), number],
  ], now.loops, "No loop runs.");
  fill($("#topics"), [
    ["Topic", (topic) => topic.name, "wide"],
    ["Subscribers", (topic) => count(topic.subscriberCount), number],
  ], now.topics, "Nobody is subscribed to anything.");
  const links = now.broadcasters.flatMap((broadcaster) =>
    broadcaster.links.length > 0
      ? broadcaster.links.map((link) => ({ broadcaster, ...link }))
      : [{ broadcaster, name: "needs none", state: broadcaster.isReady ? "up" : "down" }]);
  fill($("#links"), [
    ["Broadcaster", (link) => link.broadcaster.name],
    ["Link", (link) => link.name, "wide"],
    ["State", (link) => link.state, "state"],
    ["Since", (link) => (link.stateSeconds === undefined ? "–" : duration(link.stateSeconds)), number],
    ["Published", (link) => count(link.broadcaster.publishedCount), number],
    ["Arrived", (link) => count(link.broadcaster.deliveredCount), number],
    ["Failed", (link) => count(link.broadcaster.failedCount), number],
    ["Last error", (link) => link.lastError, "wide"],
  ], links, "There is no broadcaster.");
  const causes = [["closed", now.closes], ["refused", now.refusals]].flatMap(([kind, counts]) =>
    Object.entries(counts).filter(([, value]) => value > 0).map(([cause, value]) => ({ kind, cause, value })));
  causes.sort((one, other) => other.value - one.value || one.cause.localeCompare(other.cause));
  fill($("#causes"), [
    ["", (row) => row.kind],
    ["Cause", (row) => row.cause],
    ["Count", (row) => count(row.value), number],
  ], causes, "Nothing was closed or refused yet.");
  fill($("#limits"), [
    ["Where", (row) => row[0], "wide"],
    ["Limit", (row) => row[1]],
    ["Value", (row) => row[2], number],
  ], limits(now), "There are none.");
}

function limits(now) {
  const words = (name) => name.replace(/Seconds$/, "").replace(/([A-Z])/g, (letter) => ` ${letter.toLowerCase()}`);
  const form = (name, value) => (/seconds$/i.test(name) && !/persecond/i.test(name) ? `${value} s` : /bytes/i.test(name) ? bytes(value) : count(value));
  const rows = (where, values) => Object.entries(values)
    .filter(([, value]) => typeof value === "number")
    .map(([name, value]) => [where, words(name), form(name, value)]);
  return [
    ...rows("server", now.limits),
    ["server", "held bytes max", bytes(now.memory.heldBytesMax)],
    ...now.endpoints.flatMap(({ path, ...values }) => rows(path, values)),
  ];
}

function connections(now) {
  fill($("#connections"), [
    ["Name", (one) => one.id],
    ["Phase", (one) => one.phase],
    ["User", (one) => one.user, "wide"],
    ["From", (one) => one.remoteAddress],
    ["Path", (one) => one.path, "wide"],
    ["Subprotocol", (one) => one.subprotocol, "wide"],
    ["Age", (one) => duration(one.ageSeconds), number],
    ["Silent for", (one) => duration(one.silentSeconds), number],
    ["Received", (one) => bytes(one.bytesReceived), number],
    ["Sent", (one) => bytes(one.bytesSent), number],
    ["Waiting", (one) => bytes(one.bufferedBytes), number],
    ["Topics", (one) => count(one.subscriptionCount), number],
    ["", (one) => one.topics.join(", "), "wide"],
  ], now.connections, "There are no connections here.");
  $("#more").hidden = now.nextConnection === undefined && page === "";
  $("#more").textContent = now.nextConnection === undefined ? "First page" : "Next page";
  next = now.nextConnection ?? "";
}

/* The loop of it all */

let before;
let isPaused = false;
let isShowing = false;
let page = "";
let next = "";

async function poll() {
  const query = isShowing ? `?connections=50&from=${encodeURIComponent(page)}` : "";
  // From the origin on, for the page's own address may have a name and a password in it.
  const response = await fetch(new URL(`${base}/snapshot${query}`, location.origin), { cache: "no-store", signal: AbortSignal.timeout(5000) });
  if (!response.ok) throw new Error(`the server answers with ${response.status}`);
  const now = await response.json();
  now.at = performance.now();
  return now;
}

function show(now) {
  document.body.dataset.state = "live";
  $("#trouble").hidden = true;
  $("#stage").textContent = now.stage;
  $("#stage").className = `badge ${now.stage === "serving" ? "good" : "warn"}`;
  $("#ready").hidden = false;
  $("#ready").textContent = now.isReady ? "ready" : "not ready";
  $("#ready").className = `badge ${now.isReady ? "good" : "bad"}`;
  $("#version").textContent = `version ${now.version}`;
  $("#uptime").textContent = `up for ${duration(now.uptimeSeconds)}`;
  // After a restart the counters begin anew: no rate can be told from before and after.
  if (before && now.uptimeSeconds < before.uptimeSeconds) before = undefined;
  if (before) {
    const seconds = Math.max(0.001, now.uptimeSeconds - before.uptimeSeconds);
    for (const plot of Object.values(plots)) {
      plot.lines.forEach(([, value], index) => {
        plot.points[index].push(Math.max(0, value(now, before, seconds)));
        if (plot.points[index].length > pointsMax) plot.points[index].shift();
      });
      draw(plot);
    }
  }
  before = now;
  tables(now);
  if (isShowing) connections(now);
}

async function run() {
  for (;;) {
    const start = performance.now();
    if (!isPaused && !document.hidden) {
      try {
        show(await poll());
      } catch (error) {
        document.body.dataset.state = "away";
        $("#trouble").hidden = false;
        $("#trouble").textContent = `No news: ${error.message}. The figures below are old.`;
      }
    }
    await new Promise((done) => setTimeout(done, Math.max(100, intervalMilliseconds - (performance.now() - start))));
  }
}

$("#pause").addEventListener("click", () => {
  isPaused = !isPaused;
  $("#pause").setAttribute("aria-pressed", `${isPaused}`);
  $("#pause").textContent = isPaused ? "Go on" : "Pause";
});
$("#show").addEventListener("click", () => {
  isShowing = !isShowing;
  page = "";
  $("#show").textContent = isShowing ? "Hide" : "Show";
  $("#more").hidden = true;
  $("#connections").replaceChildren();
});
$("#more").addEventListener("click", () => { page = next; });

run();
