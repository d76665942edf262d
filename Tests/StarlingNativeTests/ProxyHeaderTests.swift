#if os(Linux)
import HTTPTypes
import Starling
import StarlingNative
import Testing

@Suite struct ProxyHeaderTests {
    static let signature: [UInt8] = [
        0x0D, 0x0A, 0x0D, 0x0A, 0x00, 0x0D, 0x0A, 0x51, 0x55, 0x49, 0x54, 0x0A,
    ]
    static let ipv4: [UInt8] =
        signature + [0x21, 0x11, 0, 12, 203, 0, 113, 9, 127, 0, 0, 1, 0x12, 0x67, 0, 80]
    static let ipv6: [UInt8] =
        signature + [0x21, 0x21, 0, 39]
        + [0x20, 0x01, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7] + [UInt8](repeating: 1, count: 16)
        + [0x12, 0x67, 0, 80, 4, 0, 0]

    @Test(
        "A header is read wherever it is split, and nothing behind it is taken",
        arguments: [
            (Array("PROXY TCP4 203.0.113.9 127.0.0.1 4711 80\r\n".utf8), "203.0.113.9:4711"),
            (Array("PROXY TCP6 2001:db8::7 ::1 4711 80\r\n".utf8), "[2001:db8::7]:4711"),
            (Array("PROXY TCP6 2001:DB8:0:0:1:0:0:1 ::1 4711 80\r\n".utf8), "[2001:db8::1:0:0:1]:4711"),
            (Array("PROXY TCP6 2001:db8:0:1:1:1:1:1 ::1 1 80\r\n".utf8), "[2001:db8:0:1:1:1:1:1]:1"),
            (Array("PROXY TCP6 fe80:: :: 1 80\r\n".utf8), "[fe80::]:1"),
            (Array("PROXY TCP6 :: ::1 1 80\r\n".utf8), "[::]:1"),
            (Array("PROXY TCP6 ::1 ::1 1 80\r\n".utf8), "[::1]:1"),
            (Array("PROXY TCP6 ::ffff:203.0.113.9 ::1 4711 80\r\n".utf8), "203.0.113.9:4711"),
            (Array("PROXY UNKNOWN\r\n".utf8), nil), (Array("PROXY UNKNOWN ffff::1 x y\r\n".utf8), nil),
            (Self.ipv4, "203.0.113.9:4711"), (Self.ipv6, "[2001:db8::7]:4711"),
            (Self.signature + [0x20, 0, 0, 0], nil), (Self.signature + [0x21, 0, 0, 2, 9, 9], nil),
        ] as [([UInt8], String?)]
    )
    func valid(_ header: [UInt8], _ address: String?) {
        let bytes = header + Array("GET / HTTP/1.1".utf8)
        for split in 0...bytes.count {
            var reader = ProxyHeaderReader()
            var (count, progress) = reader.take(bytes[..<split])
            if split < header.count {
                #expect(count == split && progress == .incomplete)
                let (rest, second) = reader.take(bytes[split...])
                (count, progress) = (count + rest, second)
            }
            #expect(count == header.count)
            guard case .complete(let found) = progress else {
                Issue.record("\(progress)")
                continue
            }
            #expect(found?.description == address)
        }
    }

    @Test(
        "What is no header is refused as early as it shows",
        arguments: [
            Array("GET / HTTP/1.1\r\n".utf8), Array("PROXY TCP4 203.0.113.9\r\n".utf8),
            Array("PROXY TCP4 2001:db8::7 127.0.0.1 1 2\r\n".utf8),
            Array("PROXY TCP6 203.0.113.9 ::1 1 2\r\n".utf8),
            Array("PROXY TCP4 203.0.113.9 ::1 1 2\r\n".utf8),
            Array("PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n".utf8),
            Array("PROXY TCP4 1.1.1.1 2.2.2.2 99999 2\r\n".utf8), Array("PROXX".utf8),
            Array(("PROXY UNKNOWN " + String(repeating: "x", count: 200)).utf8),
            Self.signature.dropLast() + [0], Self.signature + [0x11, 0x11, 0, 0],
            Self.signature + [0x22, 0x11, 0, 0], Self.signature + [0x21, 0x11, 0, 4, 1, 2, 3, 4],
            Self.signature + [0x21, 0x11, 0xFF, 0xFF], [0x16, 0x03, 0x01],
        ] as [[UInt8]]
    )
    func invalid(_ bytes: [UInt8]) {
        var whole = ProxyHeaderReader()
        #expect(whole.take(bytes).progress == .invalid)
        var reader = ProxyHeaderReader()
        let outcomes = bytes.map { reader.take(CollectionOfOne($0)).progress }
        #expect(outcomes.contains(.invalid))
    }

    @Test(
        "A listener that expects the header takes it from proxies, in pieces too, and refuses everybody else"
    )
    func listener() async throws {
        #expect(try await self.firstLine(trusting: "127.0.0.0/8", sending: Self.ipv4) == "203.0.113.9:4711")
        #expect(
            try await self.firstLine(
                trusting: "127.0.0.1",
                sending: Array("PROXY TCP4 203.0.113.9 127.0.0.1 4711 80\r\n".utf8)
            ) == "203.0.113.9:4711"
        )
        #expect(try await self.firstLine(trusting: "127.0.0.1", sending: []) == nil)
        #expect(try await self.firstLine(trusting: "10.0.0.0/8", sending: Self.ipv4) == nil)
    }

    /// What a server says where a request comes from, if it does not end the connection.
    private func firstLine(trusting range: String, sending header: [UInt8]) async throws -> String? {
        var configuration = ServerConfiguration()
        configuration.trustedProxies = try TrustedProxies([range], source: .proxyProtocol)
        let endpoint = WebSocketEndpoint(
            authenticate: { UpgradeDecision<Void>.refuse(.forbidden, body: "\($0.remoteAddress)") },
            { _, _ in }
        )
        let (addresses, listening) = AsyncStream.makeStream(of: String.self)
        let server = WebSocketServer(
            transport: NativeTransport(host: "127.0.0.1", port: 0, eventLoops: 1) { listening.yield($0) },
            configuration: configuration
        ) { WebSocketRoute("/", endpoint) }
        let task = Task { try await server.run() }
        var iterator = addresses.makeAsyncIterator()
        let port = try #require(await iterator.next()?.split(separator: ":").last.flatMap { Int($0) })
        let stream = try await NativeConnector().connect(
            to: .tcp(host: "127.0.0.1", port: port),
            options: ConnectOptions()
        )
        let request =
            "GET / HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            + "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        // The connection may be ended before all is written.
        for piece in [header.prefix(5), header.dropFirst(5), Array(request.utf8)[...]] where !piece.isEmpty {
            try? await stream.write(Array(piece))
        }
        var answer: [UInt8] = []
        while let bytes = try? await stream.read() { answer += bytes }
        stream.close()
        server.beginShutdown()
        try await task.value
        let text = String(decoding: answer, as: UTF8.self)
        return text.isEmpty ? nil : text.split(separator: "\r\n").last.map { String($0) }
    }
}
#endif
