import Starling
import StarlingCore
import TestSupport
import Testing

/// The whole way of a message through a connection, from the bytes that are read to those that are written, asks for as
/// much memory as stated here and no more.
///
/// Only in optimised builds: in others the compiler boxes what it would keep on the stack.
@Suite(.enabled(if: AllocationCounter.isAvailable && AllocationCounter.isOptimized, "cannot be counted here"))
struct ConnectionAllocationTests {
    @Test("An echo by a synchronous handler allocates nothing")
    func synchronousEcho() throws {
        let echo = WebSocketEndpoint(handler: EchoHandler())
        let count = try Self.allocationsPerMessage(of: echo)
        #expect(count == 0)
    }

    @Test("An echo by a task allocates nothing: its messages share memory, one after the other")
    func asynchronousEcho() throws {
        let echo = WebSocketEndpoint { socket in
            for try await message in socket { try await socket.send(message) }
        }
        let count = try Self.allocationsPerMessage(of: echo)
        #expect(count == 0)
    }

    /// What a publication to the topic of its own connection asks for.
    ///
    /// The copy that is published, its places in the mailbox and in the tick's list, and the frame. No more with the trait
    /// `Tracing`, as long as there is no tracer.
    static let publicationMax = 6.0

    @Test("A publication by a synchronous handler allocates no more where nobody traces")
    func publication() throws {
        let count = try Self.allocationsPerMessage(of: WebSocketEndpoint(handler: RoomHandler()))
        print("a publication allocates \(count) times")
        #expect(count <= Self.publicationMax)
    }

    private static func allocationsPerMessage(of endpoint: WebSocketEndpoint) throws -> Double {
        let context = ServerContext(
            configuration: ServerConfiguration(),
            routes: [WebSocketRoute("/", endpoint)]
        )
        let io = DiscardingIO()
        let driver = ConnectionDriver(loop: EventLoop(index: 0) {}, server: context, io: io)
        defer { driver.finish() }
        var connection: Int?
        Self.tick(driver) { connection = driver.accept(from: .unknown) }
        let index = try #require(connection)

        var request = Client.request("/")
        Self.tick(driver) { Self.deliver(&request, to: driver, index) }
        // A key of 0 leaves the payload as it is, so that the same bytes can be delivered again.
        var message: [UInt8] = []
        let payload = Array("twenty bytes of text".utf8)
        unsafe FrameCodec.encode(
            .text,
            payload.span.bytes,
            maskingKey: MaskingKey(rawValue: 0),
            into: &message
        )
        io.byteCount = 0
        let repetitions = 1000
        let count = AllocationCounter.count(repetitions: repetitions) {
            Self.tick(driver) { Self.deliver(&message, to: driver, index) }
        }
        #expect(io.byteCount == 2 * repetitions * (payload.count + 2), "every message is echoed")
        return Double(count) / Double(repetitions)
    }

    private static func deliver(_ buffer: inout [UInt8], to driver: ConnectionDriver, _ index: Int) {
        var span = buffer.mutableSpan
        var bytes = unsafe span.mutableBytes
        driver.received(&bytes, on: index)
    }

    private static func tick(_ driver: ConnectionDriver, _ body: () -> Void) {
        driver.beginTick(at: 0)
        driver.withCurrent(body)
        while driver.endTick() { driver.beginTick(at: 0) }
    }
}

/// Takes every byte and keeps none, so that what a test counts is the driver's.
private final class DiscardingIO: ConnectionIO {
    var byteCount = 0

    func write(_ bytes: RawSpan, to connection: Int) -> WriteResult {
        self.byteCount += bytes.byteCount
        return .wrote(bytes.byteCount)
    }

    func setReading(_ isOn: Bool, on connection: Int) {}
    func shutdownWriting(_ connection: Int) {}
    func close(_ connection: Int) {}
    func stopListening() {}
}
