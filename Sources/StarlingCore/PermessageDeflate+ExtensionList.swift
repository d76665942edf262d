extension PermessageDeflate {
    /// Reads one `Sec-WebSocket-Extensions` field, extension by extension (RFC 6455 §9.1).
    ///
    /// The grammar is that of RFC 2616: spaces and tabs may stand between any two tokens, and a list may have
    /// empty elements.
    struct ExtensionList {
        /// One extension with its parameters.
        struct Element {
            var name: Substring
            var parameters: [(name: Substring, value: String?)]
        }

        private var rest: Substring.UTF8View

        init(_ field: String) {
            self.rest = Substring(field).utf8
        }

        /// The next extension; nil at the end of the field.
        mutating func next() throws(NegotiationError) -> Element? {
            self.skipSpaces()
            while self.skip(UInt8(ascii: ",")) {
                self.skipSpaces()
            }
            guard !self.rest.isEmpty else { return nil }

            var element = Element(name: try self.takeToken(), parameters: [])
            self.skipSpaces()
            while self.skip(UInt8(ascii: ";")) {
                self.skipSpaces()
                let name = try self.takeToken()
                self.skipSpaces()
                let value = self.skip(UInt8(ascii: "=")) ? try self.takeValue() : nil
                element.parameters.append((name, value))
                self.skipSpaces()
            }
            guard self.rest.isEmpty || self.rest.first == UInt8(ascii: ",") else {
                throw NegotiationError(.malformed)
            }
            return element
        }

        private mutating func takeValue() throws(NegotiationError) -> String {
            self.skipSpaces()
            guard self.skip(UInt8(ascii: "\"")) else { return String(try self.takeToken()) }
            var value: [UInt8] = []
            while true {
                guard var byte = self.rest.popFirst() else { throw NegotiationError(.malformed) }
                if byte == UInt8(ascii: "\"") { break }
                if byte == UInt8(ascii: "\\") {
                    guard let escaped = self.rest.popFirst() else { throw NegotiationError(.malformed) }
                    byte = escaped
                }
                // RFC 6455 §9.1: what a quoted string says must be a token, too.
                guard Self.isTokenByte(byte) else { throw NegotiationError(.malformed) }
                value.append(byte)
            }
            guard !value.isEmpty else { throw NegotiationError(.malformed) }
            return String(decoding: value, as: UTF8.self)
        }

        private mutating func takeToken() throws(NegotiationError) -> Substring {
            let end = self.rest.firstIndex { !Self.isTokenByte($0) } ?? self.rest.endIndex
            let token = self.rest[..<end]
            guard !token.isEmpty else { throw NegotiationError(.malformed) }
            self.rest = self.rest[end...]
            return Substring(token)
        }

        private mutating func skipSpaces() {
            while self.rest.first == UInt8(ascii: " ") || self.rest.first == UInt8(ascii: "\t") {
                self.rest.removeFirst()
            }
        }

        private mutating func skip(_ byte: UInt8) -> Bool {
            guard self.rest.first == byte else { return false }
            self.rest.removeFirst()
            return true
        }

        /// RFC 2616 §2.2: any visible ASCII character that is not a separator.
        private static func isTokenByte(_ byte: UInt8) -> Bool {
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"):
                true
            case UInt8(ascii: "!"), UInt8(ascii: "#"), UInt8(ascii: "$"), UInt8(ascii: "%"),
                UInt8(ascii: "&"),
                UInt8(ascii: "'"),
                UInt8(ascii: "*"), UInt8(ascii: "+"), UInt8(ascii: "-"), UInt8(ascii: "."),
                UInt8(ascii: "^"), UInt8(ascii: "_"), UInt8(ascii: "`"), UInt8(ascii: "|"), UInt8(ascii: "~"):
                true
            default:
                false
            }
        }
    }
}
