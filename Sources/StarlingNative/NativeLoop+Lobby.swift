#if os(Linux)
internal import CStarlingLinux
internal import Glibc
internal import Starling

/// Connections that are no WebSockets yet wait in a lobby, an epoll of their own that the loop's epoll watches.
///
/// A handshake costs more than a message does, with TLS a hundred times as much. When thousands come at once, those who are
/// connected would stand behind all of them; as it is, every tick looks at what these want first, and then at a few newcomers.
extension NativeLoop {
    /// Events of newcomers that a tick attends to.
    static let newcomersPerTick = 64
    /// And how long it does so, looked at after each quarter of them.
    static let newcomersNanoseconds: UInt64 = 5_000_000

    func attendNewcomers(_ driver: ConnectionDriver) {
        let end = Syscalls.monotonicNanoseconds() + Self.newcomersNanoseconds
        // What is not taken out of the lobby now is there at the next tick.
        let step = Self.newcomersPerTick / 4
        for _ in 0..<4 {
            let events = unsafe UnsafeMutableBufferPointer(rebasing: self.events[..<step])
            let count = unsafe self.lobby.wait(for: events, milliseconds: 0)
            for position in 0..<count { unsafe self.handle(events[position], driver) }
            if count < step || Syscalls.monotonicNanoseconds() >= end { return }
        }
    }

    /// Begins to watch a connection, in the lobby if it is a newcomer; false if the kernel has no room for it.
    func watch(_ index: Int) -> Bool {
        self.control(starling_epoll_add, index)
    }

    /// Looks for what the connection's flags say.
    func updateInterest(_ index: Int) {
        _ = self.control(starling_epoll_change, index)
    }

    private func control(_ operation: starling_epoll_operation, _ index: Int) -> Bool {
        let connection = unsafe self.connections.pointer(index)
        return unsafe self.epoll(of: index).control(
            operation,
            connection.pointee.descriptor,
            self.connections.token(index),
            reading: connection.pointee.flags.contains(.reading),
            writing: connection.pointee.flags.contains(.writing),
            self.tls == nil ? starling_trigger_edge : starling_trigger_level
        )
    }

    /// Out of the lobby.
    func opened(_ index: Int) {
        let connection = unsafe self.connections.pointer(index)
        guard unsafe connection.pointee.flags.contains(.newcomer) else { return }
        let descriptor = unsafe connection.pointee.descriptor
        unsafe connection.pointee.flags.remove(.newcomer)
        if self.unwatched == index { return }
        if self.watch(index) {
            self.lobby.remove(descriptor)
        } else {
            // It is served from there too.
            unsafe connection.pointee.flags.insert(.newcomer)
        }
    }

    /// Watches a connection no more.
    func forget(_ index: Int) {
        unsafe self.epoll(of: index).remove(self.connections.pointer(index).pointee.descriptor)
    }

    private func epoll(of index: Int) -> Epoll {
        unsafe self.connections.pointer(index).pointee.flags.contains(.newcomer) ? self.lobby : self.epoll
    }
}
#endif
