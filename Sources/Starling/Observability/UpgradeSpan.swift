internal import HTTPTypes
internal import StarlingCore

#if Tracing
internal import Tracing
#endif

/// The span of an upgrade, from the request's head to the response.
struct UpgradeSpan: Sendable {
    #if Tracing
    private let span: any Span
    #endif

    /// Begins a span, as a child of what the request's header fields name; nil without the package's trait `Tracing`, or
    /// without a tracer.
    static func begin(_ request: HTTPRequest, path: Substring, from address: RemoteAddress) -> UpgradeSpan? {
        #if Tracing
        guard InstrumentationSystem.isTracing else { return nil }
        var context = InstrumentationContext.topLevel
        InstrumentationSystem.instrument.extract(
            request.headerFields,
            into: &context,
            using: HeaderFieldExtractor()
        )
        let span = startSpan("websocket upgrade", context: context, ofKind: .server)
        span.attributes["url.path"] = String(path)
        if !address.host.isEmpty { span.attributes["client.address"] = address.host }
        return UpgradeSpan(span: span)
        #else
        return nil
        #endif
    }

    /// Runs the application's decision within the span, so that its own spans are children of this one.
    func run<Result>(_ body: () async throws -> Result) async rethrows -> Result {
        #if Tracing
        return try await InstrumentationContext.withValue(self.span.context) { try await body() }
        #else
        return try await body()
        #endif
    }

    /// Ends the span with the response's status, and with why if the upgrade was refused.
    func end(status: Int, refusal: RefusalCause? = nil) {
        #if Tracing
        self.span.attributes["http.response.status_code"] = status
        if let refusal { self.span.attributes["starling.refusal"] = "\(refusal)" }
        if status >= 500 { self.span.setStatus(SpanStatus(code: .error)) }
        self.span.end()
        #endif
    }

    /// Ends the span of an upgrade whose connection ended before there was a response.
    func endWithoutResponse() {
        #if Tracing
        self.span.setStatus(SpanStatus(code: .error, message: "the connection ended"))
        self.span.end()
        #endif
    }
}

#if Tracing
private struct HeaderFieldExtractor: Extractor {
    func extract(key: String, from fields: HTTPFields) -> String? {
        HTTPField.Name(key).flatMap { fields[$0] }
    }
}
#endif
