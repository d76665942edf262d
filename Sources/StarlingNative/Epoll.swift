#if os(Linux)
internal import CStarlingLinux
internal import Glibc

/// An epoll: tells which of many descriptors can be read or written.
struct Epoll {
    let descriptor: Int32

    init() {
        self.descriptor = starling_epoll_create()
        precondition(self.descriptor >= 0, "no descriptor is left for an event loop")
    }

    /// Watches one more descriptor for something to read, and speaks of it as `token`; false if the kernel has no room for it.
    func add(_ descriptor: Int32, _ token: UInt64, _ trigger: starling_trigger) -> Bool {
        self.control(starling_epoll_add, descriptor, token, reading: true, writing: false, trigger)
    }

    /// Takes a descriptor out; the kernel does that by itself when the last one of a socket is closed.
    func remove(_ descriptor: Int32) {
        _ = self.control(
            starling_epoll_remove,
            descriptor,
            0,
            reading: false,
            writing: false,
            starling_trigger_level
        )
    }

    /// Begins, changes or ends what is looked for on a descriptor, which is spoken of as `token`; false if the kernel does not do it.
    func control(
        _ operation: starling_epoll_operation,
        _ descriptor: Int32,
        _ token: UInt64,
        reading: Bool,
        writing: Bool,
        _ trigger: starling_trigger
    ) -> Bool {
        starling_epoll_control(self.descriptor, operation, descriptor, token, reading, writing, trigger) == 0
    }

    /// Waits so many milliseconds at most, or for any time if negative; how many events there are, none after an interrupted wait.
    func wait(for events: UnsafeMutableBufferPointer<starling_event>, milliseconds: Int32) -> Int {
        let count = unsafe starling_epoll_wait(
            self.descriptor,
            events.baseAddress,
            Int32(events.count),
            milliseconds
        )
        return max(0, Int(count))
    }

    func close() {
        _ = Glibc.close(self.descriptor)
    }
}
#endif
