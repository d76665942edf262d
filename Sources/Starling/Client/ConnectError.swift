public import HTTPTypes

/// Why a client has no connection.
public struct ConnectError: Error, Sendable, CustomStringConvertible {
    /// What happened.
    public struct Code: Hashable, Sendable {
        enum Base: Sendable {
            case invalidURL, unreachable, refused, invalidResponse, connectionLost, timedOut, cancelled
            case tooManyRedirects
        }
        let base: Base

        /// The URL, or a value of the configuration, cannot be used.
        public static let invalidURL = Code(base: .invalidURL)
        /// No connection: a name that does not resolve, a closed port, TLS, a proxy; see ``ConnectError/underlying``.
        public static let unreachable = Code(base: .unreachable)
        /// The server answered with another status than 101; see ``ConnectError/response``.
        public static let refused = Code(base: .refused)
        /// What the server answered is no valid handshake; see ``ConnectError/underlying``.
        public static let invalidResponse = Code(base: .invalidResponse)
        /// The stream ended before the response was there.
        public static let connectionLost = Code(base: .connectionLost)
        /// The response did not come within ``ClientConfiguration/handshakeTimeout``.
        public static let timedOut = Code(base: .timedOut)
        /// The task was cancelled.
        public static let cancelled = Code(base: .cancelled)
        /// The server redirects more often than ``ClientConfiguration/redirectsMax`` allows, or to where a client must
        /// not follow.
        public static let tooManyRedirects = Code(base: .tooManyRedirects)
    }

    /// What happened.
    public let code: Code
    /// What the server answered instead of 101.
    public let response: HTTPResponse?
    /// The body of ``response``, at most its first 64 KiB.
    public let body: [UInt8]
    /// The error below this one.
    public let underlying: (any Error)?
    private let detail: String

    init(
        _ code: Code,
        _ detail: String = "",
        response: HTTPResponse? = nil,
        body: [UInt8] = [],
        underlying: (any Error)? = nil
    ) {
        self.code = code
        self.detail = detail
        self.response = response
        self.body = body
        self.underlying = underlying
    }

    /// What happened, where, and what is known beside it.
    public var description: String {
        var text =
            switch self.code.base {
            case .invalidURL: "the URL cannot be used"
            case .unreachable: "no connection"
            case .refused: "the server refused the upgrade"
            case .invalidResponse: "the server's response is no valid handshake"
            case .connectionLost: "the connection ended before the server's response"
            case .timedOut: "the server did not answer the handshake in time"
            case .cancelled: "the task was cancelled"
            case .tooManyRedirects: "the server redirects to where this client does not follow"
            }
        if !self.detail.isEmpty { text += ": \(self.detail)" }
        if let response = self.response {
            text += " (\(response.status))"
            let body = String(decoding: self.body.prefix(200), as: UTF8.self)
            if !body.isEmpty { text += ": \(body.split(whereSeparator: \.isNewline).first ?? "")" }
        }
        if let underlying = self.underlying { text += ": \(underlying)" }
        return text
    }
}
