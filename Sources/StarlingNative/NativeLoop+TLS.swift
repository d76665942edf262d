#if os(Linux)
internal import Glibc
internal import Starling

/// OpenSSL stands between the sockets and the driver.
extension NativeLoop {
    /// What a handshake under way is taken to hold: OpenSSL's session, a record in each direction, and what is read of a flight.
    static let handshakeByteCount = 32 << 10

    func setHandshaking(_ isOn: Bool, _ index: Int) {
        let connection = unsafe self.connections.pointer(index)
        guard unsafe connection.pointee.flags.contains(.handshaking) != isOn else { return }
        unsafe connection.pointee.flags.set(.handshaking, isOn)
        self.server.memory.charge(isOn ? Self.handshakeByteCount : -Self.handshakeByteCount)
    }

    /// Goes on with a handshake; whether it is done.
    func continueHandshake(_ index: Int, _ driver: ConnectionDriver) -> Bool {
        guard let result = unsafe self.connections.session(index)?.pointee?.handshake() else { return true }
        switch result {
        case .done:
            self.setHandshaking(false, index)
            self.setWriting(false, index)
            // Data may have come with the handshake's last flight; epoll will not speak of it.
            if self.holdsInput(index) { self.pending.append(index) }
            return true
        case .wantsRead: self.setWriting(false, index)
        case .wantsWrite: self.setWriting(true, index)
        case .failed(let failure): self.handshakeFailed(failure, index, driver)
        }
        return false
    }

    /// Ends a connection whose TLS has sent its alert: gracefully, because a reset could destroy the alert on its way.
    private func handshakeFailed(_ failure: TLSFailure, _ index: Int, _ driver: ConnectionDriver) {
        // What still comes is for nobody, and is thrown away as plain bytes.
        unsafe self.connections.session(index)?.pointee = nil
        self.setHandshaking(false, index)
        self.setWriting(false, index)
        switch failure.kind {
        case .connectionLost: driver.failed(index, reason: "TLS: \(failure)")
        // Nothing was sent, and somebody who typed `http:` for `https:` can read this.
        case .plaintext: driver.refuse(index, malformed: "This port speaks TLS: use https or wss.")
        default: driver.finishUnusable(index, .tlsFailed, reason: "TLS: \(failure)")
        }
    }

    func readEncrypted(_ index: Int, _ driver: ConnectionDriver) {
        let connection = unsafe self.connections.pointer(index)
        guard unsafe !connection.pointee.flags.contains(.handshaking),
            let result = unsafe self.connections.session(index)?.pointee?.read(into: self.receiveBuffer)
        else { return }
        switch result {
        case .bytes(let count):
            let token = self.connections.token(index)
            self.deliver(count, to: index, driver)
            // OpenSSL may hold more that is already decrypted, of which epoll will not speak.
            if self.connections.index(ofToken: token) != nil, self.holdsInput(index) {
                self.pending.append(index)
            }
        case .wantsRead: break
        case .wantsWrite:
            // The answer to a key update must go out first. Then nothing need arrive for the read to go on.
            unsafe connection.pointee.flags.insert(.retriesReadOnWrite)
            self.setWriting(true, index)
        case .closed, .eof: self.ended(index, driver)
        case .failed: driver.failed(index)
        }
    }

    /// Whether OpenSSL has bytes of a connection that are not delivered yet.
    private func holdsInput(_ index: Int) -> Bool {
        unsafe self.connections.session(index)?.pointee?.hasBufferedInput == true
    }

    func writeEncrypted(_ bytes: RawSpan, to index: Int) -> WriteResult {
        let (connection, session) = unsafe (self.connections.pointer(index), self.connections.session(index))
        var written = 0
        // A record holds 16 KiB: several are written, until the socket takes no more.
        while written < bytes.byteCount {
            let rest = bytes.extracting(droppingFirst: written)
            let result = unsafe rest.withUnsafeBytes { unsafe session?.pointee?.write($0) }
            switch result {
            case .bytes(let count): written += count
            case .wantsWrite:
                self.setWriting(true, index)
                return .wrote(written)
            case .wantsRead:
                unsafe connection.pointee.flags.insert(.retriesWriteOnRead)
                return .wrote(written)
            case .failed, nil: return .failed
            }
        }
        return .wrote(written)
    }
}
#endif
