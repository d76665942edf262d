#if os(Linux)
internal import CStarlingLinux
internal import Glibc
internal import Starling

/// A process' place among its predecessors and successors: the Unix socket at a path.
///
/// The socket is made beside the path before anything else, so that a process that could not wait for a successor does not take
/// over either; it moves to the path once the process serves. The move is atomic: there is always one process that answers.
struct HandoffPoint: Sendable {
    let handoff: Handoff
    let socket: Int32
    private let temporaryPath: String
    /// Tells the socket's file from another one that stands at the path later.
    private let file: FileIdentity?

    init(_ handoff: Handoff) throws(TransportError) {
        self.handoff = handoff
        self.temporaryPath = "\(handoff.path).\(getpid()).\(UInt16.random(in: .min ... .max))"
        let path = self.temporaryPath
        guard var address = Self.address(path) else {
            throw TransportError(
                "cannot hand off at '\(handoff.path)': the path is too long for a Unix socket"
            )
        }
        let descriptor = Self.makeSocket()
        guard descriptor >= 0 else { throw TransportError("cannot make a socket: \(Syscalls.lastError)") }
        // Whoever can connect before the mode is set is refused by its user.
        let isBound = unsafe withUnsafeBytes(of: &address) { bytes in
            guard let base = bytes.baseAddress else { return false }
            return unsafe bind(
                descriptor,
                base.assumingMemoryBound(to: sockaddr.self),
                socklen_t(bytes.count)
            ) == 0
        }
        guard isBound, unsafe chmod(path, 0o600) == 0, listen(descriptor, 8) == 0 else {
            let reason = Syscalls.lastError
            _ = Glibc.close(descriptor)
            if isBound { unsafe unlink(path) }
            throw TransportError("cannot hand off at '\(handoff.path)': \(reason)")
        }
        self.socket = descriptor
        self.file = FileIdentity(path: path)
    }

    /// Connects to the process that waits at the path; nil if there is none.
    func connectToPredecessor() throws(TransportError) -> HandoffChannel? {
        guard var address = Self.address(self.handoff.path) else { return nil }
        let descriptor = Self.makeSocket()
        guard descriptor >= 0 else { throw TransportError("cannot make a socket: \(Syscalls.lastError)") }
        let isConnected = unsafe withUnsafeBytes(of: &address) { bytes in
            guard let base = bytes.baseAddress else { return false }
            return unsafe connect(
                descriptor,
                base.assumingMemoryBound(to: sockaddr.self),
                socklen_t(bytes.count)
            ) == 0
        }
        if isConnected { return HandoffChannel(descriptor, timeout: self.handoff.timeout) }
        let code = errno
        _ = Glibc.close(descriptor)
        // No file, or one that a process which was killed has left.
        if code == ENOENT || code == ECONNREFUSED { return nil }
        throw TransportError(
            unsafe "cannot ask for a hand-off at '\(self.handoff.path)': \(String(cString: strerror(code)))"
        )
    }

    /// From now on successors find this process; false if the file system does not let it.
    func publish() -> Bool {
        unsafe rename(self.temporaryPath, self.handoff.path) == 0
    }

    /// Waits for no successor any more.
    func close() {
        unsafe unlink(self.temporaryPath)
        // The path may be another process' by now.
        if self.file != nil, FileIdentity(path: self.handoff.path) == self.file {
            unsafe unlink(self.handoff.path)
        }
        _ = Glibc.close(self.socket)
    }

    private static func makeSocket() -> Int32 {
        Glibc.socket(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
    }

    private static func address(_ path: String) -> sockaddr_un? {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        guard path.utf8.count < MemoryLayout.size(ofValue: address.sun_path) else { return nil }
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: path.utf8) }
        return address
    }
}
#endif
