#if os(Linux)

internal import COpenSSL

/// One TLS connection over a connected, non-blocking socket; what it writes may go to a ``TLSSink`` instead.
///
/// Eight bytes: it owns an OpenSSL `SSL` and nothing else. The socket stays its owner's, who closes it after
/// the session is gone. Belongs to one event loop and is used on its thread alone. Nothing blocks, and
/// reading and writing allocate nothing but the record buffers that OpenSSL takes while bytes are in them.
///
/// The order of calls is: ``handshake()`` until it is done, then ``read(into:)`` and ``write(_:)`` in any
/// order, at last ``shutdown()``. `wantsRead` and `wantsWrite` say what the socket must become before the
/// same call is made again; either call may want either, for a read may have to answer a key update first.
/// After `failed` only ``shutdown()`` and the end are left.
@safe package struct TLSSession: ~Copyable {
    private let pointer: OpaquePointer

    /// A session that has not begun its handshake.
    ///
    /// - Parameters:
    ///   - context: What the session shows and trusts, as it is now; a later reload does not touch it.
    ///   - descriptor: The connected socket.
    ///   - serverName: For a client, the host name or address it connects to: sent as SNI, and checked. The
    ///     configuration's own `serverName` goes before it. A server ignores it.
    /// - Throws: ``TLSError`` with `serverNameMissing` for a client that should check a name and has none.
    package init(
        _ context: TLSContext,
        descriptor: Int32,
        serverName: String? = nil
    ) throws(TLSError) {
        unsafe self.pointer = try context.makeSession(descriptor: descriptor, serverName: serverName)
    }

    deinit {
        // The only owner. Nothing is sent: that is shutdown's.
        unsafe starling_tls_session_free(self.pointer)
    }

    // Each call below hands OpenSSL the session that it owns, which lives until deinit; `mutating` makes the
    // compiler see to it that no two calls overlap.

    /// Takes the handshake as far as the socket allows.
    ///
    /// A failure has sent its alert, as far as the socket took it, except for `plaintext` and `notTLS`, after
    /// which nothing was sent. To let the peer read an alert, shut the socket down for writing before closing
    /// it.
    package mutating func handshake() -> TLSHandshakeResult {
        let result = unsafe starling_tls_handshake(self.pointer)
        switch result.outcome {
        case .done: return .done
        case .wants_read: return .wantsRead
        case .wants_write: return .wantsWrite
        case .closed, .truncated: return .failed(.closedDuringHandshake)
        case .failed: return .failed(TLSFailure(result))
        }
    }

    /// Reads decrypted bytes: at most one record's, so at most 16,384.
    ///
    /// The session reads ahead: after `.bytes`, more may wait in it that the poller knows nothing of. Read until
    /// `wantsRead`; or ask ``hasBufferedInput`` after `.bytes`: if true, come back without waiting for the
    /// socket; if false, a level-triggered poller says when there is more, and a system call is saved.
    ///
    /// - Parameter buffer: Where to put the bytes; not empty.
    /// - Returns: How many bytes were put there, or why none.
    package mutating func read(into buffer: UnsafeMutableRawBufferPointer) -> TLSReadResult {
        guard let start = buffer.baseAddress, buffer.count > 0 else {
            preconditionFailure("read into an empty buffer")
        }
        // Writes at most `count` bytes, during the call alone.
        let result = unsafe starling_tls_read(self.pointer, start, buffer.count)
        switch result.outcome {
        case .done: return .bytes(Int(result.value))
        case .wants_read: return .wantsRead
        case .wants_write: return .wantsWrite
        case .closed: return .closed
        case .truncated: return .eof
        case .failed: return .failed(TLSFailure(result))
        }
    }

    /// Encrypts and sends bytes from the front of `buffer`, in records of up to 16,384 bytes.
    ///
    /// May take fewer bytes than given. After `wantsWrite` or `wantsRead` a record of these bytes may already
    /// be encrypted: the next write must begin with the same bytes and be no shorter, though they may have
    /// moved.
    package mutating func write(_ buffer: UnsafeRawBufferPointer) -> TLSWriteResult {
        guard let start = buffer.baseAddress, buffer.count > 0 else { return .bytes(0) }
        // Reads at most `count` bytes, during the call alone.
        let result = unsafe starling_tls_write(self.pointer, start, buffer.count)
        switch result.outcome {
        case .done: return .bytes(Int(result.value))
        case .wants_read: return .wantsRead
        case .wants_write: return .wantsWrite
        case .closed, .truncated: return .failed(.connectionLost)
        case .failed: return .failed(TLSFailure(result))
        }
    }

    /// Sends close_notify (RFC 8446 §6.1), after which nothing can be written; reading goes on.
    ///
    /// Everything to be said must have been written before: a record that is still waiting for the socket
    /// makes this fail. It does not wait for the peer's close_notify, which ``read(into:)`` reports as
    /// `.closed`.
    package mutating func shutdown() -> TLSShutdownResult {
        let result = unsafe starling_tls_shutdown(self.pointer)
        switch result.outcome {
        case .done: return .sent
        case .wants_write: return .wantsWrite
        case .wants_read: preconditionFailure("sending close_notify reads nothing")
        case .closed, .truncated: return .failed(.connectionLost)
        case .failed: return .failed(TLSFailure(result))
        }
    }

    /// How many decrypted bytes the next ``read(into:)`` can return without touching the socket.
    package var pendingByteCount: Int {
        unsafe starling_tls_pending(self.pointer)
    }

    /// Whether bytes taken from the socket wait in the session, decrypted or not.
    ///
    /// Ask only after `.bytes`. After `wantsRead` it may be true of a record of which only a part has come,
    /// and nothing can be done but to wait for the rest.
    package var hasBufferedInput: Bool {
        unsafe starling_tls_has_buffered_input(self.pointer)
    }

    /// The protocol chosen by ALPN; nil before the end of the handshake, and if the client offered none.
    package var applicationProtocol: String? {
        var count = 0
        guard let start = unsafe starling_tls_protocol(self.pointer, &count), count > 0 else { return nil }
        // Valid until the session's next handshake call; copied here.
        return unsafe String(decoding: UnsafeBufferPointer(start: start, count: count), as: UTF8.self)
    }

    /// The version in use, after the handshake.
    package var version: TLSVersion {
        unsafe TLSVersion(code: starling_tls_version(self.pointer))
    }

    /// The name of the cipher in use, after the handshake.
    package var cipher: String? {
        // A static text.
        unsafe starling_tls_cipher(self.pointer).map { unsafe String(cString: $0) }
    }

    /// The name that the client asked for by SNI.
    ///
    /// Not verified: a client writes what it likes.
    package var serverName: String? {
        // Valid until the session's next handshake call; copied here.
        unsafe starling_tls_server_name(self.pointer).map { unsafe String(cString: $0) }
    }

    /// Whether an earlier session was resumed by its ticket, without certificates being sent.
    package var wasResumed: Bool {
        unsafe starling_tls_was_resumed(self.pointer)
    }

    /// The peer's certificate, verified against the trust roots; nil if it showed none.
    ///
    /// Copies the certificate: ask once.
    package var peerCertificate: TLSCertificate? {
        guard let certificate = unsafe starling_tls_peer_certificate(self.pointer) else { return nil }
        defer { unsafe starling_tls_certificate_release(certificate) }
        return unsafe TLSCertificate(certificate)
    }
}

@available(*, unavailable)
extension TLSSession: Sendable {}

/// How far a handshake came.
package enum TLSHandshakeResult: Hashable, Sendable {
    /// Both sides are ready; a server of TLS 1.3 has seen the client's certificate, a client not yet what the
    /// server thinks of it.
    case done
    /// Call again once the socket is readable.
    case wantsRead
    /// Call again once the socket is writable.
    case wantsWrite
    /// There is no connection.
    case failed(TLSFailure)
}

/// What a read brought.
package enum TLSReadResult: Hashable, Sendable {
    /// This many bytes, at least one.
    case bytes(Int)
    /// Nothing until the socket is readable.
    case wantsRead
    /// Nothing until the socket is writable.
    case wantsWrite
    /// The peer sent close_notify and will send no more; it may still read.
    case closed
    /// The connection ended without close_notify: what came last may not have been the end (RFC 8446 §6.1).
    case eof
    /// The connection is unusable.
    case failed(TLSFailure)
}

/// What a write took.
package enum TLSWriteResult: Hashable, Sendable {
    /// This many bytes from the front.
    case bytes(Int)
    /// Nothing until the socket is readable.
    case wantsRead
    /// Nothing until the socket is writable.
    case wantsWrite
    /// The connection is unusable.
    case failed(TLSFailure)
}

/// Whether close_notify went out.
package enum TLSShutdownResult: Hashable, Sendable {
    /// It is in the socket.
    case sent
    /// The socket is full: call again once it is writable, or close without.
    case wantsWrite
    /// It cannot be sent; close the socket.
    case failed(TLSFailure)
}

#endif
