import Starling
import StarlingCore
import Testing

/// A loop that was busy for long has not heard its peers meanwhile: what they sent lies in their sockets, and a later tick reads it.
@Suite struct DeafLoopTests {
    @Test(
        "A peer's silence does not count while a long tick lasts, and else it does",
        arguments: [true, false]
    )
    func silence(isTickLong: Bool) {
        let io = ClosingIO()
        let context = ServerContext(
            configuration: ServerConfiguration(),
            routes: [WebSocketRoute("/", WebSocketEndpoint(handler: EchoHandler()))]
        )
        let driver = ConnectionDriver(loop: EventLoop(index: 0) {}, server: context, io: io)
        defer { driver.finish() }
        func tick(at seconds: UInt64, _ body: () -> Void = {}) {
            driver.beginTick(at: seconds * 1_000_000_000)
            driver.withCurrent(body)
            _ = driver.endTick()
        }
        tick(at: 0) {
            var buffer = Client.request("/")
            var span = buffer.mutableSpan
            var bytes = unsafe span.mutableBytes
            if let client = driver.accept(from: .unknown) { driver.received(&bytes, on: client) }
        }
        // The first ping is sent within the interval of 25 s.
        tick(at: 26)
        #expect(context.prometheusText().contains("starling_pings_sent_total 1\n"))
        driver.tickTook(nanoseconds: isTickLong ? 12_000_000_000 : 1_000_000)
        // After a long tick the pong may be among what this one did not get to.
        tick(at: 38)
        #expect(io.closed.isEmpty == isTickLong)
        tick(at: 47)
        #expect(io.closed.isEmpty == isTickLong)
        // Ten seconds in which it was listened for it.
        tick(at: 49)
        #expect(io.closed.count == 1)
    }

    private final class ClosingIO: ConnectionIO {
        var closed: [Int] = []
        func write(_ bytes: RawSpan, to connection: Int) -> WriteResult { .wrote(bytes.byteCount) }
        func setReading(_ isOn: Bool, on connection: Int) {}
        func shutdownWriting(_ connection: Int) {}
        func close(_ connection: Int) { self.closed.append(connection) }
        func stopListening() {}
    }
}
