import HTTPTypes
import Starling
import StarlingCore
import StarlingTesting
import TestSupport
import Testing

#if Tracing
import InMemoryTracing
import Tracing
#endif

@Suite struct TraceContextTests {
    @Test("A context of no fields, of too many, or of too long ones is none")
    func bounds() {
        func fields(_ count: Int) -> [String: String] {
            Dictionary(uniqueKeysWithValues: (0..<count).map { ("field-\($0)", "value") })
        }
        #expect(TraceContext([:]) == nil)
        #expect(TraceContext(fields(TraceContext.fieldCountMax)) != nil)
        #expect(TraceContext(fields(TraceContext.fieldCountMax + 1)) == nil)
        let long = String(repeating: "x", count: TraceContext.byteCountMax - 1)
        #expect(TraceContext(["a": long]) != nil)
        #expect(TraceContext(["ab": long]) == nil)
    }

    @Test("Without a tracer there is no span")
    func noTracer() {
        func hasSpan() -> Bool { PublishSpan.begin("topic", system: "test", byteCount: 1) != nil }
        #if Tracing
        // Other tests of this process may have bootstrapped one.
        #expect(!withTracer(NoOpTracer(), hasSpan))
        withTracer(NoOpTracer()) {
            let count = AllocationCounter.count(repetitions: 1000) { _ = hasSpan() }
            #expect(count == 0 || !AllocationCounter.isAvailable, "what a publication costs without a tracer")
        }
        #expect(withTracer(InMemoryTracer(), hasSpan))
        #else
        #expect(!hasSpan())
        #endif
    }
}

#if Tracing
@Suite struct TracingTests {
    private static func endpoint(_ broadcaster: InMemoryBroadcaster) -> WebSocketEndpoint {
        WebSocketEndpoint(broadcaster: broadcaster, handler: RoomHandler())
    }

    @Test("A delivery is the child of its publication, on every server that it reaches")
    func delivery() async throws {
        let tracer = InMemoryTracer()
        try await withTracer(tracer) {
            let broadcaster = InMemoryBroadcaster()
            let nodes = (0..<2).map { _ in
                EmbeddedTransport { WebSocketRoute("/", Self.endpoint(broadcaster)) }
            }
            let clients = try nodes.map { try Client($0) }
            for client in clients { #expect(client.takeStatus() == 101) }
            tracer.clearAll()

            try await withSpan("work") { _ in
                _ = try await broadcaster.publish("hello", to: "room")
            }
            for node in nodes { node.advance(by: .milliseconds(1)) }
            for client in clients { #expect(client.takeFrames().count == 1) }

            let spans = tracer.finishedSpans
            let work = try #require(spans.first { $0.operationName == "work" })
            let publish = try #require(spans.first { $0.operationName == "publish room" })
            let deliveries = spans.filter { $0.operationName == "deliver room" }
            #expect(publish.kind == .producer)
            #expect(publish.spanContext.parentSpanID == work.spanContext.spanID)
            #expect(publish.attributes.get("messaging.system") == .string("memory"))
            #expect(deliveries.count == 2)
            for delivery in deliveries {
                #expect(delivery.kind == .consumer)
                #expect(delivery.spanContext.traceID == work.spanContext.traceID)
                #expect(delivery.attributes.get("starling.subscribers") == .int64(1))
            }
            #expect(tracer.activeSpans.isEmpty)
        }
    }

    @Test("A synchronous handler's publication has a span too, and what nodes tell each other has none")
    func fromHandler() async throws {
        let tracer = InMemoryTracer()
        try await withTracer(tracer) {
            let broadcaster = InMemoryBroadcaster()
            let server = EmbeddedTransport { WebSocketRoute("/", Self.endpoint(broadcaster)) }
            let client = try Client(server)
            client.send(.text, Array("hello".utf8))
            try await broadcaster.publish("a question", to: "$starling:everybody")
            #expect(
                tracer.finishedSpans.map(\.operationName) == [
                    "websocket upgrade", "publish room", "deliver room",
                ]
            )
            #expect(
                tracer.finishedSpans[2].spanContext.traceID == tracer.finishedSpans[1].spanContext.traceID
            )
            #expect(tracer.finishedSpans[1].spanContext.parentSpanID == nil, "not the upgrade's")
        }
    }

    @Test("An upgrade's parent is in the request's fields, and authenticate runs within the upgrade")
    func upgrade() throws {
        let tracer = InMemoryTracer()
        try withTracer(tracer) {
            let endpoint = WebSocketEndpoint(
                authenticate: { request -> UpgradeDecision<Void> in
                    withSpan("look up") { _ in
                        request[query: "user"] == "ada" ? .accept() : .refuse(.forbidden)
                    }
                },
                { _, _ in }
            )
            let server = EmbeddedTransport { WebSocketRoute("/chat", endpoint) }
            let fields = ["In-Memory-Trace-Id: trace-of-a-browser", "In-Memory-Span-Id: span-of-a-browser"]
            let ada = try Client(server, path: "/chat?user=ada", fields: fields)
            #expect(ada.takeStatus() == 101)
            let mallory = try Client(server, path: "/chat?user=mallory", fields: fields)
            #expect(mallory.takeStatus() == 403)
            let stranger = try Client(server, path: "/chat", fields: ["Origin: https://elsewhere.example"])
            #expect(stranger.takeStatus() == 403)
            let spans = tracer.finishedSpans
            let upgrades = spans.filter { $0.operationName == "websocket upgrade" }
            let lookUps = spans.filter { $0.operationName == "look up" }
            #expect(upgrades.map(\.kind) == [.server, .server, .server])
            #expect(
                upgrades.map { $0.attributes.get("http.response.status_code") }
                    == [.int64(101), .int64(403), .int64(403)]
            )
            #expect(
                upgrades.map { $0.attributes.get("starling.refusal") }
                    == [nil, .string("application"), .string("origin")]
            )
            #expect(upgrades[0].attributes.get("url.path") == .string("/chat"))
            #expect(upgrades[0].attributes.get("client.address") == .string("192.0.2.1"))
            #expect(
                upgrades.map(\.spanContext.parentSpanID) == ["span-of-a-browser", "span-of-a-browser", nil]
            )
            #expect(lookUps.map(\.spanContext.parentSpanID) == upgrades.prefix(2).map(\.spanContext.spanID))
            #expect(tracer.activeSpans.isEmpty)
        }
    }

    @Test("An upgrade whose client goes before the decision ends its span")
    func abandonedUpgrade() throws {
        let tracer = InMemoryTracer()
        try withTracer(tracer) {
            let (gate, opener) = AsyncStream.makeStream(of: Void.self)
            defer { opener.finish() }
            let endpoint = WebSocketEndpoint(
                authenticate: { _ -> UpgradeDecision<Void> in
                    for await _ in gate {}
                    return .accept()
                },
                { _, _ in }
            )
            let server = EmbeddedTransport { WebSocketRoute("/", endpoint) }
            let client = try Client(server)
            server.endInput(of: client.connection)
            #expect(server.isClosed(client.connection))
            #expect(tracer.finishedSpans.map(\.operationName) == ["websocket upgrade"])
            #expect(tracer.finishedSpans.first?.status?.code == .error)
            #expect(tracer.activeSpans.isEmpty)
        }
    }
}
#endif
