#if os(Linux)

internal import COpenSSL
internal import Glibc

/// Why a TLS connection failed.
///
/// A trivial value of 16 bytes: its text is made only when somebody asks for ``description``.
public struct TLSFailure: Error, Hashable, Sendable, CustomStringConvertible {
    /// What went wrong.
    public let kind: Kind

    /// An alert's number, an errno, or the result of a certificate's verification, as `kind` says.
    private let detail: Int32

    /// The reason in OpenSSL's own packed form, 0 if it has none.
    private let openSSLError: UInt64

    /// The alert that the peer sent (RFC 8446 §6), if it was the peer who gave up.
    public var alert: UInt8? {
        self.kind == .peerAlert ? UInt8(truncatingIfNeeded: self.detail) : nil
    }

    /// The system's error number, if the connection was lost to one.
    public var errno: Int32? {
        self.kind == .connectionLost && self.detail != 0 ? self.detail : nil
    }

    /// A sentence for the operator, with OpenSSL's reason where it adds something.
    ///
    /// Made anew at each call.
    public var description: String {
        switch self.kind.value {
        case .plaintext: return "the peer speaks plain text (HTTP?) on a TLS port"
        case .notTLS: return "the peer does not speak TLS"
        case .version: return "no TLS version in common\(self.reason)"
        case .noCommonCipher: return "no cipher, group or signature algorithm in common\(self.reason)"
        case .noApplicationProtocol: return "no application protocol (ALPN) in common"
        case .certificateMissing: return "the client showed no certificate"
        case .certificateRejected:
            // Static texts of OpenSSL, never null.
            let text = unsafe String(cString: starling_tls_verification_text(self.detail))
            return "the peer's certificate was rejected: \(text)"
        case .peerAlert:
            let text = unsafe String(cString: starling_tls_alert_text(self.detail))
            return "the peer gave up with alert \(self.detail): \(text)"
        case .connectionLost:
            return self.detail == 0
                ? "the peer closed the connection during the handshake"
                : "the connection was lost: \(TLSError.text(errno: self.detail))"
        case .protocolViolation: return "the peer broke the TLS protocol\(self.reason)"
        case .shutDown: return "written after close_notify was sent"
        case .openSSL: return "OpenSSL failed\(self.reason)"
        }
    }

    private var reason: String {
        // A static text of OpenSSL, null if the error has none.
        guard let text = unsafe starling_tls_error_text(self.openSSLError) else { return "" }
        return unsafe ": " + String(cString: text)
    }

    init(_ result: starling_tls_result) {
        self.kind = Kind(result.failure)
        self.detail = result.detail
        self.openSSLError = result.value
    }

    private init(kind: Kind, detail: Int32) {
        self.kind = kind
        self.detail = detail
        self.openSSLError = 0
    }

    /// The peer closed the connection before the handshake was over.
    static let closedDuringHandshake = TLSFailure(kind: .connectionLost, detail: 0)

    /// The peer closed the connection while something was to be sent to it.
    static let connectionLost = TLSFailure(kind: .connectionLost, detail: EPIPE)

    /// The kinds of failures; more may be added.
    public struct Kind: Hashable, Sendable, CustomStringConvertible {
        fileprivate let value: Value

        /// The peer began with a letter, as HTTP does.
        ///
        /// Nothing was sent, so a plain answer can be.
        public static let plaintext = Kind(value: .plaintext)
        /// The peer's first bytes are no TLS record.
        ///
        /// Nothing was sent.
        public static let notTLS = Kind(value: .notTLS)
        /// No version in common.
        public static let version = Kind(value: .version)
        /// No cipher, group or signature algorithm in common.
        public static let noCommonCipher = Kind(value: .noCommonCipher)
        /// ALPN found no protocol in common.
        public static let noApplicationProtocol = Kind(value: .noApplicationProtocol)
        /// The client showed no certificate, though one is required.
        public static let certificateMissing = Kind(value: .certificateMissing)
        /// The peer's certificate is expired, for another name, or vouched for by nobody trusted.
        public static let certificateRejected = Kind(value: .certificateRejected)
        /// The peer gave up and said why by an alert.
        public static let peerAlert = Kind(value: .peerAlert)
        /// The connection was reset or closed in the middle.
        public static let connectionLost = Kind(value: .connectionLost)
        /// The peer broke the protocol in another way.
        public static let protocolViolation = Kind(value: .protocolViolation)
        /// The session was written to after its `shutdown()`.
        public static let shutDown = Kind(value: .shutDown)
        /// OpenSSL failed by itself, as it does without memory.
        public static let openSSL = Kind(value: .openSSL)

        /// The name of the kind, fit for a log or a metric's label.
        public var description: String {
            "\(self.value)"
        }

        fileprivate enum Value: UInt8 {
            case plaintext, notTLS, version, noCommonCipher, noApplicationProtocol, certificateMissing
            case certificateRejected, peerAlert, connectionLost, protocolViolation, shutDown, openSSL
        }
    }
}

extension TLSFailure.Kind {
    fileprivate init(_ failure: starling_tls_failure) {
        switch failure {
        case .none: preconditionFailure("a failure without a kind")
        case .plaintext: self = .plaintext
        case .not_tls: self = .notTLS
        case .version: self = .version
        case .no_common_cipher: self = .noCommonCipher
        case .no_application_protocol: self = .noApplicationProtocol
        case .certificate_missing: self = .certificateMissing
        case .certificate_rejected: self = .certificateRejected
        case .peer_alert: self = .peerAlert
        case .connection_lost: self = .connectionLost
        case .protocol: self = .protocolViolation
        case .shut_down: self = .shutDown
        case .internal: self = .openSSL
        }
    }
}

#endif
