#if os(Linux)
import Dispatch
import HTTPTypes
import Starling
import StarlingNative
import StarlingTesting
import Synchronization
import TestSupport
import Testing

@Suite(.serialized) struct LobbyTests {
    @Test(
        "Who is connected goes before all who ask to be",
        .timeLimit(.minutes(2)),
        arguments: [false, true]
    )
    func order(isEncrypted: Bool) async throws {
        let newcomerCount = isEncrypted ? 150 : 600
        try await self.withServer(isEncrypted: isEncrypted) { server, hold, connect, _ in
            let holder = try await connect()
            try await holder.upgrade("/")
            let peer = try await connect()
            try await peer.upgrade("/")
            var newcomers: [ConformancePeer] = []
            for _ in 0..<newcomerCount { newcomers.append(try await connect()) }
            // With all of them in the epoll, and none in the kernel's queue.
            try await eventually("all are accepted") {
                await server.snapshot().totals["connections"] == UInt64(newcomerCount + 2)
            }

            try await holder.send("hold")
            try await hold.begun()
            let request = ConformancePeer.request("/", upgrades: true)
            for newcomer in newcomers { try await newcomer.stream.write(request) }
            try await peer.send("how many are open?")
            hold.end()

            #expect(try await peer.next() == .text("2"))
            for newcomer in newcomers { try await newcomer.readUpgrade() }
            // They are out of the lobby, and as good as the others.
            for newcomer in newcomers { try await newcomer.send("how many are open?") }
            for newcomer in newcomers { #expect(try await newcomer.next() == .text("\(newcomerCount + 2)")) }
        }
    }

    @Test("A message in the segment of the upgrade is answered, and pages are", .timeLimit(.minutes(1)))
    func together() async throws {
        try await self.withServer(isEncrypted: false) { _, _, connect, _ in
            let peer = try await connect()
            let request = ConformancePeer.request("/", upgrades: true)
            try await peer.stream.write(request + ConformancePeer.frame(.text, Array("?".utf8)))
            try await peer.readUpgrade()
            #expect(try await peer.next() == .text("1"))
            let reader = try await connect()
            for _ in 0..<3 {
                try await reader.stream.write(ConformancePeer.request("/health", upgrades: false))
                #expect(try await reader.readResponse().head.status == .ok)
            }
        }
    }

    @Test("TLS handshakes under way are charged to the memory budget", .timeLimit(.minutes(1)))
    func handshakes() async throws {
        let memory = MemoryBudget(byteCountMax: 1 << 30)
        try await self.withServer(isEncrypted: true, memory) { _, _, connect, port in
            func wait(for byteCount: Int) async throws {
                try await eventually("\(byteCount) bytes are charged") { memory.byteCount == byteCount }
            }
            var silent: [any ByteStream] = []
            for _ in 0..<3 {
                silent.append(
                    try await NativeConnector().connect(
                        to: .tcp(host: "127.0.0.1", port: port),
                        options: ConnectOptions()
                    )
                )
            }
            try await wait(for: 3 * 32_768)
            silent.removeLast().close()
            try await wait(for: 2 * 32_768)
            let peer = try await connect()
            try await peer.upgrade("/")
            try await wait(for: 2 * 32_768)
            try await silent[0].write(Array("no TLS record".utf8))
            try await wait(for: 32_768)
            silent.forEach { $0.close() }
            try await wait(for: 0)
        }
    }

    @Test(
        "TLS handshakes take a quarter of the budget at most, and nothing from who is connected",
        .timeLimit(.minutes(1))
    )
    func handshakesMax() async throws {
        let memory = MemoryBudget(byteCountMax: 1 << 20)
        try await self.withServer(isEncrypted: true, memory) { server, _, connect, port in
            let peer = try await connect()
            try await peer.upgrade("/")
            var silent: [any ByteStream] = []
            for _ in 0..<20 {
                silent.append(
                    try await NativeConnector().connect(
                        to: .tcp(host: "127.0.0.1", port: port),
                        options: ConnectOptions()
                    )
                )
            }
            try await eventually("12 are turned away") {
                await server.snapshot().refusals["memory"] == 12
            }
            #expect(memory.byteCount == 8 * 32_768)
            try await peer.send("?")
            #expect(try await peer.next() == .text("1"))
            silent.forEach { $0.close() }
            try await eventually("their memory is free") { memory.byteCount == 0 }
            let next = try await connect()
            try await next.upgrade("/")
        }
    }

    // MARK: -

    /// Tells how many are open, and stands still when asked to.
    private struct Handler: ConnectionHandler {
        let hold: Hold
        /// The loop's count.
        var openCount = 0

        mutating func opened(_ connection: inout Connection<Self>, userData: Void) {
            self.openCount += 1
        }

        mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {
            if message.text == "hold" { return self.hold.run() }
            connection.send("\(self.openCount)")
        }
    }

    /// Holds the event loop's thread.
    private final class Hold: Sendable {
        private let beginning = DispatchSemaphore(value: 0)
        private let ending = DispatchSemaphore(value: 0)

        func run() {
            self.beginning.signal()
            _ = self.ending.wait(timeout: .now() + 30)
        }

        func begun() async throws {
            let outcome = try await blocking { self.beginning.wait(timeout: .now() + 30) }
            try #require(outcome == .success, "the loop has not come to the message")
        }

        func end() { self.ending.signal() }
    }

    private func withServer(
        isEncrypted: Bool,
        _ memory: MemoryBudget = .process,
        _ body: (
            WebSocketServer<NativeTransport>, Hold, () async throws -> ConformancePeer, _ port: Int
        ) async throws -> Void
    ) async throws {
        let hold = Hold()
        let (addresses, listening) = AsyncStream.makeStream(of: String.self)
        let transport = NativeTransport(
            host: "127.0.0.1",
            port: 0,
            eventLoops: 1,
            tls: isEncrypted ? try TLSTestCertificates.server() : nil
        ) { listening.yield($0) }
        var configuration = ServerConfiguration()
        configuration.memory = memory
        // Hundreds of newcomers are silent until the last one is there.
        configuration.handshakeTimeout = .seconds(60)
        let server = WebSocketServer(transport: transport, configuration: configuration) {
            WebSocketRoute("/", WebSocketEndpoint(handler: Handler(hold: hold)))
        }
        let task = Task { try await server.run() }
        var iterator = addresses.makeAsyncIterator()
        let port = try #require(await iterator.next()?.split(separator: ":").last.flatMap { Int($0) })
        var options = ConnectOptions()
        if isEncrypted {
            options.tls = ConnectTLS(trustRootsFile: try TLSTestCertificates.path("root.pem"))
        }
        let connector = NativeConnector()
        defer { hold.end() }
        try await body(
            server,
            hold,
            {
                ConformancePeer(
                    try await connector.connect(to: .tcp(host: "127.0.0.1", port: port), options: options)
                )
            },
            port
        )
        server.beginShutdown()
        try await task.value
    }
}
#endif
