import ArgumentParser
import Glibc
import Logging
import Starling
import StarlingCore
import StarlingNative
import StarlingRedis

/// The server that the benchmarks measure: event loops and the endpoints, nothing else.
///
/// `/echo` and `/idle` echo; `/subscribe/T` and `/publish/T` are the two ends of topic T.
@main
struct BenchmarkServer: AsyncParsableCommand {
    /// How the echo is written.
    enum Form: String, ExpressibleByArgument {
        case sync, async
    }

    @Option var form = Form.sync
    @Option var port = 0
    @Option(help: "Event loops, each a thread.") var loops = 1
    @Option(help: "Speak TLS, with this chain in PEM form.") var certificate: String?
    @Option(help: "The certificate's key.") var key: String?
    @Flag(help: "Agree to permessage-deflate.") var deflate = false
    @Flag(help: "Make every write a system call of its own.") var unbatched = false
    @Option(help: "Publish by way of the Redis at this Unix socket.") var redis: String?

    func run() async throws {
        let redis = try self.redis.map(self.makeBroadcaster)
        let (addresses, listening) = AsyncStream<String>.makeStream()
        var transport = NativeTransport(
            host: "127.0.0.1",
            port: self.port,
            eventLoops: self.loops,
            tls: try self.makeTLS()
        ) { address in
            listening.yield(address)
            listening.finish()
        }
        transport.batchesWrites = !self.unbatched
        let configuration = self.configuration
        let broadcaster: any Broadcaster = redis ?? InMemoryBroadcaster()
        let fanOut = WebSocketEndpoint(
            broadcaster: broadcaster,
            configuration: configuration,
            handler: FanOut()
        )
        var quiet = ServerConfiguration()
        quiet.logger.logLevel = .warning
        let server = WebSocketServer(transport: transport, configuration: quiet) {
            WebSocketRoute("/echo", self.makeEcho(configuration))
            WebSocketRoute("/idle", self.makeEcho(configuration))
            WebSocketRoute("/subscribe/*", fanOut)
            WebSocketRoute("/publish/*", fanOut)
        }
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await server.run() }
            for await address in addresses {
                // Redis keeps nothing for a node that has not subscribed yet, and the load must not begin before.
                try await redis?.subscribe(to: [FanOut.topic(ofPath: "/subscribe/0")])
                print("listening on \(address.split(separator: ":").last ?? "")")
                fflush(nil)
            }
            try await group.waitForAll()
        }
    }

    private var configuration: EndpointConfiguration {
        var configuration = EndpointConfiguration()
        // The generator compares streams byte by byte, and idle memory is measured without traffic.
        configuration.timeouts.pingInterval = nil
        if !self.deflate { configuration.deflate = nil }
        return configuration
    }

    private func makeEcho(_ configuration: EndpointConfiguration) -> WebSocketEndpoint {
        switch self.form {
        case .sync: WebSocketEndpoint(configuration: configuration, handler: Echo())
        case .async:
            WebSocketEndpoint(configuration: configuration) { socket in
                for try await message in socket {
                    try await socket.send(message)
                }
            }
        }
    }

    private func makeTLS() throws -> TLSContext? {
        guard let certificate, let key else { return nil }
        return try TLSContext(
            .server(TLSIdentity(certificateChain: .file(certificate), privateKey: .file(key)))
        )
    }

    private func makeBroadcaster(_ socket: String) throws -> RedisBroadcaster {
        RedisBroadcaster(
            RedisConfiguration(try RedisServer(url: "unix://\(socket)")),
            connector: NativeConnector()
        )
    }
}

struct Echo: ConnectionHandler {
    mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {
        connection.send(message)
    }
}

/// Every connection to `/subscribe/T` receives what a connection to `/publish/T` sends.
struct FanOut: ConnectionHandler {
    struct State {
        let topic: Topic
    }

    static func topic(ofPath path: String) -> Topic {
        Topic(String(path.split(separator: "/").last ?? ""))
    }

    mutating func opened(_ connection: inout Connection<Self>, userData: Void) -> State {
        let topic = Self.topic(ofPath: connection.path)
        if connection.path.hasPrefix("/subscribe/") { connection.subscribe(to: topic) }
        return State(topic: topic)
    }

    mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {
        connection.publish(message, to: connection.state.topic)
    }
}
