import ArgumentParser
import Dispatch
import Glibc
import Logging
import Starling
import StarlingCore
import StarlingNative
import StarlingRedis

/// One of the servers that hold a million connections together: one event loop, and a Redis between them.
///
/// It obeys its standard input, line by line, and ends with it: `publish NUMBER` publishes once to everybody, and
/// `publish NUMBER TOPICS` once to each of so many topics.
@main
struct MillionServer: AsyncParsableCommand {
    @Option(help: "The URL of the Redis.")
    var redis: String

    @Option(help: "Seconds between pings on a quiet connection.")
    var pingInterval = 60

    @Option(help: "Bytes of a publication.")
    var payload = 100

    func run() async throws {
        LoggingSystem.bootstrap { label in
            var handler = StreamLogHandler.standardError(label: label)
            handler.logLevel = .warning
            return handler
        }
        let broadcaster = try RedisBroadcaster(url: redis, connector: NativeConnector())
        var endpoint = EndpointConfiguration()
        endpoint.timeouts.pingInterval = .seconds(pingInterval)
        // While everybody is sent to, all processes share the cores, and a pong waits its turn: a million were sent to in 28 s
        // on two cores that others used too.
        endpoint.timeouts.pongTimeout = .seconds(120)
        endpoint.timeouts.writeTimeout = .seconds(120)
        var configuration = ServerConfiguration()
        configuration.handshakeTimeout = .seconds(30)
        let transport = NativeTransport(host: "127.0.0.1", port: 0, eventLoops: 1) { address in
            say("listening \(address.split(separator: ":").last ?? "")")
        }
        let server = WebSocketServer(transport: transport, configuration: configuration) {
            WebSocketRoute(
                "/crowd",
                WebSocketEndpoint(broadcaster: broadcaster, configuration: endpoint, handler: Crowd())
            )
        }
        let orders = Self.orders()
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await server.run() }
            for await order in orders { try await obey(order, broadcaster) }
            group.cancelAll()
        }
    }

    private func obey(_ order: String, _ broadcaster: RedisBroadcaster) async throws {
        let words = order.split(separator: " ")
        guard words.first == "publish", words.count >= 2, let number = UInt32(words[1]) else {
            throw ValidationError("cannot make sense of '\(order)'")
        }
        guard words.count == 3 else {
            try await broadcaster.publish(publication(number, topic: .max), to: Crowd.everybody)
            return say("published")
        }
        guard let topics = UInt32(words[2]) else { throw ValidationError("cannot make sense of '\(order)'") }
        // All at once: the commands travel together.
        try await withThrowingTaskGroup(of: Void.self) { group in
            for topic in 0..<topics {
                group.addTask {
                    try await broadcaster.publish(publication(number, topic: topic), to: Crowd.topic(topic))
                }
            }
            try await group.waitForAll()
        }
        say("published")
    }

    /// When it was made, its number, and its topic: what the load generator counts by.
    private func publication(_ number: UInt32, topic: UInt32) -> Message {
        var time = timespec()
        // One `timespec` is written during the call. The load generator reads the same clock.
        unsafe clock_gettime(CLOCK_MONOTONIC, &time)
        let nanoseconds = UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
        var bytes: [UInt8] = []
        for (value, count) in [(nanoseconds, 8), (UInt64(number), 4), (UInt64(topic), 4)] {
            for index in 0..<count { bytes.append(UInt8(truncatingIfNeeded: value >> (8 * index))) }
        }
        bytes += Array(repeating: UInt8(ascii: "x"), count: max(0, payload - bytes.count))
        return .binary(bytes)
    }

    /// The lines of standard input.
    private static func orders() -> AsyncStream<String> {
        AsyncStream { continuation in
            // Not on the pool of Swift's tasks, because reading blocks.
            DispatchQueue(label: "orders").async {
                while let line = readLine() { continuation.yield(line) }
                continuation.finish()
            }
        }
    }
}

/// Everybody is in one topic of all, and in one of many, whose number is the connection's first message.
struct Crowd: ConnectionHandler {
    static let everybody = Topic("everybody")

    static func topic(_ number: UInt32) -> Topic {
        Topic("topic:\(number)")
    }

    mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {
        guard let text = Message(copying: message).text, let topic = UInt32(text),
            connection.subscribe(to: Self.everybody),
            connection.subscribe(to: Self.topic(topic))
        else { return connection.close(.policyViolation, reason: "expected the number of a topic") }
        connection.send("joined")
    }
}

/// Says a line on standard output, at once.
///
/// Past the C library: to flush all of its streams, it would wait for the thread that reads orders.
private func say(_ line: String) {
    let bytes = Array((line + "\n").utf8)
    // The bytes outlive the call. A line is shorter than what a pipe takes in one piece.
    _ = unsafe write(STDOUT_FILENO, bytes, bytes.count)
}
