internal import HTTPTypes
internal import Starling

/// A password for the status page, in the form that browsers ask for (RFC 7617) or as a bearer token (RFC 6750).
struct DebugToken {
    private let token: [UInt8]

    init(_ token: String) {
        self.token = Array(token.utf8)
    }

    /// Whether a request carries it.
    func isShown(by request: HTTPRequest) -> Bool {
        guard let field = request.headerFields[.authorization] else { return false }
        let parts = field.split(separator: " ", maxSplits: 1)
        guard parts.count == 2 else { return false }
        switch parts[0].lowercased() {
        case "bearer": return self.matches(Array(parts[1].utf8))
        case "basic":
            guard let pair = Self.decodeBase64(parts[1]), let colon = pair.firstIndex(of: UInt8(ascii: ":"))
            else {
                return false
            }
            return self.matches(Array(pair[(colon + 1)...]))
        default: return false
        }
    }

    /// Takes as long wherever the first difference is.
    private func matches(_ given: [UInt8]) -> Bool {
        given.count == self.token.count && zip(given, self.token).reduce(0) { $0 | $1.0 ^ $1.1 } == 0
    }

    private static func decodeBase64(_ text: Substring) -> [UInt8]? {
        let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)
        var bytes: [UInt8] = []
        var bits: UInt32 = 0
        var bitCount = 0
        for digit in text.utf8 where digit != UInt8(ascii: "=") {
            guard let value = alphabet.firstIndex(of: digit) else { return nil }
            bits = bits << 6 | UInt32(value)
            bitCount += 6
            if bitCount >= 8 {
                bitCount -= 8
                bytes.append(UInt8(truncatingIfNeeded: bits >> bitCount))
            }
        }
        return bytes
    }
}
