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

    /// Watches one more descriptor, which is spoken of as `token`; false if the kernel has no room for it.
    func add(
        _ descriptor: Int32,
        _ token: UInt64,
        reading: Bool = true,
        writing: Bool = false,
        _ trigger: starling_trigger
    ) -> Bool {
        let error = starling_epoll_control(
            self.descriptor,
            starling_epoll_add,
            descriptor,
            token,
            reading,
            writing,
            trigger
        )
        return error == 0
    }

    /// Looks for something else from now on.
    func change(
        _ descriptor: Int32,
        _ token: UInt64,
        reading: Bool,
        writing: Bool,
        _ trigger: starling_trigger
    ) {
        _ = starling_epoll_control(
            self.descriptor,
            starling_epoll_change,
            descriptor,
            token,
            reading,
            writing,
            trigger
        )
    }

    /// Takes a descriptor out; the kernel does that by itself when the last one of a socket is closed.
    func remove(_ descriptor: Int32) {
        _ = starling_epoll_control(
            self.descriptor,
            starling_epoll_remove,
            descriptor,
            0,
            false,
            false,
            starling_trigger_level
        )
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
