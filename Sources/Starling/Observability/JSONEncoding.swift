/// Makes JSON (RFC 8259) of a value, without Foundation, which would add much to every program that links this module.
///
/// For our own `Codable` types: dates, data and numbers that are not finite have no form here.
package enum JSONEncoding {
    /// The value as JSON, keys in the order in which they were encoded.
    ///
    /// - Throws: What the value's `encode(to:)` throws, and `EncodingError` for a number that is not finite.
    package static func bytes(of value: some Encodable) throws -> [UInt8] {
        let encoder = JSONTreeEncoder(codingPath: [])
        try value.encode(to: encoder)
        var output: [UInt8] = []
        encoder.node.write(into: &output)
        return output
    }
}

/// A value of JSON while it is put together.
///
/// A class, because containers that were handed out go on filling it. Touched by one call of `JSONEncoding.bytes` alone.
private final class JSONNode {
    enum Value {
        case null
        /// A number or a word, as it is written.
        case literal(String)
        case string(String)
        case array([JSONNode])
        case object([(key: String, value: JSONNode)])
    }

    var value = Value.null

    func append(_ node: JSONNode) {
        if case .array(var nodes) = self.value {
            self.value = .null
            nodes.append(node)
            self.value = .array(nodes)
        }
    }

    func append(_ key: String, _ node: JSONNode) {
        if case .object(var members) = self.value {
            self.value = .null
            members.append((key, node))
            self.value = .object(members)
        }
    }

    func write(into output: inout [UInt8]) {
        switch self.value {
        case .null: output += Array("null".utf8)
        case .literal(let text): output += Array(text.utf8)
        case .string(let text): Self.write(text, into: &output)
        case .array(let nodes):
            output.append(UInt8(ascii: "["))
            for (index, node) in nodes.enumerated() {
                if index > 0 { output.append(UInt8(ascii: ",")) }
                node.write(into: &output)
            }
            output.append(UInt8(ascii: "]"))
        case .object(let members):
            output.append(UInt8(ascii: "{"))
            for (index, member) in members.enumerated() {
                if index > 0 { output.append(UInt8(ascii: ",")) }
                Self.write(member.key, into: &output)
                output.append(UInt8(ascii: ":"))
                member.value.write(into: &output)
            }
            output.append(UInt8(ascii: "}"))
        }
    }

    private static func write(_ text: String, into output: inout [UInt8]) {
        let digits = Array("0123456789abcdef".utf8)
        output.append(UInt8(ascii: "\""))
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "\""), UInt8(ascii: "\\"): output += [UInt8(ascii: "\\"), byte]
            // Control characters must be escaped; `<` is too, so that the text is no markup wherever it lands.
            case 0..<0x20, 0x7F, UInt8(ascii: "<"):
                output += Array("\\u00".utf8) + [digits[Int(byte >> 4)], digits[Int(byte & 15)]]
            default: output.append(byte)
            }
        }
        output.append(UInt8(ascii: "\""))
    }
}

private struct JSONTreeEncoder: Encoder {
    let codingPath: [any CodingKey]
    var userInfo: [CodingUserInfoKey: Any] { [:] }
    let node = JSONNode()

    func container<Key: CodingKey>(keyedBy type: Key.Type) -> KeyedEncodingContainer<Key> {
        self.node.value = .object([])
        return KeyedEncodingContainer(KeyedContainer(node: self.node, codingPath: self.codingPath))
    }

    func unkeyedContainer() -> any UnkeyedEncodingContainer {
        self.node.value = .array([])
        return UnkeyedContainer(node: self.node, codingPath: self.codingPath)
    }

    func singleValueContainer() -> any SingleValueEncodingContainer {
        SingleContainer(node: self.node, codingPath: self.codingPath)
    }

    /// A node for any value.
    static func node(of value: some Encodable, _ codingPath: [any CodingKey]) throws -> JSONNode {
        let node = JSONNode()
        switch value {
        case let text as String: node.value = .string(text)
        case let flag as Bool: node.value = .literal(flag ? "true" : "false")
        case let number as Double: node.value = .literal(try Self.literal(number, codingPath))
        case let number as Float: node.value = .literal(try Self.literal(Double(number), codingPath))
        case let number as any FixedWidthInteger: node.value = .literal("\(number)")
        default:
            let encoder = JSONTreeEncoder(codingPath: codingPath)
            try value.encode(to: encoder)
            return encoder.node
        }
        return node
    }

    private static func literal(_ number: Double, _ codingPath: [any CodingKey]) throws -> String {
        guard number.isFinite else {
            throw EncodingError.invalidValue(
                number,
                EncodingError.Context(
                    codingPath: codingPath,
                    debugDescription: "JSON has finite numbers alone"
                )
            )
        }
        return "\(number)"
    }
}

private struct KeyedContainer<Key: CodingKey>: KeyedEncodingContainerProtocol {
    let node: JSONNode
    let codingPath: [any CodingKey]

    mutating func encodeNil(forKey key: Key) throws {
        self.node.append(key.stringValue, JSONNode())
    }

    mutating func encode(_ value: some Encodable, forKey key: Key) throws {
        self.node.append(
            key.stringValue,
            try JSONTreeEncoder.node(of: value, self.codingPath + [key])
        )
    }

    mutating func nestedContainer<Nested: CodingKey>(
        keyedBy type: Nested.Type,
        forKey key: Key
    ) -> KeyedEncodingContainer<Nested> {
        self.nested(key).container(keyedBy: type)
    }

    mutating func nestedUnkeyedContainer(forKey key: Key) -> any UnkeyedEncodingContainer {
        self.nested(key).unkeyedContainer()
    }

    mutating func superEncoder() -> any Encoder {
        let encoder = JSONTreeEncoder(codingPath: self.codingPath)
        self.node.append("super", encoder.node)
        return encoder
    }

    mutating func superEncoder(forKey key: Key) -> any Encoder {
        self.nested(key)
    }

    private func nested(_ key: Key) -> JSONTreeEncoder {
        let encoder = JSONTreeEncoder(codingPath: self.codingPath + [key])
        self.node.append(key.stringValue, encoder.node)
        return encoder
    }
}

private struct UnkeyedContainer: UnkeyedEncodingContainer {
    let node: JSONNode
    let codingPath: [any CodingKey]
    private(set) var count = 0

    init(node: JSONNode, codingPath: [any CodingKey]) {
        self.node = node
        self.codingPath = codingPath
    }

    mutating func encodeNil() throws {
        self.add(JSONNode())
    }

    mutating func encode(_ value: some Encodable) throws {
        self.add(try JSONTreeEncoder.node(of: value, self.codingPath))
    }

    mutating func nestedContainer<Nested: CodingKey>(
        keyedBy type: Nested.Type
    ) -> KeyedEncodingContainer<Nested> {
        self.nested().container(keyedBy: type)
    }

    mutating func nestedUnkeyedContainer() -> any UnkeyedEncodingContainer {
        self.nested().unkeyedContainer()
    }

    mutating func superEncoder() -> any Encoder {
        self.nested()
    }

    private mutating func nested() -> JSONTreeEncoder {
        let encoder = JSONTreeEncoder(codingPath: self.codingPath)
        self.add(encoder.node)
        return encoder
    }

    private mutating func add(_ node: JSONNode) {
        self.node.append(node)
        self.count += 1
    }
}

private struct SingleContainer: SingleValueEncodingContainer {
    let node: JSONNode
    let codingPath: [any CodingKey]

    mutating func encodeNil() throws {
        self.node.value = .null
    }

    mutating func encode(_ value: some Encodable) throws {
        self.node.value = try JSONTreeEncoder.node(of: value, self.codingPath).value
    }
}
