import Starling
import StarlingCore
import StarlingTesting
import Testing

/// Peers that ask in plain HTTP, and decisions that nobody waits for.
@Suite struct UnreadResponsesTests {
    private static let request = Array("GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n".utf8)

    private static func server(
        _ memory: MemoryBudget = MemoryBudget(byteCountMax: 1 << 30),
        _ more: WebSocketEndpoint = WebSocketEndpoint(handler: EchoHandler())
    ) -> EmbeddedTransport {
        var configuration = ServerConfiguration()
        configuration.memory = memory
        configuration.drainTimeout = .seconds(2)
        configuration.drainSpread = .zero
        return EmbeddedTransport(configuration: configuration) {
            WebSocketRoute("/", WebSocketEndpoint(handler: EchoHandler()))
            WebSocketRoute("/more", more)
        }
    }

    @Test("One that asks on and on and takes no response is answered up to a bound, and cut")
    func pipelined() throws {
        let memory = MemoryBudget(byteCountMax: 1 << 30)
        let server = Self.server(memory)
        let connection = try #require(server.connect())
        server.limitOutput(of: connection, to: 0)
        // One request at a time, so that none ever waits in part.
        for _ in 0..<5000 { server.receive(Self.request, on: connection) }
        #expect(memory.byteCount > 64 << 10)
        #expect(memory.byteCount < 80 << 10)
        server.advance(by: .seconds(6))
        #expect(server.isClosed(connection))
        #expect(memory.byteCount == 0)
    }

    @Test("One that takes its responses is answered for as long as it asks")
    func takesResponses() throws {
        let server = Self.server()
        let connection = try #require(server.connect())
        var byteCount = 0
        for _ in 0..<2000 {
            server.receive(Self.request, on: connection)
            byteCount += server.takeOutput(of: connection).count
        }
        #expect(byteCount > 64 << 10)
        #expect(!server.isOutputEnded(of: connection))
    }

    @Test("When the memory is full, responses that are not taken go before any WebSocket")
    func shed() throws {
        let memory = MemoryBudget(byteCountMax: 100_000, scarceByteCount: 100_000)
        let server = Self.server(memory)
        let socket = try Client(server)
        #expect(socket.takeStatus() == 101)
        let message = Client.frame(.binary, [UInt8](repeating: 7, count: 60_000))
        server.receive(Array(message.dropLast()), on: socket.connection)
        let connection = try #require(server.connect())
        server.limitOutput(of: connection, to: 0)
        for _ in 0..<500 { server.receive(Self.request, on: connection) }
        server.advance(by: .milliseconds(10))
        #expect(server.isClosed(connection))
        #expect(socket.takeFrames().isEmpty)
        server.receive([message[message.count - 1]], on: socket.connection)
        #expect(server.takeOutput(of: socket.connection).count == 60_004)
    }

    @Test("A client of HTTP/1.0 is not left waiting for the end of a connection that is kept")
    func oldClient() throws {
        let server = Self.server()
        let connection = try #require(server.connect())
        server.receive(
            Array("GET /nothing HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n".utf8),
            on: connection
        )
        #expect(
            String(decoding: server.takeOutput(of: connection), as: UTF8.self).contains("Connection: close")
        )
        #expect(server.isOutputEnded(of: connection))
    }

    /// An endpoint that never decides, and counts how many of its decisions were cancelled.
    private static func undecided(_ cancelled: Lock<Int>) -> WebSocketEndpoint {
        WebSocketEndpoint(
            authenticate: { _ -> UpgradeDecision<Void> in
                try? await Task.sleep(for: .seconds(3600))
                cancelled.withLock { $0 += 1 }
                return .accept()
            }
        ) { socket, _ in
            for try await _ in socket {}
        }
    }

    @Test("A decision that nobody waits for any more is cancelled", .timeLimit(.minutes(1)))
    func cancelled() async throws {
        let cancelled = Lock(0)
        let server = Self.server(
            MemoryBudget(byteCountMax: 1 << 30),
            Self.undecided(cancelled)
        )
        let gone = try Client(server, path: "/more")
        server.endInput(of: gone.connection)
        while cancelled.withLock({ $0 }) < 1 { await server.waiting {} }
        let late = try Client(server, path: "/more")
        server.advance(by: .seconds(11))
        #expect(late.takeStatus() == 503)
        while cancelled.withLock({ $0 }) < 2 { await server.waiting {} }
        // At the latest when a shutdown's time is over.
        _ = try Client(server, path: "/more")
        server.beginShutdown()
        server.advance(by: .seconds(1))
        await server.waiting {}
        #expect(cancelled.withLock { $0 } == 2)
        server.advance(by: .seconds(2))
        while cancelled.withLock({ $0 }) < 3 { await server.waiting {} }
    }

    @Test("What stands behind an upgrade that is decided comes when it is", arguments: [nil, "ada"])
    func behindDecision(user: String?) async throws {
        let gate = Gate()
        let endpoint = WebSocketEndpoint(
            authenticate: { _ -> UpgradeDecision<Void> in
                await gate.wait()
                return .accept(user: user)
            }
        ) { socket, _ in
            for try await message in socket { try await socket.send(message) }
        }
        let server = Self.server(MemoryBudget(byteCountMax: 1 << 30), endpoint)
        let connection = try #require(server.connect())
        let frame = Client.frame(.text, Array("at once".utf8))
        server.receive(Client.request("/more") + frame.prefix(3), on: connection)
        server.receive(Array(frame.dropFirst(3)), on: connection)
        await server.waiting { await gate.open() }
        await server.waiting {}
        let client = Client(server: server, connection: connection)
        let output = server.takeOutput(of: connection)
        let text = String(decoding: output, as: UTF8.self)
        #expect(text.hasPrefix("HTTP/1.1 101") && text.hasSuffix("at once"))
        client.send(.text, Array("later".utf8))
        await server.waiting {}
        #expect(client.takeTexts() == ["later"])
    }
}
