import CoreMetrics
import Starling
import StarlingCore
import Testing

@Suite struct ServerMetricsTests {
    @Test("A server's figures reach swift-metrics", .timeLimit(.minutes(1)))
    func reported() async throws {
        let recorded = RecordingFactory()
        // Once for the process; servers of other tests report too, under other dimensions.
        MetricsSystem.bootstrap(recorded)
        var configuration = ServerConfiguration()
        configuration.drainSpread = .zero
        configuration.drainTimeout = .milliseconds(100)
        configuration.metricDimensions = [("server", "metrics-test")]
        func value(_ name: String, cause: String? = nil) -> Double? {
            let dimensions = "server=metrics-test" + (cause.map { ",cause=\($0)" } ?? "")
            return recorded.values["starling_\(name){\(dimensions)}"]
        }
        let server = WebSocketServer(transport: OneClient(), configuration: configuration) {
            WebSocketRoute("/", WebSocketEndpoint(handler: EchoHandler()))
        }
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await server.run() }
            for await _ in recorded.changes
            where value("messages_sent_total") == 3 && value("refusals_total", cause: "notAnUpgrade") == 1 {
                break
            }
            #expect(value("messages_received_total") == 3)
            #expect(value("websockets_opened_total") == 1)
            #expect(value("websockets") == 1)
            #expect(value("bytes_sent_total") ?? 0 > 100)
            #expect(value("loop_lag_nanoseconds") != nil)
            server.beginShutdown()
            try await group.waitForAll()
        }
        #expect(value("closes_total", cause: "serverDraining") == 1)
        #expect(value("websockets") == 0)
    }
}

/// A transport with two connections: one sends three messages, the other asks the endpoint for a page.
private struct OneClient: Transport {
    func serve(_ server: ServerContext) async throws {
        let driver = ConnectionDriver(loop: EventLoop(index: 0) {}, server: server, io: NoIO())
        let clock = ContinuousClock()
        let start = clock.now
        func tick(_ body: () -> Void) {
            let nanoseconds = UInt64((clock.now - start) / .nanoseconds(1))
            driver.beginTick(at: nanoseconds)
            driver.withCurrent(body)
            _ = driver.endTick()
        }
        func deliver(_ buffer: [UInt8], to connection: Int?) {
            var buffer = buffer
            var span = buffer.mutableSpan
            var bytes = unsafe span.mutableBytes
            if let connection { driver.received(&bytes, on: connection) }
        }
        server.startedListening()
        tick {
            let client = driver.accept(from: .unknown)
            deliver(Client.request("/"), to: client)
            for _ in 0..<3 { deliver(Client.frame(.text, Array("hello".utf8)), to: client) }
            deliver(
                Array("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n".utf8),
                to: driver.accept(from: .unknown)
            )
        }
        while !driver.isFinished {
            tick {}
            await Task.yield()
        }
        driver.finish()
    }

    private final class NoIO: ConnectionIO {
        func write(_ bytes: RawSpan, to connection: Int) -> WriteResult { .wrote(bytes.byteCount) }
        func setReading(_ isOn: Bool, on connection: Int) {}
        func shutdownWriting(_ connection: Int) {}
        func close(_ connection: Int) {}
        func stopListening() {}
    }
}

/// Keeps the sum of each counter and the last value of each gauge, by label and dimensions.
private final class RecordingFactory: MetricsFactory, Sendable {
    private let state = Lock<[String: Double]>([:])
    /// One element for each change, of which the newest is kept.
    let changes: AsyncStream<Void>
    private let changed: AsyncStream<Void>.Continuation

    init() {
        (self.changes, self.changed) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1))
    }

    var values: [String: Double] {
        self.state.withLock { $0 }
    }

    fileprivate func change(_ name: String, _ body: (inout Double) -> Void) {
        self.state.withLock { body(&$0[name, default: 0]) }
        self.changed.yield()
    }

    private func handler(_ label: String, _ dimensions: [(String, String)]) -> RecordingHandler {
        let suffix = dimensions.map { "\($0)=\($1)" }.joined(separator: ",")
        return RecordingHandler(name: suffix.isEmpty ? label : "\(label){\(suffix)}", factory: self)
    }

    func makeCounter(label: String, dimensions: [(String, String)]) -> any CounterHandler {
        self.handler(label, dimensions)
    }
    func makeRecorder(label: String, dimensions: [(String, String)], aggregate: Bool) -> any RecorderHandler {
        self.handler(label, dimensions)
    }
    func makeTimer(label: String, dimensions: [(String, String)]) -> any TimerHandler {
        self.handler(label, dimensions)
    }
    func destroyCounter(_ handler: any CounterHandler) {}
    func destroyRecorder(_ handler: any RecorderHandler) {}
    func destroyTimer(_ handler: any TimerHandler) {}
}

private final class RecordingHandler: CounterHandler, RecorderHandler, TimerHandler {
    private let name: String
    private let factory: RecordingFactory

    init(name: String, factory: RecordingFactory) {
        self.name = name
        self.factory = factory
    }

    func increment(by amount: Int64) { self.factory.change(self.name) { $0 += Double(amount) } }
    func reset() { self.factory.change(self.name) { $0 = 0 } }
    func record(_ value: Int64) { self.record(Double(value)) }
    func record(_ value: Double) { self.factory.change(self.name) { $0 = value } }
    func recordNanoseconds(_ duration: Int64) { self.record(duration) }
}
