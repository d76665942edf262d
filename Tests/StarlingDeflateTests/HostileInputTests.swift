import StarlingCore
import StarlingDeflate
import Testing

/// Payloads that nobody means well with.
@Suite struct HostileInputTests {
    static let seed: (message: [UInt8], payload: [UInt8]) = {
        var generator = SeededGenerator(seed: 4)
        let message = generator.chatMessage(byteCount: 300)
        // Optional, as a static cannot throw: an empty payload makes every test here fail.
        let payload = try? Deflater(windowBits: 15, level: 6, memLevel: 8).compress(message)
        return (message, payload ?? [])
    }()

    @Test(
        "Every other value of every byte fails or stays within the limit"
    )
    func flips() throws {
        let (message, payload) = Self.seed
        let inflater = try Inflater(windowBits: 15)
        let byteCountMax = 2 * message.count
        var refused = 0
        var tried = 0
        var mutant = payload
        for index in payload.indices {
            for difference in UInt8(1)...255 {
                mutant[index] = payload[index] ^ difference
                tried += 1
                var output: [UInt8] = [0xAA]
                do {
                    try inflater.inflate(
                        mutant,
                        byteCountMax: byteCountMax,
                        keepingContext: false,
                        into: &output
                    )
                    #expect(output.count <= 1 + byteCountMax)
                } catch {
                    refused += 1
                    #expect(error.code == .corrupt || error.code == .tooBig)
                    #expect(output == [0xAA])
                }
            }
            mutant[index] = payload[index]
            #expect(try inflater.inflate(payload) == message)
        }
        #expect(tried > 30_000)
        #expect(refused > tried / 4)
    }

    @Test("A message that is cut anywhere is corrupt")
    func truncation() throws {
        let inflater = try Inflater(windowBits: 15)
        for (hex, text) in [("f2 48 cd c9 c9 07 00", "Hello"), ("f3 48 cd c9 c9 07 00 00", "Hello")] {
            let payload = [UInt8](hex: hex)
            for count in 0..<payload.count {
                let error = #expect(throws: DeflateError.self) {
                    try inflater.inflate(Array(payload[..<count]))
                }
                #expect(error?.code == .corrupt)
            }
            #expect(try inflater.inflate(payload) == Array(text.utf8))
        }
        let (message, payload) = Self.seed
        for count in 0..<payload.count {
            let error = #expect(throws: DeflateError.self, "cut to \(count)") {
                try inflater.inflate(Array(payload[..<count]))
            }
            #expect(error?.code == .corrupt)
            #expect(try inflater.inflate(payload) == message)
        }
    }

    @Test(
        "What is no DEFLATE data is corrupt",
        arguments: [
            "",  // RFC 7692 §7.2.3.6: an empty message is the byte 00
            "07",  // the reserved block type
            "f2 48 cd c9 c9 07 00 00 00 ff ff",  // the marker was left in, and stands here twice
            "f2 48 cd c9 c9 07 00 07",  // garbage after the message
            "f3 48 cd c9 c9 07 00",  // BFINAL without the byte 00 of §7.2.3.4
            "00 05 00 fa fe 48 65 6c 6c 6f 00",  // the length and its complement differ
            "f2 00 11 00 00",  // refers back to nothing
            "02 70 00 00",  // a distance beyond the window
            "ff ff ff ff ff ff ff ff",
            "05 e0 ff ff ff ff ff ff",  // a dynamic block with an oversubscribed code
        ]
    )
    func corrupt(_ hex: String) throws {
        for windowBits in 8...15 {
            let inflater = try Inflater(windowBits: windowBits)
            for keepingContext in [true, false] {
                let error = #expect(throws: DeflateError.self) {
                    try inflater.inflate([UInt8](hex: hex), keepingContext: keepingContext)
                }
                #expect(error?.code == .corrupt)
                #expect(error?.closeCode == .invalidPayload)
                #expect(try inflater.inflate([0x00], keepingContext: keepingContext) == [])
            }
        }
    }

    @Test("Random bytes end in an error or within the limit")
    func random() throws {
        var generator = SeededGenerator(seed: 5)
        let inflater = try Inflater(windowBits: 12)
        var refused = 0
        for round in 0..<5_000 {
            let payload = generator.bytes(round % 97)
            do {
                #expect(try inflater.inflate(payload, byteCountMax: 1_000).count <= 1_000)
            } catch {
                refused += 1
            }
        }
        #expect(refused > 4_000)
        #expect(try inflater.inflate(Self.seed.payload) == Self.seed.message)
    }

    @Test("A reference beyond the agreed window is corrupt, though a larger window would have it")
    func windowIsEnforced() throws {
        var generator = SeededGenerator(seed: 6)
        let block = generator.bytes(600)
        let deflater = try Deflater(windowBits: 15, level: 9, memLevel: 9)
        let first = deflater.compress(block + generator.bytes(4_000), keepingContext: true)
        let second = deflater.compress(block, keepingContext: true)
        #expect(second.count < 300)

        let large = try Inflater(windowBits: 15)
        _ = try large.inflate(first, keepingContext: true)
        #expect(try large.inflate(second, keepingContext: true) == block)

        let small = try Inflater(windowBits: 9)
        _ = try small.inflate(first, keepingContext: true)
        let error = #expect(throws: DeflateError.self) { try small.inflate(second, keepingContext: true) }
        #expect(error?.code == .corrupt)
    }

    @Test("The limit is exact", arguments: [0, 1, 2, 255, 256, 257, 1_023, 1_024, 1_025, 65_536, 100_000])
    func exactLimit(_ count: Int) throws {
        var generator = SeededGenerator(seed: UInt64(count))
        let deflater = try Deflater(windowBits: 15, level: 1, memLevel: 8)
        let inflater = try Inflater(windowBits: 15)
        for message in [generator.bytes(count), [UInt8](repeating: 7, count: count)] {
            let payload = deflater.compress(message)
            #expect(try inflater.inflate(payload, byteCountMax: count) == message)
            #expect(try inflater.inflate(payload, byteCountMax: count + 1) == message)
            #expect(try inflater.inflate(payload, byteCountMax: .max) == message)
            guard count > 0 else { continue }
            for limit in [count - 1, count / 2, 0] {
                let error = #expect(throws: DeflateError.self) {
                    try inflater.inflate(payload, byteCountMax: limit)
                }
                #expect(error?.code == .tooBig)
                #expect(error?.closeCode == .messageTooBig)
            }
        }
    }
}
