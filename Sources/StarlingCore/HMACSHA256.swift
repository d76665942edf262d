/// HMAC (RFC 2104) with SHA-256 (FIPS 180-4), for the signature of a cookie of some forty bytes.
///
/// That is no reason to make every application build a cryptographic library. Nothing secret goes through it but the key.
package enum HMACSHA256 {
    /// The code of a message, 32 bytes.
    package static func code(of message: [UInt8], key: [UInt8]) -> [UInt8] {
        var block = key.count > 64 ? SHA256.hash(key) : key
        block += [UInt8](repeating: 0, count: 64 - block.count)
        let inner = SHA256.hash(block.map { $0 ^ 0x36 } + message)
        return SHA256.hash(block.map { $0 ^ 0x5C } + inner)
    }
}

enum SHA256 {
    static func hash(_ message: [UInt8]) -> [UInt8] {
        var padded = message + [0x80]
        padded += [UInt8](repeating: 0, count: (120 - padded.count % 64) % 64)
        let bitCount = UInt64(message.count) * 8
        padded += (0..<8).map { UInt8(truncatingIfNeeded: bitCount >> (56 - 8 * UInt64($0))) }
        var state = self.start
        for begin in stride(from: 0, to: padded.count, by: 64) {
            self.compress(padded[begin..<begin + 64], into: &state)
        }
        return state.flatMap { word in [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: word >> $0) } }
    }

    private static func compress(_ block: ArraySlice<UInt8>, into state: inout [UInt32]) {
        var words = stride(from: block.startIndex, to: block.endIndex, by: 4).map { index in
            block[index..<index + 4].reduce(0 as UInt32) { $0 << 8 | UInt32($1) }
        }
        for index in 16..<64 {
            let (early, late) = (words[index - 15], words[index - 2])
            let first = self.rotate(early, 7) ^ self.rotate(early, 18) ^ early >> 3
            let second = self.rotate(late, 17) ^ self.rotate(late, 19) ^ late >> 10
            words.append(words[index - 16] &+ first &+ words[index - 7] &+ second)
        }
        var (a, b, c, d) = (state[0], state[1], state[2], state[3])
        var (e, f, g, h) = (state[4], state[5], state[6], state[7])
        for index in 0..<64 {
            let sum = self.rotate(e, 6) ^ self.rotate(e, 11) ^ self.rotate(e, 25)
            let choice = e & f ^ ~e & g
            let first = h &+ sum &+ choice &+ self.constants[index] &+ words[index]
            let other = self.rotate(a, 2) ^ self.rotate(a, 13) ^ self.rotate(a, 22)
            let majority = a & b ^ a & c ^ b & c
            (h, g, f, e) = (g, f, e, d &+ first)
            (d, c, b, a) = (c, b, a, first &+ other &+ majority)
        }
        for (index, word) in [a, b, c, d, e, f, g, h].enumerated() { state[index] &+= word }
    }

    private static func rotate(_ word: UInt32, _ count: UInt32) -> UInt32 {
        word >> count | word << (32 - count)
    }

    private static let primes = (2...311).filter { number in
        !(2..<number).contains { number.isMultiple(of: $0) }
    }
    /// The first 32 bits behind the point of the square roots of the first eight primes.
    private static let start = primes.prefix(8).map { Self.fraction(Double($0).squareRoot()) }
    /// The same of the cube roots of the first 64 primes.
    private static let constants = primes.map { prime in
        // Newton's method; a double has 53 bits, of which 32 behind the point are needed.
        var root = 6.0
        for _ in 0..<60 { root -= (root * root * root - Double(prime)) / (3 * root * root) }
        return Self.fraction(root)
    }

    private static func fraction(_ number: Double) -> UInt32 {
        UInt32((number - number.rounded(.down)) * 4_294_967_296)
    }
}
