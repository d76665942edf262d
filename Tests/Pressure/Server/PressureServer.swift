import ArgumentParser
import Glibc
import Logging
import Starling
import StarlingCore
import StarlingNative

/// The server that `Tests/Pressure` puts under pressure.
///
/// `/topics/N` subscribes to topic N; `/echo` sends back what it is sent, `/fetch` as many bytes as it is told; `/publish` takes messages of six numbers and publishes as they
/// say; `/metrics` tells what became of it. A publication begins with the time in 8 bytes and its number within its topic in 4.
@main
struct PressureServer: AsyncParsableCommand {
    @Option(help: "What happens to a subscriber that the ring has passed.") var policy = "skip"
    @Option(help: "Publications of each topic that its history keeps.") var history = 1
    @Option(help: "Keys that a topic's publications have in turn, for those who conflate.") var keys = 1
    @Option(help: "Bytes that connections may hold together.") var memoryMax = 1 << 30
    @Option(help: "Event loops.") var loops = 1

    func run() async throws {
        let policies: [String: SlowConsumerPolicy] = [
            "skip": .skip, "disconnect": .disconnect, "conflate": .conflate, "recover": .recover,
        ]
        guard let policy = policies[self.policy] else {
            throw ValidationError("--policy is skip, disconnect, conflate or recover")
        }
        var endpoint = EndpointConfiguration()
        endpoint.deflate = nil
        endpoint.outbound.slowConsumerPolicy = policy
        endpoint.publicationFormat.gap = { gap in
            // Shorter than any publication, so that the crowd can tell them apart.
            .binary(Array("gap \(gap.after?.offset ?? 0) \(gap.newest.offset)".utf8))
        }
        let keys = UInt32(self.keys)
        endpoint.conflationKey = { publication in
            String(Self.number(of: publication.message.byteArray) % keys)
        }
        // Who stops reading is to stay, and to be dealt with by the policy; and to find the close frame when it reads again.
        endpoint.timeouts.writeTimeout = .seconds(600)
        endpoint.timeouts.closeTimeout = .seconds(600)
        endpoint.timeouts.pingInterval = nil
        endpoint.limits.messageBytesMax = 1 << 20
        var configuration = ServerConfiguration()
        configuration.memory = MemoryBudget(byteCountMax: self.memoryMax)
        configuration.logger.logLevel = .warning
        let limits = HistoryLimits(countMax: self.history, byteCountMax: 1 << 30)
        let broadcaster = InMemoryBroadcaster { _ in limits }
        let transport = NativeTransport(host: "127.0.0.1", port: 0, eventLoops: self.loops) { address in
            print("listening on \(address.split(separator: ":").last ?? "")")
            fflush(nil)
        }
        let server = WebSocketServer(transport: transport, configuration: configuration) {
            WebSocketRoute(
                "/topics/*",
                WebSocketEndpoint(
                    broadcaster: broadcaster,
                    configuration: endpoint,
                    handler: Subscriber()
                )
            )
            WebSocketRoute("/echo", WebSocketEndpoint(configuration: endpoint, handler: Echo()))
            WebSocketRoute("/fetch", WebSocketEndpoint(configuration: endpoint, handler: Fetch()))
            WebSocketRoute("/publish", Self.publisher(broadcaster, endpoint))
            MetricsRoute("/metrics")
        }
        try await server.run()
    }

    private static func publisher(
        _ broadcaster: InMemoryBroadcaster,
        _ configuration: EndpointConfiguration
    ) -> WebSocketEndpoint {
        WebSocketEndpoint(configuration: configuration) { socket in
            for try await message in socket {
                guard let order = Order(message.text ?? "") else {
                    return await socket.close(.policyViolation, reason: "six numbers")
                }
                let start = ContinuousClock.now
                for index in 0..<order.count {
                    if index % order.burst == 0 {
                        let due = start + .nanoseconds(Int64(index) * 1_000_000_000 / Int64(order.rate))
                        try await Task.sleep(until: due, clock: .continuous)
                    }
                    var bytes = [UInt8](repeating: 0, count: order.byteCount)
                    Self.write(Self.monotonicNanoseconds(), to: &bytes, at: 0)
                    Self.write(UInt32(order.first + index / order.topics), to: &bytes, at: 8)
                    try await broadcaster.publish(.binary(bytes), to: Topic("\(index % order.topics)"))
                }
                try await socket.send(.text("published"))
            }
        }
    }

    private static func write(_ number: some FixedWidthInteger, to bytes: inout [UInt8], at start: Int) {
        for index in 0..<number.bitWidth / 8 {
            bytes[start + index] = UInt8(truncatingIfNeeded: number >> (8 * index))
        }
    }

    private static func number(of publication: [UInt8]) -> UInt32 {
        publication[8..<12].reversed().reduce(0) { $0 << 8 | UInt32($1) }
    }

    private static func monotonicNanoseconds() -> UInt64 {
        var time = timespec()
        // The call writes the time, and nothing else.
        _ = unsafe clock_gettime(CLOCK_MONOTONIC, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }
}

/// What is to be published: a burst at a time, to one topic after the other.
private struct Order {
    let topics: Int
    let byteCount: Int
    /// Publications per second.
    let rate: Int
    let count: Int
    /// Publications at once.
    let burst: Int
    /// The number of each topic's first one.
    let first: Int

    init?(_ text: String) {
        let numbers = text.split(separator: " ").compactMap { Int($0) }
        guard numbers.count == 6, numbers.allSatisfy({ $0 > 0 }), numbers[1] >= 64 else { return nil }
        (self.topics, self.byteCount, self.rate) = (numbers[0], numbers[1], numbers[2])
        (self.count, self.burst, self.first) = (numbers[3], numbers[4], numbers[5])
    }
}

private struct Subscriber: ConnectionHandler {
    mutating func opened(_ connection: inout Connection<Self>, userData: Void) {
        connection.subscribe(to: Topic(String(connection.path.split(separator: "/").last ?? "")))
    }
    mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {}
}

private struct Echo: ConnectionHandler {
    mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {
        connection.send(message)
    }
}

private struct Fetch: ConnectionHandler {
    mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {
        let byteCount = Message(copying: message).text.flatMap { Int($0) } ?? 0
        connection.send(.binary([UInt8](repeating: 0, count: byteCount)))
    }
}
