internal import StarlingCore

/// `Codable` values as bytes, for the next process of a restart.
///
/// Compact, with the names of fields, so that a newer program may add optional ones. No format to be stored: a process reads
/// only what the one before it has just written.
enum HandoffCoder {
    /// What was written, in between.
    indirect enum Value {
        case null
        case bool(Bool)
        /// The bits of a signed number.
        case signed(Int64)
        case unsigned(UInt64)
        case double(Double)
        case text(String)
        case list([Value])
        case fields([(name: String, value: Value)])
    }

    static func encode(_ value: some Encodable) throws -> [UInt8] {
        let node = HandoffNode()
        try value.encode(to: HandoffEncoder(node: node, codingPath: []))
        var writer = ByteWriter()
        Self.write(node.value, to: &writer)
        return writer.bytes
    }

    static func decode<Decoded: Decodable>(_ type: Decoded.Type, from bytes: [UInt8]) throws -> Decoded {
        var reader = ByteReader(bytes)
        let value = try Self.read(from: &reader, depth: 0)
        guard reader.isAtEnd else { throw ByteReader.Malformed() }
        return try Decoded(from: HandoffDecoder(value: value, codingPath: []))
    }

    /// Deeper values are refused: each level is a call.
    private static let depthMax = 256

    private static func write(_ value: Value, to writer: inout ByteWriter) {
        switch value {
        case .null: writer.write(0)
        case .bool(let flag): writer.write(flag ? 2 : 1)
        case .signed(let number):
            writer.write(3)
            writer.write(UInt64(bitPattern: number))
        case .unsigned(let number):
            writer.write(4)
            writer.write(number)
        case .double(let number):
            writer.write(5)
            writer.write(number.bitPattern)
        case .text(let text):
            writer.write(6)
            writer.write(text)
        case .list(let values):
            writer.write(7)
            writer.write(values.count)
            for value in values { Self.write(value, to: &writer) }
        case .fields(let fields):
            writer.write(8)
            writer.write(fields.count)
            for field in fields {
                writer.write(field.name)
                Self.write(field.value, to: &writer)
            }
        }
    }

    private static func read(from reader: inout ByteReader, depth: Int) throws(ByteReader.Malformed) -> Value
    {
        guard depth < self.depthMax else { throw ByteReader.Malformed() }
        switch try reader.readNumber() {
        case 0: return .null
        case 1: return .bool(false)
        case 2: return .bool(true)
        case 3: return .signed(Int64(bitPattern: try reader.readNumber()))
        case 4: return .unsigned(try reader.readNumber())
        case 5: return .double(Double(bitPattern: try reader.readNumber()))
        case 6: return .text(try reader.readText())
        case 7:
            let count: Int = try reader.read()
            var values: [Value] = []
            for _ in 0..<count { values.append(try Self.read(from: &reader, depth: depth + 1)) }
            return .list(values)
        case 8:
            let count: Int = try reader.read()
            var fields: [(name: String, value: Value)] = []
            for _ in 0..<count {
                let name = try reader.readText()
                fields.append((name, try Self.read(from: &reader, depth: depth + 1)))
            }
            return .fields(fields)
        default: throw ByteReader.Malformed()
        }
    }
}
