import Starling
import StarlingCore
import StarlingTesting
import Testing

/// Upgrades by rate and by turn.
@Suite struct AdmissionTests {
    private static func server(
        _ endpoint: WebSocketEndpoint = WebSocketEndpoint(handler: RoomHandler()),
        _ change: (inout ServerConfiguration) -> Void
    ) -> EmbeddedTransport {
        var configuration = ServerConfiguration()
        change(&configuration)
        return EmbeddedTransport(configuration: configuration) { WebSocketRoute("/", endpoint) }
    }

    /// An endpoint that lets in when the gate is open, and how often it was asked.
    private static func gated(_ gate: Gate, _ asked: Lock<Int>) -> WebSocketEndpoint {
        WebSocketEndpoint(
            authenticate: { _ -> UpgradeDecision<Void> in
                asked.withLock { $0 += 1 }
                await gate.wait()
                return .accept()
            }
        ) { socket, _ in
            for try await _ in socket {}
        }
    }

    private static func retryAfter(_ client: Client) throws -> Int? {
        let response = String(decoding: client.server.takeOutput(of: client.connection), as: UTF8.self)
        guard response.hasPrefix("HTTP/1.1 503 ") else { return nil }
        let line = response.split(separator: "\r\n").first { $0.lowercased().hasPrefix("retry-after: ") }
        return try #require(line?.dropFirst(13).split(separator: "\r").first.flatMap { Int($0) })
    }

    @Test(
        "A burst is let in at once, the next wait in order for as long as they may, the others are told when to come back"
    )
    func turns() throws {
        let server = Self.server {
            $0.upgradesPerSecondMax = 10
            $0.upgradeBurstMax = 2
            $0.upgradeQueueTimeout = .seconds(1)
        }
        let clients = try (0..<20).map { _ in try Client(server) }
        #expect(clients[..<2].map { $0.takeStatus() } == [101, 101])
        // A tenth of a second each: the tenth waits for a second.
        #expect(clients[2..<12].allSatisfy { $0.takeStatus() == nil })
        for client in clients[12...] {
            // Behind those that wait, 1.2 to 1.9 s from now, and up to a second more.
            #expect((2...3).contains(try Self.retryAfter(client) ?? 0))
            #expect(server.isOutputEnded(of: client.connection))
        }
        server.advance(by: .milliseconds(500))
        #expect(clients[2..<7].allSatisfy { $0.takeStatus() == 101 })
        #expect(clients[7..<12].allSatisfy { $0.takeStatus() == nil })
        server.advance(by: .milliseconds(500))
        #expect(clients[7..<12].allSatisfy { $0.takeStatus() == 101 })
        // Whoever keeps to what it was told finds room.
        server.advance(by: .seconds(1))
        for _ in clients[12...] {
            #expect([nil, 101].contains(try Client(server).takeStatus()))
        }
    }

    @Test("Each refused client is told a later time than the one before, and the times pass")
    func promises() throws {
        let server = Self.server {
            $0.upgradesPerSecondMax = 1
            $0.upgradeQueueMax = 0
        }
        #expect(try Client(server).takeStatus() == 101)
        let delays = try (0..<20).map { _ in try Self.retryAfter(Client(server)) ?? 0 }
        for (number, delay) in delays.enumerated() { #expect((number + 2...number + 3).contains(delay)) }
        // Far behind nothing can be promised.
        for _ in 0..<60 { _ = try Client(server) }
        #expect((60...120).contains(try Self.retryAfter(Client(server)) ?? 0))
        server.advance(by: .seconds(100))
        #expect(try Client(server).takeStatus() == 101)
        #expect((2...3).contains(try Self.retryAfter(Client(server)) ?? 0))
    }

    @Test("A flood of requests does not push those away that come two minutes later")
    func flood() throws {
        let server = Self.server {
            $0.upgradesPerSecondMax = 10
            $0.upgradeQueueMax = 0
        }
        for _ in 0..<5000 { _ = try Client(server) }
        // Those who were told a time take the tokens meanwhile.
        for _ in 0..<122 {
            server.advance(by: .seconds(1))
            for _ in 0..<10 { _ = try Client(server) }
        }
        #expect((1...3).contains(try Self.retryAfter(Client(server)) ?? 0))
    }

    @Test("No more upgrades are decided about at once than may be; the next wait without a task")
    func decisions() async throws {
        let (gate, asked) = (Gate(), Lock(0))
        let server = Self.server(Self.gated(gate, asked)) { $0.authenticationsMax = 2 }
        let clients = try (0..<5).map { _ in try Client(server) }
        #expect(asked.withLock { $0 } == 2)
        // One of those that wait has gone when its turn comes.
        server.endInput(of: clients[3].connection)
        await server.waiting { await gate.open() }
        server.advance(by: .milliseconds(100))
        #expect(asked.withLock { $0 } == 4)
        #expect([0, 1, 2, 4].allSatisfy { clients[$0].takeStatus() == 101 })
        #expect(server.isClosed(clients[3].connection))
        // All places are free again.
        #expect(try Client(server).takeStatus() == 101)
    }

    /// A server with an endpoint that decides, and one that does not.
    private static func halfDecided(
        _ gate: Gate,
        _ asked: Lock<Int>,
        _ change: (inout ServerConfiguration) -> Void
    ) -> EmbeddedTransport {
        var configuration = ServerConfiguration()
        change(&configuration)
        return EmbeddedTransport(configuration: configuration) {
            WebSocketRoute("/decided", Self.gated(gate, asked))
            WebSocketRoute("/open", WebSocketEndpoint(handler: RoomHandler()))
        }
    }

    @Test(
        "Upgrades that wait for a decision hold up none that needs no decision, nor do they take its place in the queue"
    )
    func undecidedPass() async throws {
        let (gate, asked) = (Gate(), Lock(0))
        let server = Self.halfDecided(gate, asked) {
            $0.authenticationsMax = 1
            $0.upgradeQueueMax = 2
            $0.upgradesPerSecondMax = 100
            $0.upgradeBurstMax = 5
        }
        let decided = try (0..<4).map { _ in try Client(server, path: "/decided") }
        // One is decided about and two wait.
        #expect(try Self.retryAfter(decided[3]) != nil)
        let atOnce = try (0..<4).map { _ in try Client(server, path: "/open") }
        #expect(atOnce.allSatisfy { $0.takeStatus() == 101 })
        // Those that have to wait for a token get theirs too.
        let later = try (0..<2).map { _ in try Client(server, path: "/open") }
        #expect(later.allSatisfy { $0.takeStatus() == nil })
        server.advance(by: .milliseconds(20))
        #expect(later.allSatisfy { $0.takeStatus() == 101 })
        #expect(asked.withLock { $0 } == 1)
        await server.waiting { await gate.open() }
        for _ in 0..<2 {
            server.advance(by: .milliseconds(100))
            await server.waiting {}
        }
        #expect(decided[..<3].map { $0.takeStatus() } == [101, 101, 101])
    }

    @Test("Where places for decisions are free, upgrades have their turn in the order in which they came")
    func orderOfBoth() async throws {
        let (gate, asked) = (Gate(), Lock(0))
        await gate.open()
        let server = Self.halfDecided(gate, asked) {
            $0.upgradesPerSecondMax = 10
            $0.upgradeBurstMax = 1
        }
        let paths = ["/open", "/decided", "/open", "/open", "/decided", "/decided", "/open"]
        let clients = try paths.map { try Client(server, path: $0) }
        for (number, client) in clients.enumerated() {
            if number > 0 {
                server.advance(by: .milliseconds(100))
                await server.waiting {}
            }
            #expect(client.takeStatus() == 101, "\(number)")
            #expect(clients[(number + 1)...].allSatisfy { $0.takeStatus() == nil }, "\(number)")
        }
    }

    @Test("Who has waited for as long as it may is told to come back, and its place is nobody's")
    func deadline() async throws {
        let (gate, asked) = (Gate(), Lock(0))
        let server = Self.server(Self.gated(gate, asked)) { $0.authenticationsMax = 1 }
        let first = try Client(server)
        let second = try Client(server)
        server.advance(by: .milliseconds(2900))
        #expect(second.takeStatus() == nil)
        server.advance(by: .milliseconds(200))
        #expect(try Self.retryAfter(second) != nil)
        await server.waiting { await gate.open() }
        server.advance(by: .milliseconds(100))
        #expect(first.takeStatus() == 101)
        #expect(try Client(server).takeStatus() == 101)
        #expect(asked.withLock { $0 } == 2)
    }

    @Test("Those that wait are counted")
    func waitingCount() async throws {
        let server = Self.server { $0.upgradesPerSecondMax = 1 }
        let registry = server.registry
        func waitingCount() async -> UInt64? {
            let snapshot = await server.waiting { await registry.context.snapshot(ServerSnapshot.Options()) }
            return snapshot.totals["waiting_upgrades"]
        }
        let clients = try (0..<3).map { _ in try Client(server) }
        #expect(await waitingCount() == 2)
        server.advance(by: .seconds(1))
        #expect(await waitingCount() == 1)
        withExtendedLifetime(clients) {}
    }

    @Test("A shutdown refuses those that wait")
    func drain() throws {
        let server = Self.server {
            $0.upgradesPerSecondMax = 1
            $0.drainSpread = .zero
        }
        let first = try Client(server)
        let second = try Client(server)
        #expect(first.takeStatus() == 101)
        server.beginShutdown()
        #expect(try Self.retryAfter(second) != nil)
    }
}

/// Messages and bytes by rate.
@Suite struct RateLimitTests {
    private static func server(
        _ endpoint: (EndpointConfiguration) -> WebSocketEndpoint = {
            WebSocketEndpoint(configuration: $0, handler: EchoHandler())
        },
        _ change: (inout EndpointConfiguration) -> Void
    ) throws -> (EmbeddedTransport, Client) {
        var configuration = EndpointConfiguration()
        change(&configuration)
        let server = EmbeddedTransport { WebSocketRoute("/", endpoint(configuration)) }
        let client = try Client(server)
        #expect(client.takeStatus() == 101)
        return (server, client)
    }

    private static func send(_ count: Int, _ client: Client) {
        let frames = (0..<count).flatMap { _ in Client.frame(.text, [0x61]) }
        client.server.receive(frames, on: client.connection)
    }

    @Test("A peer that sends too fast is answered, and not read until it has waited for that")
    func delay() throws {
        let (server, client) = try Self.server {
            $0.rates.messagesPerSecondMax = 10
            $0.rates.policy = .delay
            $0.timeouts.idleTimeout = .milliseconds(300)
        }
        Self.send(15, client)
        #expect(client.takeFrames().count == 15)
        #expect(!server.isReading(client.connection))
        server.advance(by: .milliseconds(400))
        #expect(!server.isReading(client.connection))
        // Deadlines fire up to 80 ms late.
        server.advance(by: .milliseconds(200))
        #expect(server.isReading(client.connection))
        // Nor was that silence.
        #expect(client.takeFrames().isEmpty)
        Self.send(1, client)
        #expect(client.takeFrames().count == 1)
    }

    @Test("What it has waited for is not waited for again, whatever comes then")
    func delayOnce() throws {
        let (server, client) = try Self.server {
            $0.rates.messagesPerSecondMax = 10
            $0.rates.policy = .delay
        }
        Self.send(20, client)
        #expect(!server.isReading(client.connection))
        server.advance(by: .seconds(1.2))
        #expect(server.isReading(client.connection))
        // No message as a whole.
        client.send(.pong, [])
        #expect(server.isReading(client.connection))
        server.receive(Array(Client.frame(.text, [0x61, 0x62]).prefix(7)), on: client.connection)
        #expect(server.isReading(client.connection))
    }

    @Test("Over a long time it gets its rate, and not more")
    func longRun() throws {
        let (server, client) = try Self.server {
            $0.rates.bytesPerSecondMax = 7000
            $0.rates.byteBurstMax = 700
            $0.rates.policy = .delay
        }
        var count = 0
        for _ in 0..<1000 {
            // Seven bytes each.
            while server.isReading(client.connection) {
                Self.send(10, client)
                count += 10
            }
            server.advance(by: .milliseconds(10))
        }
        #expect((9_000...10_200).contains(count))
    }

    @Test("A burst may come at once; one more closes, unless some time has passed")
    func close() throws {
        let (server, client) = try Self.server {
            $0.rates.messagesPerSecondMax = 2
            $0.rates.messageBurstMax = 4
        }
        Self.send(4, client)
        #expect(client.takeFrames().count == 4)
        server.advance(by: .milliseconds(500))
        Self.send(1, client)
        #expect(client.takeFrames().count == 1)
        Self.send(1, client)
        #expect(client.takeFrames().last?.prefix(3) == [0x88, 0x03, 0xF0])
    }

    @Test("What comes behind the message too many is read up to the peer's close frame")
    func closeBehindTooMany() throws {
        let (server, client) = try Self.server { $0.rates.messagesPerSecondMax = 4 }
        let messages = (0..<7).flatMap { _ in Client.frame(.text, [0x61]) }
        server.receive(messages + Client.frame(.close, [0x03, 0xE8]), on: client.connection)
        let frames = client.takeFrames()
        #expect(frames.count == 5)
        #expect(frames.last?.prefix(3) == [0x88, 0x03, 0xF0])
        // Both have said so, and nobody is waited for.
        #expect(server.isOutputEnded(of: client.connection))
    }

    @Test("A peer that would have to wait for too long is closed")
    func tooLong() throws {
        let (_, client) = try Self.server {
            $0.rates.messagesPerSecondMax = 1
            $0.rates.policy = .delay
            $0.rates.delayMax = .seconds(10)
        }
        Self.send(12, client)
        let frames = client.takeFrames()
        #expect(frames.count == 13)
        #expect(frames.last?.prefix(3) == [0x88, 0x03, 0xF0])
    }

    @Test("Two reasons not to read do not undo each other")
    func twoReasons() async throws {
        for rateLast in [false, true] {
            let gate = Gate()
            let (server, client) = try Self.server {
                WebSocketEndpoint(configuration: $0) { socket in
                    await gate.wait()
                    for try await _ in socket {}
                }
            } _: {
                $0.inboundByteCountMax = 10
                $0.rates.messagesPerSecondMax = rateLast ? 1 : 10
                $0.rates.policy = .delay
            }
            Self.send(20, client)
            #expect(!server.isReading(client.connection))
            if rateLast {
                await server.waiting { await gate.open() }
                #expect(!server.isReading(client.connection))
                server.advance(by: .seconds(20))
            } else {
                server.advance(by: .seconds(3))
                #expect(!server.isReading(client.connection))
                await server.waiting { await gate.open() }
                server.advance(by: .milliseconds(50))
            }
            #expect(server.isReading(client.connection))
        }
    }

    @Test("A connection that is being closed is read, whatever it owes")
    func closing() async throws {
        let (server, client) = try Self.server {
            $0.rates.messagesPerSecondMax = 1
            $0.rates.policy = .delay
        }
        Self.send(5, client)
        #expect(!server.isReading(client.connection))
        let registry = server.registry
        let closed = await server.waiting { await registry.closeAll() }
        #expect(closed == 1)
        #expect(server.isReading(client.connection))
        client.send(.close, [0x03, 0xE9])
        #expect(server.isOutputEnded(of: client.connection))
    }
}
