import Foundation
import HTTPTypes
import Starling
import StarlingCore
import StarlingTesting
import Testing

@Suite struct SnapshotTests {
    /// A server whose connections subscribe to what their path names, and to a topic that is everybody's.
    private static func server(_ extra: [Route] = []) -> EmbeddedTransport {
        let endpoint = WebSocketEndpoint(
            authenticate: { request -> UpgradeDecision<Void> in
                .accept(user: request[query: "user"], subprotocol: request.subprotocols.first)
            },
            { socket, _ in
                try await socket.subscribe(to: "everybody")
                try await socket.subscribe(to: Topic(socket.path))
                for try await message in socket { try await socket.send(message) }
            }
        )
        return EmbeddedTransport {
            extra
            WebSocketRoute("*", endpoint)
        }
    }

    private static func snapshot(
        _ server: EmbeddedTransport,
        _ options: ServerSnapshot.Options = ServerSnapshot.Options()
    ) async -> ServerSnapshot {
        let registry = server.registry
        return await server.waiting { await registry.context.snapshot(options) }
    }

    @Test("It tells of loops, topics, memory, limits and broadcasters")
    func contents() async throws {
        let server = Self.server()
        let clients = try (0..<3).map { try Client(server, path: "/room-\($0 % 2)?user=u\($0)") }
        for client in clients {
            #expect(client.takeStatus() == 101)
            client.send(.text, Array("hello".utf8))
        }
        _ = try Client(server, path: "/", fields: ["Sec-WebSocket-Version: 12"])
        let snapshot = await Self.snapshot(server)
        #expect(snapshot.stage == .serving)
        #expect(snapshot.isReady)
        #expect(snapshot.version == ServerSnapshot.libraryVersion)
        #expect(snapshot.totals["websockets"] == 3)
        #expect(snapshot.totals["messages_received_total"] == 3)
        #expect(snapshot.totals["subscriptions"] == 6)
        #expect(snapshot.totals["tasks"] == 3)
        #expect(snapshot.refusals.values.reduce(0, +) == 1)
        let loop = try #require(snapshot.loops.first)
        #expect(snapshot.loops.count == 1)
        #expect(loop.hasAnswered)
        #expect(loop.webSockets == 3)
        #expect(loop.topics == 3)
        #expect(loop.mailboxCount > 0, "the question itself came by it")
        #expect(snapshot.topics.map(\.name) == ["everybody", "/room-0", "/room-1"])
        #expect(snapshot.topics.map(\.subscriberCount) == [3, 2, 1])
        #expect(snapshot.memory.heldBytesMax == ServerConfiguration().memory.byteCountMax)
        #expect(snapshot.limits.connectionsMax == 1_000_000)
        #expect(snapshot.limits.connectionsPerUserMax == nil)
        #expect(snapshot.endpoints.map(\.path) == ["*"])
        #expect(snapshot.broadcasters.map(\.name) == ["memory"])
        #expect(snapshot.connections.isEmpty, "nobody asked for connections")
        server.beginShutdown()
        #expect(await Self.snapshot(server).stage == .draining)
    }

    @Test("Connections come page by page, each once, with what is known of them")
    func connections() async throws {
        let server = Self.server()
        var ids: [String] = []
        let clients = try (0..<7).map {
            try Client(server, path: "/a?user=u\($0)", fields: ["Sec-WebSocket-Protocol: chat"])
        }
        for client in clients { #expect(client.takeStatus() == 101) }
        clients[0].send(.text, Array("hello".utf8))
        server.advance(by: .seconds(3))
        var options = ServerSnapshot.Options()
        options.connectionCountMax = 3
        var pages = 0
        repeat {
            let snapshot = await Self.snapshot(server, options)
            #expect(snapshot.connections.count <= 3)
            ids += snapshot.connections.map(\.id)
            if pages == 0 {
                let first = try #require(snapshot.connections.first)
                #expect(first.user == "u0")
                #expect(first.phase == "open")
                #expect(first.subprotocol == "chat")
                #expect(first.remoteAddress == "192.0.2.1:5")
                #expect(first.path == "/a")
                #expect(first.messagesReceived == 1)
                #expect(first.bytesReceived > 100 && first.bytesSent > 100)
                #expect(first.subscriptionCount == 2)
                #expect(Set(first.topics) == ["everybody", "/a"])
                #expect((2.9...3.1).contains(first.ageSeconds))
            }
            options.connectionsFrom = snapshot.nextConnection
            pages += 1
        } while options.connectionsFrom != nil
        #expect(ids.count == 7 && Set(ids).count == 7)
        for nonsense in ["", "x", "1", "1.", "-1.0", "0.-5", "99999999999999999999.1", "63.16777216"] {
            options.connectionsFrom = nonsense
            #expect(await Self.snapshot(server, options).connections.count == 3, "\(nonsense) is the start")
        }
        options.connectionsFrom = "40.0"
        #expect(await Self.snapshot(server, options).connections.isEmpty, "no such loop")
    }

    @Test("Of very many topics the largest are found, a piece per tick")
    func manyTopics() async throws {
        struct Handler: ConnectionHandler {
            mutating func opened(_ connection: inout Connection<Self>, userData: Void) {
                let number = Int(connection.path.dropFirst()) ?? 0
                for topic in 0..<1000 { connection.subscribe(to: "\(number).\(topic)") }
                if number < 5 { connection.subscribe(to: "big") }
                connection.unsubscribe(from: "\(number).500")
            }
            mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {}
        }
        let server = EmbeddedTransport { WebSocketRoute("*", WebSocketEndpoint(handler: Handler())) }
        var clients: [Client] = []
        for number in 0..<10 { clients.append(try Client(server, path: "/\(number)")) }
        var options = ServerSnapshot.Options()
        options.topicCountMax = 3
        var snapshot = await Self.snapshot(server, options)
        #expect(snapshot.totals["topics"] == 9991)
        #expect(snapshot.topics.count == 3)
        #expect(snapshot.topics.first?.name == "big")
        #expect(snapshot.topics.first?.subscriberCount == 5)
        server.endInput(of: clients[0].connection)
        snapshot = await Self.snapshot(server, options)
        #expect(snapshot.totals["topics"] == 8992)
        #expect(snapshot.totals["subscriptions"] == 8995)
        #expect(snapshot.topics.first?.subscriberCount == 4)
        options.topicCountMax = .max
        #expect(await Self.snapshot(server, options).topics.count == 1000, "there is a bound")
        options.topicCountMax = -1
        #expect(await Self.snapshot(server, options).topics.isEmpty)
    }

    @Test("A loop that does not answer is shown by its last figures, and does not hold the snapshot up")
    func silentLoop() async throws {
        let server = Self.server()
        let client = try Client(server)
        #expect(client.takeStatus() == 101)
        var options = ServerSnapshot.Options()
        options.timeout = .milliseconds(50)
        // No tick runs meanwhile.
        let snapshot = await server.registry.context.snapshot(options)
        #expect(snapshot.loops.map(\.hasAnswered) == [false])
        #expect(snapshot.loops.first?.webSockets == 1)
        #expect(snapshot.topics.isEmpty)
    }

    // MARK: - JSON

    @Test("The JSON without Foundation is what Foundation's decoder makes the same snapshot of")
    func json() async throws {
        let server = Self.server()
        let names = ["plain", "<b>\"quotes\"</b>", "back\\slash", "line\nend\u{0}\u{1F}", "日本語 🐦", ""]
        for name in names {
            let hexadecimal = name.utf8.map { "%" + (($0 < 16 ? "0" : "") + String($0, radix: 16)) }.joined()
            _ = try Client(server, path: "/x?user=\(hexadecimal)")
        }
        var options = ServerSnapshot.Options()
        options.connectionCountMax = 100
        var snapshot = await Self.snapshot(server, options)
        #expect(Set(snapshot.connections.map(\.user)) == Set(names))
        snapshot.broadcasters = [
            BroadcasterStatus(
                name: "redis",
                isReady: false,
                publishedCount: .max,
                links: [BrokerLink(name: "a", state: .down, stateSeconds: 0.25, lastError: "no \"route\"")]
            )
        ]
        let bytes = try JSONEncoding.bytes(of: snapshot)
        let decoded = try JSONDecoder().decode(ServerSnapshot.self, from: Data(bytes))
        #expect(decoded == snapshot)
        let theirs = try JSONDecoder().decode(ServerSnapshot.self, from: JSONEncoder().encode(snapshot))
        #expect(theirs == decoded)
        #expect(!bytes.contains(UInt8(ascii: "<")), "no text can be taken for markup")
    }

    @Test("Every shape of value has its JSON, and a number that has none is an error")
    func shapes() throws {
        struct Shapes: Codable, Equatable {
            struct Inner: Codable, Equatable { var list: [[Int?]] = [[1, nil], []] }
            var flags = [true, false]
            var small: Int8 = -128
            var large = UInt64.max
            var real = -0.1
            var tiny = 1e-300
            var whole = 3.0
            var single: Float = 0.5
            var map = ["a": [1.5], "b": []]
            var none: String?
            var inner = Inner()
        }
        let bytes = try JSONEncoding.bytes(of: Shapes())
        #expect(try JSONDecoder().decode(Shapes.self, from: Data(bytes)) == Shapes())
        #expect(try JSONEncoding.bytes(of: "text") == Array("\"text\"".utf8))
        #expect(try JSONEncoding.bytes(of: [Int]()) == Array("[]".utf8))
        #expect(throws: EncodingError.self) { try JSONEncoding.bytes(of: [Double.nan]) }
    }

    // MARK: - The route

    private static func get(
        _ server: EmbeddedTransport,
        _ path: String,
        _ fields: [String] = ["Authorization: Bearer right"]
    ) async throws -> (head: String, body: String) {
        let connection = try #require(server.connect())
        let lines = ["GET \(path) HTTP/1.1", "Host: example.com"] + fields + ["", ""]
        server.receive(Array(lines.joined(separator: "\r\n").utf8), on: connection)
        var output: [UInt8] = []
        // The snapshot is made by a task that asks the loop: some ticks until it answers.
        for _ in 0..<10_000 where output.isEmpty {
            output = server.takeOutput(of: connection)
            await server.waiting { await Task.yield() }
        }
        let text = String(decoding: output, as: UTF8.self)
        let end = try #require(text.range(of: "\r\n\r\n"))
        return (String(text[..<end.lowerBound]), String(text[end.upperBound...]))
    }

    @Test(
        "The status page and its snapshot are shown to whom the application lets see them, and to nobody else"
    )
    func route() async throws {
        let server = Self.server(
            DebugRoute("/debug/starling") { $0.headerFields[.authorization] == "Bearer right" }
        )
        for part in ["", "/snapshot", "/status.css", "/status.js", "/snapshot?connections=5"] {
            for fields in [[], ["Authorization: Bearer wrong"]] {
                let (head, body) = try await Self.get(server, "/debug/starling" + part, fields)
                #expect(head.hasPrefix("HTTP/1.1 401 "), "\(part)")
                #expect(head.contains("WWW-Authenticate: Basic realm=\"starling\""))
                #expect(body == "You may not see this.\n")
            }
            let (head, _) = try await Self.get(server, "/debug/starling" + part)
            #expect(head.hasPrefix("HTTP/1.1 200 "), "\(part)")
            #expect(head.contains("Content-Security-Policy: default-src 'none'"))
            #expect(head.contains("Cache-Control: no-store"))
        }
        let page = try await Self.get(server, "/debug/starling").body
        #expect(page.contains("<script type=\"module\" src=\"/debug/starling/status.js\">"))
        #expect(!page.contains("{base}"))
        let client = try Client(server, path: "/somewhere?user=ada")
        #expect(client.takeStatus() == 101)
        let json = try await Self.get(server, "/debug/starling/snapshot?connections=100&topics=1").body
        let snapshot = try JSONDecoder().decode(ServerSnapshot.self, from: Data(json.utf8))
        #expect(snapshot.topics.count == 1)
        #expect(snapshot.connections.contains { $0.user == "ada" && $0.path == "/somewhere" })
        #expect(snapshot.totals["websockets"] == 1)
    }
}
