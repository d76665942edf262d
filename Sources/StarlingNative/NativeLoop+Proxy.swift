#if os(Linux)
internal import Glibc
internal import Starling

/// What a proxy says before a connection's own bytes.
extension NativeLoop {
    /// Goes on with a proxy's header, if the connection still waits for one; whether it does not any more.
    ///
    /// Looks first and takes then, because what is behind the header may be TLS.
    func readProxyHeader(_ index: Int, _ driver: ConnectionDriver) -> Bool {
        guard self.proxyHeaders[index] != nil else { return true }
        let descriptor = unsafe self.connections.pointer(index).pointee.descriptor
        let room = min(Self.receiveByteCount, ProxyHeaderReader.byteCountMax)
        let count = unsafe recv(descriptor, self.receiveBuffer.baseAddress, room, Int32(MSG_PEEK))
        guard count > 0 else {
            if count == 0 || errno != EAGAIN && errno != EINTR { driver.failed(index) }
            return false
        }
        // The first `count` bytes were just received.
        let bytes = unsafe Array(self.receiveBuffer[..<count])
        guard let (taken, progress) = self.proxyHeaders[index]?.take(bytes) else { return true }
        _ = unsafe recv(descriptor, self.receiveBuffer.baseAddress, taken, 0)
        guard progress != .incomplete else { return false }
        self.proxyHeaders[index] = nil
        return driver.proxyHeaderEnded(progress, on: index)
    }
}
#endif
