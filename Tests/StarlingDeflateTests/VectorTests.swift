import StarlingDeflate
import Testing

/// Payloads that other implementations made.
@Suite struct VectorTests {
    static let hello = Array("Hello".utf8)

    @Test(
        "The examples of RFC 7692 §7.2.3",
        arguments: [
            ("f2 48 cd c9 c9 07 00", "Hello"),  // §7.2.3.1: one block
            ("00 05 00 fa ff 48 65 6c 6c 6f 00", "Hello"),  // §7.2.3.3: no compression
            ("f3 48 cd c9 c9 07 00 00", "Hello"),  // §7.2.3.4: BFINAL
            ("f2 48 05 00 00 00 ff ff ca c9 c9 07 00", "Hello"),  // §7.2.3.5: two blocks
            ("00", ""),  // §7.2.3.6: an empty message
            ("02 00", ""),  // the same from a peer that flushes with a fixed block
        ]
    )
    func examples(_ hex: String, _ text: String) throws {
        for windowBits in 8...15 {
            let inflater = try Inflater(windowBits: windowBits)
            for keepingContext in [false, true, false] {
                #expect(
                    try inflater.inflate([UInt8](hex: hex), keepingContext: keepingContext)
                        == Array(text.utf8)
                )
            }
        }
    }

    @Test("RFC 7692 §7.2.3.2: the second Hello refers to the first")
    func sharedWindow() throws {
        let inflater = try Inflater(windowBits: 15)
        #expect(
            try inflater.inflate([UInt8](hex: "f2 48 cd c9 c9 07 00"), keepingContext: true) == Self.hello
        )
        #expect(try inflater.inflate([UInt8](hex: "f2 00 11 00 00"), keepingContext: true) == Self.hello)
        #expect(try inflater.inflate([UInt8](hex: "f2 00 11 00 00"), keepingContext: false) == Self.hello)
        #expect(throws: DeflateError.self) {
            try inflater.inflate([UInt8](hex: "f2 00 11 00 00"), keepingContext: true)
        }
    }

    @Test("Ours of the same examples")
    func ours() throws {
        let deflater = try Deflater(windowBits: 15, level: 6, memLevel: 8)
        #expect(deflater.compress(Self.hello, keepingContext: true) == [UInt8](hex: "f2 48 cd c9 c9 07 00"))
        #expect(deflater.compress(Self.hello, keepingContext: false) == [UInt8](hex: "f2 00 11 00 00"))
        #expect(deflater.compress([], keepingContext: false) == [0x00])
        let stored = try Deflater(windowBits: 15, level: 0, memLevel: 8)
        #expect(stored.compress(Self.hello) == [UInt8](hex: "00 05 00 fa ff 48 65 6c 6c 6f 00"))
    }

    /// Made with Python's `zlib.compressobj(level, DEFLATED, -windowBits, memLevel)`, one `Z_SYNC_FLUSH` a message.
    static let pythonTexts = [
        #"{"type":"message","room":"general","from":"ada","text":"hello everybody"}"#,
        #"{"type":"message","room":"general","from":"grace","text":"hello ada, hello everybody"}"#,
        #"{"type":"message","text":"käse 🧀"}"#,
    ]

    @Test(
        "Python's zlib, three messages with context takeover",
        arguments: [
            (
                15,  // level 6, memLevel 8
                """
                1cc8410a80300c04c0afc89e7d81bf8974ad87d6481ac420fedde071e681c7492ce81c432a31c3547b46e5419396b1d91f5224e1\
                bc3db1b3359d78d162d512783f00
                """
            ),
            (
                9,  // level 1, memLevel 1
                """
                aa562aa92c4855b252ca4d2d2e4e4c4f55d2512acacfcf050aa4a7e6a51625e60005d28ac002892989404e496a45095036233527\
                275f21b52cb5a832293fa552a91600
                """
            ),
        ]
    )
    func python(_ windowBits: Int, _ first: String) throws {
        let second =
            windowBits == 15
            ? "aa26dea0f4a2c4e45474a380a6eb2860980a00" : "aa26dea0f4a2c46490452846014dd751c0301500"
        let payloads = [first, second, "c2622a5457f6e125c5a90a1fe62f6f50aa0500"]
        let inflater = try Inflater(windowBits: windowBits)
        for (hex, text) in zip(payloads, Self.pythonTexts) {
            #expect(try inflater.inflate([UInt8](hex: hex), keepingContext: true) == Array(text.utf8))
        }
    }

    @Test("Python's zlib, messages flushed with Z_FINISH and a zero byte (RFC 7692 §7.2.3.4)")
    func pythonFinal() throws {
        let payloads = [
            """
            1dc8410a80300c04c0afc89e7d81bf8974ad87d6481ac420fedde071e681c7492ce81c432a31c3547b46e5419396b1d91f5224e1\
            bc3db1b3359d78d162d512783f00
            """,
            """
            25c9410e80200c44d1ab90ae3981b7a932e2a2585288b131de5d0cbbf96f1eea5e410b15b4c61914c954cb808c13c63260b709c6\
            dbff77dc7de401110d9c38863971c17cd5e4f47e00
            """,
        ]
        for keepingContext in [false, true] {
            let inflater = try Inflater(windowBits: 15)
            for (hex, text) in zip(payloads, Self.pythonTexts) {
                #expect(
                    try inflater.inflate([UInt8](hex: hex), keepingContext: keepingContext)
                        == Array(text.utf8)
                )
            }
        }
    }

    @Test("After a block that calls itself the last, a message goes on, and still refers to the window")
    func afterFinalBlock() throws {
        let inflater = try Inflater(windowBits: 15)
        let final = [UInt8](hex: "f3 48 cd c9 c9 07 00")
        #expect(try inflater.inflate(final + final + [0x00], keepingContext: true) == Self.hello + Self.hello)
        #expect(try inflater.inflate([UInt8](hex: "f2 00 11 00 00"), keepingContext: true) == Self.hello)
        // 01 and the marker are an empty last block.
        #expect(try inflater.inflate([0x01], keepingContext: true) == [])
        #expect(
            try inflater.inflate([UInt8](hex: "f2 48 cd c9 c9 07 00"), keepingContext: true) == Self.hello
        )
    }
}
