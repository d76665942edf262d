import Starling
import StarlingCore
import StarlingDeflate
import StarlingTesting
import Testing

@Suite struct CompressionTests {
    private static let text =
        Array(
            String(repeating: #"{"type":"message","room":"lobby","text":"Good morning"},"#, count: 1).utf8
        ) + (0..<300).map { UInt8(truncatingIfNeeded: 97 + $0 * $0 % 25) }

    /// A client whose upgrade offers permessage-deflate.
    private static func client(of server: EmbeddedTransport) throws -> (Client, response: String) {
        let client = try Client(server, fields: ["Sec-WebSocket-Extensions: permessage-deflate"])
        return (client, String(decoding: server.takeOutput(of: client.connection), as: UTF8.self))
    }

    private static func configuration(keepsContext: Bool) -> EndpointConfiguration {
        var configuration = EndpointConfiguration()
        configuration.deflate?.preferences.serverNoContextTakeover = !keepsContext
        return configuration
    }

    @Test("A window of its own is released when it is idle, and the peer's goes on inflating")
    func idleWindow() throws {
        let endpoint = WebSocketEndpoint(
            configuration: Self.configuration(keepsContext: true),
            handler: EchoHandler()
        )
        let memory = MemoryBudget(byteCountMax: 10_000_000)
        var configuration = ServerConfiguration()
        configuration.memory = memory
        let server = EmbeddedTransport(configuration: configuration) { WebSocketRoute("/", endpoint) }
        let (client, response) = try Self.client(of: server)
        #expect(!response.contains("server_no_context_takeover"))
        #expect(memory.byteCount == 0)
        let inflater = try Inflater(windowBits: 15)

        /// Sends the text, inflates what comes back, and returns how many bytes that were.
        func echo() throws -> Int {
            client.send(.text, Self.text)
            let frames = client.takeFrames().filter { $0[0] & 0x0F == 1 }
            let frame = try #require(frames.first)
            #expect(frame[0] == 0xC1, "the first reserved bit says that it is compressed")
            var output: [UInt8] = []
            let payload = Array(frame.dropFirst())
            try unsafe inflater.inflate(
                payload.span.bytes,
                byteCountMax: 1 << 20,
                keepingContext: true,
                into: &output
            )
            #expect(output == Self.text)
            return payload.count
        }

        let first = try echo()
        #expect(try echo() < first / 4, "the second refers to the first")
        #expect(memory.byteCount > 200_000)
        server.advance(by: .seconds(29))
        client.send(.pong, [])
        #expect(try echo() < first / 4, "it is not idle yet")
        server.advance(by: .seconds(20))
        client.send(.pong, [])
        server.advance(by: .seconds(11))
        #expect(memory.byteCount == 0, "idle, it costs nothing")
        #expect(try echo() == first, "a new window knows nothing")
        #expect(try echo() < first / 4)
    }

    /// Subscribes to `t`.
    private struct SubscriberHandler: ConnectionHandler {
        mutating func opened(_ connection: inout Connection<Self>, userData: Void) {
            connection.subscribe(to: "t", slowConsumerPolicy: .skip)
        }
        mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {}
    }

    @Test("A publication that waits since the peer takes no more has left nothing in its window")
    func heldBack() async throws {
        let broadcaster = InMemoryBroadcaster()
        var configuration = Self.configuration(keepsContext: true)
        configuration.outbound.highWatermark = 4000
        configuration.outbound.lowWatermark = 1000
        let endpoint = WebSocketEndpoint(
            broadcaster: broadcaster,
            configuration: configuration,
            handler: SubscriberHandler()
        )
        let server = EmbeddedTransport { WebSocketRoute("/", endpoint) }
        let (client, _) = try Self.client(of: server)
        server.limitOutput(of: client.connection, to: 100)
        // One burst, of which the peer takes the beginning.
        var random = SeededGenerator(seed: 1)
        let texts = (0..<40).map { number in
            "\(number)"
                + String((0..<300).map { _ in "abcdefghijklmnop".randomElement(using: &random) ?? "a" })
        }
        for text in texts { try await broadcaster.publish(.text(text), to: "t") }
        for _ in 0..<50 { server.advance(by: .milliseconds(1)) }
        server.limitOutput(of: client.connection, to: nil)
        for _ in 0..<50 { server.advance(by: .milliseconds(1)) }
        let inflater = try Inflater(windowBits: 15)
        var received: [String] = []
        for payload in Self.compressedPayloads(server.takeOutput(of: client.connection)) {
            var output: [UInt8] = []
            try unsafe inflater.inflate(
                payload.span.bytes,
                byteCountMax: 1 << 20,
                keepingContext: true,
                into: &output
            )
            received.append(String(decoding: output, as: UTF8.self))
        }
        #expect(received == texts)
    }

    /// The payloads of frames with the first reserved bit, of up to 65,535 bytes.
    private static func compressedPayloads(_ bytes: [UInt8]) -> [[UInt8]] {
        var rest = bytes[...]
        var payloads: [[UInt8]] = []
        while let first = rest.first {
            #expect(first == 0xC1)
            let length = rest.dropFirst().prefix(3)
            let isLong = length.first == 126
            let count = isLong ? length.dropFirst().reduce(0) { $0 << 8 | Int($1) } : Int(length.first ?? 0)
            let payload = rest.dropFirst(isLong ? 4 : 2).prefix(count)
            payloads.append(Array(payload))
            rest = rest.dropFirst((isLong ? 4 : 2) + count)
        }
        return payloads
    }

    @Test("A message below the size that is worth it goes out as it is")
    func smallMessages() throws {
        for (keepsContext, byteCount, first) in [
            (false, 255, 0x82), (false, 256, 0xC2), (true, 63, 0x82), (true, 64, 0xC2),
        ] as [(Bool, Int, UInt8)] {
            let endpoint = WebSocketEndpoint(
                configuration: Self.configuration(keepsContext: keepsContext),
                handler: EchoHandler()
            )
            let (client, _) = try Self.client(of: EmbeddedTransport { WebSocketRoute("/", endpoint) })
            client.send(.binary, [UInt8](repeating: 7, count: byteCount))
            #expect(client.takeFrames().first?.first == first, "\(byteCount) bytes")
        }
    }
}
