import HTTPTypes
import Logging
import ServiceLifecycle
import Starling
import StarlingNative
import UnixSignals

func configureServing() async throws {
    let echo = WebSocketEndpoint { socket in
        for try await message in socket {
            try await socket.send(message)
        }
    }

    var configuration = ServerConfiguration()
    configuration.connectionsPerAddressMax = 100

    let server = WebSocketServer(transport: NativeTransport(port: 8080), configuration: configuration) {
        WebSocketRoute("/echo", echo)
        HTTPRoute("/") { _ in .text("Open a WebSocket at /echo.\n") }
        MetricsRoute("/metrics")
    }

    let group = ServiceGroup(
        services: [server],
        gracefulShutdownSignals: [.sigint, .sigterm],
        logger: Logger(label: "echo")
    )
    try await group.run()
}

func configureLimits() -> WebSocketEndpoint {
    var configuration = EndpointConfiguration()
    configuration.limits.messageBytesMax = 64 << 10
    configuration.rates.messagesPerSecondMax = 50
    configuration.timeouts.idleTimeout = .seconds(600)

    return WebSocketEndpoint(configuration: configuration) { socket in
        for try await message in socket {
            try await socket.send(message)
        }
    }
}

/// In the doc comments of `WebSocketServer` and `NativeTransport`.
func serve(_ chat: WebSocketEndpoint, _ echo: WebSocketEndpoint) async throws {
    try await WebSocketServer(transport: NativeTransport(port: 8080)) {
        WebSocketRoute("/chat", chat)
    }.run()

    try await WebSocketServer(transport: NativeTransport(port: 8080)) {
        WebSocketRoute("/echo", echo)
    }.run()
}

struct Ticker: ConnectionHandler {
    mutating func opened(_ connection: inout Connection<Self>, userData: Void) {
        connection.subscribe(to: "ticks")
    }
    mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {
        connection.publish(message, to: "ticks")
    }
}

let ticker = WebSocketEndpoint(handler: Ticker())

struct Counter: ConnectionHandler {
    struct State {
        var received = 0
    }

    mutating func opened(_ connection: inout Connection<Self>, userData: Void) -> State {
        State()
    }

    mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {
        connection.state.received += 1
        connection.send("\(connection.state.received)")
    }
}

let counter = WebSocketEndpoint(handler: Counter())
