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

    func addToBatch(_ bytes: UnsafeRawBufferPointer, to connection: Int) {
        unsafe self.sends[self.batchedConnections.count] = unsafe starling_batched_send(
            bytes: bytes.baseAddress,
            count: bytes.count,
            descriptor: self.connections.pointer(connection).pointee.descriptor,
            result: 0
        )
        self.batchedConnections.append(connection)
    }

    func writeBatch(_ wrote: (WriteResult) -> Void) {
        guard let ring = unsafe self.ring else { return }
        unsafe starling_send_ring_send(ring, self.sends.baseAddress, UInt32(self.batchedConnections.count))
        for (position, connection) in self.batchedConnections.enumerated() {
            let send = unsafe self.sends[position]
            let result = unsafe Int(send.result)
            if unsafe result == send.count {
                wrote(.wrote(result))
            } else if result >= 0 || result == -Int(EAGAIN) || result == -Int(EINTR) {
                self.setWriting(true, connection)
                wrote(.wrote(max(0, result)))
            } else {
                wrote(.failed)
            }
        }
        self.batchedConnections.removeAll(keepingCapacity: true)
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
