#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets: meaningful inputs from which the fuzzer starts.

Run it after a change of an input's form. Seeds that are not listed here, the fuzzer's findings, stay as they are.
"""
import pathlib
import struct
import zlib

SEEDS = pathlib.Path(__file__).parent / "Seeds"


def write(target, name, data):
    folder = SEEDS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


# MARK: Frames: choices, split, stream.

CLIENT, COMPRESSION, FRAME_LIMIT, BIG_FRAME_LIMIT, SMALL_MESSAGES, FEW_FRAGMENTS = 1, 2, 4, 8, 16, 32
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def frame(opcode, payload=b"", final=True, compressed=False, key=b"\x37\xfa\x21\x3d"):
    first = opcode | (0x80 if final else 0) | (0x40 if compressed else 0)
    mask = 0x80 if key else 0
    if len(payload) < 126:
        head = bytes([first, mask | len(payload)])
    elif len(payload) < 65536:
        head = bytes([first, mask | 126]) + struct.pack(">H", len(payload))
    else:
        head = bytes([first, mask | 127]) + struct.pack(">Q", len(payload))
    if key:
        payload = bytes(byte ^ key[index % 4] for index, byte in enumerate(payload))
    return head + (key or b"") + payload


def frames(name, stream, choices=0, split=7):
    write("Frames", name, bytes([choices, split]) + stream)


euro = "€".encode()
frames("text", frame(TEXT, b"Hello"))
frames("text-from-server", frame(TEXT, b"Hello", key=None), CLIENT)
frames("length-16-bits", frame(BINARY, bytes(range(200))))
frames("length-64-bits", b"\x82\xff" + struct.pack(">Q", 65536) + b"\0\0\0\0rest")
frames("control-between-fragments", frame(TEXT, b"a", False) + frame(PING, b"9") + frame(CONTINUATION, b"b"))
frames("character-across-fragments", frame(TEXT, euro[:1], False) + frame(CONTINUATION, euro[1:]))
frames("character-across-fragments-from-server",
       frame(TEXT, euro[:1], False, key=None) + frame(CONTINUATION, euro[1:], key=None), CLIENT)
frames("empty-fragments", frame(TEXT, b"", False) + frame(CONTINUATION, b"", False) + frame(CONTINUATION))
frames("too-many-fragments", frame(TEXT, b"", False) + frame(CONTINUATION, b"", False) * 3, FEW_FRAGMENTS)
frames("compressed", frame(TEXT, b"\xf2\x48\xcd\xc9\xc9\x07\x00", compressed=True), COMPRESSION)
frames("compressed-fragments", frame(TEXT, b"\xf2\x48\xcd", False, True)
       + frame(CONTINUATION, b"\xc9\xc9\x07\x00"), COMPRESSION)
frames("compression-not-agreed", frame(TEXT, b"\xf2\x48", compressed=True))
frames("compressed-continuation", frame(TEXT, b"\xf2", False, True) + frame(CONTINUATION, b"", compressed=True),
       COMPRESSION)
frames("close-without-code", frame(CLOSE))
frames("close-with-reason", frame(CLOSE, struct.pack(">H", 1000) + "tschüß".encode()))
frames("close-truncated-code", frame(CLOSE, b"\x03"))
frames("close-code-1005", frame(CLOSE, struct.pack(">H", 1005)))
frames("ping-and-pong", frame(PING, b"\0" * 125) + frame(PONG) + frame(PONG, b"x"))
frames("many-messages", b"".join(frame(BINARY, bytes([n]) * n) for n in range(20)))
frames("frame-too-big", frame(BINARY, b"x" * 41), FRAME_LIMIT)
frames("message-too-big", frame(BINARY, b"x" * 60, False) + frame(CONTINUATION, b"x" * 60), SMALL_MESSAGES)
frames("message-too-big-in-one-frame", frame(TEXT, b"x" * 101), FRAME_LIMIT | BIG_FRAME_LIMIT | SMALL_MESSAGES)
frames("text-every-kind-of-character", frame(TEXT, "aß€𝄞\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff".encode()))
for name, text in {
    "surrogate": b"\xed\xa0\x80", "overlong": b"\xc0\xaf", "beyond-unicode": b"\xf4\x90\x80\x80", "cut": b"a\xe2\x82",
}.items():
    frames("text-" + name, frame(TEXT, text))

# MARK: Handshake: side, split, then head, subprotocol, extensions and field value, each up to a NUL.

REQUEST = [
    "GET /chat?room=1 HTTP/1.1", "Host: example.com", "Upgrade: websocket", "Connection: keep-alive, Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13",
]
RESPONSE = [
    "HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade",
    # Answers the key that the target uses, sixteen times 7.
    "Sec-WebSocket-Accept: CdXSYUsvsaMthlEXWDNURGWA/1o=",
]


def handshake(name, lines, side=0, subprotocol="chat", extensions="permessage-deflate", value="a=1", end=b"\r\n\r\n"):
    head = "\r\n".join(lines).encode() + end
    write("Handshake", name, bytes([side, 3]) + b"\0".join(
        [head, subprotocol.encode(), extensions.encode(), value.encode()]))


handshake("request", REQUEST)
handshake("request-with-offers", REQUEST + ["Sec-WebSocket-Protocol: chat, v2.chat", "Sec-WebSocket-Protocol: v3",
                                            "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"])
handshake("request-absolute-target", ["GET ws://example.com/a?b HTTP/1.1"] + REQUEST[1:])
handshake("request-http-1.0", ["GET / HTTP/1.0"] + REQUEST[1:])
handshake("request-post", ["POST / HTTP/1.1"] + REQUEST[1:])
handshake("request-without-host", REQUEST[:1] + REQUEST[2:])
handshake("request-two-hosts", REQUEST + ["Host: b"])
handshake("request-with-body", REQUEST + ["Content-Length: 5"])
handshake("request-smuggling", REQUEST + ["Content-Length: 5", "Transfer-Encoding: chunked"])
handshake("request-two-keys", REQUEST + ["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="])
handshake("request-key-with-stray-bits", REQUEST[:4] + ["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAB=="] + REQUEST[5:])
handshake("request-version-8", REQUEST[:5] + ["Sec-WebSocket-Version: 8"])
handshake("request-folded-line", REQUEST[:2] + ["X: 1", " 2"] + REQUEST[2:])
handshake("request-space-before-colon", REQUEST[:2] + ["X : 1"] + REQUEST[2:])
handshake("request-bare-line-feeds", ["\n".join(REQUEST)], end=b"\n\n")
handshake("request-too-many-fields", REQUEST + ["X: %d" % n for n in range(30)])
handshake("request-followed-by-frame", REQUEST, end=b"\r\n\r\n\x81\x80abcd")
handshake("application-injects", REQUEST + ["Sec-WebSocket-Protocol: chat"], subprotocol="chat\r\nX: 1",
          extensions="a\r\nX: 1", value="b\nX: 1")
handshake("tls-on-plain-port", ["\x16\x03\x01\x02"])
handshake("response", RESPONSE + ["Sec-WebSocket-Protocol: chat"], 1)
handshake("response-without-subprotocol", RESPONSE, 1, subprotocol="")
handshake("response-other-subprotocol", RESPONSE + ["Sec-WebSocket-Protocol: x"], 1)
handshake("response-wrong-accept", RESPONSE[:3] + ["Sec-WebSocket-Accept: AAAA"], 1)
handshake("response-404", ["HTTP/1.1 404 Not Found", "Content-Length: 0"], 1)
handshake("client-injects", RESPONSE, 1, extensions="a\r\nX: 1", value="b\r\nX: 1")

# MARK: Deflate: choice, parameters, messages behind their lengths.


def deflated(text, window_bits=15, level=6):
    stream = zlib.compressobj(level, zlib.DEFLATED, -window_bits)
    return (stream.compress(text) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]


def messages(*payloads):
    return b"".join(bytes([choices]) + struct.pack(">H", len(payload)) + payload for choices, payload in payloads)


KEEPING, ALONE, LIMIT_64, LIMIT_MAX = 0, 1, 1 << 1, 127 << 1
chat = b'{"type":"message","room":"general","from":"ada","text":"hello everybody"}'


def inflating(name, *payloads, window_bits=15, slice_size=3):
    write("Deflate", name, bytes([0, window_bits - 8, slice_size - 1]) + messages(*payloads))


def both_ways(name, *payloads, window_bits=15, level=1, mem_level=8, slice_size=20):
    write("Deflate", name,
          bytes([1, window_bits - 8, level, mem_level - 1, slice_size - 1]) + messages(*payloads))


inflating("inflate-hello", (LIMIT_MAX, bytes.fromhex("f248cdc9c90700")))
inflating("inflate-refers-to-earlier", (LIMIT_MAX, bytes.fromhex("f248cdc9c90700")), (LIMIT_MAX, bytes.fromhex("f200110000")))
inflating("inflate-context-gone", (LIMIT_MAX | ALONE, bytes.fromhex("f248cdc9c90700")), (LIMIT_MAX, bytes.fromhex("f200110000")))
inflating("inflate-stored", (LIMIT_MAX, bytes.fromhex("000500faff48656c6c6f00")))
inflating("inflate-final-block", (LIMIT_MAX, bytes.fromhex("f348cdc9c9070000")))
inflating("inflate-two-blocks", (LIMIT_MAX, bytes.fromhex("f248050000 00ffffcac9c90700".replace(" ", ""))))
inflating("inflate-empty", (LIMIT_MAX, b"\0"), (LIMIT_MAX, b""))
inflating("inflate-cut", (LIMIT_MAX, deflated(chat)[:-5]))
inflating("inflate-bomb", (LIMIT_64, deflated(b"a" * 100_000)), (LIMIT_MAX, deflated(chat)))
inflating("inflate-exactly-the-limit", (LIMIT_64, deflated(b"a" * 64)), (LIMIT_64, deflated(b"a" * 65)))
inflating("inflate-window-too-big", (LIMIT_MAX, deflated(bytes(range(256)) * 9)), window_bits=9)
inflating("inflate-dynamic-tables", (LIMIT_MAX, deflated(chat * 3, level=9)))
both_ways("round-trip-chat", (ALONE, chat), (ALONE, chat))
both_ways("round-trip-with-context", (KEEPING, chat), (KEEPING, chat), (KEEPING, chat))
both_ways("round-trip-longer-than-window", (KEEPING | 31 << 1, bytes(range(256))), window_bits=9, mem_level=1)
both_ways("round-trip-window-8", (KEEPING | 5 << 1, b"aaaaaaaabbbb"), (KEEPING, chat), window_bits=8)
both_ways("round-trip-stored", (ALONE, chat), level=0)
both_ways("round-trip-best", (KEEPING | 8 << 1, chat), level=9, mem_level=9)
both_ways("round-trip-empty", (KEEPING, b""), (ALONE, b""), (KEEPING, chat))

# MARK: Extensions: the server's and the client's preferences, then lines.

DEFAULT, TAKEOVER = (0, 0x66), (3, 0x66)
SMALL = (3, 0x00)


def extensions(name, *lines, server=DEFAULT, client=DEFAULT):
    write("Extensions", name, bytes(server) + bytes(client) + "\n".join(lines).encode())


extensions("plain", "permessage-deflate")
extensions("browser", "permessage-deflate; client_max_window_bits", server=TAKEOVER, client=TAKEOVER)
extensions("all-parameters", "permessage-deflate; server_no_context_takeover; client_no_context_takeover; "
           "server_max_window_bits=10; client_max_window_bits=12", server=TAKEOVER)
extensions("two-offers", "permessage-deflate; server_max_window_bits=8, permessage-deflate; client_max_window_bits")
extensions("two-lines", "x-webkit-deflate-frame", "permessage-deflate; client_max_window_bits=9", server=SMALL)
extensions("small-windows", "permessage-deflate; client_max_window_bits=15", server=SMALL, client=SMALL)
extensions("quoted", 'permessage-deflate; server_max_window_bits="1\\0"', server=TAKEOVER)
extensions("quoted-comma", 'x; y="a,b", permessage-deflate')
extensions("quote-left-open", 'permessage-deflate; client_max_window_bits="10')
extensions("quote-across-lines", 'x; y="a', 'b", permessage-deflate')
extensions("empty-elements", " , ,permessage-deflate ;\tclient_max_window_bits\t= 10 , ")
extensions("repeated-parameter", "permessage-deflate; client_max_window_bits; client_max_window_bits=9")
extensions("unknown-parameter", "permessage-deflate; mux")
extensions("leading-zero", "permessage-deflate; server_max_window_bits=08")
extensions("answer", "permessage-deflate; server_no_context_takeover; client_no_context_takeover")
extensions("answer-small", "permessage-deflate; server_max_window_bits=9; client_max_window_bits=9", client=SMALL)
extensions("answer-not-asked-for", "permessage-deflate; server_max_window_bits=12", client=SMALL)
extensions("answer-other-extension", "permessage-bzip2")

# MARK: Topics: a message of either end, or any JSON.


def topics(name, text):
    write("Topics", name, text.encode())


topics("subscribe", '{"type":"subscribe","id":1,"topic":"room:swift","position":"5f1c.17"}')
topics("unsubscribe", '{"type":"unsubscribe","id":2,"topic":"room:swift"}')
topics("publish", '{"type":"publish","id":3,"topic":"a","data":{"said":"H\\u00e9\\ud83e\\udd9c"},"key":"5f0c1d9b"}')
topics("request", '{"type":"request","id":4,"name":"rename","data":[1,-2.5e+3,true,null],"timeout":10000}')
topics("members-of", '{"type":"members","id":5,"topic":"a","from":"7"}')
topics("subscribed", '{"type":"subscribed","id":1,"topic":"a","position":"5f1c.17","recovered":true}')
topics("published", '{"type":"published","id":3,"position":null}')
topics("members", '{"type":"members","id":5,"topic":"a","members":[{"id":"ada","info":"Ada"},{"id":"b"}],"next":"c"}')
topics("error", '{"type":"error","id":4,"code":"my-code","text":"a \\"text\\"\\n"}')
topics("publication", ' {"type":"publication" , "topic":"a",\n"position":"5f1c.18","data":{"a":{"b":[{}]}}}\t')
topics("publication-text", '{"type":"publication","topic":"a","text":"no JSON"}')
topics("publication-bytes", '{"type":"publication","topic":"a","base64":"AQID"}')
topics("gap", '{"type":"gap","topic":"a","position":"5f1c.90"}')
topics("joined", '{"type":"joined","topic":"a","member":{"id":"ada","info":"{}"}}')
topics("drain", '{"type":"drain","retry":2400}')
topics("drain-ticket", '{"type":"drain","retry":0,"ticket":"e30=.AAAA"}')
topics("resume", '{"type":"resume","id":6,"ticket":"e30=.AAAA","topics":[{"topic":"a","position":"5f1c.17"},{"topic":"b"}]}')
topics("resumed", '{"type":"resumed","id":6}')
topics("two-of-a-name", '{"type":"drain","type":"gap"}')
topics("deep", "[" * 64 + "]" * 64)
topics("too-deep", "[" * 65 + "]" * 65)
topics("half-a-surrogate-pair", '{"type":"error","code":"\\ud83e","text":"\\udd9c\\ud83e"}')
