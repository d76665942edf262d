public import HTTPTypes
public import Starling

/// Serves `starling.js`, the client of ``TopicProtocol`` for browsers, as an ES module.
///
/// ```html
/// <script type="module">
/// import { StarlingClient } from "/starling.js";
/// const client = new StarlingClient("/chat");
/// for await (const event of client.topic("room:swift")) { … }
/// </script>
/// ```
///
/// It is under 6 kB, minified; `starling.js` and `starling.d.ts` beside this file are its source and its types. Browsers keep
/// it, and ask each time whether it has changed (`ETag`), so that pages never run with the client of another version.
///
/// - Parameters:
///   - pattern: As for `WebSocketRoute`.
///   - headerFields: More fields for the response, `Cross-Origin-Resource-Policy` for example.
/// - Returns: The route.
public func TopicScriptRoute(_ pattern: String = "/starling.js", headerFields: HTTPFields = [:]) -> Route {
    let script = PackageResources.starling_min_js
    let entityTag = "\"\(String(script.fnv1a, radix: 16))\""
    var headerFields = headerFields
    headerFields[.contentType] = "text/javascript; charset=utf-8"
    headerFields[.cacheControl] = "no-cache"
    headerFields[.eTag] = entityTag
    headerFields[.xContentTypeOptions] = "nosniff"
    let whole = HTTPReply(.ok, headerFields: headerFields, body: script)
    let unchanged = HTTPReply(.notModified, headerFields: headerFields)
    return HTTPRoute(pattern) { request in
        request.headerFields.hasEntityTag(entityTag) ? unchanged : whole
    }
}

extension HTTPFields {
    /// Whether `If-None-Match` names the tag, by the weak comparison that it asks for (RFC 9110 §13.1.2).
    fileprivate func hasEntityTag(_ tag: String) -> Bool {
        guard let field = self[.ifNoneMatch] else { return false }
        return field.split(separator: ",").contains { entry in
            let entry = entry.drop { $0 == " " }.prefix { $0 != " " }
            return entry == "*" || entry == tag || entry == "W/\(tag)"
        }
    }
}

extension [UInt8] {
    /// Tells versions apart, and need withstand nobody: FNV-1a.
    fileprivate var fnv1a: UInt64 {
        self.reduce(0xCBF2_9CE4_8422_2325) { ($0 ^ UInt64($1)) &* 0x100_0000_01B3 }
    }
}
