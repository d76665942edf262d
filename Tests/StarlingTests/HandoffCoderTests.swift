import Testing

@testable import Starling

/// The bytes of `Codable` values between two processes.
@Suite struct HandoffCoderTests {
    struct Everything: Codable, Hashable {
        enum Kind: String, Codable { case small, big }
        enum Shape: Codable, Hashable {
            case circle(radius: Double)
            case nothing
        }

        var flag = true
        var numbers: [Int] = [.min, -1, 0, 1, .max]
        var unsigned = UInt64.max
        var byte = UInt8.max
        var real = -0.1
        var float = Float.pi
        var text = "größer\u{0}"
        var nothing: String?
        var something: String? = ""
        var nested: [String: [Int?]] = ["a": [1, nil], "": []]
        var kind = Kind.big
        var shapes = [Shape.circle(radius: 2), .nothing]
    }

    @Test("What is written is read")
    func roundTrip() throws {
        let value = Everything()
        #expect(try HandoffCoder.decode(Everything.self, from: HandoffCoder.encode(value)) == value)
        #expect(try HandoffCoder.decode(Int.self, from: HandoffCoder.encode(-5)) == -5)
        #expect(try HandoffCoder.decode(String?.self, from: HandoffCoder.encode(String?.none)) == nil)
        #expect(try HandoffCoder.decode([String].self, from: HandoffCoder.encode([String]())) == [])
    }

    @Test("A newer type reads what an older one has written, and the other way round")
    func versions() throws {
        struct Old: Codable { var name = "a", age = 3 }
        struct New: Codable { var name = "b", city: String? = "c" }
        let new = try HandoffCoder.decode(New.self, from: HandoffCoder.encode(Old()))
        #expect(new.name == "a" && new.city == nil)
        #expect(throws: DecodingError.self) {
            try HandoffCoder.decode(Old.self, from: HandoffCoder.encode(New()))
        }
    }

    @Test("Bytes that were cut or changed are refused, or read as something else, and nothing breaks")
    func malformed() throws {
        let bytes = try HandoffCoder.encode(Everything())
        for count in 0..<bytes.count {
            #expect(throws: (any Error).self) {
                try HandoffCoder.decode(Everything.self, from: Array(bytes.prefix(count)))
            }
        }
        for position in bytes.indices {
            for bit in 0..<8 {
                var changed = bytes
                changed[position] ^= 1 << bit
                _ = try? HandoffCoder.decode(Everything.self, from: changed)
            }
        }
        // A list in a list in a list.
        let deep =
            Array([[7, 1] as [UInt8]].joined())
            + Array(repeatElement([7, 1] as [UInt8], count: 10_000).joined())
        #expect(throws: (any Error).self) { try HandoffCoder.decode(Everything.self, from: deep) }
    }
}
