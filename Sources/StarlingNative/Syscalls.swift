#if os(Linux)
internal import CStarlingLinux
internal import Glibc
internal import Starling

/// The kernel's calls on sockets, with pointers only in here.
enum Syscalls {
    /// The last error, in words.
    static var lastError: String {
        unsafe String(cString: strerror(errno))
    }

    /// Where a socket's peer is.
    static func remoteAddress(_ storage: sockaddr_storage) -> RemoteAddress {
        guard storage.ss_family == sa_family_t(AF_INET) || storage.ss_family == sa_family_t(AF_INET6) else {
            return .unknown
        }
        var text = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
        let port: UInt16 = unsafe withUnsafeBytes(of: storage) { bytes in
            // The storage is large enough for either kind, and the family says which one it holds.
            if storage.ss_family == sa_family_t(AF_INET) {
                var address = unsafe bytes.load(as: sockaddr_in.self)
                unsafe inet_ntop(AF_INET, &address.sin_addr, &text, socklen_t(text.count))
                return UInt16(bigEndian: address.sin_port)
            }
            var address = unsafe bytes.load(as: sockaddr_in6.self)
            unsafe inet_ntop(AF_INET6, &address.sin6_addr, &text, socklen_t(text.count))
            return UInt16(bigEndian: address.sin6_port)
        }
        let host = unsafe text.withUnsafeBufferPointer {
            unsafe $0.baseAddress.map { unsafe String(cString: $0) } ?? ""
        }
        // An IPv4 client of a dual-stack listener is an IPv4 client.
        return RemoteAddress(host: host.hasPrefix("::ffff:") ? String(host.dropFirst(7)) : host, port: port)
    }

    /// Waits until a descriptor is ready; false if it was not in time.
    static func wait(for events: Int32, on descriptor: Int32, milliseconds: Int32) -> Bool {
        var entry = pollfd(fd: descriptor, events: Int16(events), revents: 0)
        return unsafe poll(&entry, 1, milliseconds) > 0
    }

    /// Nanoseconds of a clock that never goes back.
    static func monotonicNanoseconds() -> UInt64 {
        var time = timespec()
        unsafe clock_gettime(CLOCK_MONOTONIC, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }
}
#endif
