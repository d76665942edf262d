#if os(Linux)

/// What a TLS server or client shows of itself, whom it trusts, and how it speaks.
///
/// Made by ``server(_:)`` or ``client(trustRoots:)``, whose defaults are safe; `TLSContext` loads the files.
/// It is a plain value: nothing is read or checked before a context is built from it.
public struct TLSConfiguration: Sendable {
    /// Which side of the handshake this configuration is for.
    public let role: TLSRole

    /// The certificate and key shown to the peer.
    ///
    /// A server always has one, and shows it to a client whose SNI matches nothing else, or that sends none.
    /// A client has one for servers that ask for it.
    public var identity: TLSIdentity?

    /// A server's further identities, chosen by the name that the client asks for (SNI, RFC 6066 §3).
    ///
    /// If several identities claim a name, the first one has it; ``identity`` comes before all others.
    public var serverNameIdentities: [TLSIdentity] = []

    /// Which certificates a server asks its clients for; none by default.
    public var clientCertificates = TLSClientCertificates.none

    /// Whom a client trusts to vouch for servers; what the operating system trusts by default.
    public var trustRoots = TLSTrustRoots.system

    /// Whether a client requires the server's certificate to be for the name it connects to; true by default.
    ///
    /// Without this check anyone with any trusted certificate can pose as the server (RFC 9525).
    public var checksServerName = true

    /// The name that a client sends as SNI and checks, if it is not the name it connects to.
    public var serverName: String?

    /// The oldest version spoken; TLS 1.2 by default, and at least.
    public var versionMin = TLSVersion.tls12

    /// The newest version spoken; TLS 1.3 by default.
    public var versionMax = TLSVersion.tls13

    /// The protocols of ALPN (RFC 7301) in order of preference, each of 1 to 255 bytes; `http/1.1` by
    /// default.
    ///
    /// A server fails the handshake of a client that offers only others, and serves one that offers none. If
    /// empty, ALPN takes no part in the handshake.
    public var applicationProtocols = ["http/1.1"]

    /// The ciphers of TLS 1.2 in OpenSSL's notation; by default those with forward secrecy and authenticated
    /// encryption.
    ///
    /// The suites of TLS 1.3 are all strong and cannot be chosen.
    public var ciphers = "ECDHE+AESGCM:ECDHE+CHACHA20"

    /// A server that shows `identity` and asks for no client certificates.
    public static func server(_ identity: TLSIdentity) -> TLSConfiguration {
        var configuration = TLSConfiguration(role: .server)
        configuration.identity = identity
        return configuration
    }

    /// A client that trusts `trustRoots`, checks the server's name, and has no certificate of its own.
    public static func client(trustRoots: TLSTrustRoots = .system) -> TLSConfiguration {
        var configuration = TLSConfiguration(role: .client)
        configuration.trustRoots = trustRoots
        return configuration
    }

    private init(role: TLSRole) {
        self.role = role
    }
}

/// The side of a TLS handshake.
public enum TLSRole: Sendable {
    /// Accepts connections and shows a certificate.
    case server
    /// Opens connections and checks the server's certificate.
    case client
}

/// A text in PEM form (RFC 7468), in a file or in memory.
public struct TLSPEM: Sendable {
    let source: Source

    /// The file at `path`, read each time a context is built or reloaded, up to 4 MiB.
    public static func file(_ path: String) -> TLSPEM {
        TLSPEM(source: .file(path))
    }

    /// The text itself, as fetched from a secret store.
    public static func bytes(_ bytes: [UInt8]) -> TLSPEM {
        TLSPEM(source: .bytes(bytes))
    }

    enum Source: Sendable {
        case file(String)
        case bytes([UInt8])
    }
}

/// A certificate with its chain, and its private key.
public struct TLSIdentity: Sendable {
    /// The certificate first, then those that vouch for it, without the root.
    public var certificateChain: TLSPEM

    /// The certificate's private key, not encrypted.
    ///
    /// It may be in the same file as the chain.
    public var privateKey: TLSPEM

    /// The names that this identity is chosen for by SNI, `*.` in front standing for any one label.
    ///
    /// If nil, the DNS names in the certificate.
    public var serverNames: [String]?

    /// An identity of a chain and its key; `serverNames` only where the certificate's own names are not
    /// meant.
    public init(certificateChain: TLSPEM, privateKey: TLSPEM, serverNames: [String]? = nil) {
        self.certificateChain = certificateChain
        self.privateKey = privateKey
        self.serverNames = serverNames
    }
}

/// Whom to trust to vouch for a peer's certificate.
public struct TLSTrustRoots: Sendable {
    let source: Source

    /// What the operating system trusts (on Debian, the package `ca-certificates`).
    public static let system = TLSTrustRoots(source: .system)

    /// The certificates in `pem` and no others.
    public static func pem(_ pem: TLSPEM) -> TLSTrustRoots {
        TLSTrustRoots(source: .pem(pem))
    }

    enum Source: Sendable {
        case system
        case pem(TLSPEM)
    }
}

/// Which certificates a server asks its clients for (mutual TLS).
///
/// The roots have no default: a server that trusted every public authority would authenticate anyone. Their
/// names are sent to clients, which choose a certificate by them, unless there are more than 100.
public struct TLSClientCertificates: Sendable {
    let demand: Demand

    /// Clients are not asked for a certificate.
    public static let none = TLSClientCertificates(demand: .none)

    /// Clients may show a certificate; one that `trustRoots` does not vouch for fails the handshake.
    public static func optional(trustRoots: TLSPEM) -> TLSClientCertificates {
        TLSClientCertificates(demand: .optional(trustRoots))
    }

    /// Clients must show a certificate that `trustRoots` vouches for, or the handshake fails.
    public static func required(trustRoots: TLSPEM) -> TLSClientCertificates {
        TLSClientCertificates(demand: .required(trustRoots))
    }

    enum Demand: Sendable {
        case none
        case optional(TLSPEM)
        case required(TLSPEM)
    }
}

/// A version of the TLS protocol.
public struct TLSVersion: Hashable, Comparable, Sendable, CustomStringConvertible {
    /// The number on the wire.
    let code: UInt16

    /// TLS 1.2 (RFC 5246).
    public static let tls12 = TLSVersion(code: 0x0303)

    /// TLS 1.3 (RFC 8446).
    public static let tls13 = TLSVersion(code: 0x0304)

    /// "TLS 1.2" or "TLS 1.3".
    public var description: String {
        "TLS 1.\(Int(self.code) - 0x0301)"
    }

    /// Older versions come before newer ones.
    public static func < (left: TLSVersion, right: TLSVersion) -> Bool {
        left.code < right.code
    }
}

#endif
