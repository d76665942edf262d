/// Why a handshake, or the HTTP head that carries it, was refused.
///
/// A trivial value. A server answers with ``statusCode`` and ``reason``; a client's errors have no status.
public struct HandshakeError: Error, Hashable, Sendable {
    /// What was wrong.
    public struct Kind: Hashable, Sendable {
        enum Base: UInt8, Sendable {
            case malformedHead, headTooLarge, tooManyFields, unsupportedVersion, missingHost, unexpectedBody
            case methodNotAllowed, notAnUpgrade, missingConnectionUpgrade, unsupportedProtocolVersion
            case missingKey, invalidKey, duplicateField
            case invalidSubprotocol, subprotocolNotOffered
            case refused, malformedResponse, invalidAccept, unexpectedSubprotocol, unexpectedExtension
        }
        let base: Base

        /// Not a head of HTTP/1 (RFC 9112 §3, §5).
        public static let malformedHead = Kind(base: .malformedHead)
        /// A head over ``Limits/headBytesMax``.
        public static let headTooLarge = Kind(base: .headTooLarge)
        /// More fields than ``Limits/headFieldsMax``.
        public static let tooManyFields = Kind(base: .tooManyFields)
        /// An HTTP version that this end does not speak, or that cannot upgrade (RFC 6455 §4.2.1).
        public static let unsupportedVersion = Kind(base: .unsupportedVersion)
        /// No `Host` field, or several (RFC 9112 §3.2).
        public static let missingHost = Kind(base: .missingHost)
        /// The request has a body.
        public static let unexpectedBody = Kind(base: .unexpectedBody)
        /// A method other than GET (RFC 6455 §4.2.1).
        public static let methodNotAllowed = Kind(base: .methodNotAllowed)
        /// `Upgrade` does not say `websocket` (RFC 6455 §4.2.1).
        public static let notAnUpgrade = Kind(base: .notAnUpgrade)
        /// `Connection` does not say `Upgrade` (RFC 6455 §4.2.1).
        public static let missingConnectionUpgrade = Kind(base: .missingConnectionUpgrade)
        /// `Sec-WebSocket-Version` is not 13 (RFC 6455 §4.4).
        public static let unsupportedProtocolVersion = Kind(base: .unsupportedProtocolVersion)
        /// No `Sec-WebSocket-Key`.
        public static let missingKey = Kind(base: .missingKey)
        /// A `Sec-WebSocket-Key` that is not 16 bytes in base64 (RFC 6455 §4.2.1).
        public static let invalidKey = Kind(base: .invalidKey)
        /// A field that may stand once stands twice.
        public static let duplicateField = Kind(base: .duplicateField)
        /// A subprotocol that is not a token, offered or chosen (RFC 6455 §4.1).
        public static let invalidSubprotocol = Kind(base: .invalidSubprotocol)
        /// The application chose a subprotocol that the client did not offer (RFC 6455 §4.2.2).
        public static let subprotocolNotOffered = Kind(base: .subprotocolNotOffered)
        /// Client: the server answered with a status other than 101.
        public static let refused = Kind(base: .refused)
        /// Client: a 101 without the fields that make it an upgrade (RFC 6455 §4.1).
        public static let malformedResponse = Kind(base: .malformedResponse)
        /// Client: `Sec-WebSocket-Accept` does not answer the key (RFC 6455 §4.1).
        public static let invalidAccept = Kind(base: .invalidAccept)
        /// Client: a subprotocol that was not offered (RFC 6455 §4.1).
        public static let unexpectedSubprotocol = Kind(base: .unexpectedSubprotocol)
        /// Client: an extension that was not offered (RFC 6455 §4.1).
        public static let unexpectedExtension = Kind(base: .unexpectedExtension)
    }

    /// What was wrong.
    public let kind: Kind

    /// Makes the error for a cause.
    public init(_ kind: Kind) {
        self.kind = kind
    }

    /// The HTTP status that a server answers with; 0 for a client's errors.
    public var statusCode: Int {
        switch self.kind.base {
        case .malformedHead, .missingHost, .missingConnectionUpgrade, .missingKey, .invalidKey,
            .duplicateField,
            .invalidSubprotocol:
            400
        case .methodNotAllowed: 405
        case .unexpectedBody: 413
        case .notAnUpgrade, .unsupportedProtocolVersion: 426
        case .headTooLarge, .tooManyFields: 431
        case .subprotocolNotOffered: 500
        case .unsupportedVersion: 505
        case .refused, .malformedResponse, .invalidAccept, .unexpectedSubprotocol, .unexpectedExtension: 0
        }
    }

    /// A sentence for the response's body and the log.
    public var reason: StaticString {
        switch self.kind.base {
        case .malformedHead: "The head is not valid HTTP/1.1."
        case .headTooLarge: "The head is too large."
        case .tooManyFields: "The head has too many fields."
        case .unsupportedVersion: "This HTTP version is not supported; use HTTP/1.1."
        case .missingHost: "The request must have exactly one Host field."
        case .unexpectedBody: "The request must not have a body."
        case .methodNotAllowed: "A WebSocket handshake is a GET request."
        case .notAnUpgrade: "This resource speaks WebSocket; send 'Upgrade: websocket'."
        case .missingConnectionUpgrade: "The Connection field must contain 'Upgrade'."
        case .unsupportedProtocolVersion: "Only version 13 of the WebSocket protocol is supported."
        case .missingKey: "The Sec-WebSocket-Key field is missing."
        case .invalidKey: "The Sec-WebSocket-Key must be 16 bytes in base64."
        case .duplicateField: "A field that may appear once appears twice."
        case .invalidSubprotocol: "A subprotocol is not a valid token."
        case .subprotocolNotOffered: "The chosen subprotocol was not offered."
        case .refused: "The server refused the upgrade."
        case .malformedResponse: "The server's 101 response is not a WebSocket upgrade."
        case .invalidAccept: "The server's Sec-WebSocket-Accept does not answer our key."
        case .unexpectedSubprotocol: "The server chose a subprotocol that was not offered."
        case .unexpectedExtension: "The server chose an extension that was not offered."
        }
    }
}

extension HandshakeError: CustomStringConvertible {
    /// The reason.
    public var description: String {
        "\(self.reason)"
    }
}
