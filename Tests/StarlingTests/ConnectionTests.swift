import HTTPTypes
import Starling
import StarlingCore
import StarlingTesting
import Testing

/// A client of an embedded server, in bytes.
struct Client {
    let server: EmbeddedTransport
    let connection: Int

    /// A connection that stands already.
    init(server: EmbeddedTransport, connection: Int) {
        self.server = server
        self.connection = connection
    }

    init(_ server: EmbeddedTransport, path: String = "/", fields: [String] = []) throws {
        self.server = server
        self.connection = try #require(server.connect(from: RemoteAddress(host: "192.0.2.1", port: 5)))
        server.receive(Self.request(path, fields), on: self.connection)
    }

    static func request(_ path: String, _ fields: [String] = []) -> [UInt8] {
        let lines =
            [
                "GET \(path) HTTP/1.1", "Host: example.com", "Upgrade: websocket", "Connection: Upgrade",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13",
            ] + fields + ["", ""]
        return Array(lines.joined(separator: "\r\n").utf8)
    }

    /// The status of the response, which is taken off the output.
    func takeStatus() -> Int? {
        let text = String(decoding: self.server.takeOutput(of: self.connection), as: UTF8.self)
        return text.split(separator: " ").dropFirst().first.flatMap { Int($0) }
    }

    func send(_ opcode: Opcode, _ payload: [UInt8]) {
        self.server.receive(Self.frame(opcode, payload), on: self.connection)
    }

    static func frame(_ opcode: Opcode, _ payload: [UInt8]) -> [UInt8] {
        var output: [UInt8] = []
        unsafe FrameCodec.encode(
            opcode,
            payload.span.bytes,
            maskingKey: MaskingKey(rawValue: 0x0102_0304),
            into: &output
        )
        return output
    }

    /// The server's frames since the last call, as opcode and payload.
    func takeFrames() -> [[UInt8]] {
        var rest = self.server.takeOutput(of: self.connection)[...]
        var frames: [[UInt8]] = []
        while rest.count >= 2 {
            let first = rest.removeFirst()
            var length = Int(rest.removeFirst())
            if length == 126 { length = Int(rest.removeFirst()) << 8 | Int(rest.removeFirst()) }
            frames.append([first] + rest.prefix(length))
            rest = rest.dropFirst(length)
        }
        return frames
    }
}

struct EchoHandler: ConnectionHandler {
    mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {
        connection.send(message)
    }
}

struct RoomHandler: ConnectionHandler {
    mutating func opened(_ connection: inout Connection<Self>, userData: Void) {
        connection.subscribe(to: "room")
    }
    mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {
        connection.publish(message, to: "room")
    }
}

@Suite struct ConnectionTests {
    static func endpoints() -> [(String, WebSocketEndpoint)] {
        [
            ("sync", WebSocketEndpoint(handler: EchoHandler())),
            (
                "async",
                WebSocketEndpoint { socket in
                    for try await message in socket { try await socket.send(message) }
                }
            ),
        ]
    }

    @Test("Echo, in both forms, and frames that follow the request in the same segment")
    func echo() throws {
        for (name, endpoint) in Self.endpoints() {
            let server = EmbeddedTransport { WebSocketRoute("/", endpoint) }
            let connection = try #require(server.connect())
            server.receive(Client.request("/") + Client.frame(.text, Array("hi".utf8)), on: connection)
            let output = server.takeOutput(of: connection)
            #expect(output.suffix(4) == [0x81, 2, 0x68, 0x69], "\(name)")
        }
    }

    @Test("A big message is written from where it is, and what the peer does not take at once follows it")
    func bigMessages() throws {
        let payload = (0..<70_000).map { UInt8(truncatingIfNeeded: $0 &* 31) }
        var expected: [UInt8] = []
        unsafe FrameCodec.encode(.binary, payload.span.bytes, into: &expected)
        for (name, endpoint) in Self.endpoints() {
            // Stops nowhere, within the frame's header, behind it, within the payload, and before its last byte.
            for taken in [nil, 0, 3, 10, 11, 40_000, expected.count - 1] {
                let server = EmbeddedTransport { WebSocketRoute("/", endpoint) }
                let client = try Client(server)
                #expect(client.takeStatus() == 101)
                server.limitOutput(of: client.connection, to: taken)
                client.send(.binary, payload)
                client.send(.text, Array("next".utf8))
                #expect(
                    server.takeOutput(of: client.connection).count == taken ?? (expected.count + 6),
                    "\(name)"
                )
                guard let taken else { continue }
                server.limitOutput(of: client.connection, to: nil)
                let rest = server.takeOutput(of: client.connection)
                #expect(rest == expected[taken...] + [0x81, 4] + Array("next".utf8), "\(name), \(taken)")
            }
        }
    }

    @Test("What has not been offered to the peer yet is no reason to call it slow")
    func bigBehindSmall() throws {
        struct Answer: ConnectionHandler {
            mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {
                #expect(connection.send("x") == .sent)
                let big = [UInt8](repeating: 7, count: (1 << 20) - 1)
                #expect(unsafe connection.send(.binary, big.span.bytes) == .sent)
            }
        }
        let client = try Client(
            EmbeddedTransport { WebSocketRoute("/", WebSocketEndpoint(handler: Answer())) }
        )
        #expect(client.takeStatus() == 101)
        client.send(.text, [65])
        #expect(client.server.takeOutput(of: client.connection).count == 3 + 10 + (1 << 20) - 1)
    }

    @Test("An embedded server that is let go ends its connections, and frees what they hold")
    func endOfEmbeddedServer() throws {
        final class Token: Sendable {}
        struct Handler: ConnectionHandler {
            let token: Token
            mutating func opened(_ connection: inout Connection<Self>, userData: Void) -> Token { self.token }
            mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {}
        }
        weak var held: Token?
        do {
            let token = Token()
            held = token
            let waiting = WebSocketEndpoint { socket in
                for try await _ in socket {}
                withExtendedLifetime(token) {}
            }
            let server = EmbeddedTransport {
                WebSocketRoute("/sync", WebSocketEndpoint(handler: Handler(token: token)))
                WebSocketRoute("/async", waiting)
            }
            for path in ["/sync", "/async"] {
                #expect(try Client(server, path: path).takeStatus() == 101)
            }
        }
        #expect(held == nil)
    }

    @Test("A reply goes out before the close that answers a violation in the same segment")
    func replyBeforeClose() throws {
        for (name, endpoint) in Self.endpoints() {
            let server = EmbeddedTransport { WebSocketRoute("/", endpoint) }
            let client = try Client(server)
            #expect(client.takeStatus() == 101)
            server.receive(Client.frame(.binary, [7]) + [0x83, 0x80, 0, 0, 0, 0], on: client.connection)
            let frames = client.takeFrames()
            #expect(frames.first == [0x82, 7], "\(name)")
            #expect(frames.last?.prefix(3) == [0x88, 0x03, 0xEA], "\(name)")
            #expect(server.isOutputEnded(of: client.connection))
        }
    }

    @Test("The closing handshake is answered with the peer's code, and the stream ends")
    func close() throws {
        for (name, endpoint) in Self.endpoints() {
            let server = EmbeddedTransport { WebSocketRoute("/", endpoint) }
            let client = try Client(server)
            _ = client.takeStatus()
            client.send(.close, [0x03, 0xE8])
            #expect(client.takeFrames() == [[0x88, 0x03, 0xE8]], "\(name)")
            #expect(server.isOutputEnded(of: client.connection))
            server.endInput(of: client.connection)
            #expect(server.isClosed(client.connection))
        }
    }

    @Test("A handler that returns closes with 1000, one that throws with 1011")
    func handlerEnds() throws {
        struct Failure: Error {}
        let endings: [(WebSocketEndpoint, [UInt8])] = [
            (WebSocketEndpoint { _ in }, [0x88, 0x03, 0xE8]),
            (WebSocketEndpoint { _ in throw Failure() }, [0x88, 0x03, 0xF3]),
        ]
        for (endpoint, expected) in endings {
            let server = EmbeddedTransport { WebSocketRoute("/", endpoint) }
            let client = try Client(server)
            #expect(
                server.takeOutput(of: client.connection).suffix(4).dropFirst(1).dropFirst(1)
                    == expected.dropFirst(1)
            )
        }
    }

    @Test("Routes, refusals and plain HTTP have their status")
    func statuses() throws {
        let server = EmbeddedTransport { WebSocketRoute("/", WebSocketEndpoint(handler: EchoHandler())) }
        #expect(try Client(server).takeStatus() == 101)
        #expect(try Client(server, path: "/nowhere").takeStatus() == 404)
        #expect(try Client(server, fields: ["Origin: http://evil.example"]).takeStatus() == 403)
        #expect(try Client(server, fields: ["Origin: https://example.com"]).takeStatus() == 101)
        #expect(try Client(server, fields: ["Sec-WebSocket-Version: 8"]).takeStatus() == 400)
        let plain = try #require(server.connect())
        server.receive(Array("GET /health HTTP/1.1\r\nHost: a\r\n\r\n".utf8), on: plain)
        #expect(String(decoding: server.takeOutput(of: plain), as: UTF8.self).hasPrefix("HTTP/1.1 200 "))
        // The connection is kept, and may still upgrade.
        server.receive(Client.request("/"), on: plain)
        #expect(String(decoding: server.takeOutput(of: plain), as: UTF8.self).hasPrefix("HTTP/1.1 101 "))
    }

    @Test("authenticate accepts with data and user, or refuses with its own status")
    func authenticate() throws {
        let endpoint = WebSocketEndpoint(
            authenticate: { request -> UpgradeDecision<String> in
                guard let token = request[query: "token"] else { return .refuse(.unauthorized) }
                return .accept("data of \(token)", user: token)
            }
        ) { socket, data in
            try await socket.send("\(socket.user ?? "nobody"): \(data)")
            for try await _ in socket {}
        }
        let server = EmbeddedTransport { WebSocketRoute("/", endpoint) }
        #expect(try Client(server).takeStatus() == 401)
        let client = try Client(server, path: "/?token=ann%20b")
        let output = String(decoding: server.takeOutput(of: client.connection), as: UTF8.self)
        #expect(output.hasPrefix("HTTP/1.1 101 "))
        #expect(output.hasSuffix("ann b: data of ann b"))
    }

    @Test("A publication reaches every subscriber once, the publisher included")
    func fanOut() throws {
        let server = EmbeddedTransport { WebSocketRoute("/", WebSocketEndpoint(handler: RoomHandler())) }
        let clients = try (0..<10).map { _ in try Client(server) }
        for client in clients { _ = client.takeStatus() }
        clients[3].send(.text, [0x61])
        clients[4].send(.text, [0x62])
        for client in clients { #expect(client.takeFrames() == [[0x81, 0x61], [0x81, 0x62]]) }
        server.endInput(of: clients[0].connection)
        clients[1].send(.text, [0x63])
        #expect(clients[0].takeFrames().isEmpty)
        #expect(clients[2].takeFrames() == [[0x81, 0x63]])
    }

    @Test("A quiet peer is pinged, and cut when it does not answer")
    func pings() throws {
        let server = EmbeddedTransport { WebSocketRoute("/", WebSocketEndpoint(handler: EchoHandler())) }
        let silent = try Client(server)
        _ = silent.takeStatus()
        // The first ping comes at a random moment within the interval.
        var frames: [[UInt8]] = []
        var waited = Duration.zero
        while frames.isEmpty, waited < .seconds(26) {
            server.advance(by: .milliseconds(500))
            waited += .milliseconds(500)
            frames = silent.takeFrames()
        }
        #expect(frames == [[0x89]])
        #expect(!server.isClosed(silent.connection))
        server.advance(by: .seconds(11))
        #expect(server.isClosed(silent.connection))
    }

    @Test("A head that does not arrive is answered with 408, a close that is not answered is cut")
    func deadlines() throws {
        let server = EmbeddedTransport { WebSocketRoute("/", WebSocketEndpoint { _ in }) }
        let slow = try #require(server.connect())
        server.receive(Array("GET / HT".utf8), on: slow)
        server.advance(by: .seconds(6))
        #expect(String(decoding: server.takeOutput(of: slow), as: UTF8.self).hasPrefix("HTTP/1.1 408 "))
        let deaf = try Client(server)
        server.advance(by: .seconds(4))
        #expect(!server.isClosed(deaf.connection))
        server.advance(by: .seconds(2))
        #expect(server.isClosed(deaf.connection))
    }

    @Test("A graceful shutdown says 1001 to everyone, and ends")
    func shutdown() throws {
        let server = EmbeddedTransport {
            WebSocketRoute("/", WebSocketEndpoint { socket in for try await _ in socket {} })
        }
        let clients = try (0..<20).map { _ in try Client(server) }
        for client in clients { _ = client.takeStatus() }
        server.beginShutdown()
        server.advance(by: .seconds(2))
        let told = clients.filter { client in client.takeFrames().last?.prefix(3) == [0x88, 0x03, 0xE9] }
        #expect((5...11).contains(told.count), "the close frames are spread over the time")
        server.advance(by: .seconds(3.1))
        #expect(clients.last?.takeFrames().last?.prefix(3) == [0x88, 0x03, 0xE9])
        for client in clients.dropLast() {
            client.send(.close, [0x03, 0xE9])
            server.endInput(of: client.connection)
        }
        #expect(!server.isFinished)
        server.advance(by: .seconds(6))
        #expect(server.isFinished)
    }

    @Test("Names of topics that belong to the cluster are refused, in both forms")
    func reservedTopics() async throws {
        struct Handler: ConnectionHandler {
            mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {
                let results = [
                    "\(connection.subscribe(to: "$starling:all"))",
                    "\(connection.publish("x", to: "$starling:all"))",
                ]
                connection.send(.text(results.joined(separator: " ")))
            }
        }
        let async = WebSocketEndpoint { socket in
            for try await _ in socket {
                do {
                    try await socket.subscribe(to: "$starling:node:1")
                } catch {
                    try await socket.send(.text("\(error)"))
                }
            }
        }
        let server = EmbeddedTransport {
            WebSocketRoute("/sync", WebSocketEndpoint(handler: Handler()))
            WebSocketRoute("/async", async)
        }
        for (path, expected) in [("/sync", "false dropped"), ("/async", "reservedTopic")] {
            let client = try Client(server, path: path)
            #expect(client.takeStatus() == 101)
            client.send(.text, [0x78])
            await server.waiting {}
            #expect(client.takeFrames() == [[0x81] + Array(expected.utf8)])
        }
    }
}
