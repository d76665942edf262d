#if os(Linux)
internal import CStarlingLinux
internal import Glibc
internal import Starling

/// Bytes come in.
extension NativeLoop {
    /// Reads once; `again` says that there is more behind what arrived.
    func read(_ index: Int, _ driver: ConnectionDriver, again: Bool = false) {
        let connection = unsafe self.connections.pointer(index)
        guard unsafe !connection.pointee.flags.isDisjoint(with: [.reading, .hungUp]) else { return }
        if self.connections.isEncrypted(index) { return self.readEncrypted(index, driver) }
        let count = unsafe starling_receive(
            connection.pointee.descriptor,
            self.receiveBuffer.baseAddress,
            Self.receiveByteCount
        )
        if count > 0 {
            // Fewer bytes than asked for are all there are.
            if unsafe again || count == Self.receiveByteCount || connection.pointee.flags.contains(.hungUp) {
                self.pending.append(index)
            }
            self.deliver(count, to: index, driver)
        } else if count == 0 {
            self.ended(index, driver)
        } else if errno == EINTR {
            self.pending.append(index)
        } else if errno != EAGAIN {
            driver.failed(index)
        }
    }

    func deliver(_ count: Int, to index: Int, _ driver: ConnectionDriver) {
        // The first `count` bytes were just received, and nobody else uses the buffer during the call.
        var bytes = unsafe MutableRawSpan(
            _unsafeBytes: UnsafeMutableRawBufferPointer(rebasing: self.receiveBuffer[..<count])
        )
        driver.received(&bytes, on: index)
    }

    /// The peer's direction has ended: there is nothing more to be told of, until the connection is closed.
    func ended(_ index: Int, _ driver: ConnectionDriver) {
        self.setReading(false, on: index)
        driver.readingEnded(index)
    }

    func readPending(_ driver: ConnectionDriver) {
        guard !self.pending.isEmpty else { return }
        let indices = self.pending
        self.pending = []
        for index in indices where self.connections.isOpen(index) {
            let connection = unsafe self.connections.pointer(index)
            if unsafe !connection.pointee.flags.isDisjoint(with: [.reading, .hungUp]) {
                self.read(index, driver, again: true)
            } else {
                unsafe self.connections.pointer(index).pointee.flags.insert(.hasPending)
            }
        }
    }
}
#endif
