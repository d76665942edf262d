import CZlib
import Foundation
import StarlingCore
import StarlingDeflate
import Testing

/// What compression may cost.
@Suite(.serialized) struct MemoryTests {
    /// A payload that inflates to 1 GiB of zeroes.
    ///
    /// A mebibyte compresses to one kibibyte, and messages joined by
    /// markers are a message.
    static func bomb() throws -> [UInt8] {
        let deflater = try Deflater(windowBits: 15, level: 9, memLevel: 9)
        let piece = deflater.compress([UInt8](repeating: 0, count: 1 << 20))
        var payload: [UInt8] = []
        for _ in 0..<1_023 {
            payload += piece + marker
        }
        return payload + piece
    }

    @Test("A bomb of 1 GiB costs the limit", arguments: [1_000, 1 << 20, 16 << 20])
    func bomb(_ byteCountMax: Int) throws {
        let payload = try Self.bomb()
        #expect(payload.count < 2 << 20)
        let inflater = try Inflater(windowBits: 15)
        var output: [UInt8] = []
        #if os(Linux)
        let before = try Self.peakByteCount()
        #endif
        let error = #expect(throws: DeflateError.self) {
            try inflater.inflate(
                payload,
                byteCountMax: byteCountMax,
                keepingContext: false,
                into: &output
            )
        }
        #expect(error?.code == .tooBig)
        #expect(output.isEmpty)
        // The allocator rounds up.
        #expect(output.capacity <= byteCountMax + (64 << 10))
        #if os(Linux)
        // Other tests run in this process at the same time; the bomb is 1 GiB.
        #expect(try Self.peakByteCount() - before < 256 << 20)
        #endif
        #expect(try inflater.inflate([0x00]) == [])
    }

    @Test("A mebibyte of last blocks, each of two bytes, is read once")
    func finalBlocks() throws {
        var payload: [UInt8] = []
        for _ in 0..<(1 << 19) {
            payload += [0x03, 0x00]
        }
        let inflater = try Inflater(windowBits: 15)
        #expect(try inflater.inflate(payload + [0x00], byteCountMax: 0) == [])
        #expect(throws: DeflateError.self) { try inflater.inflate(payload, byteCountMax: 0) }
    }

    @Test("Nor do they cost more behind a long message", .timeLimit(.minutes(1)))
    func finalBlocksBehindMessage() throws {
        let message = [UInt8](repeating: 7, count: 1 << 19)
        var payload = try Deflater(windowBits: 15, level: 9, memLevel: 9).compress(message) + marker
        for _ in 0..<(1 << 18) { payload += [0x03, 0x00] }
        let inflater = try Inflater(windowBits: 15)
        #expect(try inflater.inflate(payload + [0x00], byteCountMax: 1 << 20) == message)
    }

    @Test("The output grows by doubling, and not beyond the limit")
    func growth() throws {
        let message = [UInt8](repeating: 1, count: 900_000)
        let payload = try Deflater(windowBits: 15, level: 1, memLevel: 8).compress(message)
        let inflater = try Inflater(windowBits: 15)
        var output: [UInt8] = []
        try inflater.inflate(
            payload,
            byteCountMax: 1_000_000,
            keepingContext: false,
            into: &output
        )
        #expect(output == message)
        #expect(output.capacity <= 1_000_000 + (64 << 10))

        // Many messages into one output do not move it each time.
        let small = try Deflater(windowBits: 15, level: 1, memLevel: 8).compress(Array("Hello".utf8))
        var moves = 0
        output = []
        for _ in 0..<10_000 {
            let capacity = output.capacity
            try inflater.inflate(
                small,
                byteCountMax: 1 << 20,
                keepingContext: false,
                into: &output
            )
            if output.capacity != capacity { moves += 1 }
        }
        #expect(output.count == 50_000)
        #expect(moves < 20)
    }

    @Test("Slices of any size make the same message")
    func slices() throws {
        var generator = SeededGenerator(seed: 7)
        let message = generator.chatMessage(byteCount: 2_000) + generator.bytes(500)
        let expected = try Deflater(windowBits: 15, level: 6, memLevel: 8).compress(message)
        for byteCount in [1, 2, 3, 7, 100, expected.count - 1, expected.count] {
            let deflater = try Deflater(windowBits: 15, level: 6, memLevel: 8)
            deflater.sliceByteCountMax = byteCount
            let payload = deflater.compress(message, keepingContext: true)
            let inflater = try Inflater(windowBits: 15)
            inflater.sliceByteCountMax = byteCount
            #expect(try inflater.inflate(payload, keepingContext: true) == message)
            #expect(try inflater.inflate(expected) == message)
            for count in 0..<expected.count where count % 50 == 0 {
                #expect(throws: DeflateError.self) { try inflater.inflate(Array(expected[..<count])) }
            }
            #expect(throws: DeflateError.self) {
                try inflater.inflate(expected, byteCountMax: message.count - 1)
            }
        }
    }

    @Test("A used stream allocates nothing for a message, with or without context takeover")
    func noAllocation() throws {
        let deflater = try Deflater(windowBits: 15, level: 1, memLevel: 8)
        let inflater = try Inflater(windowBits: 15)
        var generator = SeededGenerator(seed: 8)
        let message = generator.chatMessage(byteCount: 1_000)
        var payload: [UInt8] = []
        var output: [UInt8] = []
        func roundTrip(keepingContext: Bool) throws {
            payload.removeAll(keepingCapacity: true)
            output.removeAll(keepingCapacity: true)
            deflater.compress(message, keepingContext: keepingContext, into: &payload)
            try inflater.inflate(
                payload,
                byteCountMax: 1 << 20,
                keepingContext: keepingContext,
                into: &output
            )
        }
        let counter = UnsafeMutablePointer<Int>.allocate(capacity: 1)
        unsafe counter.initialize(to: 0)
        defer { unsafe counter.deallocate() }
        // SAFETY: the streams use the counter only within this function. `deinit` frees through `zfree`, which
        // stays as it was.
        let counting: alloc_func = { counter, count, size in
            unsafe counter?.assumingMemoryBound(to: Int.self).pointee += 1
            return unsafe calloc(Int(count), Int(size))
        }
        unsafe inflater.stream.pointer.pointee.zalloc = counting
        unsafe inflater.stream.pointer.pointee.opaque = UnsafeMutableRawPointer(counter)
        unsafe deflater.stream.pointer.pointee.zalloc = counting
        unsafe deflater.stream.pointer.pointee.opaque = UnsafeMutableRawPointer(counter)

        try roundTrip(keepingContext: true)
        #expect(unsafe counter.pointee == 1, "the inflater's window comes with the first message")
        for keepingContext in [true, false, false, true] {
            try roundTrip(keepingContext: keepingContext)
        }
        let capacities = (payload.capacity, output.capacity)
        for round in 0..<1_000 {
            try roundTrip(keepingContext: round.isMultiple(of: 7))
        }
        #expect(unsafe counter.pointee == 1)
        #expect(capacities == (payload.capacity, output.capacity))
        #expect(output == message)
    }

    @Test("Without memory for a window a message fails, and the next one does not")
    func outOfMemory() throws {
        let inflater = try Inflater(windowBits: 15)
        let allocate = unsafe inflater.stream.pointer.pointee.zalloc
        unsafe inflater.stream.pointer.pointee.zalloc = { _, _, _ in nil }
        let payload = [UInt8](hex: "f2 48 cd c9 c9 07 00")
        let error = #expect(throws: DeflateError.self) { try inflater.inflate(payload) }
        #expect(error?.code == .outOfMemory)
        #expect(error?.closeCode == .tryAgainLater)
        unsafe inflater.stream.pointer.pointee.zalloc = allocate
        #expect(try inflater.inflate(payload) == Array("Hello".utf8))
    }

    #if os(Linux)
    @Test("Streams that are let go leave nothing behind")
    func noLeak() throws {
        let message = Array("Hello, hello".utf8)
        let before = try Self.peakByteCount()
        var byteCount = 0
        for _ in 0..<4_000 {
            let deflater = try Deflater(windowBits: 15, level: 1, memLevel: 8)
            let inflater = try Inflater(windowBits: 15)
            #expect(try inflater.inflate(deflater.compress(message)) == message)
            byteCount += deflater.memoryByteCount + inflater.memoryByteCount
        }
        #expect(byteCount > 1 << 30)
        // AddressSanitizer keeps 256 MiB of what was freed.
        #expect(try Self.peakByteCount() - before < byteCount / 2)
    }

    /// The most memory that this process ever had.
    static func peakByteCount() throws -> Int {
        let status = try String(contentsOfFile: "/proc/self/status", encoding: .utf8)
        let line = try #require(status.split(separator: "\n").first { $0.hasPrefix("VmHWM:") })
        let kibibytes = try #require(line.split(whereSeparator: { " \t".contains($0) }).dropFirst().first)
        return try #require(Int(kibibytes)) << 10
    }
    #endif

    @Test("The estimates are those of zlib's own allocations, within a tenth", arguments: 8...15)
    func estimates(_ windowBits: Int) throws {
        let inflater = try Inflater(windowBits: windowBits)
        _ = try inflater.inflate([UInt8](hex: "f2 48 cd c9 c9 07 00"), keepingContext: true)
        for memLevel in [1, 5, 8, 9] {
            let deflater = try Deflater(windowBits: windowBits, level: 1, memLevel: memLevel)
            let deflated = unsafe Self.byteCount(of: deflater.stream, copy: deflateCopy, end: deflateEnd)
            let inflated = unsafe Self.byteCount(of: inflater.stream, copy: inflateCopy, end: inflateEnd)
            #expect(abs(deflated - deflater.memoryByteCount) <= deflater.memoryByteCount / 10)
            #expect(abs(inflated - inflater.memoryByteCount) <= inflater.memoryByteCount / 10)
        }
    }

    /// What zlib allocates for a stream: as much as for a copy of it.
    static func byteCount(
        of stream: StarlingDeflate.Stream,
        copy: (z_streamp?, z_streamp?) -> Int32,
        end: (z_streamp?) -> Int32
    ) -> Int {
        var byteCount = 0
        // SAFETY: zlib allocates during `copy` alone, in which the counter is in place; the stream's own functions
        // are back before anything else uses it, and `end` frees with `free`.
        unsafe withUnsafeMutablePointer(to: &byteCount) { byteCount in
            let source = unsafe stream.pointer
            let original = unsafe source.pointee
            unsafe source.pointee.opaque = UnsafeMutableRawPointer(byteCount)
            unsafe source.pointee.zalloc = { byteCount, count, size in
                unsafe byteCount?.assumingMemoryBound(to: Int.self).pointee += Int(count) * Int(size)
                return unsafe calloc(Int(count), Int(size))
            }
            unsafe source.pointee.zfree = { _, address in unsafe free(address) }
            let target = UnsafeMutablePointer<z_stream>.allocate(capacity: 1)
            defer { unsafe target.deallocate() }
            unsafe target.initialize(to: z_stream())
            let copied = unsafe copy(target, source)
            #expect(copied == Z_OK)
            _ = unsafe end(target)
            unsafe source.pointee = unsafe original
        }
        return byteCount
    }
}
