public import HTTPTypes
internal import StarlingCore

/// What a server does with requests for a path: a ``WebSocketRoute(_:_:)`` or an ``HTTPRoute(_:_:)``.
public struct Route: Sendable {
    enum Target: Sendable {
        case webSocket(WebSocketEndpoint)
        case http(@Sendable (HTTPRequestHead, ServerContext) async -> HTTPReply)
    }

    let pattern: String
    let target: Target

    /// Whether a path, without its query, matches.
    ///
    /// `/*` at the end matches everything below; `*` alone everything.
    func matches(_ path: Substring) -> Bool {
        if self.pattern == "*" { return true }
        if self.pattern.hasSuffix("/*") { return path.hasPrefix(self.pattern.dropLast()) }
        return path == self.pattern
    }

    /// Whether more than one path matches.
    var isWildcard: Bool {
        self.pattern.hasSuffix("*")
    }
}

/// Serves an endpoint under a path.
///
/// - Parameters:
///   - pattern: A path; `/chat/*` for everything below one, `*` for every path. The first route that matches counts.
///   - endpoint: What to do with the connections.
/// - Returns: The route.
public func WebSocketRoute(_ pattern: String, _ endpoint: WebSocketEndpoint) -> Route {
    Route(pattern: pattern, target: .webSocket(endpoint))
}

/// Answers plain GET and HEAD requests for a path: a page, a check, a small resource.
///
/// Not a web framework: requests with a body are refused.
///
/// - Parameters:
///   - pattern: As for ``WebSocketRoute(_:_:)``.
///   - reply: Makes the response; runs on the connection's event loop and must not block it.
/// - Returns: The route.
public func HTTPRoute(_ pattern: String, _ reply: @escaping @Sendable (HTTPRequest) async -> HTTPReply)
    -> Route
{
    Route(pattern: pattern, target: .http { head, _ in await reply(head.request) })
}

/// Serves the server's figures in Prometheus' text format.
///
/// - Parameter pattern: As for ``WebSocketRoute(_:_:)``, usually `/metrics`.
/// - Returns: The route.
public func MetricsRoute(_ pattern: String) -> Route {
    Route(
        pattern: pattern,
        target: .http { _, server in
            HTTPReply(
                .ok,
                headerFields: [.contentType: "text/plain; version=0.0.4; charset=utf-8"],
                body: Array(server.prometheusText().utf8)
            )
        }
    )
}

/// Collects a server's routes, in order.
@resultBuilder
public enum RouteBuilder {
    /// One route.
    public static func buildExpression(_ route: Route) -> [Route] { [route] }
    /// Several routes.
    public static func buildExpression(_ routes: [Route]) -> [Route] { routes }
    /// All routes of a block.
    public static func buildBlock(_ routes: [Route]...) -> [Route] { routes.flatMap { $0 } }
    /// Routes behind an `if`.
    public static func buildOptional(_ routes: [Route]?) -> [Route] { routes ?? [] }
    /// The first branch of an `if`.
    public static func buildEither(first routes: [Route]) -> [Route] { routes }
    /// The other branch of an `if`.
    public static func buildEither(second routes: [Route]) -> [Route] { routes }
    /// Routes of a loop.
    public static func buildArray(_ routes: [[Route]]) -> [Route] { routes.flatMap { $0 } }
}
