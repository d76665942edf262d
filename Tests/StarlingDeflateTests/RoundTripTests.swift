import StarlingCore
import StarlingDeflate
import Testing

/// What is compressed inflates to what it was.
@Suite struct RoundTripTests {
    /// Messages of every kind: none, short, text, runs, incompressible, around the sizes of zlib's windows and
    /// blocks.
    static let messages: [[UInt8]] = {
        var generator = SeededGenerator(seed: 1)
        var messages: [[UInt8]] = [[], [0], [0xFF], Array("Hello".utf8), marker, marker + marker, []]
        for count in [100, 255, 256, 257, 1_000, 5_000, 40_000] {
            messages.append(generator.chatMessage(byteCount: count))
        }
        for count in [1, 7, 511, 512, 513, 4_095, 16_384, 32_768, 32_769] {
            messages.append(generator.bytes(count))
        }
        for count in [3, 258, 259, 70_000] {
            messages.append([UInt8](repeating: 0x61, count: count))
        }
        // Repetitions farther apart than any window, and just within the largest.
        let block = generator.bytes(32_000)
        messages.append(block + block + generator.bytes(1_000) + block)
        return messages
    }()

    @Test("Every window, with and without context takeover", arguments: 8...15, [false, true])
    func windows(_ windowBits: Int, _ keepingContext: Bool) throws {
        for (level, memLevel) in [(0, 8), (1, 8), (6, 1), (9, 9)] {
            let deflater = try Deflater(windowBits: windowBits, level: level, memLevel: memLevel)
            let inflater = try Inflater(windowBits: windowBits)
            let shared = try Inflater(windowBits: 15)
            for message in Self.messages + Self.messages {
                let payload = deflater.compress(message, keepingContext: keepingContext)
                #expect(try inflater.inflate(payload, keepingContext: keepingContext) == message)
                // An inflater with a larger window takes it as well.
                #expect(try shared.inflate(payload, keepingContext: keepingContext) == message)
                #expect(!payload.isEmpty)
                // Incompressible data costs 5 bytes for each stored block, of 127 bytes at the least.
                #expect(payload.count <= message.count + 5 * (message.count / 127 + 4))
            }
        }
    }

    @Test("A deflater refers to nothing outside its window", arguments: 8...15)
    func windowIsHonoured(_ windowBits: Int) throws {
        // Random letters that are repeated at a distance. Inside the window the repetition is nearly free; outside,
        // its 128 letters cost 6 bits each again.
        var generator = SeededGenerator(seed: UInt64(windowBits))
        let block = generator.letters(128)
        func cost(distance: Int) throws -> Int {
            let deflater = try Deflater(windowBits: windowBits, level: 9, memLevel: 9)
            let first = block + generator.letters(distance - block.count)
            return deflater.compress(first + block).count - deflater.compress(first).count
        }
        let size = 1 << windowBits
        for distance in [size + 1, size + 2, size + 64, 2 * size, 2 * size + 1] {
            #expect(try cost(distance: distance) > 80)
        }
        if windowBits > 8 {
            // zlib keeps 262 bytes of the window for itself.
            #expect(try cost(distance: size - 300) < 20)
        } else {
            // Only runs are compressed, so that nothing rests on what zlib keeps.
            #expect(try cost(distance: 200) > 80)
        }

        // Over many short messages the inflater has nothing but its window to refer to.
        let deflater = try Deflater(windowBits: windowBits, level: 9, memLevel: 9)
        let inflater = try Inflater(windowBits: windowBits)
        for _ in 0..<1_000 {
            let message = generator.chatMessage(byteCount: 120)
            let payload = deflater.compress(message, keepingContext: true)
            #expect(try inflater.inflate(payload, keepingContext: true) == message)
        }
    }

    @Test("With context takeover a repeated message costs next to nothing; without, as much as the first")
    func contextTakeover() throws {
        var generator = SeededGenerator(seed: 2)
        let message = generator.chatMessage(byteCount: 1_000)
        let deflater = try Deflater(windowBits: 15, level: 6, memLevel: 8)
        let first = deflater.compress(message, keepingContext: true)
        let second = deflater.compress(message, keepingContext: true)
        #expect(first.count > 100)
        #expect(second.count < 24)

        // A receiver without the context cannot take it.
        let inflater = try Inflater(windowBits: 15)
        #expect(throws: DeflateError.self) { try inflater.inflate(second) }
        #expect(try inflater.inflate(first, keepingContext: true) == message)
        #expect(try inflater.inflate(second, keepingContext: true) == message)

        // Each way to end the context ends it.
        deflater.reset()
        #expect(deflater.compress(message, keepingContext: true) == first)
        #expect(deflater.compress([], keepingContext: false) == [0x00])
        #expect(deflater.compress(message, keepingContext: false).count < first.count + 1)
        #expect(deflater.compress(message, keepingContext: false) == first)
    }

    @Test("A sender may drop its context at any time")
    func senderDropsContext() throws {
        let deflater = try Deflater(windowBits: 12, level: 6, memLevel: 8)
        let inflater = try Inflater(windowBits: 12)
        for (index, message) in Self.messages.enumerated() {
            let payload = deflater.compress(message, keepingContext: index.isMultiple(of: 3))
            #expect(try inflater.inflate(payload, keepingContext: true) == message)
        }
    }

    @Test("Both append, and leave what was there")
    func append() throws {
        let deflater = try Deflater(windowBits: 15, level: 1, memLevel: 8)
        let inflater = try Inflater(windowBits: 15)
        var output: [UInt8] = [1, 2, 3]
        deflater.compress([], keepingContext: false, into: &output)
        #expect(output == [1, 2, 3, 0])
        output = [9]
        for message in Self.messages {
            let before = output
            try inflater.inflate(
                deflater.compress(message),
                byteCountMax: message.count,
                keepingContext: false,
                into: &output
            )
            #expect(output == before + message)
        }
    }

    @Test("The defaults of the configuration compress chat messages from the threshold on")
    func configuration() throws {
        let configuration = DeflateConfiguration()
        #expect(configuration.preferences == PermessageDeflate.Preferences())
        let deflater = try Deflater(
            windowBits: configuration.preferences.serverMaxWindowBits,
            level: configuration.level,
            memLevel: configuration.memLevel
        )
        var generator = SeededGenerator(seed: 3)
        for _ in 0..<20 {
            let message = generator.chatMessage(byteCount: configuration.payloadByteCountMin)
            #expect(deflater.compress(message).count * 4 < message.count * 3)
        }
        _ = deflater.compress(generator.chatMessage(byteCount: 200), keepingContext: true)
        for _ in 0..<20 {
            let message = generator.chatMessage(byteCount: configuration.payloadByteCountMinWithContext)
            #expect(deflater.compress(message, keepingContext: true).count * 4 < message.count * 3)
        }
        #expect(!configuration.shouldCompress(payloadByteCount: 255, keepingContext: false))
        #expect(configuration.shouldCompress(payloadByteCount: 256, keepingContext: false))
        #expect(!configuration.shouldCompress(payloadByteCount: 63, keepingContext: true))
        #expect(configuration.shouldCompress(payloadByteCount: 64, keepingContext: true))
    }
}
