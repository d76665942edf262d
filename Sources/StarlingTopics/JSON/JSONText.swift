public import Starling

#if canImport(FoundationEssentials)
internal import FoundationEssentials
#else
internal import Foundation
#endif

/// A JSON value as it stands on the wire: checked, but not decoded until somebody asks.
///
/// What clients publish passes through servers as it is: numbers keep their digits, fields that this version of an
/// application does not know are kept.
public struct JSONText: Sendable, Hashable, CustomStringConvertible {
    let bytes: [UInt8]

    /// Bytes that were found to be one JSON value.
    init(checked bytes: ArraySlice<UInt8>) {
        self.bytes = Array(bytes)
    }

    /// Checks a text that somebody else has made (RFC 8259).
    ///
    /// - Throws: ``JSONSyntaxError`` that says where it is wrong.
    public init(parsing text: String) throws(JSONSyntaxError) {
        let bytes = Array(text.utf8)
        var scanner = JSONScanner(bytes)
        self.bytes = Array(bytes[try scanner.onlyValue()])
    }

    /// Encodes a value.
    ///
    /// - Throws: What the value's own `encode(to:)` throws, or `EncodingError` for a number that JSON has not.
    public init(encoding value: some Encodable) throws {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        self.bytes = Array(try encoder.encode(value))
    }

    /// Decodes the value.
    ///
    /// - Throws: `DecodingError` if it is not what `type` takes.
    public func decode<Value: Decodable>(_ type: Value.Type) throws -> Value {
        try JSONDecoder().decode(type, from: Data(self.bytes))
    }

    /// `null`.
    static let null = JSONText(checked: [0x6E, 0x75, 0x6C, 0x6C])

    /// The text.
    public var description: String {
        String(decoding: self.bytes, as: UTF8.self)
    }

    /// The value as a text message: what is published for it.
    public var message: Message {
        Message(.text, copying: unsafe self.bytes.span.bytes)
    }
}
