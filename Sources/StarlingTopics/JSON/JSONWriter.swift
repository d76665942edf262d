internal import Starling

/// Puts a message of the subprotocol together, field by field.
///
/// Not an `Encoder`: what clients published goes in as it is, and a publication is written for every event loop that has
/// subscribers.
struct JSONWriter {
    private var bytes: [UInt8] = []

    /// Begins an object with its type.
    init(_ type: StaticString, reserving byteCount: Int = 0) {
        self.bytes.reserveCapacity(byteCount + 128)
        self.bytes.append(contentsOf: #"{"type":""#.utf8)
        self.bytes.append(contentsOf: String(describing: type).utf8)
        self.bytes.append(UInt8(ascii: "\""))
    }

    /// Begins an object.
    init() {
        self.bytes.append(UInt8(ascii: "{"))
    }

    /// Ends the object.
    var text: JSONText {
        JSONText(checked: self.bytes[...] + [UInt8(ascii: "}")])
    }

    /// Ends the object, as a message.
    consuming func message() -> Message {
        self.bytes.append(UInt8(ascii: "}"))
        return Message(.text, copying: unsafe self.bytes.span.bytes)
    }

    mutating func add(_ name: StaticString, _ string: String?) {
        guard let string else { return }
        self.begin(name)
        Self.append(string, to: &self.bytes)
    }

    mutating func add(_ name: StaticString, _ integer: UInt64?) {
        guard let integer else { return }
        self.begin(name)
        self.bytes.append(contentsOf: String(integer).utf8)
    }

    mutating func add(_ name: StaticString, _ boolean: Bool) {
        self.begin(name)
        self.bytes.append(contentsOf: (boolean ? "true" : "false").utf8)
    }

    mutating func add(_ name: StaticString, _ value: JSONText) {
        self.begin(name)
        self.bytes.append(contentsOf: value.bytes)
    }

    mutating func add(_ name: StaticString, _ values: [JSONText]) {
        self.begin(name)
        self.bytes.append(UInt8(ascii: "["))
        for (index, value) in values.enumerated() {
            if index > 0 { self.bytes.append(UInt8(ascii: ",")) }
            self.bytes.append(contentsOf: value.bytes)
        }
        self.bytes.append(UInt8(ascii: "]"))
    }

    private mutating func begin(_ name: StaticString) {
        if self.bytes.count > 1 { self.bytes.append(UInt8(ascii: ",")) }
        self.bytes.append(UInt8(ascii: "\""))
        self.bytes.append(contentsOf: String(describing: name).utf8)
        self.bytes.append(UInt8(ascii: "\""))
        self.bytes.append(UInt8(ascii: ":"))
    }

    /// A string between quotes, with what must be escaped (RFC 8259 §7).
    private static func append(_ string: String, to bytes: inout [UInt8]) {
        bytes.append(UInt8(ascii: "\""))
        for byte in string.utf8 {
            switch byte {
            case UInt8(ascii: "\""), UInt8(ascii: "\\"): bytes += [UInt8(ascii: "\\"), byte]
            case 0..<0x20:
                let digits = Array("0123456789abcdef".utf8)
                bytes += Array(#"\u00"#.utf8) + [digits[Int(byte >> 4)], digits[Int(byte & 15)]]
            default: bytes.append(byte)
            }
        }
        bytes.append(UInt8(ascii: "\""))
    }
}
