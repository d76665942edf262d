import Starling
import StarlingNative
import StarlingRedis
import StarlingTesting
import TestSupport
import Testing

/// How a trace travels through Redis.
@Suite struct PublicationCodecTests {
    @Test("A trace is read as it was written, and nothing else is taken for one")
    func traces() throws {
        let context = try #require(
            TraceContext(["traceparent": "00-0af7-b7ad-01", "tracestate": "a=ü", "empty": ""])
        )
        let bytes = PublicationCodec.trace(context, number: 0x0102_0304_0506_0708)
        let (number, read) = try #require(PublicationCodec.decodeTrace(bytes))
        #expect(number == 0x0102_0304_0506_0708)
        #expect(read == context)
        // Whatever is cut off or changed: no crash, and no context that was not written.
        for count in 0..<bytes.count {
            let cut = PublicationCodec.decodeTrace(Array(bytes.prefix(count)))
            #expect(cut?.context != context)
        }
        for index in bytes.indices {
            var changed = bytes
            changed[index] = 0xFF
            _ = PublicationCodec.decodeTrace(changed)
        }
        #expect(PublicationCodec.decodeTrace(bytes + [0, 1]).map { $0.context == nil } == true)
    }

    @Test("To a node of before, a publication with a trace is one like any other, and the trace is none")
    func earlierVersions() throws {
        // Byte for byte what was written before there were traces: mark, version, kind, and a number that says who it is from.
        let header = PublicationCodec.header("hello", origin: 7, hasPosition: false)
        #expect(header == [UInt8(ascii: "S"), 1, 1, 0, 0, 0, 0, 0, 0, 0, 7])
        let publication = try #require(PublicationCodec.decode(header + Array("hello".utf8), topic: "topic"))
        #expect(publication.trace == nil)
        #expect(Array("hello".utf8).elementsEqual(publication.message.byteArray))
        #expect(PublicationCodec.decodeTrace(header + Array("hello".utf8)) == nil)
        let trace = PublicationCodec.trace(try #require(TraceContext(["a": "b"])), number: 7)
        #expect(PublicationCodec.decode(trace, topic: "topic") == nil)
        #expect(PublicationCodec.decodeEvent(trace, topic: "topic") == nil)
    }

    @Test("Traces without their publications are let go, the oldest first")
    func pendingTraces() throws {
        var traces = PendingTraces()
        let context = try #require(TraceContext(["a": "b"]))
        for number in 1...UInt64(PendingTraces.countMax + 1) { traces.note(context, number) }
        traces.note(nil, 9999)
        #expect(traces.take(1) == nil)
        #expect(traces.take(2) == context)
        #expect(traces.take(2) == nil)
        #expect(traces.take(9999) == nil)
        #expect(traces.take(nil) == nil)
    }
}

@Suite struct RedisStatusTests {
    @Test("The broadcaster says what it has published and received, and how its links are")
    func status() async throws {
        let redis = try await RedisProcess()
        let broadcaster = try makeBroadcaster(redis) { $0.waitTimeout = .seconds(2) }
        #expect(broadcaster.status.links.map(\.state) == [.down, .down])
        try await withNodes([broadcaster]) { nodes in
            try await broadcaster.subscribe(to: ["plain"])
            for number in 0..<5 { try await broadcaster.publish(.text("\(number)"), to: "plain") }
            #expect(broadcaster.tryPublish("6", to: "plain"))
            try await nodes[0].wait("all six") { $0.arrived("plain").count == 6 }
            try await nodes[0].wait("its links") {
                $0.broadcaster.status.links.allSatisfy { $0.state == .up }
            }
            let status = broadcaster.status
            #expect(status.name == "redis")
            #expect(status.isReady)
            #expect(status.publishedCount == 6)
            #expect(status.deliveredCount == 6)
            #expect(status.failedCount == 0)
            #expect(status.links.count == 2)
            #expect(status.links.allSatisfy { $0.lastError == nil && $0.stateSeconds >= 0 })
            redis.kill()
            // What is sent meanwhile waits, and fails.
            await #expect(throws: BroadcastError.self) { try await broadcaster.publish("7", to: "plain") }
            #expect(broadcaster.status.failedCount == 1)
            try await nodes[0].wait("that the links are down") {
                $0.broadcaster.status.links.allSatisfy { $0.state == .down && $0.lastError != nil }
            }
            #expect(!broadcaster.status.isReady)
        }
    }
}

#if Tracing
import InMemoryTracing
import Tracing

@Suite struct RedisTracingTests {
    /// Once for the process: deliveries happen on threads that no test's task is on.
    private static let tracer: InMemoryTracer = {
        let tracer = InMemoryTracer()
        InstrumentationSystem.bootstrap(tracer)
        return tracer
    }()

    /// A node of a cluster: a server with a WebSocket that is subscribed to a topic.
    private static func serve(_ broadcaster: RedisBroadcaster, _ topic: Topic, _ arrived: Arrivals)
        -> WebSocketServer<NativeTransport>
    {
        let endpoint = WebSocketEndpoint(broadcaster: broadcaster) { socket in
            try await socket.subscribe(to: topic)
            arrived.subscribed()
            for try await _ in socket {}
        }
        return WebSocketServer(
            transport: NativeTransport(port: 0, eventLoops: 1, onListening: { arrived.listening($0) })
        ) { WebSocketRoute("/", endpoint) }
    }

    @Test(
        "A publication on one node is the parent of its delivery on the other",
        arguments: ["traced", "history:traced"]
    )
    func acrossNodes(name: String) async throws {
        let tracer = Self.tracer
        let redis = try await RedisProcess()
        let topic = Topic(name)
        let arrivals = Arrivals()
        let receiving = Self.serve(try makeBroadcaster(redis), topic, arrivals)
        let publishing = try makeBroadcaster(redis)
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await receiving.run() }
            group.addTask { try await publishing.run() }
            try await eventually("the server listens") { arrivals.port != nil }
            let port = try #require(arrivals.port)
            let client = WebSocketClient(connector: NativeConnector())
            try await client.connect(to: "ws://127.0.0.1:\(port)/") { socket in
                try await eventually("the subscription") { arrivals.isSubscribed }
                try await withSpan("work on \(name)") { _ in
                    try await publishing.publish("hello", to: topic)
                    #expect(publishing.tryPublish("again", to: topic))
                }
                var messages = 0
                for try await _ in socket {
                    messages += 1
                    if messages == 2 { break }
                }
            }
            try await eventually("the spans") {
                tracer.finishedSpans.count { $0.operationName == "deliver \(name)" } == 2
                    && tracer.finishedSpans.count { $0.operationName == "publish \(name)" } == 2
            }
            receiving.beginShutdown()
            group.cancelAll()
            try? await group.waitForAll()
        }
        let spans = tracer.finishedSpans
        let work = try #require(spans.first { $0.operationName == "work on \(name)" })
        let published = spans.filter { $0.operationName == "publish \(name)" }
        let delivered = spans.filter { $0.operationName == "deliver \(name)" }
        for publish in published {
            #expect(publish.spanContext.parentSpanID == work.spanContext.spanID)
            #expect(publish.attributes.get("messaging.system") == .string("redis"))
        }
        #expect(
            Set(delivered.map(\.spanContext.parentSpanID)) == Set(published.map(\.spanContext.spanID))
        )
        #expect(delivered.allSatisfy { $0.spanContext.traceID == work.spanContext.traceID })
    }
}

/// What a server's test waits for.
private final class Arrivals: Sendable {
    private let state = Lock<(port: String?, isSubscribed: Bool)>((nil, false))

    var port: String? { self.state.withLock { $0.port } }
    var isSubscribed: Bool { self.state.withLock { $0.isSubscribed } }

    func listening(_ address: String) {
        let port = address.split(separator: ":").last.map(String.init)
        self.state.withLock { $0.port = port }
    }

    func subscribed() {
        self.state.withLock { $0.isSubscribed = true }
    }
}
#endif
