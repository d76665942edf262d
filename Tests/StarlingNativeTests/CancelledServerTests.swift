import Foundation
import Starling
import StarlingCore
import StarlingNative
import TestSupport
import Testing

/// The cancellation of the task that runs a server: a planned end, and no sudden one.
@Suite struct CancelledServerTests {
    /// Takes its time for each publication, and writes down what it has and when it is told to stop.
    private final class SlowBroadcaster: Broadcaster {
        private let events = Lock<[String]>([])

        var seen: [String] { self.events.withLock { $0 } }

        func subscribe(to topics: Set<Topic>) async throws(BroadcastError) {}
        func unsubscribe(from topics: Set<Topic>) async throws(BroadcastError) {}
        func attach(_ sink: BroadcastSink) {}

        func publish(_ message: Message, to topic: Topic) async throws(BroadcastError) -> StreamPosition? {
            for _ in 0..<100 { await Task.yield() }
            self.note(Task.isCancelled ? "cancelled" : message.text ?? "")
            return nil
        }

        func run() async throws(BroadcastError) {
            while !Task.isCancelled { try? await Task.sleep(for: .seconds(60)) }
            self.note("told to stop")
        }

        private func note(_ event: String) {
            self.events.withLock { $0.append(event) }
        }
    }

    /// Publishes what it is sent, and that the connection is over.
    private struct Announcer: ConnectionHandler {
        mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {
            connection.publish(message, to: "t")
        }

        mutating func closed(_ connection: inout Connection<Self>, code: CloseCode) {
            connection.publish(.text("closed with \(code.rawValue)"), to: "t")
        }
    }

    @Test("Broadcasters run until the last connection has gone, and has said so", .timeLimit(.minutes(1)))
    func publishes() async throws {
        let broadcaster = SlowBroadcaster()
        let (addresses, listening) = AsyncStream.makeStream(of: String.self)
        let transport = NativeTransport(host: "127.0.0.1", port: 0, eventLoops: 1) { listening.yield($0) }
        var configuration = ServerConfiguration()
        configuration.drainSpread = .zero
        let server = WebSocketServer(transport: transport, configuration: configuration) {
            WebSocketRoute("/", WebSocketEndpoint(broadcaster: broadcaster, handler: Announcer()))
        }
        let running = Task { try await server.run() }
        var known = addresses.makeAsyncIterator()
        let address = try #require(await known.next())
        try await WebSocketClient(connector: NativeConnector()).connect(to: "ws://\(address)/") { socket in
            try await socket.send("hello")
            try await eventually("the publication to arrive") { broadcaster.seen == ["hello"] }
            running.cancel()
            for try await _ in socket {}
        }
        try await running.value
        #expect(broadcaster.seen == ["hello", "closed with 1001", "told to stop"])
    }
}
