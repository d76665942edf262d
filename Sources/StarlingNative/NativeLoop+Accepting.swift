#if os(Linux)
internal import CStarlingLinux
internal import Glibc
internal import Starling

/// Connections are accepted, or turned away.
extension NativeLoop {
    func watchListener(_ number: Int) {
        let listener = self.listeners[number]
        _ = self.epoll.add(
            listener.descriptor,
            Self.listenerTokens.upperBound - UInt64(number),
            listener.isShared ? starling_trigger_exclusive : starling_trigger_level
        )
    }

    func acceptConnections(ofToken token: UInt64, _ driver: ConnectionDriver, _ now: UInt64) {
        let number = Int(Self.listenerTokens.upperBound - token)
        guard self.listeners.indices.contains(number) else { return }
        // Of a listener that loops share each takes what it can begin with, so that the others get some too.
        let most = self.listeners[number].isShared ? Self.arrivalsPerTick : Self.acceptsPerTick
        for _ in 0..<most {
            guard self.listeners.indices.contains(number), self.arrivals.count < Self.arrivalsMax else {
                return
            }
            let listener = self.listeners[number]
            var storage = sockaddr_storage()
            var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
            let descriptor = unsafe starling_accept(listener.descriptor, &storage, &length)
            if descriptor < 0 {
                switch -descriptor {
                case EAGAIN: return
                case EMFILE, ENFILE, ENOBUFS, ENOMEM:
                    // The connection stays in the kernel's queue, where level-triggered epoll would report it again
                    // and again: look away for a while.
                    unsafe self.pauseAccepting(String(cString: strerror(-descriptor)), at: now, driver)
                    return
                default: continue
                }
            }
            self.arrivals.append((descriptor, Syscalls.remoteAddress(storage)))
        }
    }

    /// Begins to listen to connections that were accepted, a few per tick.
    func takeArrivals(_ driver: ConnectionDriver) {
        var left = Self.arrivalsPerTick
        while left > 0, !self.arrivals.isEmpty {
            let arrival = self.arrivals.removeFirst()
            self.accepted(arrival.descriptor, arrival.address, driver)
            left -= 1
        }
    }

    /// Takes a connection into the table, and serves it, unless the loop pauses.
    func accepted(_ descriptor: Int32, _ address: RemoteAddress, _ driver: ConnectionDriver) {
        let handshakeByteCount = self.tls == nil ? 0 : Self.handshakeByteCount
        guard let index = driver.accept(from: address, handshakeByteCount: handshakeByteCount) else {
            return self.turnAway(descriptor)
        }
        self.connections.open(index, descriptor)
        if driver.expectsProxyProtocol { self.proxyHeaders[index] = ProxyHeaderReader() }
        if let tls = self.tls {
            do {
                unsafe self.connections.encryption(index)?.pointee.session = try TLSSession(
                    tls,
                    descriptor: descriptor
                )
                self.setHandshaking(true, index)
            } catch {
                driver.failed(index)
                return
            }
        }
        unsafe self.connections.pointer(index).pointee.flags.insert(.newcomer)
        if self.tls == nil, !driver.expectsProxyProtocol, !self.isPaused {
            // Most have asked already: then they never see the lobby.
            self.unwatched = index
            self.read(index, driver)
            self.unwatched = nil
        }
        if !self.watch(index) { driver.failed(index) }
    }

    /// Ends a connection that there is no room for; nothing is kept of it, so that a flood of them costs little.
    private func turnAway(_ descriptor: Int32) {
        // Over TLS a response would need a handshake first.
        if self.tls == nil {
            _ = unsafe self.server.fullResponse.withUnsafeBytes {
                unsafe send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
            }
            _ = shutdown(descriptor, Int32(SHUT_WR))
            // Unread bytes would turn the close into a reset, which may destroy the response on its way.
            _ = unsafe recv(descriptor, self.receiveBuffer.baseAddress, Self.receiveByteCount, 0)
        }
        _ = Glibc.close(descriptor)
    }

    /// Answers those that nobody has looked at, or even accepted: closing the listener would reset them.
    private func turnAwayWaiting(_ listener: Listener) {
        while !self.arrivals.isEmpty { self.turnAway(self.arrivals.removeFirst().descriptor) }
        for _ in 0..<Listener.backlog {
            var storage = sockaddr_storage()
            var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
            let descriptor = unsafe starling_accept(listener.descriptor, &storage, &length)
            guard descriptor >= 0 else { return }
            self.turnAway(descriptor)
        }
    }

    private func pauseAccepting(_ reason: String, at now: UInt64, _ driver: ConnectionDriver) {
        guard !self.listeners.isEmpty, self.acceptResumesAt == nil else { return }
        for listener in self.listeners { self.forget(listener) }
        self.acceptResumesAt = now + Self.acceptPauseNanoseconds
        driver.acceptPaused(reason)
    }

    func resumeAccepting(at now: UInt64) {
        guard let time = self.acceptResumesAt, now >= time else { return }
        self.acceptResumesAt = nil
        for number in self.listeners.indices { self.watchListener(number) }
    }

    func stopListening() {
        // While connections are on their way to another process, or from one, it is not decided whose the listeners are: see
        // `endPause`. A loop that was to take over, and has not, leaves them to the process that serves.
        if self.isPaused, !self.mustEnd { return }
        self.closeListeners(areGone: !self.isTakingOver)
    }

    /// Listens no more; `areGone` says that nobody else has the listeners.
    func closeListeners(areGone: Bool) {
        let listeners = self.listeners
        self.listeners = []
        for listener in listeners {
            // Closing alone does not take it out of the epoll if another process has it too.
            if self.acceptResumesAt == nil { self.forget(listener) }
            // A Unix socket's listener is every loop's, and is closed when the last one has ended. Nobody can connect from now on, and
            // who waits can be accepted still.
            if areGone, listener.isShared { _ = shutdown(listener.descriptor, Int32(SHUT_RDWR)) }
            if areGone { self.turnAwayWaiting(listener) }
            if !listener.isShared { _ = Glibc.close(listener.descriptor) }
        }
        self.acceptResumesAt = nil
    }

    private func forget(_ listener: Listener) {
        self.epoll.remove(listener.descriptor)
    }
}
#endif
