import Starling
import StarlingCore
import StarlingDeflate
import StarlingTesting
import Testing

@Suite struct MemoryBudgetTests {
    private static func server(heldBytesMax: Int, _ endpoint: WebSocketEndpoint) -> EmbeddedTransport {
        Self.server(MemoryBudget(byteCountMax: heldBytesMax, scarceByteCount: heldBytesMax), endpoint)
    }

    private static func server(_ memory: MemoryBudget, _ endpoint: WebSocketEndpoint) -> EmbeddedTransport {
        var configuration = ServerConfiguration()
        configuration.memory = memory
        return EmbeddedTransport(configuration: configuration) { WebSocketRoute("/", endpoint) }
    }

    private static func open(_ server: EmbeddedTransport) throws -> Client {
        let client = try Client(server)
        #expect(client.takeStatus() == 101)
        return client
    }

    /// A connection whose body takes nothing until the gate opens.
    private static func openWithLateBody(
        _ memory: MemoryBudget
    ) throws -> (Client, gate: AsyncStream<Void>.Continuation) {
        let gate = AsyncStream<Void>.makeStream()
        let endpoint = WebSocketEndpoint { socket in
            for await _ in gate.stream { break }
            for try await _ in socket {}
        }
        return (try Self.open(Self.server(memory, endpoint)), gate.continuation)
    }

    private static let closeTryAgainLater: [UInt8] = [0x88, 0x03, 0xF5]

    @Test("Who comes to hold too much of a message is told to come back; the others go on")
    func unfinishedMessages() throws {
        let server = Self.server(heldBytesMax: 100_000, WebSocketEndpoint(handler: EchoHandler()))
        let message = Client.frame(.binary, [UInt8](repeating: 7, count: 60_000))
        let first = try Self.open(server)
        let second = try Self.open(server)
        let third = try Self.open(server)
        server.receive(Array(message.dropLast()), on: first.connection)
        #expect(first.takeFrames().isEmpty)
        server.receive(Array(message.dropLast()), on: second.connection)
        #expect(second.takeFrames().map { $0.prefix(3) } == [Self.closeTryAgainLater[...]])
        third.send(.text, Array("still here".utf8))
        #expect(third.takeFrames().count == 1)
        server.receive([message[message.count - 1]], on: first.connection)
        #expect(server.takeOutput(of: first.connection).count == 60_004)
        // What the first held is free again.
        server.receive(Array(message.dropLast()), on: third.connection)
        #expect(third.takeFrames().isEmpty)
    }

    @Test("Peers that take no answers are shed, and an upgrade is refused while there is no room")
    func waitingOutput() throws {
        let server = Self.server(heldBytesMax: 10_000, WebSocketEndpoint(handler: EchoHandler()))
        let slow = try Self.open(server)
        let fast = try Self.open(server)
        server.limitOutput(of: slow.connection, to: 1000)
        for _ in 0..<20 {
            slow.send(.binary, [UInt8](repeating: 7, count: 1000))
            fast.send(.binary, [UInt8](repeating: 7, count: 1000))
        }
        #expect(fast.takeFrames().count == 20)
        server.limitOutput(of: slow.connection, to: nil)
        #expect(slow.takeFrames().last?.prefix(3) == Self.closeTryAgainLater[...])

        // A frame that has begun must go out: its rest is kept, and there is no room until it does.
        let begun = try Self.open(server)
        server.limitOutput(of: begun.connection, to: 10)
        begun.send(.binary, [UInt8](repeating: 7, count: 12_000))
        let late = try Client(server)
        #expect(late.takeStatus() == 503)
        fast.send(.binary, [7])
        #expect(fast.takeFrames().count == 1)
        server.limitOutput(of: begun.connection, to: nil)
        #expect(begun.takeFrames().last?.prefix(3) == Self.closeTryAgainLater[...])
        _ = try Self.open(server)
    }

    @Test("An upgrade that finds no room is told when to come back, not all at the same time")
    func refusal() throws {
        let server = Self.server(heldBytesMax: 10_000, WebSocketEndpoint(handler: EchoHandler()))
        // A frame that has begun must go out: what is left of it is more than there is room for.
        let begun = try Self.open(server)
        server.limitOutput(of: begun.connection, to: 10)
        begun.send(.binary, [UInt8](repeating: 7, count: 12_000))
        var delays: Set<Int> = []
        for _ in 0..<40 {
            let late = try TestClient(server)
            #expect(late.status == 503)
            let line = late.responseHead.split(separator: "\r\n").first {
                $0.lowercased().hasPrefix("retry-after: ")
            }
            let delay = try #require(line.flatMap { Int($0.dropFirst(13)) })
            #expect((1...5).contains(delay))
            delays.insert(delay)
            #expect(server.isOutputEnded(of: late.connection))
        }
        #expect(delays.count > 1)
    }

    @Test("What one server of a process holds, the others do without")
    func sharedByServers() throws {
        let memory = MemoryBudget(byteCountMax: 100_000, scarceByteCount: 50_000)
        let (one, other) = (
            Self.server(memory, WebSocketEndpoint(handler: EchoHandler())),
            Self.server(memory, WebSocketEndpoint(handler: EchoHandler()))
        )
        let message = Client.frame(.binary, [UInt8](repeating: 7, count: 60_000))
        let holder = try Self.open(one)
        let readers = try (0..<2).map { _ in try Self.open(other) }
        let quiet = try Self.open(other)
        one.receive(Array(message.dropLast()), on: holder.connection)

        // Scarce: of those that come to hold something, the other server reads one at a time.
        for reader in readers { other.receive(Array(message.prefix(5000)), on: reader.connection) }
        #expect(readers.map { other.isReading($0.connection) } == [true, false])
        // Full: it sheds what its own hold most of, and not more than its share.
        other.receive(Array(message[5000..<50_000]), on: readers[0].connection)
        #expect(readers[0].takeFrames().map { $0.prefix(3) } == [Self.closeTryAgainLater[...]])
        #expect(readers[1].takeFrames().isEmpty && quiet.takeFrames().isEmpty)
        #expect(memory.byteCount < memory.byteCountMax)

        // One that has begun a frame keeps its rest: now there is no room for anybody, on either.
        let begun = try Self.open(one)
        one.limitOutput(of: begun.connection, to: 10)
        begun.send(.binary, [UInt8](repeating: 7, count: 150_000))
        #expect(memory.byteCount > memory.byteCountMax)
        #expect(try Client(other).takeStatus() == 503)
        #expect(try Client(one).takeStatus() == 503)
        quiet.send(.text, Array("still here".utf8))
        #expect(quiet.takeFrames().count == 1)

        // Its share of that is what the other has left.
        #expect(readers[1].takeFrames().map { $0.prefix(3) } == [Self.closeTryAgainLater[...]])

        // The one gives it back: the other lets in, and reads whole messages.
        one.limitOutput(of: begun.connection, to: nil)
        one.endInput(of: holder.connection)
        other.advance(by: .milliseconds(10))
        let late = try Self.open(other)
        other.receive(message, on: late.connection)
        #expect(other.takeOutput(of: late.connection).count == 60_004)
        #expect(memory.byteCount == 0)
    }

    @Test("What a server holds is given back with it")
    func goneServer() throws {
        let memory = MemoryBudget(byteCountMax: 100_000)
        do {
            let server = Self.server(memory, WebSocketEndpoint(handler: EchoHandler()))
            let client = try Self.open(server)
            server.receive(
                Array(Client.frame(.binary, [UInt8](repeating: 7, count: 60_000)).dropLast()),
                on: client.connection
            )
            #expect(memory.byteCount >= 59_999)
        }
        #expect(memory.byteCount == 0)
    }

    @Test("The one that holds most is closed, and told how much it held")
    func largest() throws {
        let server = Self.server(heldBytesMax: 100_000, WebSocketEndpoint(handler: EchoHandler()))
        let clients = try (0..<3).map { _ in try Self.open(server) }
        for (client, byteCount) in zip(clients, [10_000, 60_000, 40_000]) {
            server.receive(
                Array(Client.frame(.binary, [UInt8](repeating: 7, count: byteCount)).dropLast()),
                on: client.connection
            )
        }
        #expect(clients[0].takeFrames().isEmpty && clients[2].takeFrames().isEmpty)
        let frame = try #require(clients[1].takeFrames().first)
        let reason = String(decoding: frame.dropFirst(3), as: UTF8.self)
        #expect(reason.hasPrefix("the server is out of memory, of which this connection held "))
        // The payload, and what its array has more.
        let held = try #require(reason.split(separator: " ").compactMap { Int($0) }.first)
        #expect((59_999...61_000).contains(held))
        for (client, byteCount) in zip(clients, [10_000, 60_000, 40_000]) where byteCount != 60_000 {
            server.receive([7], on: client.connection)
            #expect(server.takeOutput(of: client.connection).count == byteCount + 4)
        }
    }

    @Test(
        "While memory is scarce, those that come to hold more wait, and complete their messages one after the other"
    )
    func turns() throws {
        let memory = MemoryBudget(byteCountMax: 1_000_000, scarceByteCount: 50_000)
        let server = Self.server(memory, WebSocketEndpoint(handler: EchoHandler()))
        let message = Client.frame(.binary, [UInt8](repeating: 7, count: 40_000))
        let clients = try (0..<4).map { _ in try Self.open(server) }
        for client in clients { server.receive(Array(message.prefix(30_000)), on: client.connection) }
        // The first came while there was room; of the others one has its turn.
        #expect(clients.map { server.isReading($0.connection) } == [true, true, false, false])
        let quiet = try Self.open(server)
        quiet.send(.text, Array("holds nothing".utf8))
        #expect(quiet.takeFrames().count == 1)
        for (number, client) in clients.enumerated().dropFirst() {
            #expect(server.isReading(client.connection), "client \(number)")
            server.receive(Array(message.dropFirst(30_000)), on: client.connection)
            #expect(server.takeOutput(of: client.connection).count == 40_004)
            server.advance(by: .milliseconds(10))
        }
        #expect(server.isReading(clients[0].connection))
        server.receive(Array(message.dropFirst(30_000)), on: clients[0].connection)
        #expect(memory.byteCount == 0)
    }

    @Test("A turn ends after a second; one who sends nothing in it, while others wait, is asked to come back")
    func turnTaken() throws {
        let memory = MemoryBudget(byteCountMax: 1_000_000, scarceByteCount: 50_000)
        let server = Self.server(memory, WebSocketEndpoint(handler: EchoHandler()))
        let message = Client.frame(.binary, [UInt8](repeating: 7, count: 40_000))
        let clients = try (0..<4).map { _ in try Self.open(server) }
        for client in clients { server.receive(Array(message.prefix(30_000)), on: client.connection) }
        #expect(server.isReading(clients[1].connection) && !server.isReading(clients[2].connection))
        server.receive([message[30_000]], on: clients[1].connection)
        server.advance(by: .seconds(1.1))
        #expect(!server.isReading(clients[1].connection) && server.isReading(clients[2].connection))
        server.receive([message[30_000]], on: clients[2].connection)
        server.advance(by: .seconds(1.1))
        #expect(server.isReading(clients[3].connection))
        server.advance(by: .seconds(1.1))
        #expect(clients[3].takeFrames().map { $0.prefix(3) } == [Self.closeTryAgainLater[...]])
        #expect(server.isReading(clients[1].connection) && !server.isReading(clients[2].connection))
        // There is room again.
        for client in clients[..<2] { server.endInput(of: client.connection) }
        server.advance(by: .milliseconds(10))
        #expect(server.isReading(clients[2].connection))
    }

    @Test("Whoever holds nothing any more is read again at once, whoever waits before it")
    func holdsNothing() throws {
        let memory = MemoryBudget(byteCountMax: 1_000_000, scarceByteCount: 50_000)
        let server = Self.server(memory, WebSocketEndpoint(handler: EchoHandler()))
        let message = Client.frame(.binary, [UInt8](repeating: 7, count: 40_000))
        let holders = try (0..<3).map { _ in try Self.open(server) }
        for holder in holders { server.receive(Array(message.prefix(30_000)), on: holder.connection) }
        // Its peer takes the echo in two parts.
        let innocent = try Self.open(server)
        server.limitOutput(of: innocent.connection, to: 100)
        innocent.send(.binary, [UInt8](repeating: 7, count: 1000))
        #expect(!server.isReading(innocent.connection))
        server.limitOutput(of: innocent.connection, to: nil)
        server.advance(by: .milliseconds(1))
        #expect(server.isReading(innocent.connection))
        #expect(server.isReading(holders[1].connection) && !server.isReading(holders[2].connection))
    }

    @Test("A turn does not end the reading of a connection that is closing: its close frame must be seen")
    func turnOfClosing() async throws {
        let memory = MemoryBudget(byteCountMax: 1_000_000, scarceByteCount: 50_000)
        let server = Self.server(memory, WebSocketEndpoint(handler: EchoHandler()))
        let message = Client.frame(.binary, [UInt8](repeating: 7, count: 40_000))
        let clients = try (0..<4).map { _ in try Self.open(server) }
        for client in clients { server.receive(Array(message.prefix(30_000)), on: client.connection) }
        let registry = server.registry
        #expect(await server.waiting { await registry.closeAll() } == 4)
        server.advance(by: .seconds(1.1))
        #expect(clients.map { server.isReading($0.connection) } == [true, true, true, true])
    }

    @Test("Requests of which a part has come go before those who are connected")
    func unfinishedHeads() throws {
        let memory = MemoryBudget(byteCountMax: 100_000)
        let server = Self.server(memory, WebSocketEndpoint(handler: EchoHandler()))
        let client = try Self.open(server)
        let message = Client.frame(.binary, [UInt8](repeating: 7, count: 30_000))
        server.receive(Array(message.dropLast()), on: client.connection)
        var strangers: [Client] = []
        for _ in 0..<20 {
            let stranger = Client(server: server, connection: try #require(server.connect()))
            strangers.append(stranger)
            let head = "GET / HTTP/1.1\r\nX: \(String(repeating: "x", count: 10_000))"
            server.receive(Array(head.utf8), on: stranger.connection)
        }
        #expect(memory.byteCount <= 100_000)
        let statuses = strangers.compactMap { $0.takeStatus() }
        #expect(!statuses.isEmpty && statuses.allSatisfy { $0 == 503 })
        server.receive([message[message.count - 1]], on: client.connection)
        #expect(server.takeOutput(of: client.connection).count == 30_004)
    }

    @Test("What is said to thousands that go takes memory, and does not begin it all again for each of them")
    func manySmallHeads() throws {
        let memory = MemoryBudget(byteCountMax: 40_000)
        let server = Self.server(memory, WebSocketEndpoint(handler: EchoHandler()))
        let client = try Self.open(server)
        let strangers = try (0..<5000).map { _ in try #require(server.connect()) }
        for stranger in strangers { server.receive(Array("GET / HT".utf8), on: stranger) }
        #expect(memory.byteCount == 40_000)
        // Another one that is connected holds something as well, and neither goes for it.
        let other = try Self.open(server)
        server.receive(Array(Client.frame(.binary, [7, 7]).dropLast()), on: other.connection)
        let message = Client.frame(.binary, [UInt8](repeating: 7, count: 20_000))
        server.receive(Array(message.dropLast()), on: client.connection)
        #expect(memory.byteCount < 40_000)
        server.receive([7], on: other.connection)
        #expect(server.takeOutput(of: other.connection).count == 4)
        let refused = strangers.filter { !server.takeOutput(of: $0).isEmpty }
        #expect(refused.count == 5000)
        server.receive([message[message.count - 1]], on: client.connection)
        #expect(server.takeOutput(of: client.connection).count == 20_004)
    }

    @Test("What a batch is made of stays until it is written, whoever must go meanwhile")
    func shedWithinBatch() async throws {
        let (memory, broadcaster) = (MemoryBudget(byteCountMax: 100_000), InMemoryBroadcaster())
        var configuration = EndpointConfiguration()
        configuration.deflate = nil
        let endpoint = WebSocketEndpoint(
            broadcaster: broadcaster,
            configuration: configuration,
            handler: SubscriberHandler()
        )
        var settings = ServerConfiguration()
        settings.memory = memory
        let server = EmbeddedTransport(configuration: settings) { WebSocketRoute("*", endpoint) }
        // One holds much of an unfinished message, and is sent little; the other takes nothing, and is sent much.
        let large = try Client(server, path: "/a")
        let slow = try Client(server, path: "/b")
        for client in [large, slow] { #expect(client.takeStatus() == 101) }
        let message = Client.frame(.binary, [UInt8](repeating: 7, count: 60_000))
        server.receive(Array(message.dropLast()), on: large.connection)
        server.limitOutput(of: slow.connection, to: 10)
        try await broadcaster.publish(.text(String(repeating: "a", count: 20)), to: "a")
        try await broadcaster.publish(.binary([UInt8](repeating: 8, count: 50_000)), to: "b")
        server.advance(by: .milliseconds(1))
        let frames = large.takeFrames()
        #expect(frames.first == [0x81] + [UInt8](repeating: 97, count: 20))
        #expect(frames.dropFirst().map { $0.prefix(3) } == [Self.closeTryAgainLater[...]])
    }

    @Test(
        "Heads of requests and compression windows are charged, and the windows released while memory is scarce"
    )
    func windows() throws {
        let memory = MemoryBudget(byteCountMax: 10_000_000, scarceByteCount: 400_000)
        var configuration = EndpointConfiguration()
        configuration.deflate?.preferences.serverNoContextTakeover = false
        configuration.deflate?.preferences.clientNoContextTakeover = false
        let server = Self.server(
            memory,
            WebSocketEndpoint(configuration: configuration, handler: EchoHandler())
        )
        let head = try #require(server.connect())
        server.receive(Array("GET / HTTP/1.1\r\nHost:".utf8), on: head)
        #expect(memory.byteCount == 21)
        server.endInput(of: head)
        #expect(memory.byteCount == 0)
        var charged: [Int] = []
        for _ in 0..<2 {
            let client = try Client(server, fields: ["Sec-WebSocket-Extensions: permessage-deflate"])
            #expect(client.takeStatus() == 101)
            client.send(.text, Array(String(repeating: "compress me ", count: 50).utf8))
            #expect(client.takeFrames().first?.first == 0xC1)
            charged.append(memory.byteCount)
        }
        // Two are more than there is room for: the second one's tick ends without both.
        #expect(charged[0] > 200_000 && charged[1] == 0)
    }

    @Test("The head of a request that waits is charged until it is answered")
    func waitingHeads() async throws {
        let memory = MemoryBudget(byteCountMax: 10_000_000)
        let gate = Gate()
        let endpoint = WebSocketEndpoint(
            authenticate: { _ -> UpgradeDecision<Void> in
                await gate.wait()
                return .accept()
            }
        ) { socket, _ in
            for try await _ in socket {}
        }
        let server = Self.server(memory, endpoint)
        let field = "X-Large: " + String(repeating: "x", count: 10_000)
        let accepted = try Client(server, fields: [field])
        let gone = try Client(server, fields: [field])
        #expect((20_000...22_000).contains(memory.byteCount))
        server.endInput(of: gone.connection)
        #expect((10_000...11_000).contains(memory.byteCount))
        await server.waiting { await gate.open() }
        server.advance(by: .milliseconds(1))
        #expect(accepted.takeStatus() == 101)
        #expect(memory.byteCount == 0)
    }

    /// Sends its message twice, and looks whether it is still the same in between.
    private struct TwiceHandler: ConnectionHandler {
        mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {
            connection.send(message)
            // Where something that was freed would be made anew.
            let other = [UInt8](repeating: 9, count: message.bytes.byteCount)
            let bytes = message.bytes
            let isSame = (0..<bytes.byteCount).allSatisfy {
                unsafe bytes.unsafeLoad(fromByteOffset: $0, as: UInt8.self) == 7
            }
            #expect(isSame && other.first == 9)
            connection.send(message)
        }
    }

    @Test("A connection is closed for want of memory while its handler looks at a message")
    func closedWhileInUse() throws {
        let server = Self.server(heldBytesMax: 10_000, WebSocketEndpoint(handler: TwiceHandler()))
        let client = try Self.open(server)
        server.limitOutput(of: client.connection, to: 10)
        client.send(.binary, [UInt8](repeating: 7, count: 3000))
        // In two pieces, so that it is held, and not where it has arrived.
        let message = Client.frame(.binary, [UInt8](repeating: 7, count: 6000))
        server.receive(Array(message[..<3000]), on: client.connection)
        server.receive(Array(message[3000...]), on: client.connection)
        server.limitOutput(of: client.connection, to: nil)
        #expect(client.takeFrames().last?.prefix(3) == Self.closeTryAgainLater[...])
        let next = try Self.open(server)
        next.send(.binary, [7])
        #expect(next.takeFrames().count == 2)
    }

    /// Subscribes to eighty topics on the path `/many`.
    private struct ManyTopicsHandler: ConnectionHandler {
        mutating func opened(_ connection: inout Connection<Self>, userData: Void) {
            guard connection.path == "/many" else { return }
            for number in 0..<80 {
                connection.subscribe(to: Topic("t\(number)"), slowConsumerPolicy: .skip)
            }
        }
        mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {
            connection.send(message)
        }
    }

    private static func serverWithTopics(
        _ memory: MemoryBudget,
        _ broadcaster: InMemoryBroadcaster
    ) -> EmbeddedTransport {
        var endpoint = EndpointConfiguration()
        endpoint.deflate = nil
        endpoint.outbound.backlogByteCountMax = 16_000
        var configuration = ServerConfiguration()
        configuration.memory = memory
        return EmbeddedTransport(configuration: configuration) {
            WebSocketRoute(
                "*",
                WebSocketEndpoint(
                    broadcaster: broadcaster,
                    configuration: endpoint,
                    handler: ManyTopicsHandler()
                )
            )
        }
    }

    @Test("Who keeps many rings alive is closed for it, and not those who hold a little of their own")
    func rings() async throws {
        let memory = MemoryBudget(byteCountMax: 60_000)
        let broadcaster = InMemoryBroadcaster()
        let server = Self.serverWithTopics(memory, broadcaster)
        let others = try (0..<5).map { _ in try Client(server, path: "/few") }
        let slow = try Client(server, path: "/many")
        for client in others + [slow] { #expect(client.takeStatus() == 101) }
        server.limitOutput(of: slow.connection, to: 0)
        var greatest = 0
        let text = String(repeating: "x", count: 900)
        for number in 0..<900 {
            try await broadcaster.publish(.text(text), to: Topic("t\(number % 80)"))
            server.advance(by: .milliseconds(1))
            greatest = max(greatest, memory.byteCount)
        }
        #expect(greatest > memory.scarceByteCount && greatest <= memory.byteCountMax + 2000)
        // Others begin long messages.
        let message = Client.frame(.binary, [UInt8](repeating: 7, count: 6000))
        for client in others {
            server.receive(Array(message.dropLast()), on: client.connection)
            server.advance(by: .milliseconds(1))
        }
        server.limitOutput(of: slow.connection, to: nil)
        #expect(slow.takeFrames().last?.prefix(3) == Self.closeTryAgainLater[...])
        for client in others {
            while !server.isReading(client.connection) { server.advance(by: .milliseconds(10)) }
            server.receive([message[message.count - 1]], on: client.connection)
            #expect(server.takeOutput(of: client.connection).count == 6004)
        }
        server.endInput(of: slow.connection)
        #expect(memory.byteCount == 0)
    }

    @Test("Of what waits for an async handler, what stops the reading is charged")
    func inboxes() async throws {
        let memory = MemoryBudget(byteCountMax: 10_000_000)
        let (client, gate) = try Self.openWithLateBody(memory)
        let server = client.server
        client.send(.binary, [UInt8](repeating: 7, count: 200_000))
        #expect(memory.byteCount == 0)
        client.send(.binary, [UInt8](repeating: 7, count: 200_000))
        // The bytes, and 128 for each.
        #expect(memory.byteCount == 400_256)
        #expect(!server.isReading(client.connection))
        gate.yield()
        while !server.isReading(client.connection) { await server.waiting {} }
        #expect(memory.byteCount == 0)
    }

    @Test("What a late body has not taken of a connection that has ended goes before those that are served")
    func stragglers() async throws {
        let memory = MemoryBudget(byteCountMax: 300_000)
        let (client, gate) = try Self.openWithLateBody(memory)
        let server = client.server
        client.send(.binary, [UInt8](repeating: 7, count: 200_000))
        server.endInput(of: client.connection)
        #expect(memory.byteCount == 200_128)
        let other = try Self.open(server)
        let message = Client.frame(.binary, [UInt8](repeating: 7, count: 200_000))
        server.receive(Array(message.dropLast()), on: other.connection)
        server.advance(by: .milliseconds(10))
        #expect(memory.byteCount <= 300_000)
        #expect(other.takeFrames().isEmpty)
        #expect(!server.isOutputEnded(of: other.connection))
        server.endInput(of: other.connection)
        #expect(memory.byteCount == 0)
        gate.yield()
    }

    @Test("Messages without a byte fill an async handler's inbox as well")
    func emptyMessages() async throws {
        let memory = MemoryBudget(byteCountMax: 10_000_000)
        let (client, gate) = try Self.openWithLateBody(memory)
        let server = client.server
        let empty = Client.frame(.binary, [])
        for _ in 0..<21 {
            server.receive(Array(repeatElement(empty, count: 100).joined()), on: client.connection)
        }
        // 128 bytes for each.
        #expect(!server.isReading(client.connection))
        #expect(memory.byteCount == 2100 * 128)
        gate.yield()
        while !server.isReading(client.connection) { await server.waiting {} }
        #expect(memory.byteCount == 0)
    }

    @Test(
        "With three times as much offered as fits, the limit holds throughout, and those that behave go on",
        arguments: 0..<10
    )
    func overload(_ seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        let memory = MemoryBudget(byteCountMax: 1_000_000)
        let server = Self.server(memory, WebSocketEndpoint(handler: EchoHandler()))
        let good = try (0..<5).map { _ in try Self.open(server) }
        // Each has a message of 100,000 bytes under way, or takes nothing of what it is answered.
        let bad = try (0..<30).map { _ in try Self.open(server) }
        let message = Client.frame(.binary, [UInt8](repeating: 7, count: 100_000))
        var sent = [Int](repeating: 0, count: bad.count)
        for client in bad.dropFirst(15) { server.limitOutput(of: client.connection, to: 10) }
        var greatest = 0
        for step in 0..<3000 {
            let index = Int.random(in: 0..<bad.count, using: &random)
            let client = bad[index]
            if server.isReading(client.connection), !server.isClosed(client.connection) {
                if index < 15 {
                    let count = min(
                        Int.random(in: 1...20_000, using: &random),
                        message.count - 1 - sent[index]
                    )
                    server.receive(Array(message[sent[index]..<(sent[index] + count)]), on: client.connection)
                    sent[index] += count
                } else {
                    client.send(.binary, [UInt8](repeating: 7, count: 10_000))
                }
            }
            greatest = max(greatest, memory.byteCount)
            if step % 10 == 0 { server.advance(by: .milliseconds(5)) }
            if step % 50 == 0 {
                for client in good {
                    client.send(.text, Array("still here".utf8))
                    #expect(client.takeFrames().count == 1)
                }
            }
        }
        #expect(greatest > memory.scarceByteCount, "there was pressure")
        #expect(greatest <= memory.byteCountMax + 20_000, "beyond the limit no more than what came last")
        for client in bad { server.endInput(of: client.connection) }
        // Those that were shed had begun a frame, and are cut when they take no more of it.
        server.advance(by: .seconds(15))
        #expect(memory.byteCount == 0)
    }

    @Test("A connection that is cut gives back what it held")
    func cut() throws {
        let server = Self.server(heldBytesMax: 100_000, WebSocketEndpoint(handler: EchoHandler()))
        let message = Client.frame(.binary, [UInt8](repeating: 7, count: 60_000))
        for _ in 0..<10 {
            let client = try Self.open(server)
            server.receive(Array(message.dropLast()), on: client.connection)
            #expect(client.takeFrames().isEmpty)
            server.endInput(of: client.connection)
            #expect(server.isClosed(client.connection))
        }
    }
}
