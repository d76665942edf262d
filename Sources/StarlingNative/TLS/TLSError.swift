#if os(Linux)

internal import COpenSSL
internal import Glibc

/// Why a TLS configuration cannot be used: what is wrong, where, and what to do about it.
///
/// Thrown while a context or a session is made; what goes wrong on a connection is a ``TLSFailure``.
public struct TLSError: Error, Hashable, Sendable, CustomStringConvertible {
    /// The kind of mistake.
    public let code: Code

    /// A sentence for the operator, with the path of the file where there is one.
    public let message: String

    /// The code and the message.
    public var description: String {
        "\(self.code): \(self.message)"
    }

    /// The kinds of mistakes; more may be added.
    public struct Code: Hashable, Sendable, CustomStringConvertible {
        private let kind: Kind

        /// A file is missing, is not a plain file, is too large, or may not be read.
        public static let fileUnreadable = Code(kind: .fileUnreadable)
        /// A text holds no certificate, or one that cannot be decoded or is too weak.
        public static let badCertificate = Code(kind: .badCertificate)
        /// A text holds no private key, or one that cannot be decoded.
        public static let badPrivateKey = Code(kind: .badPrivateKey)
        /// A private key asks for a passphrase.
        public static let encryptedPrivateKey = Code(kind: .encryptedPrivateKey)
        /// A private key is not the one of its certificate.
        public static let privateKeyMismatch = Code(kind: .privateKeyMismatch)
        /// Settings are missing, contradict each other, or are unknown to OpenSSL.
        public static let invalidConfiguration = Code(kind: .invalidConfiguration)
        /// A client's session has no name to check the server's certificate against.
        public static let serverNameMissing = Code(kind: .serverNameMissing)
        /// OpenSSL failed, as it does without memory.
        public static let openSSL = Code(kind: .openSSL)

        /// The name of the code.
        public var description: String {
            "\(self.kind)"
        }

        private enum Kind {
            case fileUnreadable, badCertificate, badPrivateKey, encryptedPrivateKey, privateKeyMismatch
            case invalidConfiguration, serverNameMissing, openSSL
        }
    }
}

extension TLSError {
    /// Why OpenSSL's last call on this thread failed, in its own words; clears the thread's error queue.
    static func takeReason() -> String {
        // The shim writes at most `count` bytes, a NUL at the end included.
        unsafe withUnsafeTemporaryAllocation(of: CChar.self, capacity: 256) { text in
            guard let start = text.baseAddress else { return "no reason given" }
            unsafe starling_tls_take_reason(start, text.count)
            let reason = unsafe String(cString: start)
            return reason.isEmpty ? "no reason given" : reason
        }
    }

    /// What the system says about an error number.
    static func text(errno number: Int32) -> String {
        // Since glibc 2.32 the text is static or the thread's own, and valid until the thread's next call.
        unsafe String(cString: strerror(number))
    }
}

#endif
