import HTTPTypes
import Starling

/// The page: three files that are compiled into the program.
enum Page {
    static var routes: [Route] {
        [
            route("/", "text/html", PackageResources.chat_html),
            route("/chat.css", "text/css", PackageResources.chat_css),
            route("/chat.js", "text/javascript", PackageResources.chat_js),
        ]
    }

    private static func route(_ path: String, _ type: String, _ body: [UInt8]) -> Route {
        let reply = HTTPReply(
            .ok,
            headerFields: [
                .contentType: "\(type); charset=utf-8",
                .contentSecurityPolicy: contentSecurityPolicy,
                .xContentTypeOptions: "nosniff",
                HTTPField.Name("Referrer-Policy")!: "no-referrer",
                .cacheControl: "no-cache",
            ],
            body: body
        )
        return HTTPRoute(path) { _ in reply }
    }

    /// Nothing is loaded from elsewhere, and no string can become markup.
    private static let contentSecurityPolicy = [
        "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src data:", "connect-src 'self'",
        "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
        "require-trusted-types-for 'script'", "trusted-types 'none'",
    ].joined(separator: "; ")
}
