import Starling
import StarlingCore
import StarlingDeflate
import StarlingTesting
import Testing

/// Many messages that come compressed in a few bytes.
@Suite struct InflatedBurstTests {
    private static let messageByteCount = 512 << 10

    /// So many messages of half a mebibyte, in about half a kibibyte each.
    private static func burst(_ count: Int) throws -> [UInt8] {
        let deflater = try Deflater(windowBits: 15, level: 9, memLevel: 8)
        var payload: [UInt8] = []
        let message = [UInt8](repeating: 0, count: Self.messageByteCount)
        unsafe deflater.compress(message.span.bytes, keepingContext: false, into: &payload)
        var frame: [UInt8] = []
        unsafe FrameCodec.encode(
            .binary,
            payload.span.bytes,
            isCompressed: true,
            maskingKey: MaskingKey(rawValue: 0x0102_0304),
            into: &frame
        )
        return Array(repeatElement(frame, count: count).joined())
    }

    private static func client(of server: EmbeddedTransport) throws -> Client {
        let client = try Client(server, fields: ["Sec-WebSocket-Extensions: permessage-deflate"])
        #expect(client.takeStatus() == 101)
        return client
    }

    @Test(
        "An async handler's inbox is full after one, and gets the others as it takes them",
        .timeLimit(.minutes(1))
    )
    func inbox() async throws {
        let memory = MemoryBudget(byteCountMax: 1 << 30)
        var configuration = ServerConfiguration()
        configuration.memory = memory
        let gate = Gate()
        let counts = Lock<[Int]>([])
        let endpoint = WebSocketEndpoint { socket in
            await gate.wait()
            for try await message in socket { counts.withLock { $0.append(message.byteCount) } }
            counts.withLock { $0.append(-1) }
        }
        let server = EmbeddedTransport(configuration: configuration) { WebSocketRoute("/", endpoint) }
        let client = try Self.client(of: server)
        let burst = try Self.burst(40)
        #expect(burst.count < 64 << 10)
        server.receive(burst, on: client.connection)
        #expect(!server.isReading(client.connection))
        #expect(memory.byteCount > Self.messageByteCount)
        #expect(memory.byteCount < Self.messageByteCount + burst.count + 1024)
        // What a transport had read already comes behind it, and so does the end.
        server.receive(Client.frame(.text, Array("behind".utf8)), on: client.connection)
        server.receive(Client.frame(.close, [0x03, 0xE8]), on: client.connection)
        server.endInput(of: client.connection)
        await server.waiting { await gate.open() }
        while counts.withLock({ $0.last }) != -1 { await server.waiting {} }
        #expect(counts.withLock { $0 } == Array(repeating: Self.messageByteCount, count: 40) + [6, -1])
        #expect(server.isClosed(client.connection))
        #expect(memory.byteCount == 0)
    }

    @Test(
        "The end of the stream comes behind the last of them, whatever paused the reading then",
        .timeLimit(.minutes(1))
    )
    func end() async throws {
        let counts = Lock<[Int]>([])
        let gate = Gate()
        let endpoint = WebSocketEndpoint { socket in
            await gate.wait()
            do {
                for try await message in socket { counts.withLock { $0.append(message.byteCount) } }
            } catch {
                counts.withLock { $0.append(-1) }
            }
        }
        let server = EmbeddedTransport { WebSocketRoute("/", endpoint) }
        let client = try Self.client(of: server)
        server.receive(try Self.burst(3), on: client.connection)
        server.endInput(of: client.connection)
        await server.waiting { await gate.open() }
        while counts.withLock({ $0.last }) != -1 { await server.waiting {} }
        #expect(counts.withLock { $0 } == Array(repeating: Self.messageByteCount, count: 3) + [-1])
        #expect(server.isClosed(client.connection))
    }

    @Test("A synchronous handler gets them over several ticks, so that others have their turn")
    func ticks() throws {
        struct Counter: ConnectionHandler {
            let counts: Lock<[Int]>
            mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {
                self.counts.withLock { $0.append(message.bytes.byteCount) }
            }
        }
        let counts = Lock<[Int]>([])
        let endpoint = WebSocketEndpoint(handler: Counter(counts: counts))
        let server = EmbeddedTransport { WebSocketRoute("/", endpoint) }
        let client = try Self.client(of: server)
        var bytes = try Self.burst(9)
        bytes += Client.frame(.text, Array("behind".utf8)) + Client.frame(.close, [0x03, 0xE8])
        server.receive(bytes, on: client.connection)
        server.advance(by: .milliseconds(10))
        #expect(counts.withLock { $0 } == Array(repeating: Self.messageByteCount, count: 9) + [6])
        #expect(client.takeFrames() == [[0x88, 0x03, 0xE8]])
    }

    @Test("When the memory is full, what waits for an async handler is let go, and so is what is not decoded")
    func shed() async throws {
        let memory = MemoryBudget(byteCountMax: 600_000)
        var configuration = ServerConfiguration()
        configuration.memory = memory
        let gate = Gate()
        let outcomes = Lock<[String]>([])
        let endpoint = WebSocketEndpoint { socket in
            await gate.wait()
            do {
                for try await _ in socket { outcomes.withLock { $0.append("a message") } }
                outcomes.withLock { $0.append("the end") }
            } catch {
                outcomes.withLock { $0.append("\(error)") }
            }
        }
        let server = EmbeddedTransport(configuration: configuration) { WebSocketRoute("/", endpoint) }
        let clients = try (0..<2).map { _ in try Self.client(of: server) }
        for client in clients { server.receive(try Self.burst(20), on: client.connection) }
        // There is room for one.
        #expect(
            clients.filter { $0.takeFrames().contains { $0.prefix(3) == [0x88, 0x03, 0xF5] } }.count == 1
        )
        #expect(memory.byteCount < memory.byteCountMax)
        for client in clients { server.endInput(of: client.connection) }
        server.advance(by: .seconds(3))
        // The body of the other has yet to take its message.
        #expect(memory.byteCount > Self.messageByteCount)
        await server.waiting { await gate.open() }
        while outcomes.withLock({ $0.count }) < 2 { await server.waiting {} }
        while memory.byteCount > 0 { await server.waiting {} }
        #expect(outcomes.withLock { $0.contains { $0.hasPrefix("memoryExhausted") } })
    }
}
