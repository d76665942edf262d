import Logging
import Starling
import StarlingCore
import StarlingTesting
import Testing

/// Every connection's end is explained by one log, whatever ended it.
@Suite struct EndOfConnectionTests {
    /// A server with a recorder for its logs.
    private static func server(
        _ recorder: LogRecorder,
        _ endpoint: WebSocketEndpoint,
        _ change: (inout ServerConfiguration) -> Void = { _ in }
    ) -> EmbeddedTransport {
        var configuration = ServerConfiguration()
        configuration.logger = recorder.logger
        configuration.drainSpread = .zero
        change(&configuration)
        return EmbeddedTransport(configuration: configuration) {
            HTTPRoute("/page") { _ in .text("a page\n") }
            WebSocketRoute("/", endpoint)
        }
    }

    private static func endpoint(_ change: (inout EndpointConfiguration) -> Void = { _ in })
        -> WebSocketEndpoint
    {
        var configuration = EndpointConfiguration()
        change(&configuration)
        return WebSocketEndpoint(configuration: configuration, handler: RoomHandler())
    }

    private static func open(_ server: EmbeddedTransport) throws -> Client {
        let client = try Client(server)
        #expect(client.takeStatus() == 101)
        return client
    }

    private struct Failure: Error {}

    /// Brings about the end of a connection with each cause; nil where nothing on an embedded server can.
    private static func end(with cause: CloseCause, _ recorder: LogRecorder) async throws -> Bool {
        switch cause {
        case .peerClosed:
            let server = Self.server(recorder, Self.endpoint())
            try Self.open(server).send(.close, [0x03, 0xE8] + Array("bye".utf8))
        case .applicationClosed:
            let server = Self.server(recorder, WebSocketEndpoint { _ in })
            let client = try Client(server)
            client.send(.close, [0x03, 0xE8])
        case .connectionLost:
            let server = Self.server(recorder, Self.endpoint())
            server.endInput(of: try Self.open(server).connection)
        case .protocolViolation:
            let server = Self.server(recorder, Self.endpoint())
            server.receive([0x83, 0x80, 0, 0, 0, 0], on: try Self.open(server).connection)
        case .limitExceeded:
            let server = Self.server(recorder, Self.endpoint { $0.limits.messageBytesMax = 10 })
            try Self.open(server).send(.text, [UInt8](repeating: 65, count: 11))
        case .slowConsumer:
            let server = Self.server(recorder, Self.endpoint { $0.outbound.backlogByteCountMax = 1000 })
            let client = try Self.open(server)
            server.limitOutput(of: client.connection, to: 0)
            for _ in 0..<5 { client.send(.text, [UInt8](repeating: 65, count: 400)) }
            server.endInput(of: client.connection)
        case .pingTimeout:
            let server = Self.server(recorder, Self.endpoint())
            _ = try Self.open(server)
            server.advance(by: .seconds(40))
        case .idleTimeout:
            let server = Self.server(recorder, Self.endpoint { $0.timeouts.idleTimeout = .seconds(2) })
            let client = try Self.open(server)
            server.advance(by: .seconds(3))
            client.send(.close, [0x03, 0xE9])
        case .lifetimeReached:
            let server = Self.server(recorder, Self.endpoint { $0.timeouts.lifetimeMax = .seconds(2) })
            let client = try Self.open(server)
            server.advance(by: .seconds(3))
            client.send(.close, [0x03, 0xE9])
        case .closeTimeout:
            let server = Self.server(recorder, WebSocketEndpoint { _ in })
            _ = try Client(server)
            server.advance(by: .seconds(6))
        case .writeTimeout:
            let server = Self.server(recorder, Self.endpoint())
            let client = try Self.open(server)
            server.limitOutput(of: client.connection, to: 0)
            client.send(.text, Array("hello".utf8))
            server.advance(by: .seconds(11))
        case .handshakeTimeout:
            let server = Self.server(recorder, Self.endpoint())
            let connection = try #require(server.connect())
            server.receive(Array("GET / HT".utf8), on: connection)
            server.advance(by: .seconds(10))
        case .authenticationTimeout:
            let (gate, opener) = AsyncStream.makeStream(of: Void.self)
            defer { opener.finish() }
            let endpoint = WebSocketEndpoint(
                authenticate: { _ -> UpgradeDecision<Void> in
                    for await _ in gate {}
                    return .accept()
                },
                { _, _ in }
            )
            let server = Self.server(recorder, endpoint)
            let client = try Client(server)
            server.advance(by: .seconds(15))
            #expect(client.takeStatus() == 503)
        case .serverDraining:
            let server = Self.server(recorder, Self.endpoint())
            let client = try Self.open(server)
            server.beginShutdown()
            server.advance(by: .seconds(1))
            client.send(.close, [0x03, 0xE9])
        case .handlerFailed:
            let server = Self.server(recorder, WebSocketEndpoint { _ in throw Failure() })
            try Client(server).send(.close, [0x03, 0xF3])
        case .refused:
            let server = Self.server(recorder, Self.endpoint())
            let client = try Client(server, fields: ["Origin: https://elsewhere.example"])
            #expect(client.takeStatus() == 403)
            server.endInput(of: client.connection)
        case .responded:
            let server = Self.server(recorder, Self.endpoint())
            let connection = try #require(server.connect())
            let request = "GET /page HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n"
            server.receive(Array(request.utf8), on: connection)
            await server.waiting {}
            server.endInput(of: connection)
        case .memoryExhausted:
            let server = Self.server(recorder, Self.endpoint()) {
                $0.memory = MemoryBudget(byteCountMax: 1000)
            }
            let frame = Client.frame(.binary, [UInt8](repeating: 7, count: 2000))
            server.receive(Array(frame.dropLast()), on: try Self.open(server).connection)
        case .publicationsLost:
            let broadcaster = GapBroadcaster()
            let server = Self.server(
                recorder,
                WebSocketEndpoint(broadcaster: broadcaster, handler: RoomHandler())
            )
            _ = try Self.open(server)
            broadcaster.lose("room", upTo: StreamPosition(epoch: 1, offset: 9))
            server.advance(by: .milliseconds(1))
        default: return false
        }
        return true
    }

    @Test("Each cause gives one log, with who it was, why, and what was left over")
    func causes() async throws {
        for cause in CloseCause.all where cause != .tlsFailed {
            let recorder = LogRecorder()
            #expect(try await Self.end(with: cause, recorder), "\(cause) is not tried")
            let ends = recorder.entries.filter { $0.message == "connection closed" }
            #expect(ends.count == 1, "\(cause): \(ends)")
            guard let end = ends.first else { continue }
            #expect(end.level == .debug)
            #expect(end[LoggingKeys.cause] == "\(cause)")
            #expect(end[LoggingKeys.closedBy] == cause.closedBy)
            for key in [
                LoggingKeys.connection, LoggingKeys.remoteAddress, LoggingKeys.ageSeconds,
                LoggingKeys.bytesReceived, LoggingKeys.bytesSent, LoggingKeys.bufferedBytes,
            ] {
                #expect(end[key] != nil, "\(cause) without \(key)")
            }
            // Those that never were a WebSocket have no code.
            let never: [CloseCause] = [.handshakeTimeout, .authenticationTimeout, .refused, .responded]
            #expect((end[LoggingKeys.closeCode] == nil) == never.contains(cause), "\(cause)")
            #expect(
                recorder.entries.allSatisfy { entry in
                    entry.metadata.keys.allSatisfy(LoggingKeys.all.contains)
                }
            )
        }
    }

    @Test("A failed TLS handshake gives one too")
    func failedTLS() throws {
        let recorder = LogRecorder()
        var configuration = ServerConfiguration()
        configuration.logger = recorder.logger
        let context = ServerContext(configuration: configuration, routes: [])
        let driver = ConnectionDriver(loop: EventLoop(index: 0) {}, server: context, io: DeafIO())
        defer { driver.finish() }
        func tick(_ body: () -> Void) {
            driver.beginTick(at: 0)
            driver.withCurrent(body)
            while driver.endTick() { driver.beginTick(at: 0) }
        }
        var connection: Int?
        tick { connection = driver.accept(from: RemoteAddress(host: "192.0.2.7", port: 9)) }
        let index = try #require(connection)
        tick { driver.finishUnusable(index, .tlsFailed, reason: "no version in common") }
        tick { driver.readingEnded(index) }
        let ends = recorder.entries.filter { $0.message == "connection closed" }
        #expect(ends.count == 1)
        #expect(ends.first?[LoggingKeys.cause] == "tlsFailed")
        #expect(ends.first?[LoggingKeys.reason] == "no version in common")
        #expect(ends.first?[LoggingKeys.remoteAddress] == "192.0.2.7:9")
    }

    @Test("What was left over, and what was said, is in the log")
    func details() async throws {
        let recorder = LogRecorder()
        _ = try await Self.end(with: .peerClosed, recorder)
        _ = try await Self.end(with: .writeTimeout, recorder)
        _ = try await Self.end(with: .limitExceeded, recorder)
        _ = try await Self.end(with: .refused, recorder)
        let ends = recorder.entries.filter { $0.message == "connection closed" }
        #expect(ends.map { $0[LoggingKeys.reason] }[0] == "bye")
        #expect(ends[0][LoggingKeys.closeCode] == "1000")
        #expect(ends[0][LoggingKeys.bufferedBytes] == "0")
        let request = Client.request("/").count
        // A masked frame's header has 6 bytes.
        #expect(ends[0][LoggingKeys.bytesReceived] == "\(request + 6 + 2 + 3)")
        #expect(ends[1][LoggingKeys.bytesReceived] == "\(request + 6 + 5)")
        #expect(ends[1][LoggingKeys.bufferedBytes] == "7")
        #expect(Double(ends[1][LoggingKeys.ageSeconds] ?? "") ?? 0 >= 10)
        #expect(ends[2][LoggingKeys.reason]?.isEmpty == false)
        #expect(ends[3][LoggingKeys.reason] == "origin")
    }

    @Test("Bytes are counted in each direction, and what a peer never took is not among them")
    func byteCounts() throws {
        let recorder = LogRecorder()
        let server = Self.server(recorder, Self.endpoint())
        let client = try Client(server)
        var received = Client.request("/").count
        var sent = server.takeOutput(of: client.connection).count
        func receive(_ bytes: [UInt8]) {
            server.receive(bytes, on: client.connection)
            received += bytes.count
        }
        // It comes back, as all that is said in the room, in a frame without a masking key.
        receive(Client.frame(.text, [UInt8](repeating: 65, count: 100)))
        #expect(server.takeOutput(of: client.connection).count == 102)
        sent += 102
        // What comes in pieces counts once, and so does what goes out in pieces.
        for byte in Client.frame(.text, [UInt8](repeating: 66, count: 50)) { receive([byte]) }
        #expect(server.takeOutput(of: client.connection).count == 52)
        sent += 52
        server.limitOutput(of: client.connection, to: 30)
        receive(Client.frame(.text, [UInt8](repeating: 67, count: 70)))
        #expect(server.takeOutput(of: client.connection).count == 30)
        server.limitOutput(of: client.connection, to: 20)
        #expect(server.takeOutput(of: client.connection).count == 20)
        sent += 50
        server.advance(by: .seconds(11))
        let end = try #require(recorder.entries.last { $0.message == "connection closed" })
        #expect(end[LoggingKeys.cause] == "writeTimeout")
        #expect(end[LoggingKeys.bytesReceived] == "\(received)")
        #expect(end[LoggingKeys.bytesSent] == "\(sent)")
        #expect(end[LoggingKeys.bufferedBytes] == "22")
    }

    @Test("A peer that takes of what a transport holds for it is slow, and not silent")
    func slowNotSilent() throws {
        let recorder = LogRecorder()
        let server = Self.server(recorder, Self.endpoint())
        let client = try Self.open(server)
        server.limitOutput(of: client.connection, to: 0)
        client.send(.text, Array("hello".utf8))
        for _ in 0..<3 {
            server.advance(by: .seconds(8))
            server.driver.wrotePart(client.connection)
        }
        server.advance(by: .seconds(9))
        #expect(!recorder.entries.contains { $0.message == "connection closed" })
        server.advance(by: .seconds(2))
        let end = try #require(recorder.entries.last { $0.message == "connection closed" })
        #expect(end[LoggingKeys.cause] == "writeTimeout")
    }

    @Test(
        "A ping that is due while a peer takes no bytes is sent when it does, and its pong has its time from then on"
    )
    func pingOfSlowPeer() throws {
        let recorder = LogRecorder()
        let server = Self.server(recorder, Self.endpoint())
        let client = try Self.open(server)
        server.limitOutput(of: client.connection, to: 0)
        client.send(.text, Array("hello".utf8))
        // The ping is due after 25 s.
        for _ in 0..<5 {
            server.advance(by: .seconds(8))
            server.driver.wrotePart(client.connection)
        }
        server.limitOutput(of: client.connection, to: nil)
        server.advance(by: .seconds(1))
        #expect(client.takeFrames() == [[0x81] + Array("hello".utf8), [0x89]])
        server.advance(by: .seconds(8))
        client.send(.pong, [])
        server.advance(by: .seconds(20))
        #expect(!recorder.entries.contains { $0.message == "connection closed" })
    }

    @Test("A ping that waits behind much is no reason to cut a peer that goes on taking bytes")
    func pingBehindMuch() throws {
        let recorder = LogRecorder()
        let server = Self.server(recorder, Self.endpoint())
        let client = try Self.open(server)
        client.send(.text, Array("hello".utf8))
        server.advance(by: .seconds(24))
        server.limitOutput(of: client.connection, to: 0)
        server.advance(by: .seconds(1.5))
        for _ in 0..<3 {
            server.advance(by: .seconds(8))
            server.driver.wrotePart(client.connection)
        }
        // It goes out now, and the pong has its time.
        server.limitOutput(of: client.connection, to: nil)
        server.advance(by: .seconds(8))
        #expect(client.takeFrames().last == [0x89])
        #expect(!recorder.entries.contains { $0.message == "connection closed" })
        server.advance(by: .seconds(3))
        #expect(
            recorder.entries.last { $0.message == "connection closed" }?[LoggingKeys.cause] == "pingTimeout"
        )
    }

    @Test("So does a connection that is not even accepted, and one that a drain cuts at its deadline")
    func notAcceptedAndCut() throws {
        let recorder = LogRecorder()
        let server = Self.server(recorder, Self.endpoint()) {
            $0.connectionsMax = 1
            $0.drainTimeout = .seconds(2)
        }
        let client = try Self.open(server)
        #expect(server.connect() == nil)
        #expect(recorder.entries.map(\.message) == ["connection closed"])
        #expect(recorder.entries.first?[LoggingKeys.reason] == "serverFull")
        server.beginShutdown()
        #expect(server.connect() == nil)
        #expect(recorder.entries.last?[LoggingKeys.reason] == "draining")
        server.advance(by: .seconds(3))
        #expect(server.isClosed(client.connection))
        #expect(recorder.entries.count == 3)
        #expect(recorder.entries.last?[LoggingKeys.cause] == "serverDraining")
        #expect(recorder.entries.last?[LoggingKeys.closeCode] != nil)
    }

    @Test("Nothing is logged, nor kept for it, above debug")
    func quiet() async throws {
        let recorder = LogRecorder(level: .info)
        _ = try await Self.end(with: .limitExceeded, recorder)
        _ = try await Self.end(with: .refused, recorder)
        #expect(recorder.entries.isEmpty)
    }
}

/// Keeps what is logged.
final class LogRecorder: Sendable {
    struct Entry: Sendable {
        let level: Logger.Level
        let message: String
        let metadata: [String: String]

        subscript(key: String) -> String? { self.metadata[key] }
    }

    private let lock = Lock<[Entry]>([])
    private let level: Logger.Level

    init(level: Logger.Level = .debug) {
        self.level = level
    }

    var entries: [Entry] { self.lock.withLock { $0 } }

    var logger: Logger {
        var logger = Logger(label: "test") { _ in Handler(recorder: self) }
        logger.logLevel = self.level
        return logger
    }

    private struct Handler: LogHandler {
        let recorder: LogRecorder
        var metadata: Logger.Metadata = [:]
        var logLevel = Logger.Level.debug

        subscript(metadataKey key: String) -> Logger.Metadata.Value? {
            get { self.metadata[key] }
            set { self.metadata[key] = newValue }
        }

        func log(event: LogEvent) {
            let entry = Entry(
                level: event.level,
                message: "\(event.message)",
                metadata: (event.metadata ?? [:]).mapValues { "\($0)" }
            )
            self.recorder.lock.withLock { $0.append(entry) }
        }
    }
}

private final class DeafIO: ConnectionIO {
    func write(_ bytes: RawSpan, to connection: Int) -> WriteResult { .wrote(bytes.byteCount) }
    func setReading(_ isOn: Bool, on connection: Int) {}
    func shutdownWriting(_ connection: Int) {}
    func close(_ connection: Int) {}
    func stopListening() {}
}
