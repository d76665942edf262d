import CStarlingLinux
import Glibc
import Starling
import Testing

/// Whether the kernel has rings and allows them: elsewhere every write is a system call, which the other tests then cover.
private let isRingAvailable: Bool = {
    guard let ring = unsafe starling_send_ring_open(4) else {
        print("no ring for sends on this machine: \(unsafe String(cString: strerror(errno)))")
        return false
    }
    unsafe starling_send_ring_close(ring)
    return true
}()

@Suite(.enabled(if: isRingAvailable, "the kernel has no ring for sends, or forbids it"))
struct SendRingTests {
    /// Two connected sockets that do not block.
    private struct Pair: ~Copyable {
        let near: Int32
        let far: Int32

        init() throws {
            var descriptors: [Int32] = [0, 0]
            let kind = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
            try #require(unsafe socketpair(AF_UNIX, kind, 0, &descriptors) == 0)
            (self.near, self.far) = (descriptors[0], descriptors[1])
        }

        deinit {
            close(self.near)
            close(self.far)
        }

        /// What has arrived at the far end.
        func received() -> [UInt8] {
            var all: [UInt8] = []
            var buffer = [UInt8](repeating: 0, count: 1 << 16)
            while true {
                let count = unsafe recv(self.far, &buffer, buffer.count, 0)
                guard count > 0 else { return all }
                all += buffer[..<count]
            }
        }

        /// Sends until nothing more is taken.
        func fill() {
            let bytes = [UInt8](repeating: 7, count: 1 << 16)
            while unsafe send(self.near, bytes, bytes.count, Int32(MSG_NOSIGNAL)) > 0 {}
        }
    }

    private static func open(_ entries: UInt32) throws -> OpaquePointer {
        guard let ring = unsafe starling_send_ring_open(entries) else {
            throw TransportError("no ring: \(unsafe String(cString: strerror(errno)))")
        }
        return unsafe ring
    }

    @Test("A batch tells of each send what send would have told")
    func results() throws {
        let ring = unsafe try Self.open(8)
        defer { unsafe starling_send_ring_close(ring) }
        let open = try Pair()
        let broken = try Pair()
        let full = try Pair()
        let slow = try Pair()
        shutdown(broken.far, Int32(SHUT_RD))
        full.fill()
        let short = Array("a message".utf8)
        let long = (0..<4 << 20).map { UInt8(truncatingIfNeeded: $0) }
        // Twice, so that the ring goes on after failures.
        for round in 1...2 {
            let results = unsafe short.withUnsafeBytes { short in
                unsafe long.withUnsafeBytes { long in
                    var sends = unsafe [open.near, broken.near, full.near].map { descriptor in
                        unsafe starling_batched_send(
                            bytes: short.baseAddress,
                            count: short.count,
                            descriptor: descriptor,
                            result: 0
                        )
                    }
                    unsafe sends.append(
                        starling_batched_send(
                            bytes: long.baseAddress,
                            count: long.count,
                            descriptor: slow.near,
                            result: 0
                        )
                    )
                    unsafe starling_send_ring_send(ring, &sends, UInt32(sends.count))
                    return unsafe sends.map { unsafe Int($0.result) }
                }
            }
            #expect(results[0] == short.count)
            #expect(results[1] == -Int(EPIPE))
            #expect(results[2] == -Int(EAGAIN))
            #expect(open.received() == short)
            // As much as the socket takes, and nothing of it later.
            if round == 1 {
                #expect((1..<long.count).contains(results[3]))
                #expect(slow.received() == Array(long[..<results[3]]))
                slow.fill()
            } else {
                #expect(results[3] == -Int(EAGAIN))
            }
        }
    }

    @Test("A ring is used for as many batches as there are")
    func manyBatches() throws {
        let ring = unsafe try Self.open(4)
        defer { unsafe starling_send_ring_close(ring) }
        let pair = try Pair()
        for number in 0..<5000 {
            let bytes = [UInt8(truncatingIfNeeded: number)]
            let result = unsafe bytes.withUnsafeBytes { bytes in
                var send = unsafe starling_batched_send(
                    bytes: bytes.baseAddress,
                    count: bytes.count,
                    descriptor: pair.near,
                    result: 0
                )
                unsafe starling_send_ring_send(ring, &send, 1)
                return unsafe send.result
            }
            #expect(result == 1)
            #expect(pair.received() == bytes)
        }
    }
}
