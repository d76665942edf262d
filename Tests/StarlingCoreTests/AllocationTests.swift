import StarlingCore
import TestSupport
import Testing

/// What runs for every message asks for no memory.
@Suite(.enabled(if: AllocationCounter.isAvailable, "allocations cannot be counted here"))
struct AllocationTests {
    @Test("The counter counts")
    func counter() {
        var arrays: [[UInt8]] = []
        arrays.reserveCapacity(2000)
        let count = AllocationCounter.count(repetitions: 1000) {
            arrays.append([UInt8](repeating: 1, count: 100))
        }
        #expect(count == 1000)
        #expect(arrays.count == 2000)
    }

    @Test("Decoding a frame", arguments: [0, 20, 125, 126, 4096, 70_000])
    func decoding(_ payloadByteCount: Int) throws {
        let payload = [UInt8](repeating: 0x61, count: payloadByteCount)
        for opcode in [Opcode.text, .binary] {
            // A key of 0 leaves the payload as it is, so that the same bytes can be decoded again.
            var wire = frame(opcode, payload, key: 0)
            try self.expectNoAllocations(decoding: &wire, messages: 1)
        }
    }

    @Test("Decoding control frames, and many frames of one read")
    func decodingMany() throws {
        var control = frame(.ping, [1, 2, 3], key: 0) + frame(.pong, [], key: 0)
        try self.expectNoAllocations(decoding: &control, messages: 0)
        var close = frame(.close, [0x03, 0xE8, 0x61], key: 0)
        try self.expectNoAllocations(decoding: &close, messages: 0)
        var many: [UInt8] = []
        for _ in 0..<20 { many += frame(.text, Array("twenty bytes of text".utf8), key: 0) }
        try self.expectNoAllocations(decoding: &many, messages: 20)
    }

    private func expectNoAllocations(decoding wire: inout [UInt8], messages: Int) throws {
        var codec = FrameCodec(role: .server)
        var messageCount = 0
        let count = try AllocationCounter.count(repetitions: 100) {
            var span = wire.mutableSpan
            var bytes = unsafe span.mutableBytes
            decoding: while true {
                switch try codec.next(in: &bytes) {
                case .message: messageCount += 1
                case .needsMoreBytes: break decoding
                default: continue
                }
            }
        }
        #expect(count == 0)
        #expect(messageCount == 200 * messages)
    }

    @Test(
        "Encoding a frame into the caller's buffer",
        .enabled(if: AllocationCounter.isOptimized, "an unoptimised build boxes captured variables"),
        arguments: [0, 20, 126, 70_000]
    )
    func encoding(_ payloadByteCount: Int) {
        let payload = [UInt8](repeating: 0x61, count: payloadByteCount)
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: payloadByteCount + 14, alignment: 8)
        defer { unsafe buffer.deallocate() }
        var byteCount = 0
        let count = AllocationCounter.count(repetitions: 100) {
            // The buffer holds the payload and the longest header, and is nobody else's.
            var output = unsafe OutputRawSpan(buffer: buffer, initializedCount: 0)
            unsafe FrameCodec.encode(.binary, payload.span.bytes, into: &output)
            output.removeAll()
            let key = MaskingKey(rawValue: 0x0102_0304)
            unsafe FrameCodec.encode(.binary, payload.span.bytes, maskingKey: key, into: &output)
            byteCount = unsafe output.finalize(for: buffer)
        }
        #expect(count == 0)
        #expect(
            byteCount
                == FrameCodec.encodedByteCount(payloadByteCount: payloadByteCount, isMasked: true)
        )
    }

    @Test("Masking, and validating UTF-8")
    func maskingAndValidating() {
        var text = Array(String(repeating: "Grüße, 世界! ", count: 100).utf8)
        let key = MaskingKey(rawValue: 0x1234_5678)
        var isValid = true
        let count = AllocationCounter.count {
            var span = text.mutableSpan
            var bytes = unsafe span.mutableBytes
            key.apply(to: &bytes, at: 1)
            key.apply(to: &bytes, at: 1)
            isValid = UTF8Validator.isValid(bytes.bytes) && isValid
        }
        #expect(count == 0)
        #expect(isValid)
    }

    @Test("The assembler asks for memory for the payload that it joins, and for nothing else")
    func assembling() throws {
        let empty: [UInt8] = []
        let payload = Array("twenty bytes of text".utf8)
        var assembler = MessageAssembler(limits: Limits())
        for (piece, expected) in [(empty, 0), (payload, 1)] {
            let count = try AllocationCounter.count(repetitions: 100) {
                assembler.begin(.text)
                try assembler.beginFragment(payloadByteCount: piece.count)
                try unsafe assembler.append(piece.span.bytes)
                _ = try assembler.finish()
                assembler.reset()
            }
            #expect(count == 100 * expected)
        }
    }
}
