import Testing

@testable import StarlingCore

/// What a handshake is made of: hash, base64, lists.
@Suite struct HandshakePartsTests {
    private static func digest(_ bytes: [UInt8]) -> [UInt8] {
        var hash = SHA1()
        hash.update(bytes)
        return hash.finish()
    }

    private static func hex(_ bytes: [UInt8]) -> String {
        bytes.map { (($0 < 16 ? "0" : "") + String($0, radix: 16)) }.joined()
    }

    @Test(
        "The examples of FIPS 180",
        arguments: [
            ("", "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
            ("abc", "a9993e364706816aba3e25717850c26c9cd0d89d"),
            (
                "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                "84983e441c3bd26ebaae4aa1f95129e5e54670f1"
            ),
        ]
    )
    func examples(_ text: String, _ digest: String) {
        #expect(Self.hex(Self.digest(Array(text.utf8))) == digest)
    }

    @Test("Every length up to three blocks")
    func lengths() {
        let digests = (0..<200).flatMap { length in
            Self.digest((0..<length).map { UInt8(truncatingIfNeeded: $0 * 7 + length) })
        }
        // As Python's hashlib has it.
        #expect(Self.hex(Self.digest(digests)) == "c2add6cb3908952ddaf192d7f14c30588649e3b5")
    }

    @Test("A list has a token in any case, between any spaces, and not as a part")
    func lists() {
        for value in ["upgrade", "keep-alive, Upgrade", " ,\tUPGRADE ,x", "upgrade,"] {
            #expect(HTTPList(value).contains("upgrade"), "\(value)")
        }
        for value in ["", ",", "upgrades", "up grade", "x-upgrade", "upgrad\u{0117}", "\u{212A}eep-alive"] {
            #expect(
                !HTTPList(value).contains("upgrade") && !HTTPList(value).contains("keep-alive"),
                "\(value)"
            )
        }
        #expect(HTTPList(" a, b ,,c ").members == ["a", "b", "c"])
    }

    @Test("A key is what 16 bytes look like")
    func keys() {
        for last in ["A", "Q", "g", "w"] {
            #expect(Base64.isEncodingOf16Bytes("dGhlIHNhbXBsZSBub25jZ" + last + "=="))
        }
        for key in [
            "", "dGhlIHNhbXBsZSBub25jZB==", "dGhlIHNhbXBsZSBub25jZQ=", "dGhlIHNhbXBsZSBub25jZQ===",
            "dGhlIHNhbXBsZSBub25jZQ=A", "dGhlIHNhbXBsZSBub2-jZQ==", "dGhlIHNhbXBsZSBub25jZé==",
        ] {
            #expect(!Base64.isEncodingOf16Bytes(key), "\(key)")
        }
        #expect(
            [[], [0xFB], [0xFB, 0xEF], [0xFB, 0xEF, 0xBE]].map(Base64.encode) == ["", "+w==", "++8=", "++++"]
        )
    }
}
