import StarlingCore
import Testing

@testable import Starling
@testable import StarlingTesting

/// Servers and clients of an in-memory network, without a socket.
@Suite struct InMemoryNetworkTests {
    static let target = ConnectTarget.tcp(host: "chat", port: 80)

    @Test(
        "Messages of every size come back to a WebSocketClient, compressed and not",
        arguments: [true, false]
    )
    func echo(deflates: Bool) async throws {
        let network = InMemoryNetwork()
        try await withServer(on: network) {
            var configuration = ClientConfiguration()
            if !deflates { configuration.deflate = nil }
            let client = WebSocketClient(connector: network.connector)
            try await client.connect(to: "ws://chat/echo", configuration: configuration) { socket in
                var replies = socket.makeAsyncIterator()
                for size in [0, 1, 125, 126, 65535, 65536, 300_000] {
                    let message = Message.binary((0..<size).map { UInt8(truncatingIfNeeded: $0) })
                    try await socket.send(message)
                    let reply = try await replies.next()
                    #expect(reply == message)
                }
                _ = try await socket.ping()
            }
        }
    }

    @Test("A server that has ended before its loops were waited for has ended", .timeLimit(.minutes(1)))
    func shortLife() async throws {
        let network = InMemoryNetwork()
        let server = WebSocketServer(transport: network.transport(at: "chat")) {
            HTTPRoute("/") { _ in .text("here") }
        }
        let loop = InMemoryLoop(index: 0, server: server.context) {}
        server.beginShutdown()
        // Who comes now, and goes at once, makes the loop look, and end.
        let link = InMemoryLink(capacity: 1000, from: .unknown) { _ in }
        link.closeByClient()
        loop.notify(link)
        let eventLoop = try #require(server.context.statistics.first?.loop)
        var hasEnded = false
        while !hasEnded {
            hasEnded = await withCheckedContinuation { answer in
                eventLoop.post(.perform { answer.resume(returning: $0 == nil) })
            }
        }
        await loop.run()
    }

    @Test("Both ends push 16 MiB at once through buffers of 1,000 bytes, and nothing is lost")
    func pressure() async throws {
        let network = InMemoryNetwork(bufferedByteCountMax: 1000)
        try await withServer(on: network) {
            let client = WebSocketClient(connector: network.connector)
            let count = 256
            try await client.connect(to: "ws://chat/echo") { socket in
                try await withThrowingTaskGroup(of: Int.self) { group in
                    group.addTask {
                        for number in 0..<count {
                            try await socket.send(.binary(.init(repeating: UInt8(number), count: 64 << 10)))
                        }
                        return 0
                    }
                    group.addTask {
                        var received = 0
                        for try await message in socket {
                            #expect(message.byteCount == 64 << 10)
                            #expect(message.byteArray.last == UInt8(received))
                            received += 1
                            if received == count { break }
                        }
                        return received
                    }
                    var sum = 0
                    for try await received in group { sum += received }
                    #expect(sum == count)
                }
            }
        }
    }

    @Test("A peer that stops reading stops the server, which stops reading the peer")
    func backPressure() async throws {
        let network = InMemoryNetwork(bufferedByteCountMax: 4096)
        try await withServer(on: network) {
            let client = try await TestStreamClient(network.connector, to: Self.target, path: "/echo")
            #expect(client.status == 101)
            let frame = TestFrame(.binary, [UInt8](repeating: 7, count: 60_000)).masked
            let stream = client.stream
            let written = Lock(0)
            let writer = Task {
                for _ in 0..<1000 {
                    try await stream.write(frame)
                    written.withLock { $0 += 1 }
                }
            }
            // The server's buffers are full when nothing is written any more for a while: looked at, not waited for blindly.
            var seen = -1
            while true {
                let now = written.withLock { $0 }
                if now > 0, now == seen { break }
                seen = now
                try await Task.sleep(for: .milliseconds(300))
            }
            #expect(seen < 100, "the server has taken \(seen * 60_000) bytes that nobody reads")
            var received = 0
            while received < 1000, let message = try await client.nextMessage() {
                #expect(message.byteCount == 60_000)
                received += 1
            }
            #expect(received == 1000)
            try await writer.value
        }
    }

    @Test("Half a close, a reset, a refusal: each end sees what it would on a socket")
    func ends() async throws {
        let network = InMemoryNetwork()
        let closures = Lock<[WebSocketClosure]>([])
        let (closed, continuation) = AsyncStream.makeStream(of: Void.self)
        let watched = WebSocketEndpoint { socket in
            do { for try await _ in socket {} } catch {}
            if let closure = socket.closure { closures.withLock { $0.append(closure) } }
            continuation.yield()
        }
        try await withServer(on: network, .quick, WebSocketRoute("/watched", watched)) {
            var ends = closed.makeAsyncIterator()
            for how in ["half close", "reset", "close"] {
                let stream = try await network.connector.open(Self.target)
                try await stream.write(TestClient.request("/watched"))
                _ = try await stream.read()
                switch how {
                case "half close":
                    stream.endWriting()
                    // The server ends its direction too.
                    while let bytes = try await stream.read() { #expect(!bytes.isEmpty) }
                case "reset":
                    stream.reset()
                    await #expect(throws: TransportError.self) { _ = try await stream.read() }
                    await #expect(throws: TransportError.self) { try await stream.write([1]) }
                default: stream.close()
                }
                await ends.next()
                #expect(closures.withLock { $0.last?.cause } == .connectionLost, "\(how)")
            }
            let error = await #expect(throws: ConnectError.self) {
                try await WebSocketClient(connector: network.connector).connect(to: "ws://nobody/") { _ in }
            }
            #expect(error?.code == .unreachable)
            for url in ["wss://chat/echo", "ws+unix:/no/socket:/"] {
                await #expect(throws: ConnectError.self) {
                    try await WebSocketClient(connector: network.connector).connect(to: url) { _ in }
                }
            }
        }
        // The listener is gone with its server.
        await #expect(throws: TransportError.self) { _ = try await network.connector.open(Self.target) }
    }

    @Test(
        "A client waits for a server that is on its way, as long as its timeout allows, and two servers do not share a name"
    )
    func waitsForServer() async throws {
        let network = InMemoryNetwork()
        let transport = network.transport(at: "late:80")
        await #expect(throws: TransportError.self) {
            _ = try await network.connector.open(
                .tcp(host: "late", port: 80),
                options: ConnectOptions(timeout: .milliseconds(20))
            )
        }
        let cancelled = Task { try await network.connector.open(.tcp(host: "late", port: 80)) }
        cancelled.cancel()
        await #expect(throws: TransportError.self) { _ = try await cancelled.value }
        let early = Task { try await network.connector.open(.tcp(host: "late", port: 80)) }
        let server = WebSocketServer(transport: transport, configuration: .quick) {}
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await server.run() }
            let stream = try await early.value
            try await stream.write(Array("GET /health HTTP/1.1\r\nHost: late\r\n\r\n".utf8))
            let answer = try await stream.read() ?? []
            #expect(String(decoding: answer, as: UTF8.self).hasPrefix("HTTP/1.1 200"))
            let second = WebSocketServer(transport: transport) {}
            await #expect(throws: TransportError.self) { try await second.run() }
            await #expect(throws: TransportError.self) {
                _ = try await network.connector.open(.tcp(host: "late", port: 81))
            }
            server.beginShutdown()
            try await group.waitForAll()
        }
    }

    @Test("Publications cross event loops; the server sees the client's address; a full server says 503")
    func limits() async throws {
        let network = InMemoryNetwork()
        var configuration = ServerConfiguration.quick
        configuration.connectionsPerAddressMax = 8
        let broadcaster = InMemoryBroadcaster()
        let shared = WebSocketEndpoint(broadcaster: broadcaster) { socket in
            try await socket.subscribe(to: "room")
            try await socket.send("\(socket.remoteAddress.host)")
            for try await _ in socket {}
        }
        try await withServer(on: network, loops: 3, configuration, WebSocketRoute("/room", shared)) {
            var clients: [TestStreamClient] = []
            for _ in 0..<8 {
                let client = try await TestStreamClient(
                    network.connector(from: "192.0.2.7"),
                    to: Self.target,
                    path: "/room"
                )
                #expect(try await client.nextMessage() == "192.0.2.7")
                clients.append(client)
            }
            let refused = try await TestStreamClient(
                network.connector(from: "192.0.2.7"),
                to: Self.target,
                path: "/room"
            )
            #expect(refused.status == 503)
            _ = try await broadcaster.publish("to all", to: "room")
            for client in clients { #expect(try await client.nextMessage() == "to all") }
        }
    }
}

extension ServerConfiguration {
    /// Without the time that a shutdown gives clients to come back one by one.
    static var quick: ServerConfiguration {
        var configuration = ServerConfiguration()
        configuration.drainSpread = .zero
        return configuration
    }
}

/// Runs a server at `chat`, and `body` once it listens.
func withServer(
    on network: InMemoryNetwork,
    loops: Int = 1,
    _ configuration: ServerConfiguration = .quick,
    _ route: Route? = nil,
    _ body: @escaping @Sendable () async throws -> Void
) async throws {
    let echo = WebSocketEndpoint { socket in
        for try await message in socket { try await socket.send(message) }
    }
    let (names, listening) = AsyncStream.makeStream(of: String.self)
    let server = WebSocketServer(
        transport: network.transport(at: "chat", eventLoops: loops) {
            listening.yield($0)
            listening.finish()
        },
        configuration: configuration
    ) {
        WebSocketRoute("/echo", echo)
        if let route { route }
    }
    try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask {
            // Also where it cannot listen, so that nobody waits for it.
            defer { listening.finish() }
            try await server.run()
        }
        for await _ in names { try await body() }
        server.beginShutdown()
        try await group.waitForAll()
    }
}
