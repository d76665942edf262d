import HTTPTypes
import StarlingCore
import Testing

/// Heads of HTTP/1, wherever the network splits them.
@Suite struct HTTPHeadTests {
    private static let head = Array("GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n\r\n".utf8)

    /// What a reader makes of bytes that arrive in two pieces: the head and what is left behind it.
    private func read(
        _ input: [UInt8],
        splitAt offset: Int,
        byteCountMax: Int = 1024
    ) throws(HandshakeError) -> (head: [UInt8]?, rest: Int) {
        var limits = Limits()
        limits.headBytesMax = byteCountMax
        var reader = HTTPHeadReader(limits: limits)
        var first = Array(input[..<offset])
        var second = Array(input[offset...])
        var firstSpan = first.mutableSpan
        var firstBytes = unsafe firstSpan.mutableBytes
        if let head = try reader.read(from: &firstBytes) {
            return (head, firstBytes.byteCount + second.count)
        }
        var secondSpan = second.mutableSpan
        var secondBytes = unsafe secondSpan.mutableBytes
        return (try reader.read(from: &secondBytes), secondBytes.byteCount)
    }

    @Test("Wherever it is split, a head is the same, and what follows stays")
    func everySplit() throws {
        let input = Array("\r\n\r\n".utf8) + Self.head + [0x81, 0x80]
        for offset in 0...input.count {
            let (head, rest) = try self.read(input, splitAt: offset)
            #expect(head == Self.head)
            #expect(rest == 2)
        }
    }

    @Test("A head of exactly the limit is taken, one byte more is refused, wherever it is split")
    func limit() throws {
        for offset in 0...Self.head.count {
            let (head, _) = try self.read(Self.head, splitAt: offset, byteCountMax: Self.head.count)
            #expect(head == Self.head)
            #expect(throws: HandshakeError(.headTooLarge)) {
                _ = try self.read(Self.head, splitAt: offset, byteCountMax: Self.head.count - 1)
            }
        }
    }

    @Test("A bare line feed is refused, wherever it is split")
    func bareLineFeed() {
        let input = Array("GET / HTTP/1.1\nHost: a\r\n\r\n".utf8)
        for offset in 0...input.count {
            #expect(throws: HandshakeError(.malformedHead)) { _ = try self.read(input, splitAt: offset) }
        }
    }

    @Test(
        "What no request begins with is refused at its first byte",
        arguments: [0x16, 0x00, 0x20, 0x80] as [UInt8]
    )
    func firstByte(_ byte: UInt8) {
        #expect(throws: HandshakeError(.malformedHead)) { _ = try self.read([byte], splitAt: 0) }
        #expect(throws: HandshakeError(.malformedHead)) { _ = try self.read([0x0D, 0x0A, byte], splitAt: 2) }
    }

    @Test("Names keep their spelling, and values their bytes")
    func fields() throws {
        let lines = [
            "GET / HTTP/1.1", "Host: a", "UPGRADE: one", "Upgrade: two", "upgrade: three", "X-Other:", "", "",
        ]
        var bytes = Array(lines.joined(separator: "\r\n").utf8)
        // A value that is no UTF-8, and one that is, without being ASCII.
        let colon = try #require(bytes.lastIndex(of: UInt8(ascii: ":")))
        bytes.insert(contentsOf: [0xFF, 0xE9], at: colon + 1)
        bytes.insert(contentsOf: Array("X-Name: Zoë\r\n".utf8), at: bytes.count - 2)
        let fields = try HTTPRequestHead(parsing: bytes).request.headerFields

        #expect(fields.map(\.name.rawName) == ["Host", "UPGRADE", "Upgrade", "upgrade", "X-Other", "X-Name"])
        #expect(fields[.upgrade] == "one, two, three")
        let other = try #require(fields.first { $0.name.canonicalName == "x-other" })
        #expect(unsafe other.withUnsafeBytesOfValue { unsafe Array($0) } == [0xFF, 0xE9])
        #expect(fields.last?.value == "Zoë")
    }

    @Test("Lists of a handshake may be spread over several fields")
    func spreadLists() throws {
        let lines = [
            "GET / HTTP/1.1", "Host: a", "Upgrade: h2c", "Upgrade: WebSocket", "Connection: keep-alive",
            "connection: x, UPGRADE", "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Protocol: b, a", "Sec-WebSocket-Protocol: c", "", "",
        ]
        let head = try HTTPRequestHead(parsing: Array(lines.joined(separator: "\r\n").utf8))
        #expect(try Handshake(head).subprotocols == ["b", "a", "c"])
    }

    @Test("A response is written as it is parsed")
    func response() throws {
        let response = HTTPResponse(
            status: .init(code: 404, reasonPhrase: "Not Found"),
            headerFields: [.contentLength: "0", .server: "a"]
        )
        let bytes = response.serialized()
        #expect(bytes == Array("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nServer: a\r\n\r\n".utf8))
        #expect(try HTTPResponseHead(parsing: bytes).response == response)
    }
}
