import Starling
import StarlingTesting
import Testing

/// The code in the comments of `StarlingTesting`.
@Suite struct TestingSnippets {
    private let echo = WebSocketEndpoint { socket in
        for try await message in socket { try await socket.send(message) }
    }

    @Test("A test client's example")
    func embedded() throws {
        let echo = self.echo
        let server = EmbeddedTransport { WebSocketRoute("/echo", echo) }
        let client = try TestClient(server, path: "/echo")
        client.send(.text("Hello"))
        #expect(client.takeTexts() == ["Hello"])
    }

    @Test("The network's example, with a link that breaks and one that falls silent")
    func network() async throws {
        let room = self.echo
        let network = InMemoryNetwork()
        let server = WebSocketServer(transport: network.transport(at: "chat")) {
            WebSocketRoute("/room", room)
        }
        let client = WebSocketClient(connector: network.connector)
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await server.run() }
            try await client.connect(to: "ws://chat/room") { socket in try await socket.send("Hello") }
            try await self.greet(network)
            await #expect(throws: WebSocketError.self) { try await self.flood(self.breaking(network)) }
            _ = self.silent(network)
            server.beginShutdown()
            try await group.waitForAll()
        }
    }

    private func greet(_ network: InMemoryNetwork) async throws {
        let target = ConnectTarget.tcp(host: "chat", port: 80)
        let client = try await TestStreamClient(network.connector, to: target, path: "/room")
        try await client.send(.text("Hello"))
        let frame = try await client.nextFrame()
        #expect(frame == .text("Hello"))
    }

    private func breaking(_ network: InMemoryNetwork) -> WebSocketClient {
        var plan = FaultPlan(seed: 7)
        plan.received.pieceByteCountMax = 1
        plan.sent.breakage = .reset(.afterBytes(1000))
        let client = WebSocketClient(connector: FaultyConnector(network.connector, plan: plan))
        return client
    }

    private func flood(_ client: WebSocketClient) async throws {
        try await client.connect(to: "ws://chat/room") { socket in
            while true { try await socket.send("more and more") }
        }
    }

    private func silent(_ network: InMemoryNetwork) -> FaultyConnector {
        let broken = FaultyConnector(network.connector) { connection in
            var plan = FaultPlan(seed: UInt64(connection))
            plan.received.breakage = .halfOpen(.afterBytes(500))
            return plan
        }
        return broken
    }

    // Compiled, and not run: StarlingTestingTests has a thousand seeds of its own.
    func chatSurvives() async throws {
        try await DeterministicCluster(dialect: ChatDialect()).check(seeds: 0..<1000)
    }
}
