public import HTTPTypes

/// The server's side of the opening handshake (RFC 6455 §4.2): a checked request, and the response to it.
///
/// ```swift
/// let head = try HTTPRequestHead(parsing: bytes)
/// let handshake = try Handshake(head)
/// let response = try handshake.response(subprotocol: handshake.subprotocols.first { $0 == "chat.v2" })
/// ```
public struct Handshake: Sendable {
    /// The request as it came.
    public let request: HTTPRequest
    /// The subprotocols that the client offers, its favourite first (RFC 6455 §11.3.4).
    public let subprotocols: [String]

    private let acceptValue: String

    /// Checks that a request is a WebSocket handshake.
    ///
    /// - Throws: What is missing or wrong; ``HandshakeError/statusCode`` is the answer, and ``refusal(for:)`` builds it.
    public init(_ head: HTTPRequestHead) throws(HandshakeError) {
        guard head.request.method == .get else { throw HandshakeError(.methodNotAllowed) }
        guard head.isHTTP11 else { throw HandshakeError(.unsupportedVersion) }
        let fields = OpeningFields(head.request.headerFields)
        guard fields.upgradesToWebSocket else { throw HandshakeError(.notAnUpgrade) }
        guard fields.connectionNamesUpgrade else { throw HandshakeError(.missingConnectionUpgrade) }
        guard fields.versionCount <= 1 else { throw HandshakeError(.duplicateField) }
        guard fields.version == "13" else { throw HandshakeError(.unsupportedProtocolVersion) }
        guard fields.keyCount <= 1 else { throw HandshakeError(.duplicateField) }
        guard let key = fields.key else { throw HandshakeError(.missingKey) }
        guard Base64.isEncodingOf16Bytes(key) else { throw HandshakeError(.invalidKey) }

        let subprotocols = fields.subprotocols
        guard subprotocols.allSatisfy({ $0.utf8.allSatisfy(\.isHTTPToken) }),
            Set(subprotocols).count == subprotocols.count
        else { throw HandshakeError(.invalidSubprotocol) }

        self.request = head.request
        self.subprotocols = subprotocols
        self.acceptValue = Self.accept(forKey: key)
    }

    /// The values of `Sec-WebSocket-Extensions`, for the extensions' own parsers.
    public var extensionOffers: [String] {
        self.request.headerFields[values: .secWebSocketExtensions]
    }

    /// The 101 response.
    ///
    /// - Parameters:
    ///   - subprotocol: One of ``subprotocols``, or nil.
    ///   - extensions: The value of `Sec-WebSocket-Extensions`, as an extension's parser made it, or nil.
    ///   - headerFields: More fields, a cookie for example. Values cannot split the response: `HTTPField` replaces
    ///     line ends. Fields that the handshake itself sets are left out.
    /// - Returns: The response, without a body.
    /// - Throws: If the subprotocol was not offered, or is not a token.
    public func response(
        subprotocol: String? = nil,
        extensions: String? = nil,
        headerFields: HTTPFields = [:]
    ) throws(HandshakeError) -> HTTPResponse {
        var fields: HTTPFields = [
            .upgrade: "websocket",
            .connection: "Upgrade",
            .secWebSocketAccept: self.acceptValue,
        ]
        if let subprotocol {
            guard !subprotocol.isEmpty, subprotocol.utf8.allSatisfy(\.isHTTPToken) else {
                throw HandshakeError(.invalidSubprotocol)
            }
            guard self.subprotocols.contains(subprotocol) else {
                throw HandshakeError(.subprotocolNotOffered)
            }
            fields[.secWebSocketProtocol] = subprotocol
        }
        if let extensions { fields[.secWebSocketExtensions] = extensions }
        for field in headerFields where !Self.reservedFields.contains(field.name) { fields.append(field) }
        return HTTPResponse(status: .switchingProtocols, headerFields: fields)
    }

    /// The response that refuses a request, with a sentence as its body.
    ///
    /// The connection is to be closed after it.
    public static func refusal(for error: HandshakeError) -> (response: HTTPResponse, body: String) {
        let body = "\(error.reason)\n"
        var fields: HTTPFields = [
            .contentType: "text/plain; charset=utf-8",
            .contentLength: String(body.utf8.count),
            .connection: "close",
        ]
        switch error.kind {
        case .methodNotAllowed: fields[.allow] = "GET"
        case .notAnUpgrade, .unsupportedProtocolVersion:
            // RFC 9110 §15.5.22 wants the protocol named, RFC 6455 §4.4 the version.
            fields[.upgrade] = "websocket"
            fields[.connection] = "Upgrade, close"
            fields[.secWebSocketVersion] = "13"
        default: break
        }
        return (
            HTTPResponse(status: .init(code: error.statusCode), headerFields: fields).withReasonPhrase(), body
        )
    }

    /// What proves to the client that its handshake was understood (RFC 6455 §4.2.2 item 5).
    static func accept(forKey key: String) -> String {
        var hash = SHA1()
        hash.update(key.utf8)
        hash.update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11".utf8)
        return Base64.encode(hash.finish())
    }

    private static let reservedFields: Set<HTTPField.Name> = [
        .upgrade, .connection, .secWebSocketAccept, .secWebSocketProtocol, .secWebSocketExtensions,
        .contentLength, .transferEncoding,
    ]
}

/// What the fields of a client's handshake say, in one pass over them: to look each up by its name would take as many.
///
/// A list may be spread over several fields (RFC 9110 §5.3).
private struct OpeningFields {
    var upgradesToWebSocket = false
    var connectionNamesUpgrade = false
    var version: String?
    var versionCount = 0
    var key: String?
    var keyCount = 0
    var subprotocols: [String] = []

    init(_ fields: HTTPFields) {
        for field in fields {
            switch field.name {
            case .upgrade:
                if HTTPList(field.value).contains("websocket") { self.upgradesToWebSocket = true }
            case .connection:
                if HTTPList(field.value).contains("upgrade") { self.connectionNamesUpgrade = true }
            case .secWebSocketVersion:
                self.version = field.value
                self.versionCount += 1
            case .secWebSocketKey:
                self.key = field.value
                self.keyCount += 1
            case .secWebSocketProtocol: self.subprotocols += HTTPList(field.value).members
            default: break
            }
        }
    }
}

/// The client's side of the opening handshake (RFC 6455 §4.1): a request, and the check of the response.
public struct ClientHandshake: Sendable {
    /// The request to send.
    public let request: HTTPRequest

    private let subprotocols: [String]
    private let acceptValue: String

    /// Makes a request.
    ///
    /// - Parameters:
    ///   - authority: Host and port, as they stand in `Host`.
    ///   - path: Path and query.
    ///   - key: Sixteen bytes that nobody can predict, fresh for each handshake.
    ///   - subprotocols: What to offer, the favourite first.
    ///   - extensions: The value of `Sec-WebSocket-Extensions`, or nil.
    ///   - headerFields: More fields, `Origin` or `Authorization` for example.
    /// - Throws: If a subprotocol is not a token.
    public init(
        authority: String,
        path: String,
        key: [UInt8],
        subprotocols: [String] = [],
        extensions: String? = nil,
        headerFields: HTTPFields = [:]
    ) throws(HandshakeError) {
        precondition(key.count == 16, "the key of a handshake is 16 bytes long")
        guard subprotocols.allSatisfy({ !$0.isEmpty && $0.utf8.allSatisfy(\.isHTTPToken) }) else {
            throw HandshakeError(.invalidSubprotocol)
        }
        let encodedKey = Base64.encode(key)
        var fields = headerFields
        fields[.upgrade] = "websocket"
        fields[.connection] = "Upgrade"
        fields[.secWebSocketKey] = encodedKey
        fields[.secWebSocketVersion] = "13"
        if !subprotocols.isEmpty { fields[.secWebSocketProtocol] = subprotocols.joined(separator: ", ") }
        if let extensions { fields[.secWebSocketExtensions] = extensions }
        self.request = HTTPRequest(
            method: .get,
            scheme: nil,
            authority: authority,
            path: path,
            headerFields: fields
        )
        self.subprotocols = subprotocols
        self.acceptValue = Handshake.accept(forKey: encodedKey)
    }

    /// Checks the response and returns the subprotocol that the server chose.
    ///
    /// The extensions are for their own parsers to check.
    ///
    /// - Throws: What is missing or wrong; the connection must then be closed.
    public func confirm(_ head: HTTPResponseHead) throws(HandshakeError) -> String? {
        let fields = head.response.headerFields
        guard head.response.status.code == 101 else { throw HandshakeError(.refused) }
        guard head.isHTTP11, HTTPList(fields[.upgrade] ?? "").contains("websocket"),
            HTTPList(fields[.connection] ?? "").contains("upgrade")
        else { throw HandshakeError(.malformedResponse) }
        guard fields[values: .secWebSocketAccept] == [self.acceptValue] else {
            throw HandshakeError(.invalidAccept)
        }
        let chosen = fields[values: .secWebSocketProtocol]
        guard chosen.count <= 1, chosen.allSatisfy(self.subprotocols.contains) else {
            throw HandshakeError(.unexpectedSubprotocol)
        }
        return chosen.first
    }
}

extension HTTPResponse {
    /// The same response with the usual words behind its number.
    fileprivate func withReasonPhrase() -> HTTPResponse {
        var response = self
        let phrase =
            switch self.status.code {
            case 400: "Bad Request"
            case 405: "Method Not Allowed"
            case 413: "Content Too Large"
            case 426: "Upgrade Required"
            case 431: "Request Header Fields Too Large"
            case 505: "HTTP Version Not Supported"
            default: "Internal Server Error"
            }
        response.status = .init(code: self.status.code, reasonPhrase: phrase)
        return response
    }
}
