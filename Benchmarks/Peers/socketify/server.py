"""µWebSockets through socketify: `server.py [--certificate FILE --key FILE] [--deflate]`, says `listening on PORT`.

`/echo` and `/idle` echo; what arrives at `/publish/T` goes to everybody at `/subscribe/T`.
"""

import argparse
import os
import socket

from socketify import App, AppListenOptions, AppOptions, CompressOptions


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    parser.add_argument("--deflate", action="store_true")
    return parser.parse_args()


def free_port():
    """A port for the library, which does not tell which one it was given."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def upgrade(response, request, context):
    key = request.get_header("sec-websocket-key")
    protocol = request.get_header("sec-websocket-protocol")
    extensions = request.get_header("sec-websocket-extensions")
    response.upgrade(key, protocol, extensions, context, request.get_parameter(0))


def main():
    options = arguments()
    tls = AppOptions(key_file_name=options.key, cert_file_name=options.certificate) if options.certificate else None
    app = App(tls, websocket_factory_max_items=20000)
    # The shared compressor is the one without context takeover.
    common = {
        "compression": CompressOptions.SHARED_COMPRESSOR if options.deflate else CompressOptions.DISABLED,
        "max_payload_length": 1 << 20,
        "max_backpressure": 16 << 20,
        "idle_timeout": 0,
    }

    def echo(connection, message, opcode):
        connection.send(message, opcode, options.deflate)

    def publish(connection, message, opcode):
        app.publish(connection.get_user_data(), message, opcode, options.deflate)

    app.ws("/echo", common | {"message": echo})
    app.ws("/idle", common | {"message": echo})
    app.ws("/publish/:topic", common | {"upgrade": upgrade, "message": publish})
    app.ws(
        "/subscribe/:topic",
        common
        | {
            "upgrade": upgrade,
            "open": lambda connection: connection.subscribe(connection.get_user_data()),
            "message": lambda connection, message, opcode: None,
        },
    )
    port = free_port()

    def listening(_):
        print(f"listening on {port}", flush=True)

    app.listen(AppListenOptions(port=port, host="127.0.0.1"), listening)
    app.run()


if __name__ == "__main__":
    main()
