/// What a frame carries (RFC 6455 §5.2).
public struct Opcode: RawRepresentable, Hashable, Sendable {
    /// The four bits on the wire.
    public let rawValue: UInt8

    /// Takes the four bits as they are; a reserved value is representable, and refused by ``FrameHeader``.
    @inlinable
    public init(rawValue: UInt8) {
        self.rawValue = rawValue
    }

    /// A further fragment of a message.
    @inlinable public static var continuation: Opcode { Opcode(rawValue: 0x0) }
    /// A message of UTF-8 text, or its first fragment.
    @inlinable public static var text: Opcode { Opcode(rawValue: 0x1) }
    /// A message of bytes, or its first fragment.
    @inlinable public static var binary: Opcode { Opcode(rawValue: 0x2) }
    /// The closing handshake.
    @inlinable public static var close: Opcode { Opcode(rawValue: 0x8) }
    /// A request for a pong.
    @inlinable public static var ping: Opcode { Opcode(rawValue: 0x9) }
    /// The answer to a ping, or an unasked heartbeat.
    @inlinable public static var pong: Opcode { Opcode(rawValue: 0xA) }

    /// Whether this is a close, ping or pong frame, or one of the reserved control opcodes (RFC 6455 §5.5).
    @inlinable
    public var isControl: Bool {
        self.rawValue & 0x8 != 0
    }

    /// Whether RFC 6455 defines this opcode.
    @inlinable
    public var isDefined: Bool {
        // 0x0, 0x1, 0x2, 0x8, 0x9 and 0xA as a set of bits.
        self.rawValue < 16 && 0b0000_0111_0000_0111 & (1 as UInt16) << self.rawValue != 0
    }
}
