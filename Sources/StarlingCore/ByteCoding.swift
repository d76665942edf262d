/// Writes numbers and bytes behind each other, for state that another process reads.
package struct ByteWriter: Sendable {
    /// What was written.
    package private(set) var bytes: [UInt8] = []

    package init() {}

    /// A number in eight bytes or fewer, the lowest seven bits first.
    package mutating func write(_ number: UInt64) {
        var rest = number
        while rest >= 0x80 {
            self.bytes.append(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        self.bytes.append(UInt8(rest))
    }

    /// A number that is not negative.
    package mutating func write(_ number: Int) {
        self.write(UInt64(number))
    }

    /// A yes or a no.
    package mutating func write(_ flag: Bool) {
        self.bytes.append(flag ? 1 : 0)
    }

    /// Bytes, with their count before them.
    package mutating func write(_ bytes: [UInt8]) {
        self.write(bytes.count)
        self.bytes += bytes
    }

    /// Borrowed bytes, with their count before them.
    package mutating func write(_ bytes: RawSpan) {
        self.write(bytes.byteCount)
        self.bytes.append(copying: bytes)
    }

    /// A text in UTF-8, with its count of bytes before it.
    package mutating func write(_ text: String) {
        self.write(text.utf8.count)
        self.bytes += text.utf8
    }

    /// Whether there is a value; the value must follow.
    package mutating func write<Value>(
        _ value: Value?,
        _ write: (inout ByteWriter, Value) -> Void
    ) {
        self.write(value != nil)
        if let value { write(&self, value) }
    }
}

/// Reads what a ``ByteWriter`` has written, and trusts none of it.
package struct ByteReader: Sendable {
    private var rest: ArraySlice<UInt8>

    /// The bytes are not what was expected, or there are too few.
    package struct Malformed: Error, Hashable {
        package init() {}
    }

    package init(_ bytes: [UInt8]) {
        self.rest = bytes[...]
    }

    /// Whether everything has been read.
    package var isAtEnd: Bool {
        self.rest.isEmpty
    }

    package mutating func readNumber() throws(Malformed) -> UInt64 {
        var number: UInt64 = 0
        var shift: UInt64 = 0
        while let byte = self.rest.popFirst() {
            guard shift < 63 || byte <= 1 else { throw Malformed() }
            number |= UInt64(byte & 0x7F) << shift
            if byte & 0x80 == 0 { return number }
            shift += 7
        }
        throw Malformed()
    }

    /// A number that fits its type.
    package mutating func read<Number: FixedWidthInteger>() throws(Malformed) -> Number {
        guard let number = Number(exactly: try self.readNumber()) else { throw Malformed() }
        return number
    }

    package mutating func readFlag() throws(Malformed) -> Bool {
        switch self.rest.popFirst() {
        case 0: return false
        case 1: return true
        default: throw Malformed()
        }
    }

    package mutating func readBytes() throws(Malformed) -> [UInt8] {
        let count: Int = try self.read()
        guard count <= self.rest.count else { throw Malformed() }
        defer { self.rest = self.rest.dropFirst(count) }
        return Array(self.rest.prefix(count))
    }

    package mutating func readText() throws(Malformed) -> String {
        let bytes = try self.readBytes()
        guard let text = String(validating: bytes, as: UTF8.self) else { throw Malformed() }
        return text
    }

    package mutating func readOptionalBytes() throws(Malformed) -> [UInt8]? {
        try self.readFlag() ? try self.readBytes() : nil
    }

    package mutating func readOptionalText() throws(Malformed) -> String? {
        try self.readFlag() ? try self.readText() : nil
    }

    package mutating func readOptional<Value>(
        _ read: (inout ByteReader) throws(Malformed) -> Value
    ) throws(Malformed) -> Value? {
        try self.readFlag() ? try read(&self) : nil
    }
}
