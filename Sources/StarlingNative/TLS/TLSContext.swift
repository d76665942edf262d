#if os(Linux)

internal import COpenSSL
internal import Glibc

/// A loaded TLS configuration, shared by all connections of a listener or a client.
///
/// Sendable: one context serves every event loop, and so resumption works whichever loop a client comes back
/// to. Its tickets are encrypted with keys that it makes up itself and that a reload replaces.
@safe public final class TLSContext: @unchecked Sendable {
    // Sendable holds because `current` is touched under `mutex` alone, which `withLock` upholds.
    private let mutex: UnsafeMutablePointer<pthread_mutex_t>
    private var current: Loaded

    /// Which side of the handshake the context is for.
    public let role: TLSRole

    /// Reads and checks everything that `configuration` names.
    ///
    /// Blocks on files, so not to be called on an event loop.
    ///
    /// - Throws: ``TLSError``, which says which file is wrong and why.
    public init(_ configuration: TLSConfiguration) throws(TLSError) {
        self.role = configuration.role
        self.current = try Loaded(configuration)
        // A mutex must stay at its address, which only memory of its own guarantees. Freed by deinit.
        unsafe self.mutex = .allocate(capacity: 1)
        let status = unsafe pthread_mutex_init(self.mutex, nil)
        precondition(status == 0, "pthread_mutex_init cannot fail with default attributes on Linux")
    }

    deinit {
        // Nobody else holds the context, hence nobody holds its mutex.
        unsafe pthread_mutex_destroy(self.mutex)
        unsafe self.mutex.deallocate()
    }

    /// Replaces certificates, keys and settings without a restart.
    ///
    /// New connections use what is new; existing ones go on with what they began with, and tickets from
    /// before lead to a full handshake. If anything is wrong with the new configuration, the context stays as
    /// it was. Blocks on files, so not to be called on an event loop; two reloads at once end with either.
    ///
    /// - Parameter configuration: What to load. If nil, the present configuration's files are read again, as
    ///   after a certificate was renewed in place.
    /// - Throws: ``TLSError``, also if the new configuration is for the other role.
    public func reload(_ configuration: TLSConfiguration? = nil) throws(TLSError) {
        let configuration = configuration ?? self.withLock { self.current.configuration }
        guard configuration.role == self.role else {
            throw TLSError(
                code: .invalidConfiguration,
                message:
                    "a \(self.role)'s context cannot be reloaded with a \(configuration.role)'s configuration"
            )
        }
        let new = try Loaded(configuration)
        // What was current is freed after the lock, by the last session that was made from it.
        _ = self.withLock {
            let old = self.current
            self.current = new
            return old
        }
    }

    /// The first certificate of each identity in use, the default one first.
    ///
    /// For watching over ``TLSCertificate/notAfter``.
    public var certificates: [TLSCertificate] {
        self.withLock { self.current.certificates }
    }

    /// Makes a session's `SSL *`, owned by the caller, from what is current.
    func makeSession(descriptor: Int32, serverName: String?) throws(TLSError) -> OpaquePointer {
        // Held here, so that a reload meanwhile does not free it.
        let loaded = self.withLock { self.current }
        let isClient = self.role == .client
        let name = isClient ? loaded.configuration.serverName ?? serverName : nil
        let checksName = isClient && loaded.configuration.checksServerName
        if checksName && name == nil {
            throw TLSError(
                code: .serverNameMissing,
                message: "a client must say which name the server's certificate is to be for"
            )
        }
        // RFC 6066 §3: a host name in SNI has no dot at its end.
        let plainName = name.map { $0.hasSuffix(".") ? String($0.dropLast()) : $0 }
        if let plainName, plainName.isEmpty || plainName.utf8.contains(0) || plainName.utf8.count > 255 {
            throw TLSError(code: .invalidConfiguration, message: "the server's name is empty, or is no name")
        }
        // The session holds the SSL_CTX from here on. OpenSSL copies the name, and only remembers the
        // descriptor.
        let session = unsafe withExtendedLifetime(loaded) {
            unsafe starling_tls_session_create(
                loaded.pointer,
                self.role.shim,
                descriptor,
                plainName,
                checksName
            )
        }
        guard let session = unsafe session else {
            throw TLSError(code: .openSSL, message: "cannot make a TLS session: \(TLSError.takeReason())")
        }
        return unsafe session
    }

    private func withLock<Result>(_ body: () -> Result) -> Result {
        // Locked for a few instructions only; nothing is called under it that could lock again.
        unsafe pthread_mutex_lock(self.mutex)
        defer { unsafe pthread_mutex_unlock(self.mutex) }
        return body()
    }
}

extension TLSRole {
    var shim: starling_tls_role {
        switch self {
        case .server: .server
        case .client: .client
        }
    }
}

#endif
