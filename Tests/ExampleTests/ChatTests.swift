import Starling
import StarlingTesting
import Testing

/// The tests that Documentation/Testing.md shows.
@Suite struct ChatTests {
    @Test("What anna says, bert hears")
    func twoClients() async throws {
        let broadcaster = InMemoryBroadcaster { _ in HistoryLimits() }
        let server = EmbeddedTransport { WebSocketRoute("/chat", ChatRoom.endpoint(broadcaster)) }
        let anna = try TestClient(server, path: "/chat?name=anna")
        let bert = try TestClient(server, path: "/chat?name=bert")
        #expect(anna.status == 101)
        bert.send(.text("join swift"))
        anna.send(.text("say swift 1 Hello!"))
        #expect(bert.takeTexts().last?.hasSuffix(" Hello!") == true)

        let nobody = try TestClient(server, path: "/chat")
        #expect(nobody.status == 403)
    }

    @Test("Who does not answer pings is gone after 35 seconds")
    func deadPeer() throws {
        let server = EmbeddedTransport { WebSocketRoute("/chat", ChatRoom.endpoint(InMemoryBroadcaster())) }
        let client = try TestClient(server, path: "/chat?name=anna")
        server.advance(by: .seconds(26))
        #expect(client.takeFrames().map(\.opcode) == [.ping])
        server.advance(by: .seconds(11))
        #expect(server.isClosed(client.connection))
    }

    @Test("The application's own client talks to the whole server")
    func wholeServer() async throws {
        let network = InMemoryNetwork()
        var configuration = ServerConfiguration()
        configuration.drainSpread = .zero
        let server = WebSocketServer(
            transport: network.transport(at: "chat"),
            configuration: configuration
        ) {
            WebSocketRoute("/chat", ChatRoom.endpoint(InMemoryBroadcaster { _ in HistoryLimits() }))
        }
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await server.run() }
            let client = WebSocketClient(connector: network.connector)
            try await client.connect(to: "ws://chat/chat?name=anna") { socket in
                try await socket.send("join swift")
                try await socket.send("say swift 1 Hello!")
                var messages = socket.makeAsyncIterator()
                #expect(try await messages.next()?.text?.hasPrefix("welcome swift") == true)
                #expect(try await messages.next()?.text?.hasPrefix("heard 1") == true)
                #expect(try await messages.next()?.text?.hasSuffix(" Hello!") == true)
            }
            server.beginShutdown()
            try await group.waitForAll()
        }
    }

    @Test("A client whose link breaks gets what it missed")
    func brokenLink() async throws {
        let network = InMemoryNetwork()
        let broadcaster = InMemoryBroadcaster { _ in HistoryLimits() }
        var configuration = ServerConfiguration()
        configuration.drainSpread = .zero
        let server = WebSocketServer(
            transport: network.transport(at: "chat"),
            configuration: configuration
        ) {
            WebSocketRoute("/chat", ChatRoom.endpoint(broadcaster))
        }
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await server.run() }
            // The first connection breaks after 1,000 bytes; the second one is slow, and splits what it carries.
            let connector = FaultyConnector(network.connector) { connection in
                var plan = FaultPlan(seed: 7)
                if connection == 0 {
                    plan.received.breakage = .reset(.afterBytes(1000))
                } else {
                    plan.received.delay = .zero ... .milliseconds(2)
                    plan.received.pieceByteCountMax = 20
                }
                return plan
            }
            var heard: [String] = []
            var last = ""
            while heard.count < 100 {
                let client = WebSocketClient(connector: connector)
                do {
                    try await client.connect(to: "ws://chat/chat?name=anna") { socket in
                        try await socket.send("join swift \(last)")
                        for try await message in socket {
                            let words = (message.text ?? "").split(separator: " ").map(String.init)
                            last = "\(words[2]) \(words[3])"
                            if words[0] == "said" {
                                heard.append(words[4])
                            } else if heard.isEmpty {
                                for number in 0..<100 {
                                    try await broadcaster.publish(.text("\(number)"), to: "swift")
                                }
                            }
                            if heard.count == 100 { return }
                        }
                    }
                } catch let error as WebSocketError where error.code == .connectionLost {
                    continue
                }
            }
            #expect(heard == (0..<100).map { "\($0)" })
            server.beginShutdown()
            try await group.waitForAll()
        }
    }

    @Test("Three nodes, five clients, and whatever may go wrong between them")
    func cluster() async throws {
        let figures = try await DeterministicCluster(dialect: ChatDialect()).check(seeds: 0..<50)
        #expect(figures.recoveries > 100)
        #expect(figures.presenceEvents > 100)
    }
}
