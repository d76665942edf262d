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

    /// Where a socket's peer is; an IPv4 client of a dual-stack listener is an IPv4 client.
    static func remoteAddress(_ storage: sockaddr_storage) -> RemoteAddress {
        func remote(_ address: some Any, _ port: in_port_t) -> RemoteAddress {
            // `address` stands where it is during the call.
            unsafe withUnsafeBytes(of: address) {
                unsafe RemoteAddress(bytes: RawSpan(_unsafeBytes: $0), port: UInt16(bigEndian: port))
            }
        }
        return unsafe withUnsafeBytes(of: storage) { bytes in
            // The storage is large enough for either kind, and the family says which one it holds.
            switch Int32(storage.ss_family) {
            case AF_INET:
                let address = unsafe bytes.load(as: sockaddr_in.self)
                return remote(address.sin_addr, address.sin_port)
            case AF_INET6:
                let address = unsafe bytes.load(as: sockaddr_in6.self)
                return remote(address.sin6_addr, address.sin6_port)
            default: return .unknown
            }
        }
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
