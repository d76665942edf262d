/// Why a connection was closed (RFC 6455 §7.4, and the registry of IANA).
public struct CloseCode: RawRepresentable, Hashable, Sendable, ExpressibleByIntegerLiteral {
    /// The number on the wire.
    public let rawValue: UInt16

    /// Takes any number; ``isSendable`` says whether it may stand in a close frame.
    public init(rawValue: UInt16) {
        self.rawValue = rawValue
    }

    /// Takes any number; ``isSendable`` says whether it may stand in a close frame.
    public init(integerLiteral value: UInt16) {
        self.rawValue = value
    }

    /// 1000: the purpose of the connection is fulfilled.
    public static let normalClosure: CloseCode = 1000
    /// 1001: this end goes away: a server shuts down, a browser leaves the page.
    public static let goingAway: CloseCode = 1001
    /// 1002: the peer broke the protocol.
    public static let protocolError: CloseCode = 1002
    /// 1003: a message of a kind that this end does not take.
    public static let unsupportedData: CloseCode = 1003
    /// 1005: the close frame carried no code.
    ///
    /// Never on the wire.
    public static let noStatusReceived: CloseCode = 1005
    /// 1006: the connection ended without a close frame.
    ///
    /// Never on the wire.
    public static let abnormalClosure: CloseCode = 1006
    /// 1007: text that is not UTF-8, or compressed data that does not inflate.
    public static let invalidPayload: CloseCode = 1007
    /// 1008: the peer broke a rule of this end.
    public static let policyViolation: CloseCode = 1008
    /// 1009: a message over this end's limit.
    public static let messageTooBig: CloseCode = 1009
    /// 1010: the client needs an extension that the server did not accept.
    public static let mandatoryExtension: CloseCode = 1010
    /// 1011: the server failed.
    public static let internalError: CloseCode = 1011
    /// 1012: the server restarts; come back.
    public static let serviceRestart: CloseCode = 1012
    /// 1013: the server is overloaded; come back later.
    public static let tryAgainLater: CloseCode = 1013

    /// Whether the code may stand in a close frame: 1000–1003, 1007–1014 and 3000–4999 (RFC 6455 §7.4.2).
    public var isSendable: Bool {
        switch self.rawValue {
        case 1000...1003, 1007...1014, 3000...4999: true
        default: false
        }
    }

    /// Whether a client that is told this code should connect again by itself.
    ///
    /// True where the cause lies with this server or with the link and may pass; false where the client would
    /// meet the same end again.
    public var invitesReconnect: Bool {
        switch self {
        case .goingAway, .abnormalClosure, .internalError, .serviceRestart, .tryAgainLater, .noStatusReceived,
            1014, 1015:
            true
        default: false
        }
    }
}

extension CloseCode: CustomStringConvertible {
    /// The number, as it stands in logs.
    public var description: String {
        String(self.rawValue)
    }
}
