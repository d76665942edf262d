#if Tracing
internal import Tracing
#endif

extension ConnectionDriver {
    /// Delivers a publication within a span of its own, if a span of its publication came with it.
    func deliverTraced(_ publication: Publication, _ endpoint: LoopEndpoint) {
        #if Tracing
        guard let trace = publication.trace, let entry = endpoint.topics.subscribers(of: publication.topic)
        else {
            return self.deliver(publication, endpoint)
        }
        let name = publication.topic.name
        let span = startSpan("deliver \(name)", context: InstrumentationContext(trace), ofKind: .consumer)
        span.attributes["messaging.destination.name"] = name
        span.attributes["starling.loop"] = self.loop.index
        span.attributes["starling.subscribers"] = entry.subscribers.count
        self.deliver(publication, endpoint)
        span.end()
        #else
        self.deliver(publication, endpoint)
        #endif
    }
}
