import Starling
import StarlingCore
import StarlingTesting
import Testing

/// How many connections a user may have, as `authenticate` names it.
@Suite struct UserLimitTests {
    /// A server that lets each user have two connections; the query names the user, and a subprotocol if it is to choose one.
    private static func server(_ gate: Gate? = nil) -> EmbeddedTransport {
        var configuration = ServerConfiguration()
        configuration.connectionsPerUserMax = 2
        let endpoint = WebSocketEndpoint(
            authenticate: { request -> UpgradeDecision<Void> in
                await gate?.wait()
                return .accept(user: request[query: "user"], subprotocol: request[query: "subprotocol"])
            },
            handler: EchoHandler()
        )
        return EmbeddedTransport(configuration: configuration) { WebSocketRoute("/", endpoint) }
    }

    /// Two connections of one user, and the word that a third is one too many.
    private static func two(_ server: EmbeddedTransport) throws -> [TestClient] {
        let clients = try (0..<2).map { _ in try TestClient(server, path: "/?user=ann") }
        #expect(clients.map(\.status) == [101, 101])
        #expect(try TestClient(server, path: "/?user=ann").status == 429)
        return clients
    }

    /// There is room for one more of the user, and not for two.
    private static func expectRoomForOne(_ server: EmbeddedTransport) throws {
        #expect(try TestClient(server, path: "/?user=ann").status == 101)
        #expect(try TestClient(server, path: "/?user=ann").status == 429)
    }

    @Test(
        "One more connection than a user may have gets 429; other users and connections without one are let in"
    )
    func limit() throws {
        let server = Self.server()
        let clients = try Self.two(server)
        #expect(try TestClient(server, path: "/?user=bob").status == 101)
        for _ in 0..<3 { #expect(try TestClient(server).status == 101) }
        // Those that are there notice nothing.
        for client in clients { client.send(.text("still here")) }
        #expect(clients.allSatisfy { $0.takeTexts() == ["still here"] })
    }

    @Test("A connection that closes makes room for the next")
    func closed() throws {
        let server = Self.server()
        let clients = try Self.two(server)
        clients[0].send(.close, [0x03, 0xE8])
        server.endInput(of: clients[0].connection)
        try Self.expectRoomForOne(server)
    }

    @Test("So does one that is cut, by its peer or for its silence")
    func cut() throws {
        let server = Self.server()
        let clients = try Self.two(server)
        server.endInput(of: clients[0].connection)
        try Self.expectRoomForOne(server)
        // Nobody answers pings.
        server.advance(by: .seconds(60))
        #expect(server.isClosed(clients[1].connection))
        _ = try Self.two(server)
    }

    @Test("So does one that the server closes")
    func closedByServer() async throws {
        let server = Self.server()
        let clients = try Self.two(server)
        let registry = server.registry
        #expect(await server.waiting { await registry.closeAll() } == 2)
        for client in clients { server.endInput(of: client.connection) }
        _ = try Self.two(server)
    }

    @Test("An upgrade that fails after it was decided, and one whose peer has gone meanwhile, do not count")
    func failed() async throws {
        let server = Self.server()
        for _ in 0..<3 {
            let client = try TestClient(server, path: "/?user=ann&subprotocol=unheard")
            #expect(client.status == 500)
            server.endInput(of: client.connection)
        }
        _ = try Self.two(server)

        let gate = Gate()
        let gated = Self.server(gate)
        for _ in 0..<3 {
            let client = try TestClient(gated, path: "/?user=ann")
            #expect(client.status == nil)
            gated.endInput(of: client.connection)
        }
        await gated.waiting { await gate.open() }
        gated.advance(by: .milliseconds(100))
        _ = try Self.two(gated)
    }

    @Test("Who was refused does not count either")
    func refused() throws {
        let server = Self.server()
        let clients = try Self.two(server)
        for _ in 0..<3 { #expect(try TestClient(server, path: "/?user=ann").status == 429) }
        server.endInput(of: clients[0].connection)
        try Self.expectRoomForOne(server)
    }
}
