#if Tracing
internal import Tracing
#endif

/// The span of a publication, from the call until the broker has it.
///
/// A broadcaster begins one for each publication, gives ``context`` to ``Publication/trace`` wherever it arrives, and ends
/// the span when it knows what became of it.
public struct PublishSpan: Sendable {
    #if Tracing
    private let span: any Span
    #endif
    /// What is to be carried along; nil if the tracer wants nothing carried, or too much.
    public let context: TraceContext?

    /// Begins a span, as a child of the current one; nil without the package's trait `Tracing`, or without a tracer.
    ///
    /// Costs a look at the global instrument then, and allocates nothing.
    ///
    /// - Parameters:
    ///   - topic: Where to.
    ///   - system: What carries it: `redis`, for example.
    ///   - byteCount: Bytes of the message.
    /// - Returns: The span, to be ended, or nil.
    @inline(__always)
    public static func begin(_ topic: Topic, system: StaticString, byteCount: Int) -> PublishSpan? {
        #if Tracing
        // What nodes tell each other is no publication of the application's.
        guard InstrumentationSystem.isTracing, !topic.isReserved else { return nil }
        return PublishSpan(topic, "\(system)", byteCount)
        #else
        return nil
        #endif
    }

    /// Ends the span; with an error if the publication was not made, or nobody knows.
    public func end(_ error: (any Error)? = nil) {
        #if Tracing
        if let error {
            self.span.recordError(error)
            self.span.setStatus(SpanStatus(code: .error))
        }
        self.span.end()
        #endif
    }

    #if Tracing
    @inline(never)
    private init(_ topic: Topic, _ system: String, _ byteCount: Int) {
        let span = startSpan("publish \(topic.name)", ofKind: .producer)
        span.attributes["messaging.system"] = system
        span.attributes["messaging.destination.name"] = topic.name
        span.attributes["messaging.message.body.size"] = byteCount
        self.span = span
        self.context = span.context.carried
    }
    #endif
}

#if Tracing
extension InstrumentationSystem {
    /// Whether anybody traces, the task-local tracer included.
    static var isTracing: Bool {
        let instrument = Self.instrument
        return !(instrument is NoOpInstrument || instrument is NoOpTracer)
    }
}

extension InstrumentationContext {
    /// The context as fields.
    var carried: TraceContext? {
        var fields: [String: String] = [:]
        InstrumentationSystem.instrument.inject(self, into: &fields, using: FieldInjector())
        return TraceContext(fields)
    }

    /// The context that was carried in fields.
    init(_ trace: TraceContext) {
        var context = InstrumentationContext.topLevel
        InstrumentationSystem.instrument.extract(trace.fields, into: &context, using: FieldExtractor())
        self = context
    }
}

private struct FieldInjector: Injector {
    func inject(_ value: String, forKey key: String, into carrier: inout [String: String]) {
        carrier[key] = value
    }
}

private struct FieldExtractor: Extractor {
    func extract(key: String, from carrier: [String: String]) -> String? {
        carrier[key]
    }
}
#endif
