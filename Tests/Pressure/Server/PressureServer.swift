import ArgumentParser
import Glibc
import Logging
import Starling
import StarlingCore
import StarlingNative

/// The server that `Tests/Pressure` puts under pressure.
///
/// `/topics/N` subscribes to topic N; `/echo` sends back what it is sent; `/publish` takes one message of four numbers, topics, bytes per message, messages
/// per second and messages in all, and publishes so; `/metrics` tells what became of it.
@main
struct PressureServer: AsyncParsableCommand {
    @Option(help: "What happens to a subscriber that the ring has passed.") var policy = "skip"
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
        // Who stops reading is to stay, and to be dealt with by the policy.
        endpoint.timeouts.writeTimeout = .seconds(600)
        endpoint.timeouts.pingInterval = nil
        endpoint.limits.messageBytesMax = 1 << 20
        var configuration = ServerConfiguration()
        configuration.memory = MemoryBudget(byteCountMax: self.memoryMax)
        configuration.logger.logLevel = .warning
        let broadcaster = InMemoryBroadcaster { _ in HistoryLimits(countMax: 1) }
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
            WebSocketRoute("/publish", Self.publisher(broadcaster))
            MetricsRoute("/metrics")
        }
        try await server.run()
    }

    private static func publisher(_ broadcaster: InMemoryBroadcaster) -> WebSocketEndpoint {
        WebSocketEndpoint { socket in
            for try await message in socket {
                let numbers = (message.text ?? "").split(separator: " ").compactMap { Int($0) }
                guard numbers.count == 4 else {
                    return await socket.close(.policyViolation, reason: "four numbers")
                }
                let (topics, byteCount, rate, count) = (numbers[0], numbers[1], numbers[2], numbers[3])
                let start = ContinuousClock.now
                for number in 0..<count {
                    let due = start + .nanoseconds(Int64(number) * 1_000_000_000 / Int64(rate))
                    if number % 16 == 0 { try await Task.sleep(until: due, clock: .continuous) }
                    var bytes = [UInt8](repeating: 0, count: byteCount)
                    let sent = Self.monotonicNanoseconds()
                    for index in 0..<8 {
                        bytes[index] = UInt8(truncatingIfNeeded: sent >> (8 * UInt64(index)))
                    }
                    try await broadcaster.publish(.binary(bytes), to: Topic("\(number % topics)"))
                }
                try await socket.send(.text("published"))
            }
        }
    }

    private static func monotonicNanoseconds() -> UInt64 {
        var time = timespec()
        // The call writes the time, and nothing else.
        _ = unsafe clock_gettime(CLOCK_MONOTONIC, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
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
