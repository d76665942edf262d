import Foundation
import Glibc
import Starling

/// A proxy in front of a Redis, on a port of its own, that can hold back what belongs to subscribed links: they stand, take
/// bytes, and deliver nothing.
final class TCPProxy: Sendable {
    private struct State {
        var isMuted = false
        var descriptors: [Int32] = []
        /// Bytes that were held back.
        var swallowedByteCount = 0
    }

    let port: Int
    private let target: Int
    private let listener: Int32
    private let state = Lock(State())

    init(to target: Int) throws {
        self.target = target
        self.port = try RedisProcess.freePort()
        self.listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var address = Self.loopback(self.port)
        let size = socklen_t(MemoryLayout<sockaddr_in>.size)
        let result = unsafe withUnsafePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { pointer in
                unsafe bind(self.listener, pointer, size) == 0 ? listen(self.listener, 64) : -1
            }
        }
        guard result == 0 else { throw RedisProcessError("a proxy cannot listen") }
        Thread.detachNewThread { self.accept() }
    }

    func mute() { self.state.withLock { $0.isMuted = true } }
    func unmute() { self.state.withLock { $0.isMuted = false } }

    var swallowedByteCount: Int { self.state.withLock { $0.swallowedByteCount } }

    /// Ends everything, the proxy's threads included.
    func stop() {
        for descriptor in self.state.withLock({ $0.descriptors }) + [self.listener] {
            _ = shutdown(descriptor, Int32(SHUT_RDWR))
        }
    }

    private func accept() {
        while true {
            let client = Glibc.accept(self.listener, nil, nil)
            guard client >= 0 else { break }
            let server = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
            var address = Self.loopback(self.target)
            let size = socklen_t(MemoryLayout<sockaddr_in>.size)
            let result = unsafe withUnsafePointer(to: &address) { pointer in
                unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { pointer in
                    unsafe connect(server, pointer, size)
                }
            }
            guard result == 0 else {
                close(client)
                close(server)
                continue
            }
            self.state.withLock { $0.descriptors += [client, server] }
            let isSubscribed = Lock(false)
            Thread.detachNewThread { self.copy(from: client, to: server, isSubscribed, watches: true) }
            Thread.detachNewThread { self.copy(from: server, to: client, isSubscribed, watches: false) }
        }
        close(self.listener)
    }

    /// Copies until one side ends; the descriptors stay open until the test's process ends, a few per test.
    private func copy(from source: Int32, to sink: Int32, _ isSubscribed: Lock<Bool>, watches: Bool) {
        var buffer = [UInt8](repeating: 0, count: 64 << 10)
        while true {
            let count = unsafe recv(source, &buffer, buffer.count, 0)
            guard count > 0 else { break }
            let bytes = buffer[..<count]
            if watches, String(decoding: bytes, as: UTF8.self).contains("SUBSCRIBE") {
                isSubscribed.withLock { $0 = true }
            }
            let isWithheld =
                isSubscribed.withLock { $0 }
                && self.state.withLock { state in
                    if state.isMuted { state.swallowedByteCount += count }
                    return state.isMuted
                }
            if isWithheld { continue }
            var rest = bytes
            while !rest.isEmpty {
                let sent = unsafe rest.withUnsafeBytes {
                    unsafe send(sink, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
                }
                guard sent > 0 else { return self.end(source, sink) }
                rest = rest.dropFirst(sent)
            }
        }
        self.end(source, sink)
    }

    private func end(_ one: Int32, _ other: Int32) {
        _ = shutdown(one, Int32(SHUT_RDWR))
        _ = shutdown(other, Int32(SHUT_RDWR))
    }

    private static func loopback(_ port: Int) -> sockaddr_in {
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = in_port_t(port).bigEndian
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        return address
    }
}
