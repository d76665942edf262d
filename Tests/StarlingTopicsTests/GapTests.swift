import Starling
import StarlingTesting
import Testing

@testable import StarlingTopics

/// What a subscriber is told that has read too slowly.
@Suite struct GapTests {
    @Test("A slow subscriber is told between which positions publications are lost")
    func slow() async throws {
        let broadcaster = InMemoryBroadcaster { _ in HistoryLimits(countMax: 1000) }
        var configuration = EndpointConfiguration()
        configuration.outbound.backlogByteCountMax = 20_000
        configuration.outbound.slowConsumerPolicy = .skip
        let endpoint = WebSocketEndpoint(
            broadcaster: broadcaster,
            configuration: configuration,
            service: TopicService<Void> { _, _ in .allowed }
        )
        let server = EmbeddedTransport { WebSocketRoute("/", endpoint) }
        let client = try TestClient(server, fields: ["Sec-WebSocket-Protocol: \(TopicProtocol.name)"])
        client.send(.text(#"{"type":"subscribe","id":1,"topic":"room"}"#))
        await server.waiting {}
        func heard() throws -> [ServerMessage] {
            try client.takeMessages().map { try ServerMessage(parsing: $0) }
        }
        guard case .subscribed(1, "room", let begin?, true) = try heard().first else {
            Issue.record("no subscription")
            return
        }
        let epoch = try #require(begin.streamPosition).epoch
        func position(_ offset: Int) -> TopicPosition {
            TopicPosition(StreamPosition(epoch: epoch, offset: UInt64(offset)))
        }

        // It has the first, and the second is under way when it stops.
        for number in 1...200 {
            try await broadcaster.publish(.text("\(number)"), to: "room")
            server.advance(by: .milliseconds(1))
            if number == 1 { server.limitOutput(of: client.connection, to: 0) }
        }
        server.limitOutput(of: client.connection, to: nil)
        server.advance(by: .milliseconds(1))
        let messages = try heard()
        let next = 201 - (messages.count - 3)
        #expect(next > 3)
        let numbers = [1, 2] + Array(next...200)
        var expected = numbers.map { number in
            ServerMessage.publication(
                topic: "room",
                position: position(number),
                .data(JSONText(checked: Array("\(number)".utf8)[...]))
            )
        }
        expected.insert(.gap(topic: "room", after: position(2), position: position(next - 1)), at: 2)
        #expect(messages == expected)
    }
}
