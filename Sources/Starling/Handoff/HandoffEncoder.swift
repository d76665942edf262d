/// A place for a value that is being encoded.
final class HandoffNode {
    private enum Content {
        case value(HandoffCoder.Value)
        case list([HandoffNode])
        case fields([(name: String, node: HandoffNode)])
    }

    // No content is an empty set of fields: a type that encodes nothing.
    private var content = Content.fields([])

    var value: HandoffCoder.Value {
        switch self.content {
        case .value(let value): value
        case .list(let nodes): .list(nodes.map(\.value))
        case .fields(let fields): .fields(fields.map { ($0.name, $0.node.value) })
        }
    }

    func set(_ value: HandoffCoder.Value) {
        self.content = .value(value)
    }

    func beginList() {
        if case .list = self.content { return }
        self.content = .list([])
    }

    func beginFields() {
        if case .fields = self.content { return }
        self.content = .fields([])
    }

    /// How many elements a list has.
    var count: Int {
        if case .list(let nodes) = self.content { nodes.count } else { 0 }
    }

    func append() -> HandoffNode {
        let node = HandoffNode()
        if case .list(var nodes) = self.content {
            self.content = .list([])
            nodes.append(node)
            self.content = .list(nodes)
        }
        return node
    }

    func add(_ name: String) -> HandoffNode {
        let node = HandoffNode()
        if case .fields(var fields) = self.content {
            self.content = .fields([])
            fields.removeAll { $0.name == name }
            fields.append((name, node))
            self.content = .fields(fields)
        }
        return node
    }
}

/// Encodes into a node.
struct HandoffEncoder: Encoder {
    let node: HandoffNode
    let codingPath: [any CodingKey]
    var userInfo: [CodingUserInfoKey: Any] { [:] }

    func container<Key: CodingKey>(keyedBy type: Key.Type) -> KeyedEncodingContainer<Key> {
        self.node.beginFields()
        return KeyedEncodingContainer(Keyed<Key>(encoder: self))
    }

    func unkeyedContainer() -> any UnkeyedEncodingContainer {
        self.node.beginList()
        return Unkeyed(encoder: self)
    }

    func singleValueContainer() -> any SingleValueEncodingContainer {
        Single(encoder: self)
    }

    /// Encodes a value that may be one of those that are written as they are.
    static func encode(_ value: some Encodable, into node: HandoffNode, _ path: [any CodingKey]) throws {
        switch value {
        case let value as Bool: node.set(.bool(value))
        case let value as String: node.set(.text(value))
        case let value as Double: node.set(.double(value))
        case let value as Float: node.set(.double(Double(value)))
        case let value as any FixedWidthInteger & SignedInteger:
            guard let number = Int64(exactly: value) else { throw Self.tooBig(value, path) }
            node.set(.signed(number))
        case let value as any FixedWidthInteger & UnsignedInteger:
            guard let number = UInt64(exactly: value) else { throw Self.tooBig(value, path) }
            node.set(.unsigned(number))
        default: try value.encode(to: HandoffEncoder(node: node, codingPath: path))
        }
    }

    private static func tooBig(_ value: Any, _ path: [any CodingKey]) -> EncodingError {
        .invalidValue(value, .init(codingPath: path, debugDescription: "more than 64 bits"))
    }

    private struct Keyed<Key: CodingKey>: KeyedEncodingContainerProtocol {
        let encoder: HandoffEncoder
        var codingPath: [any CodingKey] { self.encoder.codingPath }

        func encodeNil(forKey key: Key) throws {
            self.encoder.node.add(key.stringValue).set(.null)
        }

        func encode(_ value: some Encodable, forKey key: Key) throws {
            try HandoffEncoder.encode(
                value,
                into: self.encoder.node.add(key.stringValue),
                self.codingPath + [key]
            )
        }

        func nestedContainer<NestedKey: CodingKey>(
            keyedBy type: NestedKey.Type,
            forKey key: Key
        ) -> KeyedEncodingContainer<NestedKey> {
            self.nested(key).container(keyedBy: type)
        }

        func nestedUnkeyedContainer(forKey key: Key) -> any UnkeyedEncodingContainer {
            self.nested(key).unkeyedContainer()
        }

        func superEncoder() -> any Encoder {
            HandoffEncoder(node: self.encoder.node.add("super"), codingPath: self.codingPath)
        }

        func superEncoder(forKey key: Key) -> any Encoder {
            self.nested(key)
        }

        private func nested(_ key: Key) -> HandoffEncoder {
            HandoffEncoder(
                node: self.encoder.node.add(key.stringValue),
                codingPath: self.codingPath + [key]
            )
        }
    }

    private struct Unkeyed: UnkeyedEncodingContainer {
        let encoder: HandoffEncoder
        var codingPath: [any CodingKey] { self.encoder.codingPath }
        var count: Int { self.encoder.node.count }

        func encodeNil() throws {
            self.encoder.node.append().set(.null)
        }

        func encode(_ value: some Encodable) throws {
            try HandoffEncoder.encode(value, into: self.encoder.node.append(), self.codingPath)
        }

        func nestedContainer<NestedKey: CodingKey>(
            keyedBy type: NestedKey.Type
        ) -> KeyedEncodingContainer<NestedKey> {
            self.nested.container(keyedBy: type)
        }

        func nestedUnkeyedContainer() -> any UnkeyedEncodingContainer {
            self.nested.unkeyedContainer()
        }

        func superEncoder() -> any Encoder {
            self.nested
        }

        private var nested: HandoffEncoder {
            HandoffEncoder(node: self.encoder.node.append(), codingPath: self.codingPath)
        }
    }

    private struct Single: SingleValueEncodingContainer {
        let encoder: HandoffEncoder
        var codingPath: [any CodingKey] { self.encoder.codingPath }

        func encodeNil() throws {
            self.encoder.node.set(.null)
        }

        func encode(_ value: some Encodable) throws {
            try HandoffEncoder.encode(value, into: self.encoder.node, self.codingPath)
        }
    }
}
