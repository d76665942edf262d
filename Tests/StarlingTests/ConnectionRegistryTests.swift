import Starling
import StarlingCore
import StarlingTesting
import Testing

@Suite struct ConnectionRegistryTests {
    /// A server on which the path names the user and the room.
    private static func server() -> EmbeddedTransport {
        let endpoint = WebSocketEndpoint(
            authenticate: { request -> UpgradeDecision<Void> in .accept(user: request[query: "user"]) },
            { socket, _ in
                try await socket.subscribe(to: "room:\(socket.path)")
                for try await _ in socket {}
            }
        )
        return EmbeddedTransport { WebSocketRoute("*", endpoint) }
    }

    private static func join(_ server: EmbeddedTransport, _ path: String) throws -> Client {
        let client = try Client(server, path: path)
        #expect(client.takeStatus() == 101)
        return client
    }

    @Test("Connections are found and counted by name, by user and by topic")
    func lookUp() async throws {
        let server = Self.server()
        let registry = server.registry
        _ = try Self.join(server, "/swift?user=ada")
        _ = try Self.join(server, "/linux?user=ada")
        _ = try Self.join(server, "/swift?user=grace")
        #expect(registry.count == 3)
        let ada = await server.waiting { await registry.connections(ofUser: "ada") }
        #expect(Set(ada.flatMap(\.topics)) == ["room:/swift", "room:/linux"])
        #expect(ada.allSatisfy { $0.user == "ada" && $0.remoteAddress.host == "192.0.2.1" })
        let swift = await server.waiting { await registry.connections(subscribedTo: "room:/swift") }
        #expect(Set(swift.map(\.user)) == ["ada", "grace"])
        #expect(await server.waiting { await registry.count(subscribedTo: "room:/swift") } == 2)
        #expect(await server.waiting { await registry.count(subscribedTo: "room:/none") } == 0)
        let first = try #require(ada.first)
        #expect(await server.waiting { await registry.connection(first.id) } == first)
        #expect(await server.waiting { await registry.connections(ofUser: "nobody") }.isEmpty)
    }

    @Test("A message goes to one connection, to a user's, to all")
    func send() async throws {
        let server = Self.server()
        let registry = server.registry
        let clients = try ["/a?user=ada", "/b?user=ada", "/c?user=grace"].map { try Self.join(server, $0) }
        let ada = try #require(await server.waiting { await registry.connections(ofUser: "ada") }.first)
        #expect(await server.waiting { await registry.send("one", to: ada.id) })
        #expect(clients.map { $0.takeFrames().count }.sorted() == [0, 0, 1])
        #expect(await server.waiting { await registry.send("user", toUser: "ada") } == 2)
        #expect(clients.map { $0.takeFrames().count } == [1, 1, 0])
        #expect(await server.waiting { await registry.sendToAll("all") } == 3)
        #expect(clients.map { $0.takeFrames() } == Array(repeating: [[0x81] + Array("all".utf8)], count: 3))
    }

    @Test("One connection is closed, a user's, all; a name of the past means nobody")
    func close() async throws {
        let server = Self.server()
        let registry = server.registry
        let clients = try ["/a?user=ada", "/b?user=grace", "/c?user=grace", "/d"].map {
            try Self.join(server, $0)
        }
        let ada = try #require(await server.waiting { await registry.connections(ofUser: "ada") }.first)
        #expect(await server.waiting { await registry.close(ada.id, .policyViolation, reason: "no") })
        #expect(clients[0].takeFrames() == [[0x88, 0x03, 0xF0] + Array("no".utf8)])
        #expect(await !server.waiting { await registry.close(ada.id) }, "it is closing already")
        clients[0].send(.close, [0x03, 0xF0])
        server.endInput(of: clients[0].connection)
        #expect(server.isClosed(clients[0].connection))

        // Its successor in the same slot is not meant by the old name.
        let successor = try Self.join(server, "/e")
        #expect(await !server.waiting { await registry.send("late", to: ada.id) })
        #expect(await server.waiting { await registry.connection(ada.id) } == nil)
        #expect(successor.takeFrames().isEmpty)

        #expect(await server.waiting { await registry.close(user: "grace") } == 2)
        #expect(clients[1].takeFrames() == [[0x88, 0x03, 0xE8]])
        #expect(await server.waiting { await registry.closeAll() } == 2)
        #expect(clients[3].takeFrames() == [[0x88, 0x03, 0xE9]])
        #expect(successor.takeFrames() == [[0x88, 0x03, 0xE9]])
    }
}
