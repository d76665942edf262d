import StarlingCore
import Testing

@testable import Starling

@Suite struct OutboundQueueTests {
    @Test("Small frames for a peer that takes none share memory, and what is written keeps none")
    func outboundMemory() throws {
        var queue = OutboundQueue()
        var writer = OutboundWriter(role: .server)
        let payload: [UInt8] = [1, 2, 3]
        func append(_ count: Int) {
            for _ in 0..<count {
                unsafe queue.append(writer.encode(.binary, payload.span.bytes, isCompressed: false))
                queue.leaveLastChunk()
            }
        }
        append(1000)
        #expect(queue.byteCount == 5000)
        #expect(queue.segmentCount <= 12)
        var expected = Array(repeatElement([0x82, 3, 1, 2, 3] as [UInt8], count: 1000).joined())
        weak var chunk: OutboundChunk?
        var number = 0
        queue.forEachSegment { segment in
            number += 1
            if number == 3 { chunk = segment.chunk }
        }
        #expect(chunk != nil)
        // Written in part, and added to.
        queue.removeFirst(1501)
        #expect(chunk == nil)
        append(10)
        expected = Array(expected.dropFirst(1501)) + expected.prefix(50)
        var bytes: [UInt8] = []
        queue.forEachSegment { segment in unsafe bytes += Array(segment.bytes) }
        #expect(bytes == expected)
        queue.leaveChunks()
        append(300)
        queue.removeFirst(expected.count)
        #expect(queue.byteCount == 1500)
    }
}
