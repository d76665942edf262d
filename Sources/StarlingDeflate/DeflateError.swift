public import StarlingCore

/// Why a message could not be inflated, or a stream not be made.
///
/// A trivial value: throwing it neither allocates nor retains.
public struct DeflateError: Error, Hashable, Sendable {
    /// What went wrong.
    public struct Code: Hashable, Sendable {
        fileprivate enum Base: UInt8, Sendable {
            case corrupt, tooBig, outOfMemory
        }
        fileprivate let base: Base

        /// The payload is not what RFC 7692 §7.2.1 makes of a message: it is no DEFLATE data, refers to bytes
        /// before the window, or ends inside a block.
        public static let corrupt = Code(base: .corrupt)
        /// The message is bigger inflated than the caller allows.
        public static let tooBig = Code(base: .tooBig)
        /// zlib could not allocate its state or its window.
        public static let outOfMemory = Code(base: .outOfMemory)
    }

    /// What went wrong.
    public let code: Code

    init(_ code: Code) {
        self.code = code
    }

    /// What to tell the peer.
    public var closeCode: CloseCode {
        switch self.code.base {
        case .corrupt: .invalidPayload
        case .tooBig: .messageTooBig
        case .outOfMemory: .tryAgainLater
        }
    }
}

extension DeflateError: CustomStringConvertible {
    /// A sentence that says what went wrong.
    public var description: String {
        switch self.code.base {
        case .corrupt: "the compressed data does not inflate"
        case .tooBig: "the message is too big when inflated"
        case .outOfMemory: "no memory for a compression window"
        }
    }
}
