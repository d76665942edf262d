/// Base64 (RFC 4648 §4), as far as a handshake needs it.
enum Base64 {
    private static let alphabet = Array(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8
    )

    static func encode(_ bytes: [UInt8]) -> String {
        var output: [UInt8] = []
        for start in stride(from: 0, to: bytes.count, by: 3) {
            let group = bytes[start..<min(start + 3, bytes.count)]
            let bits = group.reduce(0) { $0 << 8 | Int($1) } << (8 * (3 - group.count))
            for position in 0..<4 {
                output.append(
                    position <= group.count
                        ? self.alphabet[bits >> (18 - 6 * position) & 63] : UInt8(ascii: "=")
                )
            }
        }
        return String(decoding: output, as: UTF8.self)
    }

    /// Whether the text is what 16 bytes look like: 22 digits, of which the last carries two bits, and padding.
    static func isEncodingOf16Bytes(_ text: String) -> Bool {
        let digits = Array(text.utf8)
        return digits.count == 24
            && digits[..<22].allSatisfy(self.alphabet.contains)
            && digits[22...].elementsEqual("==".utf8)
            && "AQgw".utf8.contains(digits[21])
    }
}
