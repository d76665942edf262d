internal import Logging
internal import StarlingCore
internal import StarlingDeflate

/// How a peer's input ended, within the protocol or against it.
enum InputEnd {
    case closed(CloseCode?, reason: String)
    case violated(ProtocolError)
}

extension ConnectionDriver {
    /// Bytes arrived.
    ///
    /// They are decoded where they are; what is left of a frame is kept by the connection.
    public func received(_ bytes: inout MutableRawSpan, on index: Int) {
        let slot = unsafe self.slots.pointer(index)
        // What a transport had read already when the connection was ended is for nobody.
        if unsafe slot.pointee.flags.contains(.ending) { return }
        self.unansweredByteCount &+= bytes.byteCount
        self.counts.bytesReceived &+= UInt64(bytes.byteCount)
        unsafe slot.pointee.bytesReceived &+= UInt64(bytes.byteCount)
        let elapsed = unsafe self.now - slot.pointee.lastReceivedAt
        unsafe slot.pointee.lastReceivedAt = self.now
        unsafe slot.pointee.flags.remove(.awaitingPong)
        switch unsafe slot.pointee.phase {
        case .open:
            if self.isUndecoded(index) {
                self.receiveBehindStash(bytes.bytes, on: index, after: elapsed)
            } else {
                self.receiveFrames(&bytes, on: index, after: elapsed)
            }
            if unsafe slot.pointee.codec.holdsPartialInput || slot.pointee.chargedByteCount > 0
                || slot.pointee.readingPauses.contains(.undecoded)
            {
                self.chargeMemory(of: index)
            }
        case .http:
            self.receiveHead(&bytes, on: index)
            self.chargeMemory(of: index)
        case .connecting: self.receiveResponse(&bytes, on: index)
        case .deciding:
            self.stash(bytes.bytes, on: index)
            self.chargeMemory(of: index)
        case .leaving, .lingering, .free: break
        }
        if self.unansweredByteCount >= Self.unansweredByteCountMax {
            self.answerEarly()
        } else if self.messages.copyCount >= MessagePool.copiesMax {
            self.runTasksEarly()
        }
    }

    /// The peer ended its direction of the stream.
    public func readingEnded(_ index: Int) {
        let slot = unsafe self.slots.pointer(index)
        switch unsafe slot.pointee.phase {
        case .lingering: unsafe self.end(index, cause: slot.pointee.cause)
        case .http, .deciding: self.end(index, cause: .connectionLost)
        case .connecting: self.responseEnded(index)
        case .open:
            if self.isUndecoded(index) {
                self.details(of: index).endsBehindStash = true
                return
            }
            // The peer's close frame may have come with the end, and counts first. It may still read the answer, which goes
            // out when the tick ends, behind what the application sends in reply to earlier messages.
            if unsafe slot.pointee.flags.contains(.inputEnded) {
                unsafe slot.pointee.flags.insert(.streamEnded)
            } else {
                self.lose(index)
            }
        case .leaving, .free: break
        }
    }

    /// The connection broke, or must be ended at once.
    ///
    /// - Parameters:
    ///   - index: The connection.
    ///   - cause: Why, for logs and metrics.
    ///   - reason: The same for humans; made only if it is logged.
    public func failed(
        _ index: Int,
        _ cause: CloseCause = .connectionLost,
        reason: @autoclosure () -> String = ""
    ) {
        let slot = unsafe self.slots.pointer(index)
        guard unsafe slot.pointee.phase != .free else { return }
        self.noteReason(reason(), on: index)
        if cause != .connectionLost, unsafe slot.pointee.cause == .none {
            unsafe slot.pointee.cause = cause
        }
        guard unsafe slot.pointee.phase == .open else { return self.readingEnded(index) }
        // The peer's close frame may have come with the end, and counts first.
        if unsafe slot.pointee.flags.contains(.inputEnded) { self.answerInputEnd(of: index) }
        self.lose(index)
    }

    /// `elapsed` is the time since something was received before.
    func receiveFrames(
        _ bytes: inout MutableRawSpan,
        on index: Int,
        after elapsed: LoopInterval = LoopInterval(hundredths: 0)
    ) {
        let slot = unsafe self.slots.pointer(index)
        guard let reference = unsafe slot.pointee.endpointReference else { return }
        unsafe reference._withUnsafeGuaranteedRef { endpoint in
            unsafe slot.pointee.controlFrames.leak(after: elapsed, endpoint.rates)
            guard endpoint.limitsRates else { return self.decodeFrames(&bytes, on: index, endpoint) }
            self.receiveLimitedFrames(&bytes, on: index, endpoint)
        }
    }

    /// The same for an endpoint that limits what its peers send in a second.
    private func receiveLimitedFrames(_ bytes: inout MutableRawSpan, on index: Int, _ endpoint: LoopEndpoint)
    {
        guard self.countBytes(bytes.byteCount, on: index, endpoint) else { return }
        self.decodeFrames(&bytes, on: index, endpoint)
        if endpoint.rates.delays { self.pauseForRate(index, endpoint) }
    }

    /// Keeps bytes that a transport had read already when the decoding was put off, and counts them.
    private func receiveBehindStash(_ bytes: RawSpan, on index: Int, after elapsed: LoopInterval) {
        let slot = unsafe self.slots.pointer(index)
        guard let endpoint = unsafe slot.pointee.endpoint else { return }
        unsafe slot.pointee.controlFrames.leak(after: elapsed, endpoint.rates)
        guard !endpoint.limitsRates || self.countBytes(bytes.byteCount, on: index, endpoint) else { return }
        self.stash(bytes, on: index)
    }

    /// Decodes bytes that were counted when they came.
    func receivePostponedFrames(_ bytes: inout MutableRawSpan, on index: Int) {
        guard let endpoint = unsafe self.slots.pointer(index).pointee.endpoint else { return }
        self.decodeFrames(&bytes, on: index, endpoint)
        if endpoint.limitsRates, endpoint.rates.delays { self.pauseForRate(index, endpoint) }
    }

    private func traffic(of index: Int) -> TrafficMeter {
        let slot = unsafe self.slots.pointer(index)
        if let traffic = unsafe slot.pointee.traffic { return traffic }
        let traffic = TrafficMeter(at: self.now)
        unsafe slot.pointee.traffic = traffic
        return traffic
    }

    private func decodeFrames(_ bytes: inout MutableRawSpan, on index: Int, _ endpoint: LoopEndpoint) {
        self.decoding = index
        self.inflatedByteCount = 0
        self.decode(&bytes, on: index, endpoint)
        self.decoding = nil
        guard self.mustResetDecoding else { return }
        self.mustResetDecoding = false
        unsafe self.slots.pointer(index).pointee.codec = FrameCodec(settings: endpoint.codecSettings)
    }

    private func decode(_ bytes: inout MutableRawSpan, on index: Int, _ endpoint: LoopEndpoint) {
        let slot = unsafe self.slots.pointer(index)
        // Taken out once: each load retains it.
        let received = endpoint.callbacks.received
        let connection = ConnectionContext(self, index)
        do throws(ProtocolError) {
            while unsafe slot.pointee.phase == .open, unsafe !slot.pointee.flags.contains(.inputEnded) {
                if let message = unsafe try slot.pointee.codec.nextShortMessage(in: &bytes) {
                    if unsafe self.accepts(on: slot, index, endpoint) {
                        received(message, connection)
                    }
                    continue
                }
                switch unsafe try slot.pointee.codec.nextOther(in: &bytes) {
                case .needsMoreBytes: return
                case .message(let message):
                    guard unsafe self.accepts(on: slot, index, endpoint) else { continue }
                    if message.isCompressed {
                        try self.inflate(message, on: index, endpoint)
                        guard unsafe slot.pointee.readingPauses.isEmpty,
                            self.inflatedByteCount < Self.inflatedAtOnceMax
                        else { return self.postponeDecoding(bytes.bytes, of: index) }
                    } else {
                        received(message, connection)
                    }
                case .ping(let payload):
                    guard self.countControlFrame(on: index, endpoint) else { return }
                    self.sendPong(payload, to: index)
                case .pong(let payload):
                    guard self.countControlFrame(on: index, endpoint) else { return }
                    unsafe slot.pointee.details?.pinger?.receivedPong(payload)
                case .close(let code, let reason):
                    self.endInput(index, .closed(code, reason: Self.text(reason)))
                    return
                }
            }
        } catch {
            self.endInput(index, .violated(error))
        }
    }

    /// Whether a message that has arrived is to be looked at; if so, it counts.
    @inline(__always)
    private func accepts(
        on slot: UnsafeMutablePointer<ConnectionSlot>,
        _ index: Int,
        _ endpoint: LoopEndpoint
    ) -> Bool {
        // RFC 6455 §1.4: what arrives behind our own close frame is not looked at.
        guard unsafe slot.pointee.closing.isOpen else { return false }
        if endpoint.limitsRates, !self.countMessage(on: index, endpoint) { return false }
        unsafe slot.pointee.lastMessageAt = self.now
        unsafe slot.pointee.messagesReceived &+= 1
        self.counts.messagesReceived &+= 1
        return true
    }

    /// The peer has said its last.
    ///
    /// What it gets in answer waits until the tasks of this tick have run: a reply to a message that arrived
    /// before goes out before the close frame.
    private func endInput(_ index: Int, _ end: InputEnd) {
        let slot = unsafe self.slots.pointer(index)
        unsafe slot.pointee.flags.insert(.inputEnded)
        self.inputEnds.append((self.id(of: index), end))
    }

    /// A close frame's reason, which the codec has found to be UTF-8.
    private static func text(_ bytes: RawSpan) -> String {
        // Copied within the call that lends them.
        unsafe bytes.withUnsafeBytes { unsafe String(decoding: $0, as: UTF8.self) }
    }

    func answerInputEnds() {
        guard !self.inputEnds.isEmpty else { return }
        let ends = self.inputEnds
        self.inputEnds = []
        for (connection, end) in ends {
            if let index = self.index(of: connection) { self.answer(end, of: index) }
        }
    }

    /// Answers one connection's before the others'.
    private func answerInputEnd(of index: Int) {
        let id = self.id(of: index)
        guard let place = self.inputEnds.firstIndex(where: { $0.connection == id }) else { return }
        self.answer(self.inputEnds.remove(at: place).end, of: index)
    }

    private func answer(_ end: InputEnd, of index: Int) {
        switch end {
        case .closed(let code, let reason):
            if !reason.isEmpty { self.details(of: index).closeReason = reason }
            self.receivedClose(code, on: index)
        case .violated(let error): self.violated(error, on: index)
        }
    }

    /// Inflates a message and hands it on; the text is validated here, because the codec could not.
    private func inflate(
        _ message: borrowing MessageView,
        on index: Int,
        _ endpoint: LoopEndpoint
    ) throws(ProtocolError) {
        guard let deflate = self.deflate(of: index) else { throw ProtocolError(.reservedBits) }
        guard let inflated = try self.inflate(message.bytes, for: deflate, on: index, endpoint),
            unsafe self.slots.pointer(index).pointee.closing.isOpen
        else { return }
        self.inflatedByteCount += inflated.count
        let bytes = unsafe inflated.span.bytes
        guard message.kind == .binary || UTF8Validator.isValid(bytes) else {
            throw ProtocolError(.invalidUTF8)
        }
        endpoint.callbacks.received(MessageView(message.kind, bytes), ConnectionContext(self, index))
        self.compressors.recycle(inflated)
    }

    /// The inflated payload; nil if there was no memory for it and the connection has been failed.
    private func inflate(
        _ bytes: RawSpan,
        for deflate: ConnectionDeflate,
        on index: Int,
        _ endpoint: LoopEndpoint
    ) throws(ProtocolError) -> [UInt8]? {
        let hadWindow = deflate.hasPeerWindow
        do throws(DeflateError) {
            let inflated = try self.compressors.inflate(
                bytes,
                byteCountMax: endpoint.configuration.limits.messageBytesMax,
                for: deflate
            )
            if deflate.hasPeerWindow != hadWindow { self.chargeMemory(of: index) }
            return inflated
        } catch {
            if error.code == .tooBig { throw ProtocolError(.messageTooBig) }
            if error.code == .corrupt { throw ProtocolError(.corruptCompression) }
            // No fault of the peer: it is asked to come back.
            self.fail(index, error.closeCode, reason: "\(error)", cause: .limitExceeded)
            return nil
        }
    }

    /// Answers a ping.
    ///
    /// While the peer takes no bytes only the newest waits (RFC 6455 §5.5.3 allows it), so that a peer that
    /// sends pings and reads nothing cannot make us hold more than one pong.
    private func sendPong(_ payload: RawSpan, to index: Int) {
        let slot = unsafe self.slots.pointer(index)
        guard unsafe slot.pointee.closing.isOpen else { return }
        if unsafe slot.pointee.flags.contains(.writeBlocked) {
            self.details(of: index).pendingPong = unsafe payload.withUnsafeBytes { unsafe Array($0) }
        } else {
            self.appendFrame(.pong, payload, to: index)
        }
    }

    // MARK: - Rates

    private func countControlFrame(on index: Int, _ endpoint: LoopEndpoint) -> Bool {
        let slot = unsafe self.slots.pointer(index)
        guard unsafe slot.pointee.controlFrames.count(endpoint.rates) else { return true }
        self.failForRate(index, "too many control frames per second")
        return false
    }

    private func countBytes(_ byteCount: Int, on index: Int, _ endpoint: LoopEndpoint) -> Bool {
        let isTooMany = self.traffic(of: index).countBytes(byteCount, at: self.now, endpoint.rates)
        guard isTooMany, !endpoint.rates.delays else { return true }
        self.failForRate(index, "too many bytes per second")
        return false
    }

    private func countMessage(on index: Int, _ endpoint: LoopEndpoint) -> Bool {
        let isTooMany = self.traffic(of: index).countMessage(at: self.now, endpoint.rates)
        guard isTooMany, !endpoint.rates.delays else { return true }
        self.failForRate(index, "too many messages per second")
        return false
    }

    private func failForRate(_ index: Int, _ reason: String) {
        self.fail(index, .policyViolation, reason: reason, cause: .limitExceeded)
    }

    /// Stops to read a peer that has sent more than it may, until it has waited for that.
    private func pauseForRate(_ index: Int, _ endpoint: LoopEndpoint) {
        let slot = unsafe self.slots.pointer(index)
        let traffic = self.traffic(of: index)
        let debt = traffic.debt(at: self.now, endpoint.rates)
        guard debt.hundredths > 0, unsafe slot.pointee.phase == .open, unsafe slot.pointee.closing.isOpen,
            unsafe !slot.pointee.flags.contains(.inputEnded)
        else { return }
        guard debt.hundredths <= endpoint.rates.delayMax.hundredths else {
            return self.failForRate(index, "too much at once: it would have to wait for too long")
        }
        traffic.pause(until: self.now + debt)
        self.pauseReading(index, for: .rate)
        self.scheduleDeadline(index)
    }
}
