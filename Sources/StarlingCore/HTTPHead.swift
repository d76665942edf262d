public import HTTPTypes

/// The head of a request in HTTP/1, parsed strictly: what two parsers could read differently is refused.
///
/// No obsolete line folding, no bare line feeds, no space before a colon, one `Host`, and no body (RFC 9112 §3, §5,
/// §6; the rules that request smuggling lives on).
public struct HTTPRequestHead: Sendable, Hashable {
    /// Method, target as path, `Host` as authority, and the fields.
    public let request: HTTPRequest
    /// Whether the request says HTTP/1.1; it says HTTP/1.0 otherwise.
    public let isHTTP11: Bool

    /// Whether the connection may carry another request after this one (RFC 9112 §9.3).
    public var keepsConnection: Bool {
        let options = self.request.headerFields[.connection].map(HTTPList.init)
        if options?.contains("close") == true { return false }
        return self.isHTTP11 || options?.contains("keep-alive") == true
    }

    /// Parses a whole head, from the request line to the empty line.
    public init(parsing head: [UInt8], limits: Limits = Limits()) throws(HandshakeError) {
        var lines = HTTPLines(head)
        let requestLine = try lines.nextLine().split(
            separator: UInt8(ascii: " "),
            omittingEmptySubsequences: false
        )
        guard requestLine.count == 3, let method = HTTPRequest.Method(String(utf8: requestLine[0])) else {
            throw HandshakeError(.malformedHead)
        }
        switch String(utf8: requestLine[2]) {
        case "HTTP/1.1": self.isHTTP11 = true
        case "HTTP/1.0": self.isHTTP11 = false
        case let version where version.hasPrefix("HTTP/"): throw HandshakeError(.unsupportedVersion)
        default: throw HandshakeError(.malformedHead)
        }
        let fields = try lines.parseFields(countMax: limits.headFieldsMax)

        let hosts = fields[values: .hostField]
        guard hosts.count == 1 || hosts.isEmpty && !self.isHTTP11 else { throw HandshakeError(.missingHost) }
        try Self.checkThatThereIsNoBody(fields)
        self.request = HTTPRequest(
            method: method,
            scheme: nil,
            authority: hosts.first,
            path: try Self.path(ofTarget: requestLine[1]),
            headerFields: fields
        )
    }

    private static func checkThatThereIsNoBody(_ fields: HTTPFields) throws(HandshakeError) {
        let lengths = fields[values: .contentLength]
        if fields.contains(.transferEncoding) {
            // Both together is how requests are smuggled (RFC 9112 §6.1).
            throw HandshakeError(lengths.isEmpty ? .unexpectedBody : .malformedHead)
        }
        guard let length = lengths.first else { return }
        guard lengths.count == 1, !length.isEmpty, length.utf8.allSatisfy({ $0 >= 0x30 && $0 <= 0x39 }) else {
            throw HandshakeError(.malformedHead)
        }
        guard length.utf8.allSatisfy({ $0 == 0x30 }) else { throw HandshakeError(.unexpectedBody) }
    }

    /// The path and query of an origin-form or absolute-form target (RFC 9112 §3.2).
    private static func path(ofTarget target: ArraySlice<UInt8>) throws(HandshakeError) -> String {
        guard !target.isEmpty, target.allSatisfy({ $0 > 0x20 && $0 < 0x7F }) else {
            throw HandshakeError(.malformedHead)
        }
        let text = String(utf8: target)
        if text.utf8.first == UInt8(ascii: "/") { return text }
        for scheme in ["http://", "https://", "ws://", "wss://"] where text.lowercased().hasPrefix(scheme) {
            let rest = text.utf8.dropFirst(scheme.utf8.count)
            guard let slash = rest.firstIndex(of: UInt8(ascii: "/")) else { return "/" }
            return String(text[slash...])
        }
        throw HandshakeError(.malformedHead)
    }
}

/// The head of a response in HTTP/1, for the client's side of a handshake.
public struct HTTPResponseHead: Sendable, Hashable {
    /// Status and fields.
    public let response: HTTPResponse
    /// Whether the version is HTTP/1.1, which an upgrade needs; otherwise it is HTTP/1.0.
    public let isHTTP11: Bool

    /// Parses a whole head, from the status line to the empty line.
    public init(parsing head: [UInt8], limits: Limits = Limits()) throws(HandshakeError) {
        var lines = HTTPLines(head)
        let statusLine = try lines.nextLine().split(
            separator: UInt8(ascii: " "),
            maxSplits: 2,
            omittingEmptySubsequences: false
        )
        guard statusLine.count >= 2, ["HTTP/1.1", "HTTP/1.0"].contains(String(utf8: statusLine[0])),
            statusLine[1].count == 3, let code = Int(String(utf8: statusLine[1])), code >= 100
        else { throw HandshakeError(.malformedHead) }
        self.isHTTP11 = statusLine[0].last == UInt8(ascii: "1")
        let phrase = statusLine.count == 3 ? String(utf8: statusLine[2]) : ""
        self.response = HTTPResponse(
            status: .init(code: code, reasonPhrase: phrase),
            headerFields: try lines.parseFields(countMax: limits.headFieldsMax)
        )
    }
}

/// Collects the bytes of a head as they arrive, and finds its end without looking at a byte twice.
public struct HTTPHeadReader: Sendable {
    private var bytes: [UInt8] = []
    /// How many bytes of CR LF CR LF have been seen in a row.
    private var terminatorCount = 0
    private let byteCountMax: Int

    /// A reader at the start of a head.
    public init(limits: Limits = Limits()) {
        self.byteCountMax = limits.headBytesMax
    }

    /// Bytes held.
    public var byteCount: Int {
        self.bytes.count
    }

    /// The bytes of an unfinished head: another reader that takes them stands where this one does.
    package var heldBytes: [UInt8] {
        self.bytes
    }

    /// Takes bytes up to the end of the head, which it returns; nil if more are needed.
    ///
    /// What follows the head stays in `input`, and the reader is ready for the next head.
    ///
    /// - Throws: ``HandshakeError/Kind/headTooLarge`` over the limit, and ``HandshakeError/Kind/malformedHead`` at the
    ///   first byte that no request starts with, so that TLS on a plain port is refused at once, and at a bare line
    ///   feed, so that a client that ends its lines by it is told, and does not wait for a deadline.
    public mutating func read(from input: inout MutableRawSpan) throws(HandshakeError) -> [UInt8]? {
        if self.bytes.isEmpty { try self.skipEmptyLines(&input) }
        let count = min(input.byteCount, self.byteCountMax - self.bytes.count)
        let (taken, isWhole) = try self.findEnd(in: input.bytes.extracting(first: count))
        unsafe input.bytes.withUnsafeBytes { unsafe self.bytes.append(contentsOf: $0[..<taken]) }
        input.removeFirst(taken)
        guard isWhole else {
            guard input.isEmpty else { throw HandshakeError(.headTooLarge) }
            return nil
        }
        defer {
            self.bytes = []
            self.terminatorCount = 0
        }
        return self.bytes
    }

    /// Drops empty lines before a request line, as RFC 9112 §2.2 wants, and checks that something follows that may be one.
    private func skipEmptyLines(_ input: inout MutableRawSpan) throws(HandshakeError) {
        while !input.isEmpty {
            // There is a byte, as just checked.
            let byte = unsafe input.unsafeLoad(as: UInt8.self)
            guard byte == UInt8(ascii: "\r") || byte == UInt8(ascii: "\n") else {
                guard byte.isHTTPToken else { throw HandshakeError(.malformedHead) }
                return
            }
            input.removeFirst(1)
        }
    }

    /// How many of the next bytes belong to the head, and whether it ends with them.
    private mutating func findEnd(in input: RawSpan) throws(HandshakeError) -> (Int, isWhole: Bool) {
        let cr = UInt8(ascii: "\r")
        let lf = UInt8(ascii: "\n")
        var seen = self.terminatorCount
        for index in 0..<input.byteCount {
            // The index is below the count.
            let byte = unsafe input.unsafeLoad(fromUncheckedByteOffset: index, as: UInt8.self)
            let expected = seen & 1 == 0 ? cr : lf
            guard byte != lf || expected == lf else { throw HandshakeError(.malformedHead) }
            seen = byte == expected ? seen + 1 : byte == cr ? 1 : 0
            if seen == 4 { return (index + 1, true) }
        }
        self.terminatorCount = seen
        return (input.byteCount, false)
    }
}

// MARK: - Lines and lists

/// The lines of a head, each ended by CR LF.
struct HTTPLines {
    private var rest: ArraySlice<UInt8>

    init(_ head: [UInt8]) {
        self.rest = head[...]
    }

    /// Takes the next line, without its end.
    mutating func nextLine() throws(HandshakeError) -> ArraySlice<UInt8> {
        guard let end = self.rest.firstIndex(of: UInt8(ascii: "\n")), end > self.rest.startIndex,
            self.rest[end - 1] == UInt8(ascii: "\r")
        else { throw HandshakeError(.malformedHead) }
        let line = self.rest[self.rest.startIndex..<end - 1]
        self.rest = self.rest[(end + 1)...]
        return line
    }

    /// Takes field lines until the empty line.
    mutating func parseFields(countMax: Int) throws(HandshakeError) -> HTTPFields {
        // Put together once: `HTTPFields` takes many at a time with less work than one after the other.
        var list: [HTTPField] = []
        list.reserveCapacity(min(16, countMax))
        while true {
            let line = try self.nextLine()
            if line.isEmpty { break }
            guard list.count < countMax else { throw HandshakeError(.tooManyFields) }
            // A name is a token, so that folded lines and a space before the colon fail here.
            guard let colon = line.firstIndex(of: UInt8(ascii: ":")),
                let name = HTTPField.Name(bytes: line[..<colon])
            else { throw HandshakeError(.malformedHead) }
            let value = line[(colon + 1)...].trimmingHTTPSpace()
            guard value.allSatisfy({ $0 >= 0x20 && $0 != 0x7F || $0 == 0x09 }) else {
                throw HandshakeError(.malformedHead)
            }
            list.append(HTTPField(name: name, bytes: value))
        }
        var fields = HTTPFields()
        fields.replaceSubrange(0..<0, with: list)
        return fields
    }
}

/// A field's value as a list of tokens, separated by commas; case does not count (RFC 9110 §5.6.1).
struct HTTPList {
    private let value: String

    init(_ value: String) {
        self.value = value
    }

    var members: [String] {
        self.value.utf8.split(separator: UInt8(ascii: ",")).compactMap { member in
            let token = member.trimmingHTTPSpace()
            return token.isEmpty ? nil : String(Substring(token))
        }
    }

    /// Whether a token, given in lower case, is among the members, in any case.
    func contains(_ token: String) -> Bool {
        var rest = self.value.utf8[...]
        while !rest.isEmpty {
            let member = rest.prefix { $0 != UInt8(ascii: ",") }
            if member.trimmingHTTPSpace().lazy.map(\.inLowerCase).elementsEqual(token.utf8) { return true }
            rest = rest[member.endIndex...].dropFirst()
        }
        return false
    }
}

extension UInt8 {
    /// Whether the byte may stand in a token (RFC 9110 §5.6.2).
    var isHTTPToken: Bool {
        self.isLetterOrDigit || "!#$%&'*+-.^_`|~".utf8.contains(self)
    }

    /// Whether the byte is one of ASCII's.
    var isLetterOrDigit: Bool {
        switch self {
        case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "a")...UInt8(ascii: "z"):
            true
        default: false
        }
    }

    fileprivate var inLowerCase: UInt8 {
        (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains(self) ? self | 0x20 : self
    }
}

extension BidirectionalCollection<UInt8> {
    /// Without the spaces and tabs at both ends.
    func trimmingHTTPSpace() -> SubSequence {
        let isSpace = { (byte: UInt8) in byte == 0x20 || byte == 0x09 }
        guard let first = self.firstIndex(where: { !isSpace($0) }),
            let last = self.lastIndex(where: { !isSpace($0) })
        else { return self[self.endIndex...] }
        return self[first...last]
    }
}

extension String {
    /// Decodes bytes as UTF-8.
    init(utf8 bytes: ArraySlice<UInt8>) {
        self.init(decoding: bytes, as: UTF8.self)
    }
}

extension HTTPField {
    /// A field whose value is known to be one.
    fileprivate init(name: Name, bytes: ArraySlice<UInt8>) {
        // Nearly all are ASCII, and make a string at once. What is not may be no UTF-8 either, and is kept as bytes then.
        if bytes.allSatisfy({ $0 < 0x80 }) {
            self.init(name: name, value: String(utf8: bytes))
        } else {
            self.init(name: name, value: bytes)
        }
    }
}

extension HTTPField.Name {
    /// A name as it came; nil if it is no token.
    ///
    /// The names of usual handshakes, in their usual spelling, are not made anew for each.
    fileprivate init?(bytes: ArraySlice<UInt8>) {
        if bytes.count < Self.usual.count,
            let name = Self.usual[bytes.count].first(where: { $0.rawName.utf8.elementsEqual(bytes) })
        {
            self = name
        } else {
            self.init(String(utf8: bytes))
        }
    }

    /// What browsers and proxies send with a handshake, by the length of the name.
    private static let usual: [[HTTPField.Name]] = {
        let names: [HTTPField.Name] = [
            .hostField, .upgrade, .connection, .secWebSocketKey, .secWebSocketVersion, .secWebSocketProtocol,
            .secWebSocketExtensions, .origin, .userAgent, .cookie, .authorization, .cacheControl,
            .acceptEncoding, .acceptLanguage, .accept,
        ]
        let longest = names.map(\.rawName.utf8.count).max() ?? 0
        return (0...longest).map { count in names.filter { $0.rawName.utf8.count == count } }
    }()

    /// `Host`, which HTTPTypes wants to be an authority; in HTTP/1 it is a field like others.
    static let hostField = HTTPField.Name("Host")!
}

extension HTTPResponse {
    /// The head as it stands on the wire in HTTP/1.1.
    public func serialized() -> [UInt8] {
        var head = HTTPHeadWriter()
        head.write("HTTP/1.1 ")
        head.write(String(self.status.code))
        head.write(" ")
        head.write(self.status.reasonPhrase)
        head.write("\r\n")
        return head.finish(self.headerFields)
    }
}

extension HTTPRequest {
    /// The head as it stands on the wire in HTTP/1.1; the authority becomes `Host`.
    public func serialized() -> [UInt8] {
        var head = HTTPHeadWriter()
        head.write(self.method.rawValue)
        head.write(" ")
        head.write(self.path ?? "/")
        head.write(" HTTP/1.1\r\n")
        if let authority = self.authority, !self.headerFields.contains(.hostField) {
            head.write("Host", authority)
        }
        return head.finish(self.headerFields)
    }
}

/// Puts a head together as bytes: a string would be copied for them.
private struct HTTPHeadWriter {
    private var bytes: [UInt8] = []

    init() {
        // The head of an accepted handshake, and a little more.
        self.bytes.reserveCapacity(256)
    }

    mutating func write(_ text: String) {
        self.bytes.append(contentsOf: text.utf8)
    }

    mutating func write(_ name: String, _ value: String) {
        self.write(name)
        self.write(": ")
        self.write(value)
        self.write("\r\n")
    }

    /// Adds the fields and the empty line.
    consuming func finish(_ fields: HTTPFields) -> [UInt8] {
        for field in fields { self.write(field.name.rawName, field.value) }
        self.write("\r\n")
        return self.bytes
    }
}
