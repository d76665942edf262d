#if os(Linux)
internal import CStarlingLinux
internal import Glibc
internal import Logging
internal import Starling

/// Many writes in one system call, where the kernel has a ring for that and allows it.
///
/// A publication goes to many connections at the end of a tick, and so do the answers to all that asked in it: with a ring
/// that costs up to a fifth less of the server's CPU time. `Documentation/Decisions/0009-io-uring.md` has the figures.
extension NativeLoop: BatchingIO {
    /// What one system call sends at most.
    static let batchMax = 256

    var batchedWritesMax: Int {
        unsafe self.ring == nil ? 0 : Self.batchMax
    }

    func write(_ batch: inout [BatchedWrite]) {
        guard let ring = unsafe self.ring else { return }
        if let sink { return unsafe self.writeEncrypted(&batch, sink, ring) }
        for (position, write) in batch.enumerated() {
            unsafe self.sends[position] = self.batchedSend(of: write.bytes, to: write.connection)
        }
        unsafe starling_send_ring_send(ring, self.sends.baseAddress, UInt32(batch.count))
        for position in batch.indices {
            batch[position].result = unsafe self.result(of: self.sends[position], batch[position].connection)
        }
    }

    func batchedSend(of bytes: UnsafeRawBufferPointer, to connection: Int) -> starling_batched_send {
        unsafe starling_batched_send(
            bytes: bytes.baseAddress,
            count: bytes.count,
            descriptor: self.connections.pointer(connection).pointee.descriptor,
            result: 0
        )
    }

    func result(of send: starling_batched_send, _ connection: Int) -> WriteResult {
        let result = unsafe Int(send.result)
        if unsafe result == send.count { return .wrote(result) }
        guard result >= 0 || result == -Int(EAGAIN) || result == -Int(EINTR) else { return .failed }
        self.setWriting(true, connection)
        return .wrote(max(0, result))
    }

    /// A ring for the calling thread; nil, with a word in the log, where there is none.
    static func makeRing(_ server: ServerContext) -> OpaquePointer? {
        if let ring = unsafe starling_send_ring_open(UInt32(Self.batchMax)) { return unsafe ring }
        server.logger.debug(
            "the kernel has no ring, or does not allow one: every write is a system call",
            metadata: [LoggingKeys.error: "\(Syscalls.lastError)"]
        )
        return nil
    }
}
#endif
