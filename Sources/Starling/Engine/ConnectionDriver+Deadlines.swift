internal import HTTPTypes
internal import StarlingCore

extension ConnectionDriver {
    /// Puts a connection into the wheel for the next moment at which something about it is due.
    func scheduleDeadline(_ index: Int) {
        guard let due = self.nextDeadline(of: index) else {
            self.wheel.cancel(index, in: self.slots)
            return
        }
        self.wheel.schedule(index, at: due, in: self.slots)
    }

    /// Something is due: does it, and schedules what comes next.
    ///
    /// Messages and pongs move deadlines without touching the wheel, so that often nothing is due after all.
    func deadlineReached(_ index: Int) {
        let slot = unsafe self.slots.pointer(index)
        guard unsafe !slot.pointee.flags.contains(.ending) else { return }
        switch unsafe slot.pointee.phase {
        case .free, .leaving: return
        case .http: self.serveHandshakeDeadline(index)
        case .connecting: self.serveConnectDeadline(index)
        case .deciding: self.serveDecisionDeadline(index)
        case .lingering:
            if unsafe self.isDue(slot.pointee.waitingSince + self.server.lingerTimeout) {
                unsafe self.end(index, cause: slot.pointee.cause)
            }
        case .open: self.serveOpenDeadlines(index)
        }
        if unsafe slot.pointee.phase != .free, unsafe !slot.pointee.flags.contains(.ending) {
            self.scheduleDeadline(index)
        }
    }

    /// How long until a connection's next deadline, at most `limit`; for a loop of few connections.
    func timeUntilNextDeadline(atMost limit: LoopInterval) -> LoopInterval {
        var shortest = limit.hundredths
        for index in 0..<self.slots.usedCapacity where unsafe self.slots.pointer(index).pointee.phase != .free
        {
            guard let due = self.nextDeadline(of: index) else { continue }
            shortest = min(shortest, self.now.isBefore(due) ? (due - self.now).hundredths : 0)
        }
        return LoopInterval(hundredths: shortest)
    }

    func isDue(_ instant: LoopInstant) -> Bool {
        !self.now.isBefore(instant)
    }

    // MARK: - A loop that was deaf

    /// A tick of such length counts as deafness: what peers sent meanwhile may still lie in their sockets, and a later tick reads it.
    static var deafTickNanoseconds: UInt64 { 1_000_000_000 }

    /// Remembers when a long tick was over.
    func noteDeafness() {
        if self.wasDeaf {
            self.wasDeaf = false
            self.deafUntil = self.now
        } else if let until = self.deafUntil, (self.now - until).hundredths > 360_000 {
            // Instants wrap: an old one would become a future one.
            self.deafUntil = nil
        }
    }

    /// From when on a peer's silence counts that began at `instant`: not the time in which nobody listened.
    private func silence(since instant: LoopInstant) -> LoopInstant {
        guard let until = self.deafUntil, instant.isBefore(until) else { return instant }
        return until
    }

    /// Until now nobody has listened to a connection, and nothing could be written to it.
    func restartSilence(of index: Int) {
        let slot = unsafe self.slots.pointer(index)
        if unsafe slot.pointee.phase == .open { unsafe slot.pointee.waitingSince = self.now }
        if unsafe slot.pointee.flags.contains(.awaitingPong) { unsafe slot.pointee.pingedAt = self.now }
    }

    private func nextDeadline(of index: Int) -> LoopInstant? {
        let slot = unsafe self.slots.pointer(index)
        switch unsafe slot.pointee.phase {
        case .free, .leaving: return nil
        case .http, .connecting: return unsafe slot.pointee.waitingSince + self.server.handshakeTimeout
        case .lingering: return unsafe slot.pointee.waitingSince + self.server.lingerTimeout
        case .deciding:
            if unsafe slot.pointee.details?.isAwaitingTurn == true {
                return unsafe slot.pointee.waitingSince + self.server.upgradeQueueTimeout
            }
            return unsafe slot.pointee.endpoint.map {
                unsafe slot.pointee.waitingSince + $0.authenticationTimeout
            }
        case .open: break
        }
        guard let endpoint = unsafe slot.pointee.endpoint else { return nil }
        var next: LoopInstant?
        func consider(_ due: LoopInstant?) {
            if let due, next.map(due.isBefore) ?? true { next = due }
        }
        if unsafe slot.pointee.flags.contains(.writeBlocked) {
            unsafe consider(self.silence(since: slot.pointee.waitingSince) + endpoint.writeTimeout)
        }
        guard unsafe slot.pointee.closing.isOpen else {
            unsafe consider(slot.pointee.waitingSince + endpoint.closeTimeout)
            return next
        }
        if unsafe slot.pointee.flags.contains(.awaitingPong) {
            unsafe consider(self.silence(since: slot.pointee.pingedAt) + endpoint.pongTimeout)
        } else if let interval = endpoint.pingInterval, unsafe !slot.pointee.flags.contains(.writeBlocked) {
            unsafe consider(slot.pointee.pingedAt + interval)
        }
        if unsafe slot.pointee.readingPauses.contains(.rate) {
            unsafe consider(slot.pointee.traffic?.pausedUntil)
        } else if let idle = endpoint.idleTimeout {
            unsafe consider(slot.pointee.lastMessageAt + idle)
        }
        if let deflate = unsafe slot.pointee.details?.deflate, deflate.hasWindow,
            let timeout = endpoint.compressionWindowTimeout
        {
            consider(deflate.usedAt + timeout)
        }
        if let lifetime = endpoint.lifetimeMax { unsafe consider(slot.pointee.openedAt + lifetime) }
        return next
    }

    private func serveHandshakeDeadline(_ index: Int) {
        let slot = unsafe self.slots.pointer(index)
        guard unsafe self.isDue(slot.pointee.waitingSince + self.server.handshakeTimeout) else { return }
        // A connection that is kept for a further request has asked for nothing: it is closed without a word, and so
        // is one that takes no response.
        let hasAsked = unsafe slot.pointee.details.map { $0.headReader.byteCount > 0 } ?? false
        guard hasAsked, unsafe !slot.pointee.flags.contains(.finishAfterFlush) else {
            return self.end(index, cause: .handshakeTimeout)
        }
        self.refuse(
            index,
            .text("The request's head did not arrive in time.\n", status: .requestTimeout),
            .handshakeTimeout
        )
    }

    private func serveDecisionDeadline(_ index: Int) {
        let slot = unsafe self.slots.pointer(index)
        if unsafe slot.pointee.details?.isAwaitingTurn == true {
            if unsafe self.isDue(slot.pointee.waitingSince + self.server.upgradeQueueTimeout) {
                self.stopWaiting(index)
            }
            return
        }
        guard let endpoint = unsafe slot.pointee.endpoint,
            unsafe self.isDue(slot.pointee.waitingSince + endpoint.authenticationTimeout)
        else { return }
        self.cancelDecision(of: index)
        self.refuse(
            index,
            Self.busy("The server did not decide in time.\n", retryAfter: self.randomRetryDelay()),
            .authenticationTimeout
        )
    }

    private func serveOpenDeadlines(_ index: Int) {
        let slot = unsafe self.slots.pointer(index)
        guard let endpoint = unsafe slot.pointee.endpoint else { return }
        if unsafe slot.pointee.flags.contains(.writeBlocked),
            unsafe self.isDue(self.silence(since: slot.pointee.waitingSince) + endpoint.writeTimeout)
        {
            self.end(index, cause: .writeTimeout)
            return
        }
        guard unsafe slot.pointee.closing.isOpen else {
            if unsafe self.isDue(slot.pointee.waitingSince + endpoint.closeTimeout) {
                if unsafe slot.pointee.cause == .applicationClosed {
                    unsafe slot.pointee.cause = .closeTimeout
                }
                self.end(index, cause: .closeTimeout)
            }
            return
        }
        if let lifetime = endpoint.lifetimeMax, unsafe self.isDue(slot.pointee.openedAt + lifetime) {
            return self.close(
                index,
                .goingAway,
                reason: "the connection has reached its age",
                cause: .lifetimeReached
            )
        }
        if unsafe slot.pointee.readingPauses.contains(.rate) {
            if let until = unsafe slot.pointee.traffic?.pausedUntil, self.isDue(until) {
                // The pause was not the peer's silence.
                unsafe slot.pointee.lastMessageAt = self.now
                self.resumeReading(index, from: .rate)
            }
        } else if let idle = endpoint.idleTimeout, unsafe self.isDue(slot.pointee.lastMessageAt + idle) {
            if unsafe slot.pointee.readingPauses.isEmpty {
                return self.close(index, .goingAway, reason: "no message for too long", cause: .idleTimeout)
            }
            // What it has sent may wait in the socket, because we do not read.
            unsafe slot.pointee.lastMessageAt = self.now
        }
        if let deflate = unsafe slot.pointee.details?.deflate, deflate.hasWindow,
            let timeout = endpoint.compressionWindowTimeout, self.isDue(deflate.usedAt + timeout)
        {
            deflate.releaseIdleWindow()
            self.chargeMemory(of: index)
        }
        self.servePing(index, endpoint)
    }

    private func servePing(_ index: Int, _ endpoint: LoopEndpoint) {
        let slot = unsafe self.slots.pointer(index)
        if unsafe slot.pointee.flags.contains(.awaitingPong) {
            // A connection that we do not read, or that has not been given the ping yet, cannot show that it lives; it must not die of
            // that. Who takes no bytes at all has another deadline.
            if unsafe !slot.pointee.readingPauses.isEmpty || slot.pointee.flags.contains(.writeBlocked) {
                unsafe slot.pointee.pingedAt = self.now
            } else if unsafe self.isDue(self.silence(since: slot.pointee.pingedAt) + endpoint.pongTimeout) {
                self.end(index, cause: .pingTimeout)
            }
            return
        }
        guard let interval = endpoint.pingInterval, unsafe !slot.pointee.flags.contains(.writeBlocked),
            unsafe self.isDue(slot.pointee.pingedAt + interval)
        else { return }
        // Whatever has arrived since is as good as a pong.
        let heardAt = unsafe slot.pointee.lastReceivedAt
        if unsafe slot.pointee.messagesReceived > 0, self.now.isBefore(heardAt + interval) {
            unsafe slot.pointee.pingedAt = heardAt
            return
        }
        unsafe slot.pointee.pingedAt = self.now
        unsafe slot.pointee.flags.insert(.awaitingPong)
        let nothing: [UInt8] = []
        unsafe self.appendFrame(.ping, nothing.span.bytes, to: index)
        self.counts.pings &+= 1
    }

    /// Sends a ping that a task waits for.
    func sendPing(_ connection: AsyncConnection, number: UInt32) {
        guard let index = self.index(of: connection.id), self.isServed(index) else { return }
        self.details(of: index).pinger = connection
        let payload = unsafe withUnsafeBytes(of: number) { unsafe Array($0) }
        unsafe self.appendFrame(.ping, payload.span.bytes, to: index)
    }
}
