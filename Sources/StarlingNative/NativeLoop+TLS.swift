#if os(Linux)
internal import CStarlingLinux
internal import Glibc
internal import Starling

/// OpenSSL stands between the sockets and the driver.
///
/// The sessions write their records to the loop's sink, and what one connection has there goes out with one system call. What the
/// socket does not take then waits here.
extension NativeLoop {
    /// What a handshake under way is taken to hold: OpenSSL's session, a record in each direction, and what is read of a flight.
    static let handshakeByteCount = 32 << 10
    /// What waits for one socket at most: what was made before it was known to be full, and answers to key updates.
    ///
    /// A peer that asks for more of those, and does not read them, is cut off.
    static let restByteCountMax = TLSSink.connectionByteCountMax + 16 << 10

    func setHandshaking(_ isOn: Bool, _ index: Int) {
        let connection = unsafe self.connections.pointer(index)
        guard unsafe connection.pointee.flags.contains(.handshaking) != isOn else { return }
        unsafe connection.pointee.flags.set(.handshaking, isOn)
        self.server.memory.charge(forHandshake: isOn ? Self.handshakeByteCount : -Self.handshakeByteCount)
    }

    /// Goes on with a handshake; whether it is done.
    func continueHandshake(_ index: Int, _ driver: ConnectionDriver) -> Bool {
        guard let sink, let encryption = unsafe self.connections.encryption(index) else { return true }
        var result: TLSHandshakeResult?
        var sending = Sending.done
        repeat {
            result = sink.collecting { unsafe encryption.pointee.session?.handshake() }
            sending = self.sendRecords(of: index)
            // The flight is longer than the sink.
        } while result == .wantsWrite && sending == .done
        switch result {
        case .done:
            self.setHandshaking(false, index)
            // Data may have come with the handshake's last flight; epoll will not speak of it.
            if self.holdsInput(index) { self.pending.append(index) }
        case .wantsRead, .wantsWrite: break
        case .failed(let failure): self.handshakeFailed(failure, index, driver)
        case nil: return true
        }
        if sending == .failed { driver.failed(index) }
        return result == .done && sending != .failed
    }

    /// Ends a connection whose TLS has sent its alert: gracefully, because a reset could destroy the alert on its way.
    private func handshakeFailed(_ failure: TLSFailure, _ index: Int, _ driver: ConnectionDriver) {
        // What still comes is for nobody, and is thrown away as plain bytes.
        unsafe self.connections.encryption(index)?.pointee.session = nil
        self.setHandshaking(false, index)
        switch failure.kind {
        case .connectionLost: driver.failed(index, reason: "TLS: \(failure)")
        // Nothing was sent, and somebody who typed `http:` for `https:` can read this.
        case .plaintext: driver.refuse(index, malformed: "This port speaks TLS: use https or wss.")
        default: driver.finishUnusable(index, .tlsFailed, reason: "TLS: \(failure)")
        }
    }

    // MARK: - Reading

    /// Reads records until the socket has no more of them, or the buffer is full: a message of several is then decoded where it is.
    func readEncrypted(_ index: Int, _ driver: ConnectionDriver) {
        guard let sink, let encryption = unsafe self.connections.encryption(index),
            unsafe !self.connections.pointer(index).pointee.flags.contains(.handshaking)
        else { return }
        var byteCount = 0
        var end: TLSReadResult?
        reading: while Self.receiveByteCount - byteCount >= TLSSink.payloadByteCountMax {
            let space = unsafe UnsafeMutableRawBufferPointer(rebasing: self.receiveBuffer[byteCount...])
            let result = sink.collecting { unsafe encryption.pointee.session?.read(into: space) }
            guard case .bytes(let count) = result else {
                end = result
                break
            }
            byteCount += count
            // Behind a record that is not full there is hardly another one; if there is, epoll says so.
            if count < TLSSink.payloadByteCountMax, !self.holdsInput(index) { break reading }
        }
        // Answers to key updates.
        let sending = self.sendRecords(of: index)
        let token = self.connections.token(index)
        if byteCount > 0 { self.deliver(byteCount, to: index, driver) }
        guard self.connections.index(ofToken: token) != nil else { return }
        if sending == .failed { return driver.failed(index) }
        switch end {
        // OpenSSL may hold more, of which epoll will not speak.
        case nil: if self.holdsInput(index) { self.pending.append(index) }
        case .wantsRead, .bytes: break
        // Answers to what came before the end go out first: OpenSSL says the same again in the next tick.
        case .closed, .eof, .wantsWrite, .failed:
            if byteCount > 0 { self.pending.append(index) } else { self.inputEnded(end, index, driver) }
        }
    }

    private func inputEnded(_ end: TLSReadResult?, _ index: Int, _ driver: ConnectionDriver) {
        switch end {
        case .closed, .eof: self.ended(index, driver)
        default: driver.failed(index)
        }
    }

    /// Whether OpenSSL has bytes of a connection that are not delivered yet.
    private func holdsInput(_ index: Int) -> Bool {
        unsafe self.connections.encryption(index)?.pointee.session?.hasBufferedInput == true
    }

    // MARK: - Writing

    /// Encrypts and sends `head` and `body` as if they stood together.
    func writeEncrypted(_ head: RawSpan, _ body: RawSpan, to index: Int) -> WriteResult {
        guard let encryption = unsafe self.connections.encryption(index) else { return .failed }
        var sending = self.sendRest(of: index)
        guard sending == .done else { return sending == .waits ? .wrote(0) : .failed }
        var written = unsafe encryption.pointee.takeHeldByte()
        while sending == .done, written < head.byteCount + body.byteCount {
            guard
                let count = self.encrypt(
                    head,
                    body,
                    from: written,
                    index,
                    upTo: TLSSink.connectionByteCountMax
                )
            else {
                // Its alert.
                _ = self.sendRecords(of: index)
                return .failed
            }
            written += count
            sending = self.sendRecords(of: index)
            if count == 0 { break }
        }
        return sending == .failed ? .failed : unsafe .wrote(encryption.pointee.reported(written, sending))
    }

    /// Encrypts what stands behind the first `offset` bytes into the sink, as far as that may be filled; nil if the session has
    /// failed.
    private func encrypt(
        _ head: RawSpan,
        _ body: RawSpan,
        from offset: Int,
        _ index: Int,
        upTo byteCountMax: Int
    ) -> Int? {
        guard let sink else { return nil }
        var end = offset
        while end < head.byteCount + body.byteCount, sink.hasRoom(forRecordUpTo: byteCountMax) {
            switch self.encryptRecord(head, body, from: end, index) {
            case .bytes(let count): end += count
            case .wantsWrite:
                self.setWriting(true, index)
                return end - offset
            case .wantsRead:
                unsafe self.connections.pointer(index).pointee.flags.insert(.retriesWriteOnRead)
                return end - offset
            case .failed: return nil
            }
        }
        return end - offset
    }

    private func encryptRecord(_ head: RawSpan, _ body: RawSpan, from offset: Int, _ index: Int)
        -> TLSWriteResult
    {
        guard offset < head.byteCount else {
            let rest = body.extracting(droppingFirst: offset - head.byteCount)
            return unsafe rest.extracting(first: TLSSink.payloadByteCountMax).withUnsafeBytes {
                unsafe self.encrypt($0, index)
            }
        }
        return unsafe Self.withJoined(head.extracting(droppingFirst: offset), body) {
            unsafe self.encrypt($0, index)
        }
    }

    /// Encrypts one record into the sink: of these bytes, or of the first of them for a peer that wants short ones (RFC 6066 §4).
    private func encrypt(_ bytes: UnsafeRawBufferPointer, _ index: Int) -> TLSWriteResult {
        let encryption = unsafe self.connections.encryption(index)
        return self.sink?.collecting { unsafe encryption?.pointee.session?.write(bytes) }
            ?? .failed(.closedDuringHandshake)
    }

    /// The beginning of two spans one behind the other, as much as a record holds.
    private static func withJoined<Result>(
        _ head: RawSpan,
        _ body: RawSpan,
        _ use: (UnsafeRawBufferPointer) -> Result
    ) -> Result {
        let headCount = min(head.byteCount, TLSSink.payloadByteCountMax)
        let bodyCount = min(body.byteCount, TLSSink.payloadByteCountMax - headCount)
        return unsafe withUnsafeTemporaryAllocation(byteCount: headCount + bodyCount, alignment: 16) {
            joined in
            // Each part was just measured to fit behind the other.
            unsafe head.withUnsafeBytes {
                unsafe joined.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[..<headCount]))
            }
            unsafe body.withUnsafeBytes {
                unsafe UnsafeMutableRawBufferPointer(rebasing: joined[headCount...])
                    .copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[..<bodyCount]))
            }
            return unsafe use(UnsafeRawBufferPointer(joined))
        }
    }

    /// The same for several connections, with as few system calls as there is room in the sink for.
    func writeEncrypted(_ batch: inout [BatchedWrite], _ sink: TLSSink, _ ring: OpaquePointer) {
        var position = 0
        while position < batch.count {
            var sent: [Int] = []
            while position < batch.count, sink.hasRoom(forRecordUpTo: TLSSink.byteCountMax) {
                if let send = unsafe self.encrypt(&batch[position], sink) {
                    unsafe self.sends[sent.count] = unsafe send
                    sent.append(position)
                }
                position += 1
            }
            unsafe starling_send_ring_send(ring, self.sends.baseAddress, UInt32(sent.count))
            for (number, position) in sent.enumerated() {
                unsafe self.conclude(self.sends[number], &batch[position])
            }
            sink.removeAll()
        }
    }

    /// Encrypts one write of a batch, and sets its result to what was encrypted; nil if there is nothing to send.
    private func encrypt(_ write: inout BatchedWrite, _ sink: TLSSink) -> starling_batched_send? {
        let index = write.connection
        guard self.connections.isEncrypted(index) else {
            return unsafe self.batchedSend(of: write.bytes, to: index)
        }
        write.result = .wrote(0)
        // It sends by itself, and would take the others' records with it.
        guard !self.hasRest(index) else { return nil }
        let held = unsafe self.connections.encryption(index)?.pointee.takeHeldByte() ?? 0
        let start = sink.byteCount
        let bytes = unsafe RawSpan(_unsafeBytes: write.bytes)
        guard let count = self.encrypt(RawSpan(), bytes, from: held, index, upTo: TLSSink.byteCountMax)
        else {
            write.result = .failed
            return nil
        }
        write.result = .wrote(held + count)
        guard count > 0 else { return nil }
        return unsafe self.batchedSend(of: sink.records(from: start), to: index)
    }

    /// Sets the result of one write of a batch that was sent.
    private func conclude(_ send: starling_batched_send, _ write: inout BatchedWrite) {
        let result = unsafe self.result(of: send, write.connection)
        guard self.connections.isEncrypted(write.connection), case .wrote(let count) = result,
            case .wrote(let encrypted) = write.result,
            let encryption = unsafe self.connections.encryption(write.connection)
        else {
            write.result = result
            return
        }
        let records = unsafe UnsafeRawBufferPointer(start: send.bytes, count: send.count)
        let sending = unsafe self.keep(
            UnsafeRawBufferPointer(rebasing: records[count...]),
            of: write.connection
        )
        guard sending != .failed else {
            write.result = .failed
            return
        }
        let reported = unsafe encryption.pointee.reported(encrypted, sending)
        write.result = .wrote(reported)
        // The sink had no room for more, and the socket may have: epoll says so at once.
        if sending == .done, unsafe reported < write.bytes.count { self.setWriting(true, write.connection) }
    }

    // MARK: - Records on their way

    enum Sending {
        /// All are out.
        case done
        /// The socket takes no more; the loop goes on when it does.
        case waits
        /// The connection is of no use any more.
        case failed
    }

    func hasRest(_ index: Int) -> Bool {
        unsafe self.connections.encryption(index)?.pointee.rest.isEmpty == false
    }

    /// Sends what the sink holds for a connection, and keeps what the socket does not take.
    private func sendRecords(of index: Int) -> Sending {
        guard let sink else { return .done }
        defer { sink.removeAll() }
        let records = unsafe sink.records()
        if self.hasRest(index) { return unsafe self.keep(records, of: index) }
        guard unsafe !records.isEmpty else { return .done }
        guard case .wrote(let count) = unsafe self.sendAsIs(records, to: index) else { return .failed }
        return unsafe self.keep(UnsafeRawBufferPointer(rebasing: records[count...]), of: index)
    }

    /// Keeps records until the socket takes them.
    private func keep(_ records: UnsafeRawBufferPointer, of index: Int) -> Sending {
        guard let encryption = unsafe self.connections.encryption(index) else { return .failed }
        guard unsafe !records.isEmpty else { return self.hasRest(index) ? .waits : .done }
        guard unsafe encryption.pointee.rest.count + records.count <= Self.restByteCountMax else {
            return .failed
        }
        unsafe encryption.pointee.rest.append(contentsOf: records)
        self.server.memory.charge(records.count)
        self.setWriting(true, index)
        return .waits
    }

    /// Sends what waits.
    private func sendRest(of index: Int) -> Sending {
        guard let encryption = unsafe self.connections.encryption(index), self.hasRest(index) else {
            return .done
        }
        let result = unsafe encryption.pointee.rest.withUnsafeBytes { unsafe self.sendAsIs($0, to: index) }
        guard case .wrote(let count) = result else { return .failed }
        self.server.memory.charge(-count)
        if unsafe count == encryption.pointee.rest.count {
            unsafe encryption.pointee.rest = []
            return .done
        }
        unsafe encryption.pointee.rest.removeFirst(count)
        return .waits
    }

    /// The socket takes bytes again; false if the connection is of no use any more.
    func continueSending(_ index: Int, _ driver: ConnectionDriver) -> Bool {
        let before = unsafe self.connections.encryption(index)?.pointee.rest.count ?? 0
        switch self.sendRest(of: index) {
        case .waits:
            if unsafe self.connections.encryption(index)?.pointee.rest.count != before {
                driver.wrotePart(index)
            }
            return true
        case .failed:
            driver.failed(index)
            return false
        // A handshake may go on without anything more to write.
        case .done: self.setWriting(false, index)
        }
        let connection = unsafe self.connections.pointer(index)
        if unsafe connection.pointee.flags.contains(.shutdownOwed) {
            unsafe connection.pointee.flags.remove(.shutdownOwed)
            _ = unsafe shutdown(connection.pointee.descriptor, Int32(SHUT_WR))
        }
        return true
    }

    /// Says that nothing more will be written; false if records wait that must go out first.
    func endEncryption(of index: Int) -> Bool {
        guard let encryption = unsafe self.connections.encryption(index) else { return true }
        // Best effort: a peer that misses the notify sees the stream's end.
        _ = self.sink?.collecting { unsafe encryption.pointee.session?.shutdown() }
        return self.sendRecords(of: index) != .waits
    }

    func forgetRest(of index: Int) {
        guard let encryption = unsafe self.connections.encryption(index) else { return }
        unsafe self.server.memory.charge(-encryption.pointee.rest.count)
        unsafe encryption.pointee.rest = []
    }
}

extension Encryption {
    /// The bytes at the beginning of a write that are on their way already.
    fileprivate mutating func takeHeldByte() -> Int {
        defer { self.holdsByteBack = false }
        return self.holdsByteBack ? 1 : 0
    }

    /// What the driver is told of the bytes that were encrypted: while some of them wait, all but one.
    fileprivate mutating func reported(_ byteCount: Int, _ sending: NativeLoop.Sending) -> Int {
        self.holdsByteBack = sending == .waits && byteCount > 0
        return self.holdsByteBack ? byteCount - 1 : byteCount
    }
}
#endif
