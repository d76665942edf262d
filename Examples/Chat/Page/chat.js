// The page of the chat: what it knows, what it hears, the link to the server, what it shows, what is typed.
// PROTOCOL.md describes what is said; starling.js brings it there and back. Users' text reaches the document as text nodes only.

import { StarlingClient } from "/starling.js";

const nameLengthMax = 32;
const textLengthMax = 2000;
const pendingMax = 20;
const shownMax = 500;
const roomsMax = 10;
const typingMilliseconds = 4_000;
const suggestions = ["lobby", "coffee", "swift", "birds"];

const $ = (id) => document.getElementById(id);
const length = (text) => [...text].length;

// MARK: - What the page knows

const chat = {
  nickname: cleaned(stored("nickname") ?? ""), // the one wished for; the server may have given another
  room: roomOfAddress() || stored("room") || suggestions[0], // the one wished for
  joined: null, // {member, room}, from the answer to `join` until the link is lost or another room is wished for
  topics: [], // those of the room: what is said there and who comes and goes, who is writing
  shown: null, // the name of the room that is on the screen
  members: new Map(), // id → nickname
  typing: new Map(), // id → {nickname, timer}
  changes: null, // comings and goings since the list of members was asked for
  pending: [], // {key, room, text, time, isSaid, failure}: typed, and not yet come back
  joins: 0, // counts them: only the last one's answer matters
  held: [], // what came before the answer to `join`
  seen: new Set(), // ids and keys of the messages that were shown
  unread: 0,
};

function stored(key) {
  try { return localStorage.getItem(key); } catch { return null; }
}

function store(key, value) {
  try { localStorage.setItem(key, value); } catch { /* a private window may refuse: then it is forgotten */ }
}

// A name as the protocol wants it.
function cleaned(name) {
  const plain = name.normalize("NFC").replace(/(?!\u200d)[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu, " ").trim();
  return [...plain].slice(0, nameLengthMax).join("").trim();
}

function cleanedRoom(name) {
  return cleaned(name.toLowerCase().replace(/^[#\s]+/, "").replace(/\s+/g, "-"));
}

function roomOfAddress() {
  const fragment = location.hash.slice(1);
  try { return cleanedRoom(decodeURIComponent(fragment)); } catch { return cleanedRoom(fragment); }
}

// MARK: - What it hears

function welcomed({ member, room, history, position }) {
  const returned = room === chat.shown;
  if (!returned) clearConversation(room);
  chat.joined = { member, room };
  if (chat.topics.length === 0) {
    chat.members.clear();
    chat.topics = [
      client.topic(`room:${room}`, { position, onupdate: received }),
      client.topic(`typing:${room}`, { onupdate: ({ type, event }) => type === "event" && typing(event) }),
    ];
  }
  chat.members.set(member.id, member.nickname);
  clearTyping();
  $("log").ariaBusy = "true"; // a screen reader need not read out the history
  const continued = history.some((message) => chat.seen.has(message.id));
  if (returned && history.length > 0 && chat.seen.size > 0 && !continued) showEvent("Some messages may be missing here");
  history.forEach(showMessage);
  show("online");
  chat.held.splice(0).forEach(received);
  $("log").ariaBusy = "false";
  chat.pending.filter((message) => message.room === chat.room && !message.failure).forEach(say);
  if (!returned) {
    chat.unread = 0;
    scrollToEnd();
  }
  showAll();
}

function refused({ code, message }) {
  if (!["invalid-room", "invalid-nickname", "room-full"].includes(code)) return joinAgain();
  show("online");
  askForName(message, code === "invalid-nickname" ? "nickname" : "first-room");
}

function received(update) {
  if (!chat.joined) return chat.held.push(update);
  const { type, event, member } = update;
  if (type === "event") {
    stopTyping(event.member.id);
    showMessage(event);
  }
  if (type === "subscribed") listMembers();
  if (type === "gap") showEvent("Some messages may be missing here");
  if (type === "ended" && update.error) joinAgain();
  if (type === "joined" || type === "left") {
    chat.changes?.push(() => change(type, member));
    if (change(type, member)) showPresence(member.info, type);
    showMembers();
  }
}

// Who comes and goes; and whether that is news.
function change(type, { id, info }) {
  if (type === "left") {
    stopTyping(id);
    return chat.members.delete(id);
  }
  if (chat.members.has(id)) return false;
  chat.members.set(id, info);
  return true;
}

// Who is there now. What happens until the answer is there may be in it, or not yet.
async function listMembers() {
  const changes = [];
  chat.changes = changes;
  const list = await chat.topics[0]?.members().catch(() => null); // a link that is lost asks again
  if (!list || chat.changes !== changes) return;
  chat.changes = null;
  chat.members = new Map(list.map(({ id, info }) => [id, info]));
  for (const change of changes) change();
  showMembers();
}

function typing({ member: { id, nickname } }) {
  if (!chat.joined || id === chat.joined.member.id) return;
  stopTyping(id);
  chat.typing.set(id, { nickname, timer: setTimeout(stopTyping, typingMilliseconds, id) });
  showTyping();
}

// Asks for a place in the room. After a lost link the topics are taken up again right behind this, from where they were.
function join() {
  chat.joined = null;
  chat.held = [];
  chat.joins += 1;
  const { joins } = chat;
  show("connecting");
  client.request("join", { room: chat.room, nickname: chat.nickname }).then(
    (welcome) => joins === chat.joins && welcomed(welcome),
    (error) => joins === chat.joins && refused(error),
  );
}

// Something in the server did not work, or took too long.
function joinAgain() {
  const { joins } = chat;
  setTimeout(() => {
    if (joins !== chat.joins || client.state.status !== "connected") return;
    leave();
    join();
  }, 1000);
}

function leave() {
  chat.changes = null;
  for (const topic of chat.topics.splice(0)) topic.close();
}

// Says it once, however often it is sent: while the link is away it waits in the client.
function say(message) {
  if (message.isSaid) return;
  message.isSaid = true;
  const { key, text } = message;
  client.publish(`room:${message.room}`, { key, text }, { key }).catch(({ code, message: text }) => {
    message.isSaid = false;
    if (code === "not-joined" || code === "closed") return; // it is said again on coming back to its room
    message.failure = text;
    showPending();
  });
}

function stopTyping(id) {
  clearTimeout(chat.typing.get(id)?.timer);
  if (chat.typing.delete(id)) showTyping();
}

function clearTyping() {
  for (const id of [...chat.typing.keys()]) stopTyping(id);
}

// MARK: - The link

let client = null;
let countdown = 0;

function open() {
  client = new StarlingClient("/chat");
  client.addEventListener("state", linkChanged);
  linkChanged();
}

function linkChanged() {
  clearTimeout(countdown);
  const { status } = client.state;
  if (status === "connected") return join();
  chat.joined = null;
  chat.joins += 1;
  clearTyping();
  if (status === "connecting") return show("connecting");
  show("waiting");
  if (status === "waiting") return count();
  chat.topics = [];
  $("link-text").textContent = "Disconnected";
}

function count() {
  const milliseconds = client.state.until - Date.now();
  $("link-text").textContent = `Reconnecting in ${Math.max(1, Math.ceil(milliseconds / 1000))} s`;
  countdown = setTimeout(count, milliseconds % 1000 || 1000);
}

function retry() {
  if (client.state.status === "closed") open();
  else client.retry();
}

function show(state) {
  const said = { connecting: "Connecting…", online: "Online", waiting: "Reconnecting" }[state];
  const button = $("retry");
  if (document.activeElement === button && state !== "waiting") $("text").focus();
  document.body.dataset.link = state;
  $("link-text").textContent = said;
  $("link-status").textContent = said;
  button.hidden = state !== "waiting";
  showPending();
}

// MARK: - What it shows

const timeFormat = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit" });
const dayFormat = new Intl.DateTimeFormat("en", { weekday: "long", day: "numeric", month: "long" });
let last = {}; // what the conversation ends with: {day, nickname, time} of a message, or {presence}

function element(tag, className, ...content) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...content);
  return made;
}

function coloured(made, nickname) {
  let hash = 7;
  for (const scalar of nickname.toLowerCase()) hash = (hash * 31 + scalar.codePointAt(0)) % 360_007;
  made.style.setProperty("--hue", (hash * 137.5) % 360);
  return made;
}

function initial(nickname) {
  const made = coloured(element("span", "initial", [...nickname][0].toUpperCase()), nickname);
  made.ariaHidden = "true";
  return made;
}

function clock(time) {
  const made = element("time", "", timeFormat.format(time));
  made.dateTime = new Date(time).toISOString();
  return made;
}

function messageElement({ nickname, text, time }, first) {
  const made = element("div", first ? "message first" : "message");
  if (first) made.append(initial(nickname), element("p", "by", coloured(element("bdi", "name", nickname), nickname), clock(time)));
  else made.append(clock(time));
  made.append(element("p", "text", text));
  return made;
}

function followsLast(nickname, time) {
  return last.nickname === nickname && time - last.time < 5 * 60_000 && new Date(time).toDateString() === last.day;
}

function showMessage({ id, key, member: { nickname }, text, time }) {
  const index = chat.pending.findIndex((message) => message.key === key);
  if (index >= 0) {
    chat.pending.splice(index, 1);
    showPending();
  }
  if (chat.seen.has(id) || chat.seen.has(key)) return;
  chat.seen.add(id).add(key);
  for (const old of chat.seen) if (chat.seen.size > 4 * shownMax) chat.seen.delete(old); else break;
  const day = new Date(time).toDateString();
  const first = !followsLast(nickname, time);
  if (last.day !== day) showInLog(dayElement(time));
  showInLog(messageElement({ nickname, text, time }, first));
  last = { day, nickname, time };
  if (index < 0) countUnread();
}

function dayElement(time) {
  const made = element("p", "day", dayName(time));
  made.dataset.time = time;
  return made;
}

function dayName(time) {
  const now = new Date();
  const daysAgo = [0, 1].find((ago) => new Date(now.getFullYear(), now.getMonth(), now.getDate() - ago).toDateString() === new Date(time).toDateString());
  return ["Today", "Yesterday"][daysAgo] ?? dayFormat.format(time);
}

function showEvent(...content) {
  last = { day: last.day };
  return showInLog(element("p", "event", ...content));
}

// Comings and goings that follow one another share a line; who went and came back in it is not worth a word.
function showPresence(nickname, what) {
  last.presence ??= { joined: [], left: [], made: null };
  const { presence } = last;
  const opposite = presence[what === "joined" ? "left" : "joined"];
  if (opposite.includes(nickname)) opposite.splice(opposite.indexOf(nickname), 1);
  else presence[what].push(nickname);
  const parts = ["joined", "left"].flatMap((what) => (presence[what].length ? [[...names(presence[what]), ` ${what}`]] : []));
  const content = parts.flatMap((part, index) => (index ? [" · ", ...part] : part));
  if (presence.made) keepingPlace(() => presence.made.replaceChildren(...content));
  else presence.made = showEvent(...content);
  presence.made.hidden = content.length === 0;
  last.presence = presence;
}

// "Ada, Grace and 7 others", each name by itself, so that one's direction of writing cannot disturb the rest.
function names(list) {
  const some = list.slice(0, 3).map((name) => element("bdi", "", name));
  if (list.length > 3) some.push(list.length === 4 ? "1 other" : `${list.length - 3} others`);
  return some.flatMap((name, index) => (index === 0 ? [name] : [index === some.length - 1 ? " and " : ", ", name]));
}

function showInLog(made) {
  keepingPlace(() => {
    $("log").append(made);
    while ($("log").childElementCount > shownMax) $("log").firstElementChild.remove();
  });
  return made;
}

function showPending() {
  const list = chat.pending.filter((message) => message.room === chat.room);
  const nickname = chat.joined?.member.nickname ?? chat.nickname;
  const online = document.body.dataset.link === "online";
  keepingPlace(() => $("pending").replaceChildren(...list.map((message, index) => {
    const first = index === 0 && !followsLast(nickname, message.time);
    const made = messageElement({ nickname, ...message }, first);
    const state = element("p", "state");
    if (message.failure) {
      const edit = element("button", "", "Edit");
      edit.onclick = () => editAgain(message);
      made.classList.add("failed");
      state.append(`Not sent: ${message.failure}`, edit);
    } else if (!online) {
      state.append("Will be sent when you are back online");
    }
    if (message.failure || (!online && index === list.length - 1)) made.append(state);
    return made;
  })));
  $("empty").hidden = !chat.joined || $("log").childElementCount > 0 || list.length > 0;
}

function showMembers() {
  const collator = new Intl.Collator();
  const list = [...chat.members].sort((a, b) => collator.compare(a[1], b[1]));
  $("here-count").textContent = list.length || "";
  $("here").replaceChildren(...list.slice(0, 200).map(([id, nickname]) => {
    const made = element("li", "", initial(nickname), element("bdi", "", nickname));
    if (id === chat.joined?.member.id) made.append(element("small", "", "you"));
    return made;
  }));
  if (list.length > 200) $("here").append(element("li", "", `and ${list.length - 200} more`));
}

function showRooms() {
  let visited = [];
  try { visited = JSON.parse(stored("rooms")).filter((room) => typeof room === "string"); } catch { /* none yet */ }
  const others = visited.filter((room) => !suggestions.includes(room) && room !== chat.room);
  if (!suggestions.includes(chat.room)) others.unshift(chat.room);
  others.splice(roomsMax - suggestions.length);
  store("rooms", JSON.stringify(others));
  store("room", chat.room);
  $("rooms").replaceChildren(...[...suggestions, ...others.sort()].map((room) => {
    const made = element("a", "", room);
    made.href = `#${encodeURIComponent(room)}`;
    if (room === chat.room) made.ariaCurrent = "page";
    return element("li", "", made);
  }));
}

function showTyping() {
  const list = [...chat.typing.values()].map(({ nickname }) => nickname);
  $("typing").replaceChildren(...(list.length === 0 ? [] : [...names(list), list.length === 1 ? " is typing…" : " are typing…"]));
}

function showAll() {
  const nickname = chat.joined?.member.nickname ?? chat.nickname;
  $("room").textContent = chat.room;
  $("text").placeholder = `Message #${chat.room}`;
  $("self-name").textContent = nickname;
  if (nickname) $("self-initial").replaceWith(Object.assign(initial(nickname), { id: "self-initial" }));
  showRooms();
  showMembers();
  showPending();
  showUnread();
}

function clearConversation(room) {
  $("log").replaceChildren();
  chat.shown = room;
  chat.seen.clear();
  chat.unread = 0;
  last = {};
}

// MARK: - The place in the conversation

const atEnd = () => $("scroller").scrollHeight - $("scroller").scrollTop - $("scroller").clientHeight < 48;
let followsEnd = true;

function scrollToEnd() {
  $("scroller").scrollTop = $("scroller").scrollHeight;
  followsEnd = true;
  read();
}

// Changes the conversation. Who is at its end stays there; who reads further back keeps the line before the eyes.
function keepingPlace(change) {
  const scroller = $("scroller");
  const { scrollTop } = scroller;
  const anchor = !followsEnd && [...$("log").children].find((made) => made.offsetTop + made.offsetHeight > scrollTop);
  const before = anchor?.offsetTop;
  change();
  if (followsEnd) scroller.scrollTop = scroller.scrollHeight;
  else if (anchor?.isConnected) scroller.scrollTop = scrollTop + anchor.offsetTop - before;
}

function countUnread() {
  if (followsEnd && !document.hidden) return;
  chat.unread += 1;
  showUnread();
}

function read() {
  if (document.hidden || chat.unread === 0) return;
  chat.unread = 0;
  showUnread();
}

function showUnread() {
  document.title = `${chat.unread && document.hidden ? `(${chat.unread}) ` : ""}#${chat.room} · Starling`;
  if (document.activeElement === $("more") && followsEnd) $("scroller").focus();
  $("more").hidden = followsEnd;
  $("more").textContent = chat.unread === 0 ? "Latest messages ↓" : chat.unread === 1 ? "1 new message ↓" : `${chat.unread} new messages ↓`;
}

$("scroller").onscroll = () => {
  followsEnd = atEnd();
  if (followsEnd) read();
  showUnread();
};
$("more").onclick = scrollToEnd;
new ResizeObserver(() => followsEnd && scrollToEnd()).observe($("scroller"));

// MARK: - What is typed

let typingSaidAt = -Infinity;

function sizeComposer() {
  const area = $("text");
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight}px`;
  const left = textLengthMax - length(area.value);
  notice(left > 200 ? "" : left < 0 ? `${-left} too many` : `${left} left`, left < 0);
  $("send").disabled = left < 0 || area.value.trim() === "";
}

function notice(text, bad) {
  $("notice").textContent = text;
  $("notice").classList.toggle("bad", bad);
}

function sendTyped() {
  if ($("send").disabled) return;
  if (chat.pending.length >= pendingMax) return notice(`${pendingMax} messages are waiting already`, true);
  const text = $("text").value.replace(/\s+$/, "").replace(/^\s*\n/, "");
  const message = { key: randomKey(), room: chat.room, text, time: Date.now() };
  chat.pending.push(message);
  $("text").value = "";
  typingSaidAt = -Infinity;
  sizeComposer();
  if (chat.joined) say(message);
  showPending();
  scrollToEnd();
}

// `crypto.randomUUID` is missing on a page that came over plain HTTP from another machine; this is not.
function randomKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function editAgain(message) {
  chat.pending.splice(chat.pending.indexOf(message), 1);
  $("text").value = [message.text, $("text").value].filter(Boolean).join("\n");
  sizeComposer();
  showPending();
  $("text").focus();
}

$("text").oninput = () => {
  sizeComposer();
  const now = performance.now();
  if (!chat.joined || $("text").value.trim() === "" || now - typingSaidAt < 2000) return;
  typingSaidAt = now;
  chat.topics[1].publish(null).catch(() => {}); // too often, or the link is lost
};
$("text").onkeydown = (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  sendTyped();
};
$("composer").onsubmit = (event) => {
  event.preventDefault();
  sendTyped();
  $("text").focus();
};

// MARK: - Rooms, the nickname, the side

function enterRoom(room) {
  if (room === chat.room) return;
  chat.room = room;
  chat.members.clear();
  clearTyping();
  clearConversation(room);
  leave();
  if (client?.state.status === "connected") join();
  scrollToEnd();
  showAll();
}

function askForName(failure, field) {
  openSide(false);
  $("hello-title").textContent = chat.joined ? "Another name?" : "What should we call you?";
  $("hello-error").textContent = failure;
  $("nickname").value = chat.nickname;
  $("first-room").value = chat.room;
  if (!$("hello").open) $("hello").showModal();
  $(field).focus();
}

function openSide(open) {
  document.body.classList.toggle("aside", open);
  $("menu").ariaExpanded = String(open);
}

$("enter").onsubmit = (event) => {
  const nickname = cleaned($("nickname").value);
  const room = cleanedRoom($("first-room").value);
  if (!nickname || !room) {
    event.preventDefault();
    return askForName(nickname ? "This room needs a name." : "A nickname needs something to see.", nickname ? "first-room" : "nickname");
  }
  const rejoins = nickname !== chat.nickname || !chat.joined;
  chat.nickname = nickname;
  store("nickname", nickname);
  if (room !== chat.room) {
    chat.room = room;
    clearConversation(room);
  }
  if (`#${encodeURIComponent(room)}` !== location.hash) history.pushState(null, "", `#${encodeURIComponent(room)}`);
  const moves = rejoins || room !== chat.joined.room;
  if (client && moves) leave();
  if (!client) open();
  else if (moves && client.state.status === "connected") join();
  showAll();
};
$("hello").onclose = () => $("text").focus();
$("hello").oncancel = (event) => { if (!chat.joined) event.preventDefault(); };
$("rename").onclick = () => askForName("", "nickname");
$("retry").onclick = retry;
$("menu").onclick = () => {
  openSide($("menu").ariaExpanded !== "true");
  $("rooms").querySelector("[aria-current]").focus();
};
$("scrim").onclick = () => openSide(false);
$("rooms").onclick = (event) => { if (event.target.closest("a")) openSide(false); };
$("other").onsubmit = (event) => {
  event.preventDefault();
  const room = cleanedRoom($("other-room").value);
  $("other-room").value = "";
  if (!room) return;
  openSide(false);
  location.hash = encodeURIComponent(room);
  $("text").focus();
};

addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !document.body.classList.contains("aside")) return;
  openSide(false);
  $("menu").focus();
});
addEventListener("hashchange", () => enterRoom(roomOfAddress() || suggestions[0]));
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  for (const made of document.querySelectorAll(".day")) made.textContent = dayName(Number(made.dataset.time));
  if (followsEnd) read();
  showUnread();
});

// A phone's keyboard covers the page without resizing it: the visible part is what counts, unless the user zooms.
visualViewport?.addEventListener("resize", () => {
  if (visualViewport.scale !== 1) return;
  document.documentElement.style.setProperty("--visible", `${visualViewport.height}px`);
  scrollTo(0, 0);
});

if (!location.hash) history.replaceState(null, "", `#${encodeURIComponent(chat.room)}`);
showAll();
sizeComposer();
if (chat.nickname) open(); else askForName("", "nickname");
