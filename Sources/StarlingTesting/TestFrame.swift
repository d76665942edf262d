internal import Starling
public import StarlingCore

/// A frame as it stands on the wire, valid or not.
public struct TestFrame: Hashable, Sendable {
    /// What the frame is.
    public var opcode: Opcode
    /// Whether it is a message's last.
    public var isFinal: Bool
    /// The first reserved bit, which says that the message is compressed.
    public var isCompressed: Bool
    /// The payload, unmasked.
    public var payload: [UInt8]

    /// Makes a frame; nothing is checked.
    public init(
        _ opcode: Opcode,
        _ payload: [UInt8] = [],
        isFinal: Bool = true,
        isCompressed: Bool = false
    ) {
        self.opcode = opcode
        self.payload = payload
        self.isFinal = isFinal
        self.isCompressed = isCompressed
    }

    /// A text message in one frame.
    public static func text(_ text: String) -> TestFrame {
        TestFrame(.text, Array(text.utf8))
    }

    /// A close frame; nil for one without a code.
    public static func close(_ code: CloseCode?, reason: String = "") -> TestFrame {
        guard let code else { return TestFrame(.close) }
        return TestFrame(
            .close,
            [UInt8(truncatingIfNeeded: code.rawValue >> 8), UInt8(truncatingIfNeeded: code.rawValue)]
                + Array(reason.utf8)
        )
    }

    /// The payload as a text, with replacement characters where it is no UTF-8.
    public var text: String { String(decoding: self.payload, as: UTF8.self) }

    /// The code of a close frame; nil for others, and for one without a code.
    public var closeCode: CloseCode? {
        guard self.opcode == .close, self.payload.count >= 2 else { return nil }
        return CloseCode(rawValue: UInt16(self.payload[0]) << 8 | UInt16(self.payload[1]))
    }

    /// The frame as a client sends it, masked.
    ///
    /// The key is the same each time, so that what a test sends is too.
    public var masked: [UInt8] { self.encoded(MaskingKey(rawValue: 0x0403_0201)) }

    /// The frame as a server sends it.
    public var unmasked: [UInt8] { self.encoded(nil) }

    private func encoded(_ key: MaskingKey?) -> [UInt8] {
        var output: [UInt8] = []
        unsafe FrameCodec.encode(
            self.opcode,
            self.payload.span.bytes,
            isFinal: self.isFinal,
            isCompressed: self.isCompressed,
            maskingKey: key,
            into: &output
        )
        return output
    }
}

/// Takes apart what a server has written: a response's head, then frames.
struct TestWire {
    private var bytes: [UInt8] = []
    private var assembled: [UInt8] = []
    private var kind: Opcode = .continuation
    private(set) var head: String?
    /// The code of the close frame that came; 1005 if it had none.
    private(set) var closeCode: CloseCode?

    mutating func append(_ bytes: [UInt8]) {
        self.bytes += bytes
    }

    /// Reads the next response's head, if all of it is there.
    mutating func readHead() -> Bool {
        let end = Array("\r\n\r\n".utf8)
        var index = 0
        while index + end.count <= self.bytes.count {
            if Array(self.bytes[index..<(index + end.count)]) == end {
                self.head = String(decoding: self.bytes[..<index], as: UTF8.self)
                self.bytes.removeFirst(index + end.count)
                return true
            }
            index += 1
        }
        return false
    }

    var status: Int? {
        self.head?.split(separator: " ").dropFirst().first.flatMap { Int($0) }
    }

    mutating func nextFrame() -> TestFrame? {
        guard self.bytes.count >= 2 else { return nil }
        let (first, second) = (self.bytes[0], self.bytes[1])
        var offset = 2
        var length = Int(second & 0x7F)
        let wide = length == 126 ? 2 : length == 127 ? 8 : 0
        if wide > 0 {
            guard self.bytes.count >= offset + wide else { return nil }
            length = self.bytes[offset..<(offset + wide)].reduce(0) { $0 << 8 | Int($1) }
            offset += wide
        }
        // No server masks; one that does is shown with the key as part of the payload.
        guard self.bytes.count >= offset + length else { return nil }
        let payload = Array(self.bytes[offset..<(offset + length)])
        self.bytes.removeFirst(offset + length)
        let frame = TestFrame(
            Opcode(rawValue: first & 0x0F),
            payload,
            isFinal: first & 0x80 != 0,
            isCompressed: first & 0x40 != 0
        )
        if frame.opcode == .close { self.closeCode = frame.closeCode ?? .noStatusReceived }
        return frame
    }

    /// Joins the frames of messages; nil for a control frame, or a message that goes on.
    mutating func message(with frame: TestFrame) -> Message? {
        switch frame.opcode {
        case .text, .binary:
            self.kind = frame.opcode
            self.assembled = frame.payload
        case .continuation: self.assembled += frame.payload
        default: return nil
        }
        guard frame.isFinal else { return nil }
        return self.kind == .text
            ? .text(String(decoding: self.assembled, as: UTF8.self)) : .binary(self.assembled)
    }

    /// A request for an upgrade; `fields` are lines of their own, as `Origin: https://example.com`.
    static func request(_ path: String, _ fields: [String]) -> [UInt8] {
        let lines =
            [
                "GET \(path) HTTP/1.1", "Host: example.com", "Upgrade: websocket", "Connection: Upgrade",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13",
            ] + fields + ["", ""]
        return Array(lines.joined(separator: "\r\n").utf8)
    }
}
