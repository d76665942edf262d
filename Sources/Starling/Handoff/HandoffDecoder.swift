/// Decodes a value that was read.
struct HandoffDecoder: Decoder {
    let value: HandoffCoder.Value
    let codingPath: [any CodingKey]
    var userInfo: [CodingUserInfoKey: Any] { [:] }

    func container<Key: CodingKey>(keyedBy type: Key.Type) throws -> KeyedDecodingContainer<Key> {
        guard case .fields(let fields) = self.value else { throw self.mismatch(type, "fields") }
        return KeyedDecodingContainer(Keyed<Key>(decoder: self, fields: fields))
    }

    func unkeyedContainer() throws -> any UnkeyedDecodingContainer {
        guard case .list(let values) = self.value else { throw self.mismatch([Any].self, "a list") }
        return Unkeyed(decoder: self, values: values)
    }

    func singleValueContainer() throws -> any SingleValueDecodingContainer {
        Single(decoder: self)
    }

    /// Decodes a value that may be one of those that are written as they are.
    func decode<Decoded: Decodable>(_ type: Decoded.Type) throws -> Decoded {
        let primitive: Any?
        switch type {
        case is Bool.Type: if case .bool(let flag) = self.value { primitive = flag } else { primitive = nil }
        case is String.Type:
            if case .text(let text) = self.value { primitive = text } else { primitive = nil }
        case is Double.Type:
            if case .double(let number) = self.value { primitive = number } else { primitive = nil }
        case is Float.Type:
            if case .double(let number) = self.value { primitive = Float(number) } else { primitive = nil }
        case let integer as any FixedWidthInteger.Type: primitive = self.integer(integer)
        default: return try Decoded(from: self)
        }
        guard let decoded = primitive as? Decoded else { throw self.mismatch(type, "\(type)") }
        return decoded
    }

    private func integer<Number: FixedWidthInteger>(_ type: Number.Type) -> Number? {
        switch self.value {
        case .signed(let number): Number(exactly: number)
        case .unsigned(let number): Number(exactly: number)
        case .null, .bool, .double, .text, .list, .fields: nil
        }
    }

    fileprivate var isNull: Bool {
        if case .null = self.value { true } else { false }
    }

    private func mismatch(_ type: Any.Type, _ expected: String) -> DecodingError {
        .typeMismatch(type, .init(codingPath: self.codingPath, debugDescription: "expected \(expected)"))
    }

    private struct Keyed<Key: CodingKey>: KeyedDecodingContainerProtocol {
        let decoder: HandoffDecoder
        let fields: [(name: String, value: HandoffCoder.Value)]
        var codingPath: [any CodingKey] { self.decoder.codingPath }
        var allKeys: [Key] { self.fields.compactMap { Key(stringValue: $0.name) } }

        func contains(_ key: Key) -> Bool {
            self.fields.contains { $0.name == key.stringValue }
        }

        func decodeNil(forKey key: Key) throws -> Bool {
            try self.nested(key).isNull
        }

        func decode<Decoded: Decodable>(_ type: Decoded.Type, forKey key: Key) throws -> Decoded {
            try self.nested(key).decode(type)
        }

        func nestedContainer<NestedKey: CodingKey>(
            keyedBy type: NestedKey.Type,
            forKey key: Key
        ) throws -> KeyedDecodingContainer<NestedKey> {
            try self.nested(key).container(keyedBy: type)
        }

        func nestedUnkeyedContainer(forKey key: Key) throws -> any UnkeyedDecodingContainer {
            try self.nested(key).unkeyedContainer()
        }

        func superDecoder() throws -> any Decoder {
            let value = self.fields.first { $0.name == "super" }?.value ?? .null
            return HandoffDecoder(value: value, codingPath: self.codingPath)
        }

        func superDecoder(forKey key: Key) throws -> any Decoder {
            try self.nested(key)
        }

        private func nested(_ key: Key) throws -> HandoffDecoder {
            guard let field = self.fields.first(where: { $0.name == key.stringValue }) else {
                let context = DecodingError.Context(
                    codingPath: self.codingPath,
                    debugDescription: "not there"
                )
                throw DecodingError.keyNotFound(key, context)
            }
            return HandoffDecoder(value: field.value, codingPath: self.codingPath + [key])
        }
    }

    private struct Unkeyed: UnkeyedDecodingContainer {
        let decoder: HandoffDecoder
        let values: [HandoffCoder.Value]
        var currentIndex = 0
        var codingPath: [any CodingKey] { self.decoder.codingPath }
        var count: Int? { self.values.count }
        var isAtEnd: Bool { self.currentIndex == self.values.count }

        init(decoder: HandoffDecoder, values: [HandoffCoder.Value]) {
            self.decoder = decoder
            self.values = values
        }

        mutating func decodeNil() throws -> Bool {
            guard !self.isAtEnd, case .null = self.values[self.currentIndex] else { return false }
            self.currentIndex += 1
            return true
        }

        mutating func decode<Decoded: Decodable>(_ type: Decoded.Type) throws -> Decoded {
            try self.next().decode(type)
        }

        mutating func nestedContainer<NestedKey: CodingKey>(
            keyedBy type: NestedKey.Type
        ) throws -> KeyedDecodingContainer<NestedKey> {
            try self.next().container(keyedBy: type)
        }

        mutating func nestedUnkeyedContainer() throws -> any UnkeyedDecodingContainer {
            try self.next().unkeyedContainer()
        }

        mutating func superDecoder() throws -> any Decoder {
            try self.next()
        }

        private mutating func next() throws -> HandoffDecoder {
            guard !self.isAtEnd else {
                let context = DecodingError.Context(
                    codingPath: self.codingPath,
                    debugDescription: "too short"
                )
                throw DecodingError.valueNotFound(Any.self, context)
            }
            defer { self.currentIndex += 1 }
            return HandoffDecoder(value: self.values[self.currentIndex], codingPath: self.codingPath)
        }
    }

    private struct Single: SingleValueDecodingContainer {
        let decoder: HandoffDecoder
        var codingPath: [any CodingKey] { self.decoder.codingPath }

        func decodeNil() -> Bool {
            self.decoder.isNull
        }

        func decode<Decoded: Decodable>(_ type: Decoded.Type) throws -> Decoded {
            try self.decoder.decode(type)
        }
    }
}
