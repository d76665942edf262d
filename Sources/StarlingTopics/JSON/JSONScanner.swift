/// Where and why a text is not JSON.
public struct JSONSyntaxError: Error, Sendable, Hashable, CustomStringConvertible {
    /// How many bytes come before the mistake.
    public let offset: Int
    /// What is wrong there.
    public let reason: String

    /// Reason and place.
    public var description: String {
        "\(self.reason) at byte \(self.offset)"
    }
}

/// Finds the ends of JSON values without decoding them (RFC 8259), strictly: what it accepts, every parser does.
struct JSONScanner {
    private let bytes: [UInt8]
    private(set) var position = 0

    /// Arrays and objects within each other; deeper ones are refused, so that no peer can exhaust the stack.
    static let nestingMax = 64

    /// Scans a text that is valid UTF-8.
    init(_ bytes: [UInt8]) {
        self.bytes = bytes
    }

    /// The range of the one value that the text is, without the white space around it.
    mutating func onlyValue() throws(JSONSyntaxError) -> Range<Int> {
        self.skipSpace()
        let range = try self.value()
        try self.end()
        return range
    }

    /// The fields of the one object that the text is.
    mutating func onlyObject() throws(JSONSyntaxError) -> [(name: String, value: Range<Int>)] {
        self.skipSpace()
        var fields: [(name: String, value: Range<Int>)] = []
        try self.object { name, value throws(JSONSyntaxError) in
            fields.append((name, value))
        }
        try self.end()
        return fields
    }

    /// The elements of the one array that the text is.
    mutating func onlyArray() throws(JSONSyntaxError) -> [Range<Int>] {
        self.skipSpace()
        var elements: [Range<Int>] = []
        try self.expect(UInt8(ascii: "["), "an array is expected")
        try self.members(until: UInt8(ascii: "]"), nesting: 1) { scanner throws(JSONSyntaxError) in
            elements.append(try scanner.value(nesting: 2))
        }
        try self.end()
        return elements
    }

    /// The string that starts at a position, decoded; nil if there is none.
    func string(at range: Range<Int>) -> String? {
        guard self.bytes[range.lowerBound] == UInt8(ascii: "\"") else { return nil }
        let body = self.bytes[(range.lowerBound + 1)..<(range.upperBound - 1)]
        guard body.contains(UInt8(ascii: "\\")) else { return String(decoding: body, as: UTF8.self) }
        return Self.unescape(body)
    }

    // MARK: - Values

    private mutating func value(nesting: Int = 1) throws(JSONSyntaxError) -> Range<Int> {
        let start = self.position
        switch self.peek {
        case UInt8(ascii: "{"):
            try self.object(nesting: nesting) { _, _ throws(JSONSyntaxError) in }
        case UInt8(ascii: "["):
            self.position += 1
            try self.members(until: UInt8(ascii: "]"), nesting: nesting) { scanner throws(JSONSyntaxError) in
                _ = try scanner.value(nesting: nesting + 1)
            }
        case UInt8(ascii: "\""): try self.skipString()
        case UInt8(ascii: "t"): try self.skip("true")
        case UInt8(ascii: "f"): try self.skip("false")
        case UInt8(ascii: "n"): try self.skip("null")
        default: try self.skipNumber()
        }
        return start..<self.position
    }

    private mutating func object(
        nesting: Int = 1,
        _ field: (String, Range<Int>) throws(JSONSyntaxError) -> Void
    ) throws(JSONSyntaxError) {
        try self.expect(UInt8(ascii: "{"), "an object is expected")
        try self.members(until: UInt8(ascii: "}"), nesting: nesting) { scanner throws(JSONSyntaxError) in
            let start = scanner.position
            try scanner.skipString()
            // Names within values are nobody's business here, and not decoded.
            let name = nesting == 1 ? scanner.string(at: start..<scanner.position) ?? "" : ""
            scanner.skipSpace()
            try scanner.expect(UInt8(ascii: ":"), "a colon is expected")
            scanner.skipSpace()
            try field(name, try scanner.value(nesting: nesting + 1))
        }
    }

    /// What stands between two brackets, of which the first has been read.
    private mutating func members(
        until close: UInt8,
        nesting: Int,
        _ member: (inout JSONScanner) throws(JSONSyntaxError) -> Void
    ) throws(JSONSyntaxError) {
        guard nesting <= Self.nestingMax else { throw self.error("it is nested too deeply") }
        self.skipSpace()
        guard self.peek != close else { return self.position += 1 }
        while true {
            try member(&self)
            self.skipSpace()
            switch self.peek {
            case UInt8(ascii: ","): self.position += 1
            case close: return self.position += 1
            default: throw self.error("a comma or the end is expected")
            }
            self.skipSpace()
        }
    }

    private mutating func skipString() throws(JSONSyntaxError) {
        try self.expect(UInt8(ascii: "\""), "a string is expected")
        while let byte = self.peek {
            self.position += 1
            switch byte {
            case UInt8(ascii: "\""): return
            case UInt8(ascii: "\\"): try self.skipEscape()
            case 0..<0x20: throw self.error("a control character in a string")
            default: continue
            }
        }
        throw self.error("a string does not end")
    }

    private mutating func skipEscape() throws(JSONSyntaxError) {
        guard let byte = self.peek else { throw self.error("a string does not end") }
        self.position += 1
        switch byte {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"), UInt8(ascii: "b"), UInt8(ascii: "f"),
            UInt8(ascii: "n"), UInt8(ascii: "r"), UInt8(ascii: "t"):
            return
        case UInt8(ascii: "u"):
            for _ in 0..<4 {
                guard self.peek.flatMap(Self.hexDigit) != nil else {
                    throw self.error("four hexadecimal digits are expected")
                }
                self.position += 1
            }
        default: throw self.error("an escape that JSON has not")
        }
    }

    private mutating func skipNumber() throws(JSONSyntaxError) {
        if self.peek == UInt8(ascii: "-") { self.position += 1 }
        if self.peek == UInt8(ascii: "0") {
            self.position += 1
        } else {
            try self.skipDigits("a value is expected")
        }
        if self.peek == UInt8(ascii: ".") {
            self.position += 1
            try self.skipDigits("digits are expected")
        }
        if self.peek == UInt8(ascii: "e") || self.peek == UInt8(ascii: "E") {
            self.position += 1
            if self.peek == UInt8(ascii: "+") || self.peek == UInt8(ascii: "-") { self.position += 1 }
            try self.skipDigits("digits are expected")
        }
    }

    private mutating func skipDigits(_ reason: String) throws(JSONSyntaxError) {
        let start = self.position
        while let byte = self.peek, Self.isDigit(byte) { self.position += 1 }
        if self.position == start { throw self.error(reason) }
    }

    private mutating func skip(_ word: StaticString) throws(JSONSyntaxError) {
        for byte in String(describing: word).utf8 {
            try self.expect(byte, "a value is expected")
        }
    }

    // MARK: - Bytes

    private var peek: UInt8? {
        self.position < self.bytes.count ? self.bytes[self.position] : nil
    }

    private mutating func skipSpace() {
        while let byte = self.peek, byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09 {
            self.position += 1
        }
    }

    private mutating func expect(_ byte: UInt8, _ reason: String) throws(JSONSyntaxError) {
        guard self.peek == byte else { throw self.error(reason) }
        self.position += 1
    }

    private mutating func end() throws(JSONSyntaxError) {
        self.skipSpace()
        guard self.position == self.bytes.count else { throw self.error("the end is expected") }
    }

    private func error(_ reason: String) -> JSONSyntaxError {
        JSONSyntaxError(offset: self.position, reason: reason)
    }

    private static func isDigit(_ byte: UInt8) -> Bool {
        byte >= UInt8(ascii: "0") && byte <= UInt8(ascii: "9")
    }

    private static func hexDigit(_ byte: UInt8) -> UInt16? {
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): UInt16(byte - UInt8(ascii: "0"))
        case UInt8(ascii: "a")...UInt8(ascii: "f"): UInt16(byte - UInt8(ascii: "a") + 10)
        case UInt8(ascii: "A")...UInt8(ascii: "F"): UInt16(byte - UInt8(ascii: "A") + 10)
        default: nil
        }
    }

    /// Decodes a string's escapes, which have been checked; half a surrogate pair becomes U+FFFD, as in UTF-8 decoders.
    private static func unescape(_ body: ArraySlice<UInt8>) -> String {
        var units: [UInt16] = []
        var text = ""
        var rest = body
        func flush() {
            text += String(decoding: units, as: UTF16.self)
            units = []
        }
        while let byte = rest.popFirst() {
            guard byte == UInt8(ascii: "\\") else {
                flush()
                let plain = rest.prefix { $0 != UInt8(ascii: "\\") }
                text += String(decoding: [byte] + plain, as: UTF8.self)
                rest = rest.dropFirst(plain.count)
                continue
            }
            switch rest.popFirst() {
            case UInt8(ascii: "b"): units.append(0x08)
            case UInt8(ascii: "f"): units.append(0x0C)
            case UInt8(ascii: "n"): units.append(0x0A)
            case UInt8(ascii: "r"): units.append(0x0D)
            case UInt8(ascii: "t"): units.append(0x09)
            case UInt8(ascii: "u"):
                units.append(rest.prefix(4).reduce(0) { $0 << 4 | (Self.hexDigit($1) ?? 0) })
                rest = rest.dropFirst(4)
            case let other?: units.append(UInt16(other))
            case nil: break
            }
        }
        flush()
        return text
    }
}
