/// A received message, borrowed from the buffer it was read into.
///
/// Valid only for the call that it is handed to: copy what must live longer.
public struct MessageView: ~Copyable, ~Escapable {
    /// Text or bytes.
    public enum Kind: Sendable, Hashable {
        /// UTF-8, already validated.
        case text
        /// Any bytes.
        case binary

        /// The opcode that such a message starts with.
        public var opcode: Opcode {
            self == .text ? .text : .binary
        }
    }

    /// Text or bytes.
    public let kind: Kind
    /// Whether ``bytes`` are still as a compression extension made them.
    ///
    /// Only where ``FrameCodec/permitsCompression`` was set; the text of such a message is not validated yet.
    public let isCompressed: Bool
    /// The payload, unmasked and joined from its fragments.
    public let bytes: RawSpan

    /// Makes a view of bytes that belong to the caller.
    @inlinable
    @_lifetime(copy bytes)
    public init(_ kind: Kind, _ bytes: RawSpan, isCompressed: Bool = false) {
        self.kind = kind
        self.isCompressed = isCompressed
        self.bytes = bytes
    }

    /// A copy of the payload as a string; bytes that are not UTF-8 come out as U+FFFD.
    public var text: String {
        unsafe self.bytes.withUnsafeBytes { unsafe String(decoding: $0, as: UTF8.self) }
    }
}

/// What ``FrameCodec`` found at the front of the bytes it was given.
public enum FrameEvent: ~Copyable, ~Escapable {
    /// A whole message.
    case message(MessageView)
    /// A ping; answer with a pong of the same payload (RFC 6455 §5.5.2).
    case ping(RawSpan)
    /// A pong (RFC 6455 §5.5.3).
    case pong(RawSpan)
    /// A close frame: its code, or nil if it carried none, and its reason, valid UTF-8 (RFC 6455 §5.5.1).
    case close(CloseCode?, reason: RawSpan)
    /// All bytes are consumed, and nothing more is complete.
    case needsMoreBytes
}
