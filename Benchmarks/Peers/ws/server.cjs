// Node's ws: `node server.cjs [--certificate FILE --key FILE] [--deflate]`, says `listening on PORT`.
//
// `/echo` and `/idle` echo; what arrives at `/publish/T` goes to everybody at `/subscribe/T`.

const { readFileSync } = require("node:fs");
const { parseArgs } = require("node:util");
const { WebSocketServer } = require("ws");

const { values: options } = parseArgs({
  options: { certificate: { type: "string" }, key: { type: "string" }, deflate: { type: "boolean" } },
});
const server = options.certificate
  ? require("node:https").createServer({ cert: readFileSync(options.certificate), key: readFileSync(options.key) })
  : require("node:http").createServer();

// Without context takeover, at the level that Starling compresses with, and however small a message is.
const perMessageDeflate = options.deflate && {
  serverNoContextTakeover: true,
  clientNoContextTakeover: true,
  threshold: 0,
  zlibDeflateOptions: { level: 1 },
};

const topics = new Map();

function topicOf(url) {
  const name = url.slice(url.lastIndexOf("/") + 1);
  if (!topics.has(name)) topics.set(name, new Set());
  return topics.get(name);
}

new WebSocketServer({ server, perMessageDeflate }).on("connection", (socket, request) => {
  if (request.url.startsWith("/subscribe/")) {
    const topic = topicOf(request.url);
    topic.add(socket);
    socket.on("close", () => topic.delete(socket));
  } else if (request.url.startsWith("/publish/")) {
    const topic = topicOf(request.url);
    socket.on("message", (data, isBinary) => {
      for (const subscriber of topic) subscriber.send(data, { binary: isBinary });
    });
  } else {
    socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary }));
  }
  socket.on("error", () => {});
});

server.listen({ host: "127.0.0.1", port: 0, backlog: 4096 }, () => {
  console.log(`listening on ${server.address().port}`);
});
