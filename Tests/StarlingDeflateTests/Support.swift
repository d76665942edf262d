import StarlingDeflate

/// What permessage-deflate leaves out at the end of every message (RFC 7692 §7.2.1).
let marker: [UInt8] = [0x00, 0x00, 0xFF, 0xFF]

// The library lends from any contiguous bytes; tests have arrays. `bytes` is unsafe where the elements have padding,
// and bytes have none.

extension Deflater {
    func compress(_ payload: [UInt8], keepingContext: Bool = false) -> [UInt8] {
        var output: [UInt8] = []
        self.compress(payload, keepingContext: keepingContext, into: &output)
        return output
    }

    func compress(_ payload: [UInt8], keepingContext: Bool = false, into output: inout [UInt8]) {
        unsafe self.compress(payload.span.bytes, keepingContext: keepingContext, into: &output)
    }
}

extension Inflater {
    func inflate(
        _ payload: [UInt8],
        byteCountMax: Int = 1 << 20,
        keepingContext: Bool = false
    ) throws(DeflateError) -> [UInt8] {
        var output: [UInt8] = []
        try self.inflate(payload, byteCountMax: byteCountMax, keepingContext: keepingContext, into: &output)
        return output
    }

    func inflate(
        _ payload: [UInt8],
        byteCountMax: Int = 1 << 20,
        keepingContext: Bool = false,
        into output: inout [UInt8]
    ) throws(DeflateError) {
        try unsafe self.inflate(
            payload.span.bytes,
            byteCountMax: byteCountMax,
            keepingContext: keepingContext,
            into: &output
        )
    }
}

extension [UInt8] {
    /// Bytes from hexadecimal digits, which may be spaced.
    init(hex: String) {
        let digits = hex.compactMap(\.hexDigitValue)
        self = stride(from: 0, to: digits.count, by: 2).map { UInt8(digits[$0] << 4 | digits[$0 + 1]) }
    }
}

/// The same numbers on every run (SplitMix64), so that a failure can be repeated.
struct SeededGenerator: RandomNumberGenerator {
    var state: UInt64

    init(seed: UInt64) {
        self.state = seed
    }

    mutating func next() -> UInt64 {
        self.state &+= 0x9E37_79B9_7F4A_7C15
        var z = self.state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }

    /// Bytes that do not compress.
    mutating func bytes(_ count: Int) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(count + 8)
        while bytes.count < count {
            let word = self.next()
            for shift in stride(from: 0, to: 64, by: 8) {
                bytes.append(UInt8(truncatingIfNeeded: word >> shift))
            }
        }
        bytes.removeLast(bytes.count - count)
        return bytes
    }

    /// Bytes of which there are 64 different ones.
    mutating func letters(_ count: Int) -> [UInt8] {
        self.bytes(count).map { 0x30 + $0 % 64 }
    }

    /// Chat messages in JSON, of which no two are the same.
    mutating func chatMessage(byteCount: Int) -> [UInt8] {
        let words = [
            "hello", "swift", "the", "loop", "is", "quiet", "today", "and", "frames", "arrive", "once",
        ]
        let names = ["ada", "grace", "linus", "barbara", "edsger"]
        let id = self.next() % 1_000_000_000_000
        var message = #"{"type":"message","room":"general","from":""#
        message += names[Int(self.next() % UInt64(names.count))]
        message += #"","id":\#(id),"text":""#
        while message.utf8.count < byteCount - 2 {
            message += words[Int(self.next() % UInt64(words.count))] + " "
        }
        return Array(message.utf8) + Array("\"}".utf8)
    }
}
