public import HTTPTypes

/// A client's request to upgrade, as an endpoint's `authenticate` sees it.
public struct UpgradeRequest: Sendable {
    /// The request: method, path with query, authority (`Host`), header fields.
    public let head: HTTPRequest
    /// The subprotocols that the client offers, its favourite first.
    public let subprotocols: [String]
    /// Where the connection comes from.
    public let remoteAddress: RemoteAddress

    /// Makes a request, for tests of an `authenticate` function.
    public init(head: HTTPRequest, subprotocols: [String] = [], remoteAddress: RemoteAddress = .unknown) {
        self.head = head
        self.subprotocols = subprotocols
        self.remoteAddress = remoteAddress
    }

    /// The path without the query, still percent-encoded.
    public var path: String {
        String(Self.split(self.head.path ?? "/").path)
    }

    /// The header fields.
    public var headerFields: HTTPFields {
        self.head.headerFields
    }

    /// The first value of a query parameter, percent-decoded, or nil.
    public subscript(query name: String) -> String? {
        for pair in Self.split(self.head.path ?? "/").query.split(separator: "&") {
            let parts = pair.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            if PercentEncoding.decode(parts[0]) == name {
                return PercentEncoding.decode(parts.count > 1 ? parts[1] : "")
            }
        }
        return nil
    }

    /// The value of a cookie, as it was sent, or nil (RFC 6265 §4.2.1).
    public subscript(cookie name: String) -> String? {
        for field in self.head.headerFields[values: .cookie] {
            for pair in field.split(separator: ";") {
                let parts = pair.split(separator: "=", maxSplits: 1)
                if parts.count == 2, parts[0].drop(while: { $0 == " " }) == name { return String(parts[1]) }
            }
        }
        return nil
    }

    static func split(_ target: String) -> (path: Substring, query: Substring) {
        // Both marks are ASCII: the bytes are looked at, and not characters, which would have to be put together first.
        let withoutFragment = target[..<(target.utf8.firstIndex(of: UInt8(ascii: "#")) ?? target.endIndex)]
        guard let mark = withoutFragment.utf8.firstIndex(of: UInt8(ascii: "?")) else {
            return (withoutFragment, "")
        }
        return (withoutFragment[..<mark], withoutFragment[withoutFragment.utf8.index(after: mark)...])
    }
}

/// The other end of a connection.
public struct RemoteAddress: Hashable, Sendable, CustomStringConvertible {
    /// An address in its usual form: `192.0.2.1`, `2001:db8::1`; empty for a Unix socket or if it is not known.
    public let host: String
    /// The port, or 0.
    public let port: UInt16

    /// Makes an address.
    public init(host: String, port: UInt16) {
        self.host = host
        self.port = port
    }

    /// A Unix socket, or a transport that knows no addresses.
    public static let unknown = RemoteAddress(host: "", port: 0)

    /// Host and port, as they stand in logs.
    public var description: String {
        self.host.isEmpty
            ? "unknown"
            : self.host.contains(":") ? "[\(self.host)]:\(self.port)" : "\(self.host):\(self.port)"
    }
}

/// What an endpoint's `authenticate` decides about an upgrade.
public struct UpgradeDecision<UserData: Sendable>: Sendable {
    enum Base: Sendable {
        case accept(UserData, user: String?, subprotocol: String?, headerFields: HTTPFields)
        case refuse(HTTPReply)
    }
    let base: Base

    /// Accepts the upgrade.
    ///
    /// - Parameters:
    ///   - userData: What the connection's handler is given.
    ///   - user: The user's name for ``ConnectionRegistry``, and for the limit of connections per user.
    ///   - subprotocol: One of the request's, or nil. Another one fails the upgrade with 500.
    ///   - headerFields: More fields for the 101 response, a cookie for example.
    /// - Returns: The decision.
    public static func accept(
        _ userData: UserData,
        user: String? = nil,
        subprotocol: String? = nil,
        headerFields: HTTPFields = [:]
    ) -> UpgradeDecision {
        UpgradeDecision(
            base: .accept(userData, user: user, subprotocol: subprotocol, headerFields: headerFields)
        )
    }

    /// Refuses the upgrade with a response of the application's own; the connection is closed after it.
    public static func refuse(
        _ status: HTTPResponse.Status,
        headerFields: HTTPFields = [:],
        body: String = ""
    ) -> UpgradeDecision {
        UpgradeDecision(base: .refuse(HTTPReply(status, headerFields: headerFields, body: Array(body.utf8))))
    }
}

extension UpgradeDecision where UserData == Void {
    /// Accepts the upgrade.
    public static func accept(
        user: String? = nil,
        subprotocol: String? = nil,
        headerFields: HTTPFields = [:]
    ) -> UpgradeDecision {
        .accept((), user: user, subprotocol: subprotocol, headerFields: headerFields)
    }
}

/// Which pages may open connections: the check of the `Origin` field (RFC 6455 §10.2).
///
/// A browser sends cookies along with any page's upgrade, so that without this check every page on the web could
/// act as its visitor. Clients other than browsers send no `Origin`; they are not affected.
public struct OriginPolicy: Sendable {
    enum Base: Sendable {
        case sameHost
        case any
        case listed(Set<String>)
    }
    let base: Base

    /// Pages of the same host and port as the request's `Host` alone.
    ///
    /// The default.
    public static let sameHost = OriginPolicy(base: .sameHost)
    /// Pages of any origin.
    ///
    /// right only where no cookie or address gives a right.
    public static let any = OriginPolicy(base: .any)
    /// Pages of the same host, and of these origins: `https://app.example.com`, without a path.
    public static func sameHost(and origins: Set<String>) -> OriginPolicy {
        OriginPolicy(base: .listed(Set(origins.map { $0.lowercased() })))
    }

    /// Whether a request may upgrade.
    func allows(_ request: HTTPRequest) -> Bool {
        let origins = request.headerFields[values: .origin]
        guard let origin = origins.first else { return true }
        guard origins.count == 1 else { return false }
        switch self.base {
        case .any: return true
        case .sameHost: return Self.isSameHost(origin, request)
        case .listed(let allowed):
            return allowed.contains(origin.lowercased()) || Self.isSameHost(origin, request)
        }
    }

    private static func isSameHost(_ origin: String, _ request: HTTPRequest) -> Bool {
        guard let authority = request.authority?.lowercased(), !authority.isEmpty else { return false }
        let origin = origin.lowercased()
        return ["http://", "https://"].contains { scheme in
            // A default port may be written or left out on either side.
            let port = scheme == "http://" ? ":80" : ":443"
            func withoutPort(_ host: Substring) -> Substring {
                host.hasSuffix(port) ? host.dropLast(port.count) : host
            }
            guard origin.hasPrefix(scheme) else { return false }
            return withoutPort(origin.dropFirst(scheme.count)) == withoutPort(authority[...])
        }
    }
}

/// Percent-encoding of a query (RFC 3986 §2.1, with `+` for a space).
enum PercentEncoding {
    static func decode(_ text: Substring) -> String {
        var bytes: [UInt8] = []
        var rest = Array(text.utf8)[...]
        while let byte = rest.popFirst() {
            if byte == UInt8(ascii: "+") {
                bytes.append(UInt8(ascii: " "))
            } else if byte == UInt8(ascii: "%"), rest.count >= 2,
                let value = UInt8(String(decoding: rest.prefix(2), as: UTF8.self), radix: 16)
            {
                bytes.append(value)
                rest = rest.dropFirst(2)
            } else {
                bytes.append(byte)
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}
