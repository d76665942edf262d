import HTTPTypes
import StarlingCore
import Testing

@Suite struct HandshakeTests {
    static let lines = [
        "GET /chat?room=1 HTTP/1.1", "Host: server.example.com", "Upgrade: websocket", "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol: chat, superchat",
        "Sec-WebSocket-Version: 13",
    ]

    func parse(_ lines: [String], limits: Limits = Limits()) throws(HandshakeError) -> Handshake {
        var input = Array((lines + ["", ""]).joined(separator: "\r\n").utf8)
        var reader = HTTPHeadReader(limits: limits)
        var span = input.mutableSpan
        var bytes = unsafe span.mutableBytes
        guard let head = try reader.read(from: &bytes) else { throw HandshakeError(.malformedHead) }
        return try Handshake(HTTPRequestHead(parsing: head, limits: limits))
    }

    func replacing(_ prefix: String, with lines: [String]) -> [String] {
        Self.lines.flatMap { $0.hasPrefix(prefix) ? lines : [$0] }
    }

    @Test("The RFC's example gives the RFC's answer")
    func example() throws {
        let handshake = try self.parse(Self.lines)
        #expect(handshake.subprotocols == ["chat", "superchat"])
        let response = try handshake.response(subprotocol: "chat")
        #expect(response.status == .switchingProtocols)
        #expect(response.headerFields[.secWebSocketAccept] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        #expect(response.headerFields[.secWebSocketProtocol] == "chat")
    }

    @Test("Mixed case and further options are taken")
    func lenient() throws {
        _ = try self.parse(self.replacing("Connection", with: ["connection: keep-alive, UPGRADE"]))
        _ = try self.parse(self.replacing("Upgrade", with: ["upgrade: WebSocket"]))
        _ = try self.parse([""] + Self.lines)
    }

    @Test(
        "What is wrong is refused with its status",
        arguments: [
            ("GET", ["POST / HTTP/1.1"], 405), ("GET", ["GET / HTTP/1.0"], 505),
            ("GET", ["GET / HTTP/2.0"], 505),
            ("GET", ["GET  / HTTP/1.1"], 400), ("GET", ["GET nowhere HTTP/1.1"], 400),
            ("GET", ["GET /"], 400),
            ("Host", [], 400), ("Host", ["Host: a", "Host: b"], 400),
            ("Upgrade", [], 426), ("Upgrade", ["Upgrade: h2c"], 426),
            ("Connection", ["Connection: close"], 400),
            ("Sec-WebSocket-Key", [], 400), ("Sec-WebSocket-Key", ["Sec-WebSocket-Key: short"], 400),
            ("Sec-WebSocket-Key", ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZR=="], 400),
            ("Sec-WebSocket-Version", [], 426), ("Sec-WebSocket-Version", ["Sec-WebSocket-Version: 12"], 426),
            ("Sec-WebSocket-Version", ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 13"], 400),
            ("Sec-WebSocket-Protocol", ["Sec-WebSocket-Protocol: a b"], 400),
            ("Sec-WebSocket-Protocol", ["Sec-WebSocket-Protocol: a", " folded: b"], 400),
            ("Sec-WebSocket-Protocol", ["Content-Length: 1"], 413),
            ("Sec-WebSocket-Protocol", ["Content-Length: x"], 400),
            ("Sec-WebSocket-Protocol", ["Transfer-Encoding: chunked"], 413),
            ("Sec-WebSocket-Protocol", ["Transfer-Encoding: chunked", "Content-Length: 0"], 400),
            ("Sec-WebSocket-Protocol", ["X : 1"], 400), ("Sec-WebSocket-Protocol", ["X: \u{0}"], 400),
        ] as [(String, [String], Int)]
    )
    func refusals(_ prefix: String, _ lines: [String], _ status: Int) {
        let error = #expect(throws: HandshakeError.self) {
            try self.parse(self.replacing(prefix, with: lines))
        }
        #expect(error?.statusCode == status)
    }

    @Test("A duplicate key is refused")
    func duplicateKey() {
        let error = #expect(throws: HandshakeError.self) {
            try self.parse(Self.lines + ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="])
        }
        #expect(error == HandshakeError(.duplicateField))
    }

    @Test("Heads over the limits are refused with 431")
    func limits() {
        let long = #expect(throws: HandshakeError.self) {
            try self.parse(Self.lines + ["X: " + String(repeating: "x", count: 17 << 10)])
        }
        #expect(long?.statusCode == 431)
        let many = #expect(throws: HandshakeError.self) {
            try self.parse(Self.lines + (0..<100).map { "X\($0): 1" })
        }
        #expect(many?.statusCode == 431)
    }

    @Test("A subprotocol must be offered, and cannot split the response")
    func subprotocols() throws {
        let handshake = try self.parse(Self.lines)
        #expect(throws: HandshakeError(.subprotocolNotOffered)) {
            try handshake.response(subprotocol: "other")
        }
        #expect(throws: HandshakeError(.invalidSubprotocol)) {
            try handshake.response(subprotocol: "a\r\nX: 1")
        }
        let response = try handshake.response(headerFields: [.setCookie: "a\r\nX: 1"])
        #expect(!String(decoding: response.serialized(), as: UTF8.self).contains("\r\nX"))
    }

    @Test("A head that arrives byte by byte leaves what follows it")
    func splitHead() throws {
        var reader = HTTPHeadReader()
        var input = Array((Self.lines + ["", ""]).joined(separator: "\r\n").utf8) + [0x81]
        var span = input.mutableSpan
        var bytes = unsafe span.mutableBytes
        var head: [UInt8]?
        let total = bytes.byteCount
        for offset in 0..<total - 1 {
            var piece = bytes._mutatingExtracting(offset..<offset + 1)
            head = try reader.read(from: &piece)
            #expect((head == nil) == (offset < total - 2))
        }
        var both = bytes._mutatingExtracting(0..<total)
        _ = try reader.read(from: &both)
        #expect(both.byteCount == 1)
    }

    @Test("A client's request is what a server takes, and its answer what the client takes")
    func clientAndServer() throws {
        let client = try ClientHandshake(
            authority: "localhost",
            path: "/",
            key: [UInt8](repeating: 7, count: 16),
            subprotocols: ["a", "b"]
        )
        let server = try Handshake(HTTPRequestHead(parsing: client.request.serialized()))
        let good = try HTTPResponseHead(parsing: server.response(subprotocol: "b").serialized())
        #expect(try client.confirm(good) == "b")
        var forged = good.response
        forged.headerFields[.secWebSocketAccept] = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        let bad = try HTTPResponseHead(parsing: forged.serialized())
        #expect(throws: HandshakeError(.invalidAccept)) { try client.confirm(bad) }
    }
}
