import Starling
import StarlingCore
import StarlingDeflate
import StarlingTesting
import Testing

/// Connections go from one server to another, in the middle of anything.
@Suite struct HandoffTests {
    /// Answers each message with its number on the connection.
    struct Counter: HandoffConnectionHandler {
        struct State: Codable {
            var received = 0
        }

        mutating func opened(_ connection: inout Connection<Self>, userData: Void) -> State { State() }

        mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {
            let count = connection.state.received + 1
            connection.state = State(received: count)
            connection.send("\(count)")
            connection.send(message)
        }
    }

    private static func server(_ endpoint: WebSocketEndpoint) -> EmbeddedTransport {
        EmbeddedTransport { WebSocketRoute("/", endpoint) }
    }

    private static func resumable(
        _ body: @escaping @Sendable (WebSocket) async throws -> Void
    ) -> EmbeddedTransport {
        Self.server(.resumable(body))
    }

    private static let echo: @Sendable (WebSocket) async throws -> Void = { socket in
        for try await message in socket { try await socket.send(message) }
    }

    /// Hands a client's connection to another server.
    private static func move(_ client: Client, to server: EmbeddedTransport) throws -> Client {
        let numbers = client.server.handOff(to: server)
        return Client(server: server, connection: try #require(numbers[client.connection]))
    }

    // MARK: - Bytes

    @Test("A frame goes on where it was cut, at every offset", arguments: ["sync", "async"])
    func cutAnywhere(_ form: String) throws {
        let endpoint =
            form == "sync"
            ? WebSocketEndpoint(handler: Counter()) : WebSocketEndpoint.resumable(Self.echo)
        let input: [TestFrame] = [
            .text("größer"),
            TestFrame(.text, Array("in dr".utf8), isFinal: false),
            TestFrame(.ping, [1, 2, 3]),
            // Between the two bytes of a character.
            TestFrame(.continuation, [0x65, 0xC3], isFinal: false),
            TestFrame(.continuation, [0xA4] + Array("i".utf8)),
            TestFrame(.binary, [UInt8](repeating: 7, count: 130)),
        ]
        // A pong does not wait for a body, whose answers may come before or behind it.
        let bytes = input.filter { form == "sync" || $0.opcode != .ping }.flatMap(\.masked)
        func output(cutAt offset: Int?) throws -> [UInt8] {
            let first = try Client(Self.server(endpoint))
            _ = first.server.takeOutput(of: first.connection)
            guard let offset else {
                first.server.receive(bytes, on: first.connection)
                return first.server.takeOutput(of: first.connection)
            }
            first.server.receive(Array(bytes[..<offset]), on: first.connection)
            var output = first.server.takeOutput(of: first.connection)
            let second = try Self.move(first, to: Self.server(endpoint))
            #expect(first.server.isClosed(first.connection))
            #expect(!first.server.isOutputEnded(of: first.connection))
            second.server.receive(Array(bytes[offset...]), on: second.connection)
            output += second.server.takeOutput(of: second.connection)
            return output
        }
        let whole = try output(cutAt: nil)
        #expect(!whole.isEmpty)
        for offset in 0...bytes.count {
            #expect(try output(cutAt: offset) == whole, "cut at \(offset)")
        }
    }

    @Test("A peer's violation is found behind the cut as before it")
    func violations() throws {
        // The second byte of the character never comes.
        let bytes = TestFrame(.text, [0xC3, 0x28]).masked
        let first = try Client(Self.server(WebSocketEndpoint(handler: Counter())))
        first.server.receive(Array(bytes.dropLast()), on: first.connection)
        let second = try Self.move(first, to: Self.server(WebSocketEndpoint(handler: Counter())))
        second.server.receive(Array(bytes.suffix(1)), on: second.connection)
        #expect(second.takeFrames().last?.prefix(3) == [0x88, 0x03, 0xEF])
    }

    @Test("A request's head goes on where it was cut, at every offset")
    func cutHead() throws {
        let request = Client.request("/")
        for offset in 0..<request.count {
            let old = Self.server(WebSocketEndpoint(handler: Counter()))
            let connection = try #require(old.connect())
            old.receive(Array(request[..<offset]), on: connection)
            let new = Self.server(WebSocketEndpoint(handler: Counter()))
            let number = try #require(old.handOff(to: new)[connection])
            new.receive(Array(request[offset...]), on: number)
            let client = Client(server: new, connection: number)
            #expect(client.takeStatus() == 101, "cut at \(offset)")
        }
    }

    @Test("What the peer has not taken goes out behind what it has")
    func unsentBytes() throws {
        let endpoint = WebSocketEndpoint(handler: EchoHandlerForHandoff())
        let first = try Client(Self.server(endpoint))
        _ = first.server.takeOutput(of: first.connection)
        first.server.limitOutput(of: first.connection, to: 1000)
        let payloads = (0..<5).map { [UInt8](repeating: $0, count: 700) }
        for payload in payloads { first.send(.binary, payload) }
        var output = first.server.takeOutput(of: first.connection)
        #expect(output.count == 1000)
        let second = try Self.move(first, to: Self.server(endpoint))
        output += second.server.takeOutput(of: second.connection)
        #expect(output == payloads.flatMap { TestFrame(.binary, $0).unmasked })
    }

    @Test("Messages may refer to those before the hand-off, in both directions")
    func compression() throws {
        var configuration = EndpointConfiguration()
        configuration.deflate?.preferences.serverNoContextTakeover = false
        configuration.deflate?.preferences.clientNoContextTakeover = false
        let endpoint = WebSocketEndpoint(configuration: configuration, handler: EchoHandlerForHandoff())
        var client = try Client(
            Self.server(endpoint),
            fields: ["Sec-WebSocket-Extensions: permessage-deflate"]
        )
        _ = client.server.takeOutput(of: client.connection)
        let deflater = try Deflater(windowBits: 15, level: 6, memLevel: 8)
        let inflater = try Inflater(windowBits: 15)
        var generator = SeededGenerator(seed: 1)
        let text = (0..<2000).map { _ in UInt8.random(in: 97...122, using: &generator) }
        var sizes: [Int] = []
        for round in 0..<4 {
            if round == 2 { client = try Self.move(client, to: Self.server(endpoint)) }
            var compressed: [UInt8] = []
            unsafe deflater.compress(text.span.bytes, keepingContext: true, into: &compressed)
            if round > 0 { #expect(compressed.count < 100, "the client refers to its earlier messages") }
            client.server.receive(
                TestFrame(.text, compressed, isCompressed: true).masked,
                on: client.connection
            )
            let frame = try #require(client.takeFrames().first)
            #expect(frame[0] == 0xC1)
            sizes.append(frame.count)
            var output: [UInt8] = []
            let payload = Array(frame.dropFirst())
            try unsafe inflater.inflate(
                payload.span.bytes,
                byteCountMax: 1 << 20,
                keepingContext: true,
                into: &output
            )
            #expect(output == text)
        }
        #expect(sizes[2] < sizes[0] / 4, "the server refers to its earlier messages: \(sizes)")
    }

    // MARK: - Handlers

    @Test("A synchronous handler's state goes along, and neither `opened` nor `closed` is called")
    func state() throws {
        let first = try Client(Self.server(WebSocketEndpoint(handler: Counter())))
        _ = first.server.takeOutput(of: first.connection)
        first.send(.text, [65])
        let second = try Self.move(first, to: Self.server(WebSocketEndpoint(handler: Counter())))
        second.send(.text, [66])
        #expect(second.takeFrames() == [[0x81] + Array("2".utf8), [0x81, 66]])
    }

    @Test("A body is told to return, what it did not take waits, and the next one finds what it left")
    func body() throws {
        func server() -> EmbeddedTransport {
            Self.resumable { socket in
                var count = try socket.carried(Int.self) ?? 0
                try await socket.send("\(socket.isResumed ? "resumed" : "begun") at \(count)")
                for try await message in socket {
                    count += 1
                    try socket.carry(count)
                    try await socket.send("\(count): \(message.text ?? "")")
                    // Told to return, it takes no further message.
                    if message.text == "stop" { try await Task.sleep(for: .seconds(60)) }
                }
                try await socket.send("bye")
            }
        }
        let first = try Client(server())
        _ = first.server.takeOutput(of: first.connection)
        first.send(.text, Array("a".utf8))
        first.send(.text, Array("stop".utf8))
        first.send(.text, Array("b".utf8))
        func texts(_ client: Client) -> [String] {
            client.takeFrames().map { String(decoding: $0.dropFirst(), as: UTF8.self) }
        }
        #expect(texts(first) == ["1: a", "2: stop"])
        let second = try Self.move(first, to: server())
        #expect(texts(second) == ["resumed at 2", "3: b"])
        second.send(.text, Array("c".utf8))
        let third = try Self.move(second, to: server())
        // What a body sends while it returns goes out first.
        #expect(texts(second) == ["4: c", "bye"])
        #expect(texts(third) == ["resumed at 4"])
    }

    @Test("User data goes along, and nobody is asked again")
    func userData() throws {
        struct Visitor: Codable, Sendable {
            var name: String?
            var rooms: [String: Int?] = ["a": 1, "b": nil]
        }
        func server() -> EmbeddedTransport {
            Self.server(
                .resumable(
                    authenticate: { request in
                        .accept(Visitor(name: request[query: "name"]), user: "u")
                    }
                ) { socket, visitor in
                    for try await _ in socket {
                        try await socket.send(
                            "\(visitor.name ?? "") \(visitor.rooms.count) \(socket.user ?? "")"
                        )
                    }
                }
            )
        }
        let first = try Client(server(), path: "/?name=Ada")
        _ = first.server.takeOutput(of: first.connection)
        let second = try Self.move(first, to: server())
        second.send(.text, [65])
        #expect(second.takeFrames() == [[0x81] + Array("Ada 2 u".utf8)])
    }

    @Test(
        "A body that sends to a slow peer is not carried past its bound: it is told that the message was not sent"
    )
    func streaming() async throws {
        let limit = Lock<[Int]>([])
        func server() -> EmbeddedTransport {
            Self.resumable { socket in
                var number = try socket.carried(Int.self) ?? 0
                limit.withLock { $0.append(number) }
                while number < 3000 {
                    try await socket.send(
                        .binary([UInt8](repeating: UInt8(truncatingIfNeeded: number), count: 1000))
                    )
                    number += 1
                    try socket.carry(number)
                }
            }
        }
        let old = server()
        let first = Client(server: old, connection: try #require(old.connect()))
        old.limitOutput(of: first.connection, to: 10_000)
        old.receive(Client.request("/"), on: first.connection)
        var bytes = first.server.takeOutput(of: first.connection)[...]
        let second = try Self.move(first, to: server())
        bytes += first.server.takeOutput(of: first.connection)
        while !second.server.isOutputEnded(of: second.connection), bytes.count < 4_000_000 {
            second.server.advance(by: .milliseconds(1))
            let more = second.server.takeOutput(of: second.connection)
            if more.isEmpty { break }
            bytes += more
        }
        let begins = limit.withLock { $0 }
        // The first one had sent what the buffer takes below its high watermark, and no more.
        #expect(begins.count == 2 && begins[0] == 0 && (60...80).contains(begins[1]))
        let head = try #require(bytes.firstRange(of: Array("\r\n\r\n".utf8)))
        bytes = bytes[head.upperBound...]
        for number in 0..<3000 {
            #expect(
                bytes.prefix(4) == [0x82, 126, 3, 232]
                    && bytes.dropFirst(4).first == UInt8(truncatingIfNeeded: number)
            )
            bytes = bytes.dropFirst(1004)
        }
        // It returned, and said so.
        #expect(bytes.prefix(4) == [0x88, 2, 3, 232])
    }

    @Test(
        "A body that throws an error of its own when it is cancelled goes to the next process, or stays",
        arguments: [true, false]
    )
    func throwing(succeeds: Bool) throws {
        struct QueryFailed: Error {}
        func server() -> EmbeddedTransport {
            Self.resumable { socket in
                for try await message in socket {
                    try await socket.send(message)
                    do { try await Task.sleep(for: .seconds(60)) } catch { throw QueryFailed() }
                }
            }
        }
        var client = try Client(server())
        _ = client.server.takeOutput(of: client.connection)
        client.send(.text, [65])
        #expect(client.takeFrames() == [[0x81, 65]])
        if succeeds { client = try Self.move(client, to: server()) } else { client.server.failHandOff() }
        client.send(.text, [66])
        #expect(client.takeFrames() == [[0x81, 66]])
    }

    @Test("Connections of endpoints that were not made for it stay, and go on")
    func stays() throws {
        let old = Self.server(WebSocketEndpoint(handler: EchoHandler()))
        let client = try Client(old)
        _ = old.takeOutput(of: client.connection)
        let numbers = old.handOff(to: Self.server(WebSocketEndpoint(handler: EchoHandler())))
        #expect(numbers.isEmpty)
        client.send(.text, [65])
        #expect(client.takeFrames() == [[0x81, 65]])
    }

    @Test("A connection for which the other server has no endpoint goes on", arguments: ["sync", "async"])
    func refused(_ form: String) throws {
        let endpoint =
            form == "sync"
            ? WebSocketEndpoint(handler: EchoHandlerForHandoff()) : WebSocketEndpoint.resumable(Self.echo)
        let client = try Client(Self.server(endpoint))
        _ = client.server.takeOutput(of: client.connection)
        let other = EmbeddedTransport { WebSocketRoute("/elsewhere", endpoint) }
        #expect(client.server.handOff(to: other).isEmpty)
        client.send(.text, [65])
        #expect(client.takeFrames() == [[0x81, 65]])
    }

    // MARK: - In between

    @Test("If the other process fails, everything goes on", arguments: ["sync", "async"])
    func failure(_ form: String) throws {
        let endpoint =
            form == "sync"
            ? WebSocketEndpoint(handler: EchoHandlerForHandoff()) : WebSocketEndpoint.resumable(Self.echo)
        let client = try Client(Self.server(endpoint))
        _ = client.server.takeOutput(of: client.connection)
        let frame = Client.frame(.text, Array("half".utf8))
        for round in 0..<3 {
            client.server.receive(Array(frame[..<5]), on: client.connection)
            client.server.failHandOff()
            client.server.receive(Array(frame[5...]), on: client.connection)
            #expect(client.takeFrames() == [[0x81] + Array("half".utf8)], "round \(round)")
        }
    }

    @Test("What is sent to a connection in between reaches it, whichever process has it then")
    func lateOrders() async throws {
        final class Sockets: Sendable {
            let all = Lock<[WebSocket]>([])
        }
        let sockets = Sockets()
        func server() -> EmbeddedTransport {
            Self.resumable { socket in
                sockets.all.withLock { $0.append(socket) }
                for try await message in socket { try await socket.send(message) }
            }
        }
        let first = try Client(server())
        _ = first.server.takeOutput(of: first.connection)
        first.server.failHandOff {
            #expect(sockets.all.withLock { $0 }.last?.trySend("stays") == .sent)
        }
        #expect(first.takeFrames() == [[0x81] + Array("stays".utf8)])
        let next = server()
        let numbers = first.server.handOff(to: next) {
            #expect(sockets.all.withLock { $0 }.last?.trySend("goes") == .sent)
        }
        let second = Client(server: next, connection: try #require(numbers[first.connection]))
        #expect(second.takeFrames() == [[0x81] + Array("goes".utf8)])
        #expect(first.server.takeOutput(of: first.connection).isEmpty)
        let before = try #require(sockets.all.withLock { $0 }.first)
        #expect(before.trySend("too late") == .dropped)
    }

    @Test("A record that was cut or changed is refused or read, and nothing breaks")
    func malformedRecords() throws {
        let endpoint = WebSocketEndpoint(handler: Counter())
        let client = try Client(Self.server(endpoint))
        client.server.receive(
            Array(TestFrame(.text, [UInt8](repeating: 65, count: 40), isFinal: false).masked.dropLast(3)),
            on: client.connection
        )
        let record = try #require(client.server.exportConnections().first)
        let server = Self.server(endpoint)
        for count in 0..<record.bytes.count {
            let cut = ConnectionRecord(index: 0, bytes: Array(record.bytes.prefix(count)))
            #expect(throws: (any Error).self) { try server.restore(cut) }
        }
        for position in record.bytes.indices {
            for bit in 0..<8 {
                var bytes = record.bytes
                bytes[position] ^= 1 << bit
                _ = try? server.restore(ConnectionRecord(index: 0, bytes: bytes))
            }
        }
        #expect(try server.restore(record) >= 0)
    }
}

/// Sends every message back.
struct EchoHandlerForHandoff: HandoffConnectionHandler {
    mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {
        connection.send(message)
    }
}
