// A server of Node's ws with the paths that ClientChecks.swift names: node ws_server.cjs [CERTIFICATE KEY]. Says its port.

const fs = require("node:fs");
const { WebSocketServer } = require("/usr/share/nodejs/ws");

const [certificate, key] = process.argv.slice(2);
const server = certificate
  ? require("node:https").createServer({ cert: fs.readFileSync(certificate), key: fs.readFileSync(key) })
  : require("node:http").createServer();
let closed = Promise.resolve("");

const handlers = {
  "/echo": (socket) => {
    closed = new Promise((resolve) => socket.on("close", (code, reason) => resolve(`${code} ${reason}`)));
    socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary }));
  },
  "/deflate": (socket) => socket.send(socket.extensions || "none"),
  "/subprotocol": (socket) => socket.send(socket.protocol || "none"),
  "/fragments": (socket) => {
    for (const part of ["one ", "two ", "", "three, Gr\u00fc"]) {
      socket.send(part, { fin: false });
      socket.ping("between");
    }
    socket.send("\u00dfe", { fin: true });
  },
  "/pings": (socket) => {
    const pending = new Set(["", "one", "two".repeat(40)]);
    socket.on("pong", (data) => {
      pending.delete(String(data));
      if (pending.size === 0) socket.send("answered");
    });
    for (const data of pending) socket.ping(data);
  },
  "/closes": (socket, query) => socket.close(Number(query.get("code")), query.get("reason")),
  "/closed": async (socket) => socket.send(await closed),
};

const options = { noServer: true, perMessageDeflate: { threshold: 0 }, maxPayload: 16 << 20 };
const usual = new WebSocketServer({ ...options, handleProtocols: (offered) => offered.has("chat.v2") && "chat.v2" });
const strange = new WebSocketServer({ ...options, handleProtocols: () => "stranger" });

server.on("upgrade", (request, stream, head) => {
  const { pathname, searchParams } = new URL(request.url, "http://localhost");
  if (pathname === "/refuse") {
    const text = `refused with ${searchParams.get("status")}`;
    stream.end(`HTTP/1.1 ${searchParams.get("status")} Refused\r\nContent-Length: ${text.length}\r\nConnection: close\r\n\r\n${text}`);
    return;
  }
  const acceptor = pathname === "/stranger" ? strange : usual;
  acceptor.handleUpgrade(request, stream, head, (socket) => {
    socket.on("error", () => {});
    handlers[pathname]?.(socket, searchParams);
  });
});
server.listen(0, "127.0.0.1", () => console.log(`listening on 127.0.0.1:${server.address().port}`));
