#if os(Linux)

internal import COpenSSL
internal import Glibc

extension TLSContext {
    /// A configuration with the `SSL_CTX` that was built from it, which is never changed afterwards.
    ///
    /// Sendable: any number of threads may make sessions from one `SSL_CTX`; OpenSSL counts its owners, of
    /// which this object is one, atomically.
    @safe final class Loaded: @unchecked Sendable {
        let configuration: TLSConfiguration
        let pointer: OpaquePointer
        /// The first certificate of each identity.
        let certificates: [TLSCertificate]

        init(_ configuration: TLSConfiguration) throws(TLSError) {
            try configuration.checkConsistency()
            let trust = try TrustStore()
            try trust.load(configuration)
            let context = try ContextBuilder(configuration.role)
            try context.apply(configuration, trust)
            var certificates: [TLSCertificate] = []
            if let identity = configuration.identity {
                let certificate = try context.load(identity)
                certificates.append(certificate)
                for name in identity.serverNames ?? certificate.dnsNames {
                    try unsafe context.add(name, servedBy: nil)
                }
            }
            for identity in configuration.serverNameIdentities {
                let other = try ContextBuilder(configuration.role)
                try other.apply(configuration, trust)
                let certificate = try other.load(identity)
                certificates.append(certificate)
                let names = identity.serverNames ?? certificate.dnsNames
                if names.isEmpty {
                    throw TLSError(
                        code: .invalidConfiguration,
                        message:
                            "the certificate in \(identity.certificateChain.place) has no DNS name to be "
                            + "chosen by; set serverNames, or make it the default identity"
                    )
                }
                for name in names {
                    // The table of names holds a reference of its own.
                    try unsafe context.add(name, servedBy: other.pointer)
                }
            }
            self.configuration = configuration
            self.certificates = certificates
            unsafe self.pointer = context.finish()
        }

        deinit {
            unsafe starling_tls_context_release(self.pointer)
        }
    }
}

extension TLSConfiguration {
    /// Finds contradictions before any file is read.
    fileprivate func checkConsistency() throws(TLSError) {
        if self.versionMin > self.versionMax {
            throw .invalid("versionMin (\(self.versionMin)) is newer than versionMax (\(self.versionMax))")
        }
        for name in self.applicationProtocols where !(1...255).contains(name.utf8.count) {
            throw .invalid("the ALPN name \"\(name)\" has \(name.utf8.count) bytes; RFC 7301 allows 1 to 255")
        }
        switch self.role {
        case .server:
            if self.identity == nil {
                throw .invalid("a server needs an identity: a certificate and its key")
            }
        case .client:
            if !self.serverNameIdentities.isEmpty {
                throw .invalid("only a server chooses identities by SNI")
            }
            switch self.clientCertificates.demand {
            case .none: break
            case .optional, .required: throw .invalid("only a server asks for client certificates")
            }
        }
    }
}

extension TLSError {
    fileprivate static func invalid(_ message: String) -> TLSError {
        TLSError(code: .invalidConfiguration, message: message)
    }
}

// MARK: - One SSL_CTX

/// An `SSL_CTX` in the making, released unless it is finished.
@safe private struct ContextBuilder: ~Copyable {
    let pointer: OpaquePointer

    init(_ role: TLSRole) throws(TLSError) {
        guard let pointer = unsafe starling_tls_context_create(role.shim) else {
            throw TLSError(code: .openSSL, message: "cannot make a TLS context: \(TLSError.takeReason())")
        }
        unsafe self.pointer = pointer
    }

    deinit {
        unsafe starling_tls_context_release(self.pointer)
    }

    /// Hands the context over to the caller, who releases it.
    consuming func finish() -> OpaquePointer {
        let pointer = unsafe self.pointer
        discard self
        return unsafe pointer
    }

    /// Makes every setting of `configuration` but its identities.
    func apply(_ configuration: TLSConfiguration, _ trust: borrowing TrustStore) throws(TLSError) {
        // Valid until `finish` or deinit, as in every method below.
        let pointer = unsafe self.pointer
        let (min, max) = (configuration.versionMin, configuration.versionMax)
        guard unsafe starling_tls_context_set_versions(pointer, min.code, max.code) else {
            throw .invalid("OpenSSL refuses \(min) to \(max): \(TLSError.takeReason())")
        }
        // The list is copied by OpenSSL.
        guard unsafe starling_tls_context_set_ciphers(pointer, configuration.ciphers) else {
            throw .invalid(
                "no cipher of TLS 1.2 matches \"\(configuration.ciphers)\": \(TLSError.takeReason()); "
                    + "`openssl ciphers -v LIST` shows what a list means"
            )
        }
        let protocols = configuration.applicationProtocols.flatMap { [UInt8($0.utf8.count)] + $0.utf8 }
        if !protocols.isEmpty {
            // The names are copied by OpenSSL for a client, by the shim for a server.
            let isSet = unsafe protocols.withUnsafeBufferPointer { names in
                guard let start = names.baseAddress else { return false }
                return unsafe starling_tls_context_set_protocols(
                    pointer,
                    configuration.role.shim,
                    start,
                    names.count
                )
            }
            guard isSet else {
                throw TLSError(code: .openSSL, message: "cannot set ALPN: \(TLSError.takeReason())")
            }
        }
        // The context takes a reference to the store of its own.
        let isVerifying = unsafe starling_tls_context_set_verification(
            pointer,
            trust.pointer,
            configuration.verification,
            // A client with several certificates chooses by the authorities that the server names.
            configuration.role == .server
        )
        guard isVerifying else {
            throw TLSError(code: .openSSL, message: "cannot set trust roots: \(TLSError.takeReason())")
        }
    }

    /// Loads a chain and its key, and returns the chain's first certificate.
    func load(_ identity: TLSIdentity) throws(TLSError) -> TLSCertificate {
        let chainPlace = identity.certificateChain.place
        let keyPlace = identity.privateKey.place

        // The text is read during the calls alone: OpenSSL keeps what it decodes from it.
        let chain = try identity.certificateChain.load()
        let chainResult = unsafe chain.withPEM { unsafe starling_tls_context_set_chain(self.pointer, $0, $1) }
        switch chainResult {
        case .loaded: break
        case .absent:
            throw TLSError(
                code: .badCertificate,
                message: "no certificate in \(chainPlace): it must hold a block BEGIN CERTIFICATE (PEM)"
            )
        case .invalid, .encrypted, .mismatched:
            throw TLSError(
                code: .badCertificate,
                message: "a certificate in \(chainPlace) cannot be used: \(TLSError.takeReason())"
            )
        }

        var key = try identity.privateKey.load()
        let keyResult = unsafe key.withPEM { unsafe starling_tls_context_set_key(self.pointer, $0, $1) }
        key.erase()
        switch keyResult {
        case .loaded: break
        case .absent:
            throw TLSError(
                code: .badPrivateKey,
                message: "no private key in \(keyPlace): it must hold a block BEGIN PRIVATE KEY (PEM)"
            )
        case .invalid:
            throw TLSError(
                code: .badPrivateKey,
                message: "the private key in \(keyPlace) cannot be used: \(TLSError.takeReason())"
            )
        case .encrypted:
            throw TLSError(
                code: .encryptedPrivateKey,
                message: "the private key in \(keyPlace) is encrypted; write a copy without a passphrase, "
                    + "readable only by the server: openssl pkey -in KEY -out COPY"
            )
        case .mismatched:
            throw TLSError(
                code: .privateKeyMismatch,
                message:
                    "the private key in \(keyPlace) is not that of the first certificate in \(chainPlace); "
                    + "the chain must begin with the server's or client's own certificate"
            )
        }

        // Valid as long as the context, which outlives the copying.
        guard
            let pointer = unsafe starling_tls_context_certificate(self.pointer),
            let certificate = unsafe TLSCertificate(pointer)
        else {
            throw TLSError(
                code: .badCertificate,
                message: "the certificate in \(chainPlace) cannot be read: \(TLSError.takeReason())"
            )
        }
        return certificate
    }

    /// Lets SNI find `other`, or this context itself if nil, by `name`.
    func add(_ name: String, servedBy other: OpaquePointer?) throws(TLSError) {
        if name.isEmpty || name.utf8.count > 255 || name.utf8.contains(0) {
            throw .invalid("\"\(name)\" is no server name: it must have 1 to 255 bytes and no NUL")
        }
        guard unsafe starling_tls_context_add_name(self.pointer, name, other) else {
            throw TLSError(code: .openSSL, message: "cannot add a server name: \(TLSError.takeReason())")
        }
    }
}

// MARK: - Trust

/// The roots that peers are verified against, shared by the contexts of one configuration.
@safe private struct TrustStore: ~Copyable {
    /// An `X509_STORE`, of which each context takes a reference of its own.
    let pointer: OpaquePointer

    init() throws(TLSError) {
        guard let pointer = unsafe starling_tls_store_create() else {
            throw TLSError(code: .openSSL, message: "cannot make a trust store: \(TLSError.takeReason())")
        }
        unsafe self.pointer = pointer
    }

    deinit {
        unsafe starling_tls_store_release(self.pointer)
    }

    func load(_ configuration: TLSConfiguration) throws(TLSError) {
        switch configuration.role {
        case .client:
            switch configuration.trustRoots.source {
            case .system: try self.loadSystem()
            case .pem(let pem): try self.load(pem)
            }
        case .server:
            switch configuration.clientCertificates.demand {
            case .none: break
            case .optional(let pem), .required(let pem): try self.load(pem)
            }
        }
    }

    private func loadSystem() throws(TLSError) {
        guard unsafe starling_tls_store_add_system(self.pointer) else {
            throw .invalid("the operating system's trust roots cannot be used: \(TLSError.takeReason())")
        }
    }

    private func load(_ pem: TLSPEM) throws(TLSError) {
        let bytes = try pem.load()
        // The text is read during the call alone.
        let result = unsafe bytes.withPEM { unsafe starling_tls_store_add_pem(self.pointer, $0, $1) }
        switch result {
        case .loaded: break
        case .absent:
            throw TLSError(
                code: .badCertificate,
                message: "no trust root in \(pem.place): it must hold a block BEGIN CERTIFICATE (PEM)"
            )
        case .invalid, .encrypted, .mismatched:
            throw TLSError(
                code: .badCertificate,
                message: "a trust root in \(pem.place) cannot be used: \(TLSError.takeReason())"
            )
        }
    }
}

extension TLSConfiguration {
    fileprivate var verification: starling_tls_verification {
        switch (self.role, self.clientCertificates.demand) {
        case (.client, _): .required
        case (.server, .none): .none
        case (.server, .optional): .optional
        case (.server, .required): .required
        }
    }
}

// MARK: - PEM

extension TLSPEM {
    /// A system's whole list of roots takes about 220 kB; nothing that is larger than this is a certificate.
    private static let fileBytesMax = 4 << 20

    /// Where the text is, for messages.
    fileprivate var place: String {
        switch self.source {
        case .file(let path): "'\(path)'"
        case .bytes(let bytes): "the \(bytes.count) bytes given"
        }
    }

    fileprivate func load() throws(TLSError) -> [UInt8] {
        switch self.source {
        case .bytes(let bytes): return bytes
        case .file(let path): return try Self.read(path)
        }
    }

    private static func read(_ path: String) throws(TLSError) -> [UInt8] {
        func unreadable(_ why: String) -> TLSError {
            TLSError(code: .fileUnreadable, message: "cannot read '\(path)': \(why)")
        }
        // The path is copied by the kernel. O_NONBLOCK, or a named pipe would hang here.
        let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        if descriptor < 0 { throw unreadable(TLSError.text(errno: errno)) }
        defer { close(descriptor) }
        var status = stat()
        // `status` is written during the call alone.
        if unsafe fstat(descriptor, &status) != 0 { throw unreadable(TLSError.text(errno: errno)) }
        if status.st_mode & S_IFMT != S_IFREG { throw unreadable("it is not a plain file") }
        if status.st_size > Self.fileBytesMax {
            throw unreadable("it is larger than \(Self.fileBytesMax) bytes")
        }

        var failure: Int32 = 0
        // Never writes more than `capacity` bytes, and says how many it wrote.
        let bytes = unsafe [UInt8](unsafeUninitializedCapacity: Int(status.st_size)) { bytes, count in
            while count < bytes.count {
                let received = unsafe Glibc.read(
                    descriptor,
                    bytes.baseAddress?.advanced(by: count),
                    bytes.count - count
                )
                if received < 0 && errno == EINTR { continue }
                if received < 0 { failure = errno }
                if received <= 0 { break }
                count += received
            }
        }
        if failure != 0 { throw unreadable(TLSError.text(errno: failure)) }
        return bytes
    }
}

extension [UInt8] {
    /// Lends the bytes to one of the shim's loaders, which reads them during the call alone.
    fileprivate func withPEM(_ body: (UnsafePointer<UInt8>, Int) -> starling_tls_pem) -> starling_tls_pem {
        unsafe self.withUnsafeBufferPointer { bytes in
            guard let start = bytes.baseAddress else { return .absent }
            return unsafe body(start, bytes.count)
        }
    }

    /// Overwrites a key's text, so that it does not stay in freed memory if the array is the only owner.
    fileprivate mutating func erase() {
        // The whole of the buffer, which is ours for the call.
        unsafe self.withUnsafeMutableBytes { bytes in
            if let start = bytes.baseAddress { unsafe explicit_bzero(start, bytes.count) }
        }
    }
}

#endif
