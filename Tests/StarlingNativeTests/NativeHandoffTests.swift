#if os(Linux)
import Foundation
import Starling
import StarlingNative
import TestSupport
import Testing

/// One server takes over from another one, in the same process.
@Suite struct NativeHandoffTests {
    /// A server that runs.
    private struct Running {
        let port: Int
        let server: WebSocketServer<NativeTransport>
        let task: Task<Void, any Error>
    }

    private static let count: @Sendable (WebSocket) async throws -> Void = { socket in
        var count = try socket.carried(Int.self) ?? 0
        for try await _ in socket {
            count += 1
            try socket.carry(count)
            try await socket.send("\(count)")
        }
    }

    private static func start(
        _ path: String,
        port: Int = 0,
        loops: Int = 2,
        endpoint: EndpointConfiguration = EndpointConfiguration(),
        proxies: TrustedProxies = .none,
        _ body: @escaping @Sendable (WebSocket) async throws -> Void = Self.count
    ) async throws -> Running {
        let (addresses, listening) = AsyncStream.makeStream(of: String.self)
        let transport = NativeTransport(
            host: "127.0.0.1",
            port: port,
            eventLoops: loops,
            handoff: Handoff(path: path, bodiesTimeout: .seconds(5)),
            onListening: { listening.yield($0) }
        )
        var configuration = ServerConfiguration()
        configuration.drainSpread = .zero
        configuration.trustedProxies = proxies
        let server = WebSocketServer(transport: transport, configuration: configuration) {
            WebSocketRoute("/count", .resumable(configuration: endpoint, body))
        }
        let task = Task {
            defer { listening.finish() }
            try await server.run()
        }
        for await address in addresses {
            let bound = try #require(address.split(separator: ":").last.flatMap { Int($0) })
            return Running(port: bound, server: server, task: task)
        }
        try await task.value
        throw TransportError("it ended before it listened")
    }

    /// Lends a path for the socket.
    private static func withPath(_ body: (String) async throws -> Void) async throws {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent(
            "handoff-\(UUID().uuidString.prefix(8))"
        )
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        try await body(folder.appendingPathComponent("s").path)
    }

    @Test(
        "The connection goes on at the next server, whatever its event loops",
        .timeLimit(.minutes(1)),
        arguments: [1, 2, 4]
    )
    func takeover(loops: Int) async throws {
        try await Self.withPath { path in
            let first = try await Self.start(path)
            try await WebSocketClient(connector: NativeConnector())
                .connect(to: "ws://127.0.0.1:\(first.port)/count") { socket in
                    var replies = socket.makeAsyncIterator()
                    try await socket.send("one")
                    let one = try await replies.next()
                    #expect(one?.text == "1")
                    let second = try await Self.start(path, port: first.port, loops: loops)
                    try await first.task.value
                    try await socket.send("two")
                    let two = try await replies.next()
                    #expect(two?.text == "2")
                    let third = try await Self.start(path, port: first.port)
                    try await second.task.value
                    try await socket.send("three")
                    let three = try await replies.next()
                    #expect(three?.text == "3")
                    third.server.beginShutdown()
                    let end = try await replies.next()
                    #expect(end == nil)
                    try await third.task.value
                }
            #expect(!FileManager.default.fileExists(atPath: path))
        }
    }

    @Test("A body that has come is at work at once, though nothing else is due", .timeLimit(.minutes(1)))
    func beginsAtOnce() async throws {
        var configuration = EndpointConfiguration()
        configuration.deflate = nil
        configuration.timeouts.pingInterval = nil
        // The client's pings would wake the loop.
        var client = ClientConfiguration()
        client.timeouts.pingInterval = nil
        let body: @Sendable (WebSocket) async throws -> Void = { socket in
            try await socket.send(socket.isResumed ? "resumed" : "begun")
            for try await _ in socket {}
        }
        try await Self.withPath { path in
            let first = try await Self.start(path, endpoint: configuration, body)
            try await WebSocketClient(connector: NativeConnector())
                .connect(to: "ws://127.0.0.1:\(first.port)/count", configuration: client) { socket in
                    var replies = socket.makeAsyncIterator()
                    let begun = try await replies.next()
                    #expect(begun?.text == "begun")
                    let second = try await Self.start(path, port: first.port, endpoint: configuration, body)
                    let resumed = try await replies.next()
                    #expect(resumed?.text == "resumed")
                    try await first.task.value
                    second.server.beginShutdown()
                    let end = try await replies.next()
                    #expect(end == nil)
                    try await second.task.value
                }
        }
    }

    @Test(
        "A shutdown that begins in the middle of a hand-off leaves the connections to the next server",
        .timeLimit(.minutes(1))
    )
    func shutdownMeanwhile() async throws {
        try await Self.withPath { path in
            let (told, gate) = (Latch(), Latch())
            let first = try await Self.start(path) { socket in
                for try await message in socket {
                    try await socket.send(message)
                    await withTaskCancellationHandler {
                        await gate.pass()
                    } onCancel: {
                        told.open()
                    }
                }
            }
            try await WebSocketClient(connector: NativeConnector())
                .connect(to: "ws://127.0.0.1:\(first.port)/count") { socket in
                    var replies = socket.makeAsyncIterator()
                    try await socket.send("wait")
                    let reply = try await replies.next()
                    #expect(reply?.text == "wait")
                    async let successor = Self.start(path, port: first.port)
                    await told.pass()
                    // Its other loop has nothing, and could end.
                    first.server.beginShutdown()
                    gate.open()
                    let second = try await successor
                    try await first.task.value
                    try await socket.send("one")
                    let one = try await replies.next()
                    #expect(one?.text == "1")
                    second.server.beginShutdown()
                    let end = try await replies.next()
                    #expect(end == nil)
                    try await second.task.value
                }
        }
    }

    @Test(
        "A connection of which its proxy has said nothing yet goes to the next server",
        .timeLimit(.minutes(1))
    )
    func proxied() async throws {
        let proxies = try TrustedProxies(["127.0.0.1"], source: .proxyProtocol)
        try await Self.withPath { path in
            let first = try await Self.start(path, proxies: proxies)
            let client = try TLSTestListener.connect(port: UInt16(first.port))
            try await eventually("it is accepted") {
                await first.server.snapshot().loops.map(\.connections).reduce(0, +) == 1
            }
            let second = try await Self.start(path, port: first.port, proxies: proxies)
            try await first.task.value
            try client.send(
                Array("PROXY TCP4 192.0.2.1 198.51.100.1 4711 80\r\n".utf8) + Self.request("/count")
            )
            let answer = try await blocking {
                try client.wait(for: Int32(POLLIN))
                return client.receive().map { String(decoding: $0, as: UTF8.self) }
            }
            #expect(answer?.hasPrefix("HTTP/1.1 101") == true)
            second.server.beginShutdown()
            client.shutdownWriting()
            try await second.task.value
        }
    }

    private static func request(_ path: String) -> [UInt8] {
        Array(
            """
            GET \(path) HTTP/1.1\r
            Host: localhost\r
            Upgrade: websocket\r
            Connection: Upgrade\r
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r
            Sec-WebSocket-Version: 13\r
            \r

            """.utf8
        )
    }

    // MARK: - A Unix socket

    /// Connects; returns the socket, or the error's negative number.
    private static func connect(to path: String) -> Int32 {
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: path.utf8) }
        let isConnected = unsafe withUnsafeBytes(of: &address) { bytes in
            guard let base = bytes.baseAddress else { return false }
            return unsafe Glibc.connect(
                descriptor,
                base.assumingMemoryBound(to: sockaddr.self),
                socklen_t(bytes.count)
            ) == 0
        }
        if isConnected { return descriptor }
        let error = errno
        Glibc.close(descriptor)
        return -error
    }

    private static func serve(at path: String) -> Running {
        let transport = NativeTransport(.unix(path: path), eventLoops: 2)
        let server = WebSocketServer(transport: transport) {
            WebSocketRoute("/", WebSocketEndpoint { socket in for try await _ in socket {} })
        }
        return Running(port: 0, server: server, task: Task { try await server.run() })
    }

    @Test(
        "A Unix socket takes nobody once its server shuts down, and is free for the next one",
        .timeLimit(.minutes(1))
    )
    func unixSocket() async throws {
        try await Self.withPath { path in
            let first = Self.serve(at: path)
            var descriptor: Int32 = -1
            try await eventually("it listens") {
                descriptor = Self.connect(to: path)
                return descriptor >= 0
            }
            defer { Glibc.close(descriptor) }
            // Answers no close, so that the shutdown lasts.
            let request = Self.request("/")
            let client = descriptor
            let status = try await blocking {
                _ = unsafe send(client, request, request.count, Int32(MSG_NOSIGNAL))
                var bytes = [UInt8](repeating: 0, count: 12)
                _ = unsafe recv(client, &bytes, bytes.count, Int32(MSG_WAITALL))
                return String(decoding: bytes, as: UTF8.self)
            }
            #expect(status == "HTTP/1.1 101")
            first.server.beginShutdown()
            try await eventually("nobody can connect") {
                let other = Self.connect(to: path)
                if other >= 0 { Glibc.close(other) }
                return other == -ECONNREFUSED
            }
            let second = Self.serve(at: path)
            try await eventually("the next one listens") {
                let other = Self.connect(to: path)
                if other >= 0 { Glibc.close(other) }
                return other >= 0
            }
            shutdown(client, Int32(SHUT_RDWR))
            try await first.task.value
            // The file is the second one's.
            let other = Self.connect(to: path)
            #expect(other >= 0)
            Glibc.close(other)
            second.server.beginShutdown()
            try await second.task.value
            #expect(!FileManager.default.fileExists(atPath: path))
        }
    }

    @Test(
        "A server that is to listen elsewhere does not start, and the other one goes on",
        .timeLimit(.minutes(1))
    )
    func elsewhere() async throws {
        try await Self.withPath { path in
            let first = try await Self.start(path)
            try await WebSocketClient(connector: NativeConnector())
                .connect(to: "ws://127.0.0.1:\(first.port)/count") { socket in
                    var replies = socket.makeAsyncIterator()
                    await #expect(throws: TransportError.self) {
                        _ = try await Self.start(path, port: first.port == 65535 ? 1024 : first.port + 1)
                    }
                    try await socket.send("one")
                    let one = try await replies.next()
                    #expect(one?.text == "1")
                }
            first.server.beginShutdown()
            try await first.task.value
        }
    }

    @Test(
        "A path where no socket can be made stops a server before it asks for anything",
        .timeLimit(.minutes(1))
    )
    func unwritable() async throws {
        for path in ["/proc/s", "/nowhere/s", "/" + String(repeating: "a", count: 120)] {
            await #expect(throws: TransportError.self) { _ = try await Self.start(path) }
        }
    }
}
#endif
