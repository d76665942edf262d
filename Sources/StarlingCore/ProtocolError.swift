/// A violation of RFC 6455 by the peer, or of a limit that this end sets.
///
/// A trivial value: throwing it neither allocates nor retains.
public struct ProtocolError: Error, Hashable, Sendable {
    /// What was violated.
    public struct Kind: Hashable, Sendable {
        enum Base: UInt8, Sendable {
            case reservedBits, reservedOpcode, missingMask, unexpectedMask, overlongLength, lengthOverflow
            case controlFrameTooLong, fragmentedControlFrame
            case unexpectedContinuation, expectedContinuation
            case invalidUTF8, invalidCloseCode, truncatedCloseCode, invalidCloseReason
            case frameTooBig, messageTooBig, tooManyFragments
            case corruptCompression
        }
        let base: Base

        /// A reserved bit is set that no extension gave a meaning (§5.2).
        public static let reservedBits = Kind(base: .reservedBits)
        /// An opcode that RFC 6455 does not define (§5.2).
        public static let reservedOpcode = Kind(base: .reservedOpcode)
        /// A client's frame is not masked (§5.1).
        public static let missingMask = Kind(base: .missingMask)
        /// A server's frame is masked (§5.1).
        public static let unexpectedMask = Kind(base: .unexpectedMask)
        /// The length is not in its shortest form (§5.2).
        public static let overlongLength = Kind(base: .overlongLength)
        /// The topmost bit of a 64-bit length is set (§5.2).
        public static let lengthOverflow = Kind(base: .lengthOverflow)
        /// A control frame of more than 125 bytes (§5.5).
        public static let controlFrameTooLong = Kind(base: .controlFrameTooLong)
        /// A control frame without the final bit (§5.5).
        public static let fragmentedControlFrame = Kind(base: .fragmentedControlFrame)
        /// A continuation frame while no message is in progress (§5.4).
        public static let unexpectedContinuation = Kind(base: .unexpectedContinuation)
        /// A new message before the last one ended (§5.4).
        public static let expectedContinuation = Kind(base: .expectedContinuation)
        /// A text message that is not UTF-8 (§8.1).
        public static let invalidUTF8 = Kind(base: .invalidUTF8)
        /// A close code that may not be sent (§7.4).
        public static let invalidCloseCode = Kind(base: .invalidCloseCode)
        /// A close frame with one byte of payload (§5.5.1).
        public static let truncatedCloseCode = Kind(base: .truncatedCloseCode)
        /// A close reason that is not UTF-8 (§5.5.1).
        public static let invalidCloseReason = Kind(base: .invalidCloseReason)
        /// A frame over ``Limits/frameBytesMax``.
        public static let frameTooBig = Kind(base: .frameTooBig)
        /// A message over ``Limits/messageBytesMax``, inflated where it came compressed.
        public static let messageTooBig = Kind(base: .messageTooBig)
        /// A message in more than ``Limits/fragmentsPerMessageMax`` frames.
        public static let tooManyFragments = Kind(base: .tooManyFragments)
        /// Compressed data that does not inflate (RFC 7692 §7.2.2).
        public static let corruptCompression = Kind(base: .corruptCompression)
    }

    /// What was violated.
    public let kind: Kind

    /// Makes the error for a violation.
    public init(_ kind: Kind) {
        self.kind = kind
    }

    /// What to tell the peer.
    public var closeCode: CloseCode {
        switch self.kind.base {
        case .invalidUTF8, .invalidCloseReason, .corruptCompression: .invalidPayload
        case .frameTooBig, .messageTooBig: .messageTooBig
        case .tooManyFragments: .policyViolation
        case .reservedBits, .reservedOpcode, .missingMask, .unexpectedMask, .overlongLength, .lengthOverflow,
            .controlFrameTooLong, .fragmentedControlFrame, .unexpectedContinuation, .expectedContinuation,
            .invalidCloseCode, .truncatedCloseCode:
            .protocolError
        }
    }

    /// A sentence for the close frame and the log; at most 123 bytes, so that it fits (RFC 6455 §5.5.1).
    public var reason: StaticString {
        switch self.kind.base {
        case .reservedBits: "a reserved bit is set"
        case .reservedOpcode: "a reserved opcode"
        case .missingMask: "a frame from a client must be masked"
        case .unexpectedMask: "a frame from a server must not be masked"
        case .overlongLength: "the length is not in its shortest form"
        case .lengthOverflow: "the length does not fit in 63 bits"
        case .controlFrameTooLong: "a control frame is longer than 125 bytes"
        case .fragmentedControlFrame: "a control frame is fragmented"
        case .unexpectedContinuation: "a continuation without a message"
        case .expectedContinuation: "a new message before the last one ended"
        case .invalidUTF8: "the text is not UTF-8"
        case .invalidCloseCode: "the close code may not be sent"
        case .truncatedCloseCode: "the close code is one byte long"
        case .invalidCloseReason: "the close reason is not UTF-8"
        case .frameTooBig: "the frame is too big"
        case .messageTooBig: "the message is too big"
        case .tooManyFragments: "the message has too many fragments"
        case .corruptCompression: "the compressed data does not inflate"
        }
    }
}

extension ProtocolError: CustomStringConvertible {
    /// The reason and the close code.
    public var description: String {
        "\(self.reason) (\(self.closeCode))"
    }
}
