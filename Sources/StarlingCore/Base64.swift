/// Base64 (RFC 4648 §4), as far as a handshake needs it.
enum Base64 {
    private static let alphabet = Array(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8
    )

    static func encode(_ bytes: [UInt8]) -> String {
        var output: [UInt8] = []
        output.reserveCapacity((bytes.count + 2) / 3 * 4)
        for start in stride(from: 0, to: bytes.count, by: 3) {
            let count = min(3, bytes.count - start)
            var bits = 0
            for index in 0..<3 { bits = bits << 8 | (index < count ? Int(bytes[start + index]) : 0) }
            for position in 0..<4 {
                output.append(
                    position <= count ? self.alphabet[bits >> (18 - 6 * position) & 63] : UInt8(ascii: "=")
                )
            }
        }
        return String(decoding: output, as: UTF8.self)
    }

    /// Whether the text is what 16 bytes look like: 22 digits, of which the last carries two bits, and padding.
    static func isEncodingOf16Bytes(_ text: String) -> Bool {
        let text = text.utf8
        return text.count == 24
            && text.prefix(22).allSatisfy { $0.isLetterOrDigit || "+/".utf8.contains($0) }
            && text.suffix(2).elementsEqual("==".utf8)
            && text.dropFirst(21).first.map("AQgw".utf8.contains) == true
    }
}
