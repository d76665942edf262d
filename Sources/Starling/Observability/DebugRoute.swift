public import HTTPTypes
internal import StarlingCore

/// Shows how the server is: a page for people at the path itself, and ``ServerSnapshot`` as JSON at `snapshot` below it.
///
/// ```swift
/// DebugRoute("/debug/starling") { $0.headerFields[.authorization] == expected }
/// ```
///
/// It tells who is connected from where and to what: mount it only behind your own authentication, and over TLS. Nothing
/// can be changed by it. `snapshot` takes `?topics=`, `?connections=` and `&from=`, as ``ServerSnapshot/Options``.
///
/// - Parameters:
///   - path: The page's path, without a slash at the end, usually `/debug/starling`.
///   - authorize: Whether a request may see it. What may not is answered with 401, which makes browsers ask for a name
///     and a password. Runs on the connection's event loop and must not block it.
/// - Returns: The routes of page and snapshot.
public func DebugRoute(
    _ path: String,
    authorize: @escaping @Sendable (HTTPRequest) async -> Bool
) -> [Route] {
    func route(
        _ pattern: String,
        _ reply: @escaping @Sendable (HTTPRequest, ServerContext) async -> HTTPReply
    ) -> Route {
        Route(
            pattern: pattern,
            target: .http { head, server in
                guard await authorize(head.request) else { return StatusPage.unauthorized }
                return await reply(head.request, server)
            }
        )
    }
    func asset(_ pattern: String, _ type: String, _ body: @autoclosure @escaping @Sendable () -> [UInt8])
        -> Route
    {
        route(pattern) { _, _ in StatusPage.reply(type, body()) }
    }
    return [
        // The page finds its parts, and the snapshot, from its own address.
        asset(path, "text/html", StatusPage.html(at: path)),
        asset(path + "/status.css", "text/css", PackageResources.status_css),
        asset(path + "/status.js", "text/javascript", PackageResources.status_js),
        route(path + "/snapshot") { request, server in
            StatusPage.reply(await server.snapshot(StatusPage.options(of: request)))
        },
    ]
}

/// The page of ``DebugRoute(_:authorize:)``, and the responses around it.
enum StatusPage {
    /// The page, with the path that it is mounted at as the base of its addresses.
    static func html(at path: String) -> [UInt8] {
        // A path is the application's, but may hold what means something in markup.
        let base = path.utf8.reduce(into: "") { text, byte in
            switch byte {
            case UInt8(ascii: "\""), UInt8(ascii: "<"), UInt8(ascii: ">"), UInt8(ascii: "&"):
                text += "&#\(byte);"
            default: text.unicodeScalars.append(Unicode.Scalar(byte))
            }
        }
        let page = String(decoding: PackageResources.status_html, as: UTF8.self)
        let parts = page.split(separator: "{base}", omittingEmptySubsequences: false)
        return Array(parts.joined(separator: base).utf8)
    }

    static func options(of request: HTTPRequest) -> ServerSnapshot.Options {
        let request = UpgradeRequest(head: request)
        var options = ServerSnapshot.Options()
        if let count = request[query: "topics"].flatMap({ Int($0) }) { options.topicCountMax = count }
        if let count = request[query: "connections"].flatMap({ Int($0) }) {
            options.connectionCountMax = count
        }
        options.connectionsFrom = request[query: "from"]
        return options
    }

    static func reply(_ snapshot: ServerSnapshot) -> HTTPReply {
        do {
            return self.reply("application/json", try JSONEncoding.bytes(of: snapshot))
        } catch {
            return .text("The snapshot cannot be encoded: \(error)\n", status: .internalServerError)
        }
    }

    static func reply(_ type: String, _ body: [UInt8]) -> HTTPReply {
        HTTPReply(.ok, headerFields: self.headerFields(type), body: body)
    }

    static var unauthorized: HTTPReply {
        var fields = self.headerFields("text/plain")
        fields[.wwwAuthenticate] = "Basic realm=\"starling\", charset=\"UTF-8\""
        return HTTPReply(.unauthorized, headerFields: fields, body: Array("You may not see this.\n".utf8))
    }

    private static func headerFields(_ type: String) -> HTTPFields {
        var fields: HTTPFields = [
            .contentType: "\(type); charset=utf-8",
            .contentSecurityPolicy: self.contentSecurityPolicy,
            .xContentTypeOptions: "nosniff",
            .cacheControl: "no-store",
        ]
        if let name = HTTPField.Name("Referrer-Policy") { fields[name] = "no-referrer" }
        return fields
    }

    /// Nothing is loaded from elsewhere, and no string can become markup.
    private static let contentSecurityPolicy = [
        "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src data:", "connect-src 'self'",
        "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
        "require-trusted-types-for 'script'", "trusted-types 'none'",
    ].joined(separator: "; ")
}
