import CoreMetrics
import Starling
import StarlingCore
import Synchronization
import Testing

@Suite struct ServerMetricsTests {
    @Test("A server's figures reach swift-metrics", .timeLimit(.minutes(1)))
    func reported() async throws {
        let recorded = RecordingFactory()
        // Once for the process: no other test here looks at metrics.
        MetricsSystem.bootstrap(recorded)
        var configuration = ServerConfiguration()
        configuration.drainSpread = .zero
        configuration.drainTimeout = .milliseconds(100)
        let server = WebSocketServer(transport: OneClient(), configuration: configuration) {
            WebSocketRoute("/", WebSocketEndpoint(handler: EchoHandler()))
        }
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await server.run() }
            try await recorded.wait { values in
                values["starling_messages_sent_total"] == 3
                    && values["starling_refusals_total{cause=notAnUpgrade}"] == 1
            }
            #expect(recorded.values["starling_messages_received_total"] == 3)
            #expect(recorded.values["starling_websockets_opened_total"] == 1)
            #expect(recorded.values["starling_websockets"] == 1)
            #expect(recorded.values["starling_bytes_sent_total"] ?? 0 > 100)
            #expect(recorded.values["starling_loop_lag_nanoseconds"] != nil)
            server.beginShutdown()
            try await group.waitForAll()
        }
        #expect(recorded.values["starling_closes_total{cause=serverDraining}"] == 1)
        #expect(recorded.values["starling_websockets"] == 0)
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
    private struct State {
        var values: [String: Double] = [:]
        var waiters:
            [(
                condition: @Sendable ([String: Double]) -> Bool,
                continuation: CheckedContinuation<Void, Never>
            )] = []
    }

    private let state = Mutex(State())

    var values: [String: Double] {
        self.state.withLock { $0.values }
    }

    /// Returns when the values satisfy a condition.
    func wait(until condition: @escaping @Sendable ([String: Double]) -> Bool) async throws {
        await withCheckedContinuation { continuation in
            self.state.withLock { state in
                if condition(state.values) { return continuation.resume() }
                state.waiters.append((condition, continuation))
            }
        }
    }

    fileprivate func change(_ name: String, _ body: (inout Double) -> Void) {
        self.state.withLock { state in
            body(&state.values[name, default: 0])
            for (index, waiter) in state.waiters.enumerated().reversed() where waiter.condition(state.values)
            {
                state.waiters.remove(at: index)
                waiter.continuation.resume()
            }
        }
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
