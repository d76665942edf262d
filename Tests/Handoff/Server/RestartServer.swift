import ArgumentParser
import ExampleSupport
import Starling
import StarlingCore
import StarlingDeflate
import StarlingNative
import StarlingRedis

/// Connections of every kind that can go to the next process, for `Tests/Handoff/run.sh`.
@main
struct RestartServer: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract:
            "A server for tests of restarts: /async and /sync send back, /subscribe hears what /publish is sent."
    )

    @OptionGroup var options: ServerOptions
    @Option(help: "A Redis that carries the publications and keeps their history; none if not given.")
    var redis: String?

    func run() async throws {
        var configuration = options.endpointConfiguration()
        configuration.deflate?.preferences.serverNoContextTakeover = false
        configuration.deflate?.preferences.clientNoContextTakeover = false
        let echo = WebSocketEndpoint.resumable(configuration: configuration) { socket in
            for try await message in socket { try await socket.send(message) }
        }
        let broadcaster: any HistoryBroadcaster =
            if let redis {
                try RedisBroadcaster(url: redis, connector: NativeConnector()) { _ in HistoryLimits() }
            } else {
                InMemoryBroadcaster()
            }
        let (sync, news, publishing) = (
            WebSocketEndpoint(configuration: configuration, handler: EchoHandler()),
            WebSocketEndpoint(
                broadcaster: broadcaster,
                configuration: configuration,
                handler: SubscribeHandler()
            ),
            WebSocketEndpoint(
                broadcaster: broadcaster,
                configuration: configuration,
                handler: PublishHandler()
            )
        )
        // Not resumable: what it has stays behind.
        let stays = WebSocketEndpoint(configuration: configuration) { socket in
            for try await message in socket { try await socket.send(message) }
        }
        try await options.serve {
            WebSocketRoute("/async", echo)
            WebSocketRoute("/sync", sync)
            WebSocketRoute("/subscribe", news)
            WebSocketRoute("/publish", publishing)
            WebSocketRoute("/stays", stays)
        }
    }
}

/// Sends every message back.
struct EchoHandler: HandoffConnectionHandler {
    mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {
        connection.send(message)
    }
}

/// Hears the news.
struct SubscribeHandler: HandoffConnectionHandler {
    mutating func opened(_ connection: inout Connection<Self>, userData: Void) {
        connection.subscribe(to: "news")
    }

    mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {}
}

/// Tells the news.
struct PublishHandler: HandoffConnectionHandler {
    mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {
        connection.publish(message, to: "news")
    }
}
