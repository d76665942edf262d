import Foundation
import StarlingTopics

/// What names, keys and texts may be.
enum Rules {
    static let nameLengthMax = 32
    static let textLengthMax = 2000

    /// A room's name or a nickname without white space at its ends.
    static func name(_ raw: String, orRefuse code: TopicRefusal.Code, _ what: String) throws(TopicRefusal)
        -> String
    {
        let scalars = raw.unicodeScalars
        let isSpace = { (scalar: Unicode.Scalar) in scalar.properties.isWhitespace }
        guard let first = scalars.firstIndex(where: { !isSpace($0) }),
            let last = scalars.lastIndex(where: { !isSpace($0) })
        else { throw TopicRefusal(code, "\(what) has 1 to \(nameLengthMax) characters") }
        let kept = scalars[first...last]
        guard kept.count <= nameLengthMax else {
            throw TopicRefusal(code, "\(what) has 1 to \(nameLengthMax) characters")
        }
        guard kept.allSatisfy(isAllowedInName) else {
            throw TopicRefusal(code, "\(what) has no line breaks and no invisible characters")
        }
        // One spelling for names that look the same (NFC), since other nodes compare bytes.
        return String(kept).precomposedStringWithCanonicalMapping
    }

    /// Eight or more characters that a client draws at random.
    static func checkKey(_ key: String) throws(TopicRefusal) {
        let isAllowed = { (byte: UInt8) in
            switch byte {
            case UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "a")...UInt8(ascii: "z"): true
            case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"): true
            default: false
            }
        }
        guard (8...64).contains(key.utf8.count), key.utf8.allSatisfy(isAllowed) else {
            throw TopicRefusal(
                "invalid-key",
                "a key has 8 to 64 letters, digits, hyphens and underscores of ASCII"
            )
        }
    }

    /// What is said.
    static func checkText(_ text: String) throws(TopicRefusal) {
        let scalars = text.unicodeScalars
        guard scalars.count <= textLengthMax, !scalars.allSatisfy({ $0.properties.isWhitespace }) else {
            throw TopicRefusal("invalid-text", "a message has 1 to 2,000 characters")
        }
        let isAllowed = { (scalar: Unicode.Scalar) in
            scalar == "\t" || scalar == "\n" || scalar.properties.generalCategory != .control
        }
        guard scalars.allSatisfy(isAllowed) else {
            throw TopicRefusal("invalid-text", "a message has no control characters")
        }
    }

    private static func isAllowedInName(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar.properties.generalCategory {
        case .control, .lineSeparator, .paragraphSeparator: false
        // Joins emoji.
        case .format: scalar == "\u{200D}"
        default: true
        }
    }
}
