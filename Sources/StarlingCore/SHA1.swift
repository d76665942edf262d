/// SHA-1 (FIPS 180-4), for `Sec-WebSocket-Accept` alone: RFC 6455 asks for it as a proof of understanding, not as
/// a protection, so that its weakness does not matter here.
struct SHA1 {
    private var state: (UInt32, UInt32, UInt32, UInt32, UInt32) = (
        0x6745_2301, 0xEFCD_AB89, 0x98BA_DCFE, 0x1032_5476, 0xC3D2_E1F0
    )
    /// A block that is not full yet, four bytes in each of the first 16, zeros behind its end; the others are room to compute in.
    private var words = [UInt32](repeating: 0, count: 80)
    private var byteCount: UInt64 = 0

    mutating func update(_ bytes: some Sequence<UInt8>) {
        for byte in bytes { self.append(byte) }
    }

    private mutating func append(_ byte: UInt8) {
        let place = Int(self.byteCount & 63)
        self.words[place / 4] |= UInt32(byte) << UInt32(24 - place % 4 * 8)
        self.byteCount += 1
        if place == 63 { self.compress() }
    }

    mutating func finish() -> [UInt8] {
        let bitCount = self.byteCount * 8
        self.append(0x80)
        // The last eight bytes of a block are the count.
        if self.byteCount & 63 > 56 { self.compress() }
        self.words[14] = UInt32(bitCount >> 32)
        self.words[15] = UInt32(truncatingIfNeeded: bitCount)
        self.compress()
        let words = [self.state.0, self.state.1, self.state.2, self.state.3, self.state.4]
        return words.flatMap { word in [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: word >> $0) } }
    }

    private mutating func compress() {
        for index in 16..<80 {
            self.words[index] = Self.rotate(
                self.words[index - 3] ^ self.words[index - 8] ^ self.words[index - 14]
                    ^ self.words[index - 16],
                1
            )
        }
        var (a, b, c, d, e) = self.state
        for index in 0..<80 {
            let (mixed, constant): (UInt32, UInt32) =
                switch index {
                case 0..<20: (b & c | ~b & d, 0x5A82_7999)
                case 20..<40: (b ^ c ^ d, 0x6ED9_EBA1)
                case 40..<60: (b & c | b & d | c & d, 0x8F1B_BCDC)
                default: (b ^ c ^ d, 0xCA62_C1D6)
                }
            let next = Self.rotate(a, 5) &+ mixed &+ e &+ constant &+ self.words[index]
            (a, b, c, d, e) = (next, a, Self.rotate(b, 30), c, d)
        }
        self.state = (
            self.state.0 &+ a, self.state.1 &+ b, self.state.2 &+ c, self.state.3 &+ d, self.state.4 &+ e
        )
        for index in 0..<16 { self.words[index] = 0 }
    }

    private static func rotate(_ word: UInt32, _ count: UInt32) -> UInt32 {
        word << count | word >> (32 - count)
    }
}
