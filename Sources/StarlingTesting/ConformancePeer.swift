package import HTTPTypes
package import Starling
package import StarlingCore

/// A client that does everything by hand, over whatever stream a connector has opened.
///
/// For one task at a time; `stream` may be written to by another one.
package final class ConformancePeer {
    package let stream: any ByteStream
    private var codec = FrameCodec(
        role: .client,
        limits: Limits(messageBytesMax: 64 << 20, fragmentsPerMessageMax: 1 << 20)
    )
    private var events: [PeerEvent] = []
    /// What has arrived and is not looked at yet: the response's head, and then nothing.
    private var unread: [UInt8] = []
    private var isUpgraded = false

    package init(_ stream: any ByteStream) {
        self.stream = stream
    }

    deinit {
        self.stream.close()
    }

    // MARK: - HTTP

    /// A request as a browser would send it.
    package static func request(_ path: String, upgrades: Bool, _ fields: [String] = []) -> [UInt8] {
        var lines = ["GET \(path) HTTP/1.1", "Host: conformance"]
        if upgrades {
            lines += [
                "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            ]
        }
        return Array((lines + fields + ["", ""]).joined(separator: "\r\n").utf8)
    }

    /// Upgrades the connection.
    package func upgrade(_ path: String) async throws {
        try await self.stream.write(Self.request(path, upgrades: true))
        try await self.readUpgrade()
    }

    /// Reads the response to an upgrade, which must be 101.
    package func readUpgrade() async throws {
        let head = try await self.readHead()
        try expect(head.status.code == 101, "an upgrade was answered with \(head.status.code)")
        // RFC 6455 §1.3 has this pair of key and answer.
        let accept = HTTPField.Name("Sec-WebSocket-Accept").flatMap { head.headerFields[$0] }
        try expect(
            accept == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
            "the key was answered with \(accept ?? "nothing")"
        )
        self.becomeUpgraded()
    }

    /// From now on what arrives is frames.
    package func becomeUpgraded() {
        self.isUpgraded = true
        let rest = self.unread
        self.unread = []
        self.decode(rest)
    }

    /// Reads a response with its body.
    package func readResponse() async throws -> (head: HTTPResponse, body: String) {
        let head = try await self.readHead()
        let byteCount = head.headerFields[.contentLength].flatMap { Int($0) } ?? 0
        while self.unread.count < byteCount {
            try expect(try await self.readMore(), "the stream has ended within a body")
        }
        defer { self.unread.removeFirst(byteCount) }
        return (head, String(decoding: self.unread.prefix(byteCount), as: UTF8.self))
    }

    private func readHead() async throws -> HTTPResponse {
        while true {
            if let end = Self.endOfHead(self.unread) {
                let head = try HTTPResponseHead(parsing: Array(self.unread.prefix(end)))
                self.unread.removeFirst(end)
                return head.response
            }
            try expect(try await self.readMore(), "the stream has ended before a response")
        }
    }

    private static func endOfHead(_ bytes: [UInt8]) -> Int? {
        guard bytes.count >= 4 else { return nil }
        for end in 4...bytes.count where Array(bytes[(end - 4)..<end]) == Array("\r\n\r\n".utf8) {
            return end
        }
        return nil
    }

    /// Reads once; false at the end of the stream.
    private func readMore() async throws -> Bool {
        guard let bytes = try await self.stream.read() else { return false }
        if self.isUpgraded { self.decode(bytes) } else { self.unread += bytes }
        return true
    }

    // MARK: - Frames

    /// Sends one frame, masked.
    package func send(_ opcode: Opcode, _ payload: [UInt8], isFinal: Bool = true) async throws {
        try await self.stream.write(Self.frame(opcode, payload, isFinal: isFinal))
    }

    /// Sends a text.
    package func send(_ text: String) async throws {
        try await self.send(.text, Array(text.utf8))
    }

    /// The bytes of a client's frame.
    package static func frame(_ opcode: Opcode, _ payload: [UInt8], isFinal: Bool = true) -> [UInt8] {
        var bytes: [UInt8] = []
        // The payload outlives the call that it is lent to.
        unsafe FrameCodec.encode(
            opcode,
            payload.span.bytes,
            isFinal: isFinal,
            maskingKey: MaskingKey(rawValue: .random(in: .min ... .max)),
            into: &bytes
        )
        return bytes
    }

    /// A close frame's bytes.
    package static func closeFrame(_ code: UInt16) -> [UInt8] {
        self.frame(.close, [UInt8(code >> 8), UInt8(code & 0xFF)])
    }

    /// The next thing that the server has said; the end of the stream, and its break, are things too.
    package func next() async throws -> PeerEvent {
        while self.events.isEmpty {
            do {
                guard try await self.readMore() else { return .end }
            } catch let error as TransportError {
                if Task.isCancelled { throw error }
                return .broken
            }
        }
        return self.events.removeFirst()
    }

    /// Checks what the server says next, pings aside.
    package func expectNext(_ expected: PeerEvent) async throws {
        let event = try await self.nextButPings()
        try expect(event == expected, "expected \(expected), but got \(event)")
    }

    /// Checks that the server has ended the connection, whether or not the peer still reads its end.
    package func expectEnd() async throws {
        let event = try await self.nextButPings()
        try expect(event == .end || event == .broken, "expected the end, but got \(event)")
    }

    /// The next thing that is not a ping: a server may ping at any time (RFC 6455 §5.5.2), and is answered.
    private func nextButPings() async throws -> PeerEvent {
        while true {
            let event = try await self.next()
            guard case .ping(let payload) = event else { return event }
            // A peer that has ended its own direction cannot answer, and listens on.
            try? await self.send(.pong, payload)
        }
    }

    /// Closes as a client should: sends a close frame, and waits for the answer and the end.
    package func finish() async throws {
        try await self.stream.write(Self.closeFrame(1000))
        try await self.expectNext(.close(1000))
        try await self.expectEnd()
    }

    private func decode(_ bytes: [UInt8]) {
        var bytes = bytes
        var span = bytes.mutableSpan
        // The array outlives the loop, and nobody else touches it meanwhile.
        var rest = unsafe span.mutableBytes
        PeerEvent.decode(&rest, with: &self.codec, into: &self.events)
    }
}

@available(*, unavailable) extension ConformancePeer: Sendable {}

/// What a server says to a peer.
package enum PeerEvent: Hashable, CustomStringConvertible {
    case text(String)
    case binary([UInt8])
    case ping([UInt8])
    case pong([UInt8])
    case close(UInt16?)
    /// What no server may send.
    case violation(String)
    /// The end of the server's direction.
    case end
    /// The end of the connection in some other way.
    case broken

    package var description: String {
        switch self {
        case .text(let text): "the text '\(text.prefix(80))' of \(text.utf8.count) bytes"
        case .binary(let bytes): "\(bytes.count) bytes that begin with \(bytes.prefix(8))"
        case .ping(let bytes): "a ping of \(bytes.count) bytes"
        case .pong(let bytes): "a pong of \(bytes.count) bytes"
        case .close(let code): "a close with \(code.map(String.init) ?? "no code")"
        case .violation(let text): "what no server may send: \(text)"
        case .end: "the end of the stream"
        case .broken: "a broken connection"
        }
    }
}

extension PeerEvent {
    /// Takes all events off the front of a server's bytes.
    static func decode(
        _ bytes: inout MutableRawSpan,
        with codec: inout FrameCodec,
        into events: inout [PeerEvent]
    ) {
        decoding: while true {
            do throws(ProtocolError) {
                switch try codec.next(in: &bytes) {
                case .needsMoreBytes: break decoding
                case .message(let message):
                    let bytes = Self.copy(message.bytes)
                    let isText = message.kind == .text
                    events.append(
                        isText ? .text(String(decoding: bytes, as: UTF8.self)) : .binary(bytes)
                    )
                case .ping(let payload): events.append(.ping(Self.copy(payload)))
                case .pong(let payload): events.append(.pong(Self.copy(payload)))
                case .close(let code, _): events.append(.close(code?.rawValue))
                }
            } catch {
                events.append(.violation("\(error)"))
                break decoding
            }
        }
    }

    private static func copy(_ bytes: RawSpan) -> [UInt8] {
        // Copied within the call that lends them.
        unsafe bytes.withUnsafeBytes { unsafe Array($0) }
    }
}
