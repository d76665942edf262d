"""Python's websockets: `server.py [--certificate FILE --key FILE] [--deflate]`, says `listening on PORT`.

`/echo` and `/idle` echo; what arrives at `/publish/T` goes to everybody at `/subscribe/T`.
"""

import argparse
import asyncio
import collections
import logging
import ssl

from websockets.asyncio.server import broadcast, serve
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory

topics = collections.defaultdict(set)


async def handle(connection):
    path = connection.request.path
    topic = topics[path.rpartition("/")[2]]
    if path.startswith("/subscribe/"):
        topic.add(connection)
        try:
            await connection.wait_closed()
        finally:
            topic.discard(connection)
    elif path.startswith("/publish/"):
        async for message in connection:
            broadcast(topic, message)
    else:
        async for message in connection:
            await connection.send(message)


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    parser.add_argument("--deflate", action="store_true")
    return parser.parse_args()


async def main():
    options = arguments()
    tls = None
    if options.certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(options.certificate, options.key)
    # Without context takeover, and at the level that Starling compresses with.
    deflate = ServerPerMessageDeflateFactory(
        server_no_context_takeover=True, client_no_context_takeover=True, compress_settings={"level": 1}
    )
    # A client that ends during its handshake is no news.
    logging.getLogger("websockets.server").setLevel(logging.CRITICAL)
    async with serve(
        handle,
        "127.0.0.1",
        0,
        compression=None,
        extensions=[deflate] if options.deflate else None,
        ping_interval=None,
        max_size=1 << 20,
        ssl=tls,
        backlog=4096,
    ) as server:
        print(f"listening on {server.sockets[0].getsockname()[1]}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    try:
        import uvloop

        uvloop.run(main())
    except ImportError:
        asyncio.run(main())
