/// Checks that bytes are UTF-8 (RFC 3629) as they arrive, in pieces of any size.
///
/// It fails at the first byte that no continuation can mend, so that a peer that sends bad text is told at
/// once (RFC 6455 §8.1). Runs of ASCII are passed over eight bytes and more at a time.
public struct UTF8Validator: Sendable {
    /// How many continuation bytes the character in progress still needs.
    var continuationsLeft: UInt8 = 0
    /// The least and the greatest value of the next continuation byte.
    ///
    /// They differ from 0x80 and 0xBF only behind the lead bytes where a shorter form, a surrogate or a value
    /// over U+10FFFF would otherwise slip in.
    var nextMin: UInt8 = 0x80
    var nextMax: UInt8 = 0xBF

    /// A validator at the start of a text.
    public init() {}

    /// Whether the bytes so far end at the end of a character.
    public var isComplete: Bool {
        self.continuationsLeft == 0
    }

    /// Takes the next piece; false once the text can no longer become valid.
    public mutating func append(_ bytes: RawSpan) -> Bool {
        unsafe bytes.withUnsafeBytes { buffer in
            var index = 0
            let count = buffer.count
            while index < count {
                if self.continuationsLeft == 0 {
                    index = unsafe Self.firstNonASCII(in: buffer, from: index)
                    guard index < count else { return true }
                    // `index < count`, so the access is within the buffer.
                    let lead = unsafe buffer[index]
                    guard self.begin(lead) else { return false }
                } else {
                    let byte = unsafe buffer[index]
                    guard byte >= self.nextMin, byte <= self.nextMax else { return false }
                    self.continuationsLeft &-= 1
                    self.nextMin = 0x80
                    self.nextMax = 0xBF
                }
                index &+= 1
            }
            return true
        }
    }

    /// Checks a whole text at once.
    public static func isValid(_ bytes: RawSpan) -> Bool {
        var validator = UTF8Validator()
        return validator.append(bytes) && validator.isComplete
    }

    /// Starts a character of more than one byte (RFC 3629 §4, the table of well-formed sequences).
    private mutating func begin(_ lead: UInt8) -> Bool {
        switch lead {
        case 0xC2...0xDF: self.continuationsLeft = 1
        case 0xE0: (self.continuationsLeft, self.nextMin) = (2, 0xA0)
        case 0xED: (self.continuationsLeft, self.nextMax) = (2, 0x9F)
        case 0xE1...0xEF: self.continuationsLeft = 2
        case 0xF0: (self.continuationsLeft, self.nextMin) = (3, 0x90)
        case 0xF1...0xF3: self.continuationsLeft = 3
        case 0xF4: (self.continuationsLeft, self.nextMax) = (3, 0x8F)
        default: return false
        }
        return true
    }

    /// The index of the first byte over 0x7F, or the count.
    private static func firstNonASCII(in buffer: UnsafeRawBufferPointer, from start: Int) -> Int {
        var index = start
        let count = buffer.count
        guard let base = buffer.baseAddress else { return count }
        // Each load is checked against `count` first, and none needs alignment.
        let highBits = SIMD4<UInt64>(repeating: 0x8080_8080_8080_8080)
        while index &+ 32 <= count {
            let block = unsafe base.loadUnaligned(fromByteOffset: index, as: SIMD4<UInt64>.self) & highBits
            if block[0] | block[1] | block[2] | block[3] != 0 { break }
            index &+= 32
        }
        while index &+ 8 <= count {
            let word =
                unsafe base.loadUnaligned(fromByteOffset: index, as: UInt64.self) & 0x8080_8080_8080_8080
            if word != 0 { return index &+ word.littleEndian.trailingZeroBitCount / 8 }
            index &+= 8
        }
        while index < count, unsafe base.load(fromByteOffset: index, as: UInt8.self) < 0x80 { index &+= 1 }
        return index
    }
}

extension UTF8Validator {
    /// Writes where a text stands, for another process.
    func write(to writer: inout ByteWriter) {
        writer.write(Int(self.continuationsLeft))
        writer.write(Int(self.nextMin))
        writer.write(Int(self.nextMax))
    }

    /// Goes on where another process has stopped.
    init(from reader: inout ByteReader) throws(ByteReader.Malformed) {
        self.continuationsLeft = try reader.read()
        self.nextMin = try reader.read()
        self.nextMax = try reader.read()
        guard self.continuationsLeft <= 3 else { throw ByteReader.Malformed() }
    }
}
