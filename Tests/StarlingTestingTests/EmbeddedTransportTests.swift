import Starling
import StarlingCore
import StarlingTesting
import Testing

@Suite struct EmbeddedTransportTests {
    @Test(
        "A broadcaster that must be told of subscriptions, and suspends, works within the calls of the test"
    )
    func suspendingBroadcaster() throws {
        let broadcaster = SuspendingBroadcaster()
        let server = EmbeddedTransport {
            WebSocketRoute(
                "/",
                WebSocketEndpoint(broadcaster: broadcaster) { socket in
                    try await socket.subscribe(to: "room")
                    try await socket.send("subscribed")
                    for try await message in socket { try await broadcaster.publish(message, to: "room") }
                }
            )
            WebSocketRoute("/sync", WebSocketEndpoint(broadcaster: broadcaster, handler: Publisher()))
        }
        let client = try TestClient(server)
        #expect(client.takeTexts() == ["subscribed"])
        #expect(broadcaster.topics == ["room"])
        client.send(.text("one"))
        #expect(client.takeTexts() == ["one"])
        // A publication from a callback waits in the hub's queue, and for its task.
        try TestClient(server, path: "/sync").send(.text("two"))
        #expect(client.takeTexts() == ["two"])
        client.send(.close(.normalClosure))
        #expect(client.takeFrames() == [.close(.normalClosure)])
        #expect(client.closeCode == .normalClosure)
        #expect(broadcaster.topics.isEmpty)
    }

    @Test("A server's time begins at 0 and goes on only when the test says so")
    func clock() throws {
        let server = EmbeddedTransport { WebSocketRoute("/", WebSocketEndpoint { _ in }) }
        let client = try TestClient(server)
        client.send(.close(.normalClosure))
        #expect(server.clock.nanoseconds == 0)
        server.advance(by: .milliseconds(120))
        server.advance(by: .seconds(2))
        #expect(server.clock.nanoseconds == 2_120_000_000)
    }

    @Test("A test client says what no client should, and joins what comes in fragments")
    func byHand() throws {
        let endpoint = WebSocketEndpoint { socket in
            for try await message in socket { try await socket.send(message) }
        }
        let server = EmbeddedTransport { WebSocketRoute("/", endpoint) }
        let client = try TestClient(server, fields: ["Sec-WebSocket-Extensions: permessage-deflate"])
        #expect(client.status == 101)
        #expect(client.responseHead.contains("permessage-deflate"))
        client.send(TestFrame(.text, Array("frag".utf8), isFinal: false))
        client.send(.ping, [1, 2])
        #expect(client.takeFrames() == [TestFrame(.pong, [1, 2])])
        client.send(TestFrame(.continuation, Array("ments".utf8)))
        #expect(client.takeMessages() == ["fragments"])
        // Not masked.
        client.send(bytes: TestFrame.text("x").unmasked)
        #expect(client.takeFrames().last?.closeCode == .protocolError)
        #expect(client.closeCode == .protocolError)
        let plain = try TestClient(server, path: "/nowhere")
        #expect(plain.status == 404)
    }
}

private struct Publisher: ConnectionHandler {
    mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {
        connection.publish(message, to: "room")
    }
}

/// Delivers what was subscribed to, and suspends in each call.
private final class SuspendingBroadcaster: Broadcaster {
    private struct State {
        var sinks: [BroadcastSink] = []
        var topics: Set<Topic> = []
    }

    private let state = Lock(State())

    var topics: Set<Topic> { self.state.withLock { $0.topics } }

    func attach(_ sink: BroadcastSink) { self.state.withLock { $0.sinks.append(sink) } }

    func subscribe(to topics: Set<Topic>) async throws(BroadcastError) {
        await Task.yield()
        self.state.withLock { $0.topics.formUnion(topics) }
    }

    func unsubscribe(from topics: Set<Topic>) async throws(BroadcastError) {
        await Task.yield()
        self.state.withLock { $0.topics.subtract(topics) }
    }

    @discardableResult
    func publish(_ message: Message, to topic: Topic) async throws(BroadcastError) -> StreamPosition? {
        await Task.yield()
        self.state.withLock { state in
            guard state.topics.contains(topic) else { return }
            for sink in state.sinks { sink.deliver(Publication(message, to: topic)) }
        }
        return nil
    }

    func run() async throws(BroadcastError) {}
}
