internal import Logging
internal import StarlingCore

extension ConnectionDriver {
    // MARK: - Decided here

    /// Starts the closing handshake.
    func close(_ index: Int, _ code: CloseCode, reason: String, cause: CloseCause) {
        let slot = unsafe self.slots.pointer(index)
        if unsafe slot.pointee.phase == .leaving { return self.closeLate(index, code, reason: reason) }
        guard unsafe slot.pointee.phase == .open else { return }
        // A code that may not stand in a frame is the application's mistake; it must not become a protocol error.
        let sendable = code.isSendable ? code : .normalClosure
        switch unsafe slot.pointee.closing.close(sendable) {
        case .sendCloseThenWait(let code):
            unsafe slot.pointee.cause = cause
            unsafe slot.pointee.waitingSince = self.now
            self.appendClose(code, reason: reason, to: index)
            // What the peer still sends must be read, or its close frame would never be seen.
            self.readToTheEnd(index)
            self.scheduleDeadline(index)
        case .echoCloseThenShutdown, .shutdown, .ignore: break
        }
    }

    func close(_ id: ConnectionID, _ code: CloseCode, reason: String, cause: CloseCause) {
        if let index = self.index(of: id) { self.close(index, code, reason: reason, cause: cause) }
    }

    /// Tells the peer what it did wrong and ends the stream, without waiting for its close frame (RFC 6455 §7.1.7).
    func fail(_ index: Int, _ code: CloseCode, reason: String, cause: CloseCause) {
        let slot = unsafe self.slots.pointer(index)
        guard unsafe slot.pointee.phase == .open else { return }
        switch unsafe slot.pointee.closing.fail(code) {
        case .echoCloseThenShutdown:
            self.appendClose(code, reason: reason, to: index)
            self.finishAfterFlush(index, cause: cause)
        case .shutdown: unsafe self.finishAfterFlush(index, cause: slot.pointee.cause)
        case .sendCloseThenWait, .ignore: break
        }
        self.noteReason(reason, on: index)
    }

    // MARK: - Decided by the peer

    func violated(_ error: ProtocolError, on index: Int) {
        let isLimit = error.closeCode == .messageTooBig || error.closeCode == .policyViolation
        self.fail(
            index,
            error.closeCode,
            reason: "\(error.reason)",
            cause: isLimit ? .limitExceeded : .protocolViolation
        )
    }

    func receivedClose(_ code: CloseCode?, on index: Int) {
        let slot = unsafe self.slots.pointer(index)
        switch unsafe slot.pointee.closing.receivedClose(code) {
        case .echoCloseThenShutdown(let code):
            self.appendClose(code, reason: "", to: index)
            self.finishAfterFlush(index, cause: .peerClosed)
        case .shutdown: unsafe self.finishAfterFlush(index, cause: slot.pointee.cause)
        case .sendCloseThenWait, .ignore: break
        }
    }

    /// The stream of a WebSocket ended before its closing handshake did.
    func lose(_ index: Int) {
        let slot = unsafe self.slots.pointer(index)
        unsafe slot.pointee.closing.connectionLost()
        let isAnswer = unsafe slot.pointee.cause != .none
        unsafe self.end(index, cause: isAnswer ? slot.pointee.cause : .connectionLost)
    }

    private func appendClose(_ code: CloseCode?, reason: String, to index: Int) {
        var payload: [UInt8] = []
        if let code {
            payload = [UInt8(code.rawValue >> 8), UInt8(code.rawValue & 0xFF)]
            // A control frame carries 125 bytes (RFC 6455 §5.5); cut between characters, so that it stays UTF-8.
            for character in reason.unicodeScalars {
                let encoded = Array(String(character).utf8)
                guard payload.count + encoded.count <= 125 else { break }
                payload += encoded
            }
        }
        unsafe self.appendFrame(.close, payload.span.bytes, to: index)
    }

    // MARK: - The stream's end

    /// Ends the stream once all that waits is written.
    func finishAfterFlush(_ index: Int, cause: CloseCause) {
        let slot = unsafe self.slots.pointer(index)
        if unsafe slot.pointee.cause == .none || slot.pointee.phase == .http {
            unsafe slot.pointee.cause = cause
        }
        unsafe slot.pointee.flags.insert(.finishAfterFlush)
        unsafe slot.pointee.waitingSince = self.now
        self.readToTheEnd(index)
        self.markDirty(index)
        self.scheduleDeadline(index)
    }

    /// All is written: end our direction and wait for the peer's end, so that no reset destroys our last bytes on their
    /// way (RFC 6455 §7.1.1, RFC 9112 §9.6).
    func finishStream(_ index: Int) {
        let slot = unsafe self.slots.pointer(index)
        guard unsafe slot.pointee.phase == .open || slot.pointee.phase == .http else { return }
        unsafe slot.pointee.flags.remove(.finishAfterFlush)
        unsafe slot.pointee.phase = .lingering
        unsafe slot.pointee.waitingSince = self.now
        self.io.shutdownWriting(index)
        self.scheduleDeadline(index)
        // The handler need not wait for the peer's TCP.
        self.ending.append(UInt32(index))
        if unsafe slot.pointee.flags.contains(.streamEnded) {
            unsafe self.end(index, cause: slot.pointee.cause)
        }
    }

    /// The connection is gone.
    ///
    /// Its handler is told, and its slot freed, when the tick ends: never within a call that still uses it.
    func end(_ index: Int, cause: CloseCause) {
        let slot = unsafe self.slots.pointer(index)
        guard unsafe slot.pointee.phase != .free, unsafe !slot.pointee.flags.contains(.ending) else { return }
        if unsafe slot.pointee.cause == .none { unsafe slot.pointee.cause = cause }
        if unsafe slot.pointee.phase == .deciding { self.cancelDecision(of: index) }
        unsafe slot.pointee.closing.connectionLost()
        unsafe slot.pointee.flags.insert(.ending)
        self.explainEnd(of: index)
        unsafe slot.pointee.details?.upgradeSpan?.endWithoutResponse()
        unsafe slot.pointee.details?.upgradeSpan = nil
        unsafe slot.pointee.outbound.removeAll()
        self.ending.append(UInt32(index))
    }

    /// Tells handlers about connections that are over, and frees those that are gone.
    func endConnections() {
        while !self.ending.isEmpty {
            let indices = self.ending
            self.ending = []
            for index in indices { self.settle(Int(index)) }
        }
    }

    private func settle(_ index: Int) {
        let slot = unsafe self.slots.pointer(index)
        guard unsafe slot.pointee.phase != .free else { return }
        if unsafe slot.pointee.flags.contains(.opened), let endpoint = unsafe slot.pointee.endpoint {
            self.explainEnd(of: index)
            unsafe slot.pointee.flags.remove(.opened)
            self.counts.openConnections &-= 1
            unsafe self.counts.closes[slot.pointee.cause] += 1
            self.unsubscribeFromAll(index)
            let code = unsafe slot.pointee.closing.closeCode ?? .abnormalClosure
            endpoint.callbacks.closed(ConnectionContext(self, index), code)
            if !self.recoveries.isEmpty, let closure = self.recoveries[self.id(of: index)] {
                closure.closed(ConnectionContext(self, index).closure(code), driver: self)
            }
            self.removeUser(of: index)
        }
        guard unsafe slot.pointee.flags.contains(.ending) else { return }
        unsafe slot.pointee.details?.attempt?.outcome(.failure(ConnectError(.connectionLost)))
        self.leaveTable(index)
    }

    /// Takes a connection out of all that counts it, closes its descriptor and frees its slot.
    func leaveTable(_ index: Int) {
        let slot = unsafe self.slots.pointer(index)
        self.removeUser(of: index)
        if unsafe slot.pointee.flags.contains(.admitted) {
            unsafe self.server.admission.releaseConnection(from: slot.pointee.address)
        }
        self.resumedSubscriptions[index] = nil
        self.restored.remove(index)
        self.wheel.cancel(index, in: self.slots)
        self.releaseMemory(of: index)
        self.io.close(index)
        self.slots.free(index)
    }

    private func removeUser(of index: Int) {
        guard let details = unsafe self.slots.pointer(index).pointee.details, let user = details.user else {
            return
        }
        details.user = nil
        self.server.admission.releaseUser(user)
        self.server.configuration.cluster?.gone(user)
        self.users[user]?.removeAll { $0 == UInt32(index) }
        if self.users[user]?.isEmpty == true { self.users[user] = nil }
    }

    /// Keeps why a connection ends, for the log; the first reason counts.
    func noteReason(_ reason: @autoclosure () -> String, on index: Int) {
        guard self.server.logger.logLevel <= .debug else { return }
        let reason = reason()
        guard !reason.isEmpty, self.details(of: index).endReason.isEmpty else { return }
        self.details(of: index).endReason = reason
    }

    /// Says once for every connection, WebSocket or not, how it ended: who ended it, why, and what was left over.
    private func explainEnd(of index: Int) {
        let slot = unsafe self.slots.pointer(index)
        guard unsafe !slot.pointee.flags.contains(.explained) else { return }
        unsafe slot.pointee.flags.insert(.explained)
        guard self.server.logger.logLevel <= .debug else { return }
        let cause = unsafe slot.pointee.cause
        let received = unsafe slot.pointee.bytesReceived
        let sent = unsafe slot.pointee.bytesSent
        let buffered = unsafe slot.pointee.outbound.byteCount
        let address = unsafe slot.pointee.address
        let age = unsafe (self.now - slot.pointee.openedAt).seconds
        var metadata: Logger.Metadata = [
            LoggingKeys.connection: "\(self.id(of: index))",
            LoggingKeys.remoteAddress: "\(address)",
            LoggingKeys.closedBy: "\(cause.closedBy)",
            LoggingKeys.cause: "\(cause)",
            LoggingKeys.ageSeconds: "\(age)",
            LoggingKeys.bytesReceived: "\(received)",
            LoggingKeys.bytesSent: "\(sent)",
            LoggingKeys.bufferedBytes: "\(buffered)",
        ]
        if unsafe slot.pointee.flags.contains(.opened) {
            let code = unsafe slot.pointee.closing.closeCode ?? .abnormalClosure
            metadata[LoggingKeys.closeCode] = "\(code)"
        }
        if let details = unsafe slot.pointee.details {
            // What a peer says counts where it was the one to close.
            let reason =
                details.endReason.isEmpty && cause == .peerClosed ? details.closeReason : details.endReason
            if !reason.isEmpty { metadata[LoggingKeys.reason] = "\(reason)" }
        }
        self.server.logger.debug("connection closed", metadata: metadata)
    }

    // MARK: - Tasks

    /// Starts an async handler's task for a connection that has just opened.
    func start(_ connection: AsyncConnection, _ body: @escaping @Sendable (WebSocket) async throws -> Void) {
        self.taskCount += 1
        connection.start(body)
    }

    /// Starts one more body for a connection that has ended, in place of the one that has returned.
    func startLast(
        _ connection: AsyncConnection,
        _ body: @escaping @Sendable (WebSocket) async throws -> Void
    ) {
        connection.start(body)
        if self.drain?.isDeadlineServed == true { connection.cancel() }
    }

    /// A task has returned: its connection, if it still lives, is closed.
    func taskReturned(_ connection: AsyncConnection, failed: Bool) {
        self.taskCount -= 1
        self.stragglers[connection.id] = nil
        if failed {
            self.close(connection.id, .internalError, reason: "", cause: .handlerFailed)
        } else {
            self.close(connection.id, .normalClosure, reason: "", cause: .applicationClosed)
        }
    }
}
