internal import StarlingCore
internal import StarlingDeflate

extension ConnectionDriver {
    /// The connection takes bytes again.
    public func writable(_ index: Int) {
        let slot = unsafe self.slots.pointer(index)
        guard unsafe slot.pointee.flags.contains(.writeBlocked) else { return }
        unsafe slot.pointee.flags.remove(.writeBlocked)
        // A ping may have been due meanwhile, or waits among what goes out now.
        if unsafe slot.pointee.flags.contains(.awaitingPong) { unsafe slot.pointee.pingedAt = self.now }
        self.scheduleDeadline(index)
        if let pong = unsafe slot.pointee.details?.pendingPong {
            unsafe slot.pointee.details?.pendingPong = nil
            if unsafe slot.pointee.phase == .open, unsafe slot.pointee.closing.isOpen {
                unsafe self.appendFrame(.pong, pong.span.bytes, to: index)
            }
        }
        self.markDirty(index)
        self.scheduleCatchUp(index)
    }

    /// The peer takes bytes that a transport holds for it, though no others yet: it is slow, and not silent.
    package func wrotePart(_ index: Int) {
        let slot = unsafe self.slots.pointer(index)
        guard unsafe slot.pointee.flags.contains(.writeBlocked), unsafe slot.pointee.closing.isOpen else {
            return
        }
        unsafe slot.pointee.waitingSince = self.now
    }

    func send(_ kind: MessageView.Kind, _ bytes: RawSpan, to id: ConnectionID) -> SendResult {
        guard let index = self.index(of: id) else { return .dropped }
        return self.send(kind, bytes, to: index)
    }

    /// Encodes a message into the loop's chunk; it goes out when the tick ends.
    func send(_ kind: MessageView.Kind, _ bytes: RawSpan, to index: Int) -> SendResult {
        if unsafe self.hot.pointee.sendBehind(kind, bytes, to: self.slots.pointer(index)) { return .sent }
        return self.sendFirst(kind, bytes, to: index)
    }

    /// All messages that ``HotState/sendBehind(_:_:to:)`` does not send: the first of a burst, longer ones, and those that have
    /// something in their way.
    @inline(never)
    func sendFirst(_ kind: MessageView.Kind, _ bytes: RawSpan, to index: Int) -> SendResult {
        let slot = unsafe self.slots.pointer(index)
        guard unsafe slot.pointee.phase == .open, unsafe slot.pointee.closing.isOpen,
            let endpoint = unsafe slot.pointee.endpointReference
        else {
            return self.sendLate(kind, bytes, to: index)
        }
        let byteCountMax = unsafe endpoint._withUnsafeGuaranteedRef { $0.outbound.byteCountMax }
        guard
            unsafe slot.pointee.outbound.byteCount + bytes.byteCount <= byteCountMax
                || self.makeRoom(for: bytes.byteCount, index)
        else {
            return self.refuseSend(of: bytes.byteCount, to: index)
        }
        self.counts.messagesSent &+= 1
        if !self.appendCompressed(kind, bytes, to: index),
            bytes.byteCount < Self.directByteCountMin || !self.writeDirectly(kind.opcode, bytes, to: index)
        {
            self.appendFrame(kind.opcode, bytes, to: index)
        }
        // There was no memory to let it wait.
        if unsafe slot.pointee.flags.contains(.writeBlocked), unsafe !slot.pointee.closing.isOpen {
            return .dropped
        }
        let highWatermark = unsafe endpoint._withUnsafeGuaranteedRef { $0.outbound.highWatermark }
        if unsafe slot.pointee.outbound.byteCount > highWatermark {
            return self.passedHighWatermark(index, highWatermark)
        }
        return unsafe slot.pointee.flags.contains(.aboveHighWatermark) ? .buffered : .sent
    }

    /// Writes what the peer may well take, before it is said to have taken too little; whether there is room then.
    private func makeRoom(for byteCount: Int, _ index: Int) -> Bool {
        let slot = unsafe self.slots.pointer(index)
        if unsafe !slot.pointee.flags.contains(.writeBlocked) { self.flush(index) }
        guard unsafe slot.pointee.closing.isOpen, let outbound = unsafe slot.pointee.endpoint?.outbound else {
            return false
        }
        return unsafe outbound.hasRoom(for: byteCount, behind: slot.pointee.outbound.byteCount)
    }

    /// Adds a message to the outbound buffer compressed; false if it is to go out as it is.
    @inline(__always)
    func appendCompressed(_ kind: MessageView.Kind, _ bytes: RawSpan, to index: Int) -> Bool {
        let slot = unsafe self.slots.pointer(index)
        guard unsafe slot.pointee.flags.contains(.compressing), let deflate = self.deflate(of: index)
        else { return false }
        let hadWindow = deflate.hasWindow
        guard let compressed = self.compress(bytes, for: deflate, index) else { return false }
        unsafe self.appendFrame(kind.opcode, compressed.span.bytes, isCompressed: true, to: index)
        self.compressors.recycle(compressed)
        if deflate.hasWindow != hadWindow { self.chargeMemory(of: index) }
        return true
    }

    /// The compressed payload, which must be sent, or nil if the message is to go out as it is.
    ///
    /// The caller charges for a window that there was not before, when it has sent the payload: that may end the connection.
    func compress(_ bytes: RawSpan, for deflate: ConnectionDeflate, _ index: Int) -> [UInt8]? {
        let hadWindow = deflate.hasWindow
        let compressed = self.compressors.deflate(bytes, for: deflate)
        if deflate.keepsContext, compressed != nil {
            deflate.usedAt = self.now
            // From now on there is a window to be released.
            if !hadWindow { self.scheduleDeadline(index) }
        }
        return compressed
    }

    /// Adds a message to the outbound buffer, without a limit: for what was checked, or comes once in a connection's life.
    func appendMessage(_ message: Message, to index: Int) {
        self.counts.messagesSent &+= 1
        if !self.appendCompressed(message.kind, message.bytes, to: index) {
            self.appendFrame(message.kind.opcode, message.bytes, to: index)
        }
    }

    /// From this size on, a copy into the loop's chunk costs more than a system call of a message's own gains.
    static let directByteCountMin = 16 << 10

    /// Writes a big message from where it is, if nothing waits before it; false if it was not touched.
    private func writeDirectly(_ opcode: Opcode, _ payload: RawSpan, to index: Int) -> Bool {
        let slot = unsafe self.slots.pointer(index)
        // A client masks a copy.
        guard self.server.role == .server, unsafe slot.pointee.outbound.isEmpty,
            unsafe !slot.pointee.flags.contains(.writeBlocked)
        else {
            return false
        }
        let header = FrameHeader(opcode: opcode, payloadByteCount: payload.byteCount)
        var space: (UInt64, UInt64) = (0, 0)
        let result = unsafe withUnsafeMutableBytes(of: &space) { space in
            guard let base = space.baseAddress else { return WriteResult?.none }
            // The longest header has 14 bytes. `space` is not touched during the write.
            unsafe header.write(to: base)
            let head = unsafe RawSpan(_unsafeStart: base, byteCount: header.byteCount)
            return self.io.writeTogether(head, payload, to: index)
        }
        switch result {
        case nil: return false
        case .wrote(let count):
            unsafe slot.pointee.bytesSent &+= UInt64(count)
            self.counts.bytesSent &+= UInt64(count)
            guard count < header.byteCount + payload.byteCount else { return true }
            self.appendFrame(opcode, payload, to: index)
            unsafe slot.pointee.outbound.removeFirst(count)
            self.writeBlocked(index)
        case .failed: self.lose(index)
        }
        return true
    }

    /// Much waits for this connection: gathering more gains nothing, so it is written at once, and only what the peer
    /// does not take counts as buffered.
    private func passedHighWatermark(_ index: Int, _ highWatermark: Int) -> SendResult {
        let slot = unsafe self.slots.pointer(index)
        if unsafe !slot.pointee.flags.contains(.writeBlocked) { self.flush(index) }
        guard unsafe slot.pointee.outbound.byteCount > highWatermark else { return .sent }
        unsafe slot.pointee.flags.insert(.aboveHighWatermark)
        return .buffered
    }

    func refuseSend(of byteCount: Int, to index: Int) -> SendResult {
        guard let outbound = unsafe self.slots.pointer(index).pointee.endpoint?.outbound else {
            return .dropped
        }
        // A message that can never fit is its sender's mistake, not the peer's.
        guard byteCount <= outbound.byteCountMax else { return .dropped }
        if outbound.slowConsumerPolicy == .disconnect { self.disconnectSlowConsumer(index) }
        self.counts.slowConsumerDrops &+= 1
        return .dropped
    }

    func disconnectSlowConsumer(_ index: Int) {
        let slot = unsafe self.slots.pointer(index)
        guard unsafe slot.pointee.closing.isOpen else { return }
        if unsafe slot.pointee.phase == .leaving {
            self.handoff?.overrun.insert(index)
            return
        }
        self.counts.slowConsumerDisconnects &+= 1
        // What waits would never be read: only the rest of a frame that has begun must still go out.
        unsafe slot.pointee.outbound.removeAllButStarted()
        self.fail(index, .tryAgainLater, reason: "the peer reads too slowly", cause: .slowConsumer)
    }

    /// Adds a frame to the connection's outbound buffer, without a limit: for what was checked, and for control frames.
    func appendFrame(_ opcode: Opcode, _ payload: RawSpan, isCompressed: Bool = false, to index: Int) {
        let slot = unsafe self.slots.pointer(index)
        unsafe slot.pointee.outbound.append(
            self.direct.encode(opcode, payload, isCompressed: isCompressed)
        )
        self.markDirty(index)
    }

    /// Adds bytes that are no frame: the head of a response.
    func appendBytes(_ bytes: [UInt8], to index: Int) {
        guard !bytes.isEmpty else { return }
        let segment = unsafe OutboundSegment(copying: bytes.span.bytes)
        unsafe self.slots.pointer(index).pointee.outbound.append(segment)
        self.markDirty(index)
    }

    @inline(__always)
    func markDirty(_ index: Int) {
        let flags = unsafe self.slots.pointer(index).pointee.flags
        if flags.isDisjoint(with: [.dirty, .writeBlocked]) {
            self.becomeDirty(index)
        } else if flags.contains(.writeBlocked) {
            unsafe self.slots.pointer(index).pointee.outbound.leaveLastChunk()
            self.chargeMemory(of: index)
        }
    }

    @inline(never)
    private func becomeDirty(_ index: Int) {
        unsafe self.slots.pointer(index).pointee.flags.insert(.dirty)
        self.dirty.append(UInt32(index))
    }

    /// Up to so many bytes, it is the system call that a write costs, and not the copy: those go out together.
    static let batchedByteCountMax = 4096

    /// Writes what waits for several connections, as far as that goes with one system call for many.
    func flush(_ indices: [UInt32], together io: any BatchingIO) {
        let batchMax = io.batchedWritesMax
        var others: [Int] = []
        for index in indices.lazy.map(Int.init) {
            let slot = unsafe self.slots.pointer(index)
            // Written meanwhile, for another reason.
            guard unsafe slot.pointee.flags.contains(.dirty) else { continue }
            guard unsafe !slot.pointee.outbound.isEmpty, unsafe slot.pointee.outbound.isContiguous,
                unsafe slot.pointee.outbound.byteCount <= Self.batchedByteCountMax,
                unsafe !slot.pointee.flags.contains(.writeBlocked)
            else {
                others.append(index)
                continue
            }
            unsafe slot.pointee.flags.remove(.dirty)
            // The chunk stays as it is until the batch is written: nothing else is sent meanwhile, and no connection ended.
            let bytes = unsafe slot.pointee.outbound.firstBytes
            unsafe self.batch.append(BatchedWrite(connection: index, bytes: bytes))
            if self.batch.count == batchMax { self.flushBatch(io) }
        }
        if !self.batch.isEmpty { self.flushBatch(io) }
        // Not before: what follows from a write, such as a want of memory, may touch what waits for any connection.
        for index in others where unsafe self.slots.pointer(index).pointee.flags.contains(.dirty) {
            self.flush(index)
        }
    }

    private func flushBatch(_ io: any BatchingIO) {
        io.write(&self.batch)
        for write in self.batch {
            if case .wrote(let count) = write.result {
                unsafe self.wrote(count, of: write.bytes.count, write.connection)
            }
        }
        // Only then: what follows from one write may touch what waits for other connections.
        for write in self.batch {
            if unsafe self.conclude(write.result, of: write.bytes.count, write.connection) {
                self.flushed(write.connection)
            }
        }
        self.batch.removeAll(keepingCapacity: true)
    }

    /// Writes what waits for a connection until it is out or the peer takes no more.
    func flush(_ index: Int) {
        let slot = unsafe self.slots.pointer(index)
        unsafe slot.pointee.flags.remove(.dirty)
        while unsafe !slot.pointee.outbound.isEmpty, unsafe !slot.pointee.flags.contains(.writeBlocked) {
            let bytes =
                unsafe slot.pointee.outbound.isContiguous
                ? slot.pointee.outbound.firstBytes
                : UnsafeRawBufferPointer(
                    rebasing: self.scratch[..<slot.pointee.outbound.gather(into: self.scratch)]
                )
            // Chunk and scratch stay as they are during the call.
            let result = unsafe self.io.write(RawSpan(_unsafeBytes: bytes), to: index)
            if case .wrote(let count) = result { self.wrote(count, of: bytes.count, index) }
            guard self.conclude(result, of: bytes.count, index) else { return }
        }
        self.flushed(index)
    }

    /// Bytes are out.
    private func wrote(_ count: Int, of byteCount: Int, _ index: Int) {
        let slot = unsafe self.slots.pointer(index)
        unsafe slot.pointee.outbound.removeFirst(count)
        // A transport that encrypts may have begun the next frame too, which must then follow.
        if count > 0, count < byteCount { unsafe slot.pointee.outbound.markFirstStarted() }
        unsafe slot.pointee.bytesSent &+= UInt64(count)
        self.counts.bytesSent &+= UInt64(count)
    }

    /// Draws the conclusion from a write; whether the connection goes on.
    private func conclude(_ result: WriteResult, of byteCount: Int, _ index: Int) -> Bool {
        switch result {
        case .wrote(let count):
            if count < byteCount { self.writeBlocked(index) }
            return true
        case .failed:
            self.lose(index)
            return false
        }
    }

    /// What could be written is.
    private func flushed(_ index: Int) {
        let slot = unsafe self.slots.pointer(index)
        if unsafe !slot.pointee.outbound.isEmpty || slot.pointee.chargedByteCount > 0 {
            self.chargeMemory(of: index)
        }
        if unsafe slot.pointee.outbound.isEmpty, unsafe slot.pointee.flags.contains(.finishAfterFlush) {
            self.finishStream(index)
        }
        if unsafe slot.pointee.flags.contains(.aboveHighWatermark),
            let endpoint = unsafe slot.pointee.endpoint,
            unsafe slot.pointee.outbound.byteCount <= endpoint.outbound.lowWatermark
        {
            unsafe slot.pointee.flags.remove(.aboveHighWatermark)
            unsafe slot.pointee.flags.insert(.drainedOwed)
            self.drained.append(UInt32(index))
        }
    }

    private func writeBlocked(_ index: Int) {
        let slot = unsafe self.slots.pointer(index)
        unsafe slot.pointee.flags.insert(.writeBlocked)
        // While a close frame waits for its answer, that is what has a deadline.
        if unsafe slot.pointee.closing.isOpen { unsafe slot.pointee.waitingSince = self.now }
        unsafe slot.pointee.outbound.leaveChunks()
        self.scheduleDeadline(index)
    }
}

extension ConnectionDriver.HotState {
    /// The fastest path, for all but the first message of a burst: one more short frame behind the last one.
    ///
    /// False, with nothing done, if that stands elsewhere or anything is in the way.
    @inline(__always)
    mutating func sendBehind(
        _ kind: MessageView.Kind,
        _ bytes: RawSpan,
        to slot: UnsafeMutablePointer<ConnectionSlot>
    ) -> Bool {
        guard unsafe slot.pointee.flags.intersection(.ofSending) == .dirty,
            unsafe slot.pointee.phase == .open,
            unsafe slot.pointee.closing.isOpen, let endpoint = unsafe slot.pointee.endpointReference
        else { return false }
        let byteCountMax = unsafe endpoint._withUnsafeGuaranteedRef { $0.burstByteCountMax }
        guard unsafe self.direct.extend(&slot.pointee.outbound, by: kind.opcode, bytes, upTo: byteCountMax)
        else { return false }
        self.counts.messagesSent &+= 1
        return true
    }
}
