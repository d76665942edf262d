import Starling
import StarlingRedis
import StarlingTesting
import TestSupport
import Testing

/// A broadcaster at work, and what has arrived from it.
final class Node: Sendable {
    struct State {
        var arrived: [Topic: [Publication]] = [:]
        var gaps: [Topic: [StreamPosition]] = [:]
        var events: [PresenceEvent] = []
    }

    let broadcaster: RedisBroadcaster
    private let state = Lock(State())

    init(_ broadcaster: RedisBroadcaster) {
        self.broadcaster = broadcaster
        broadcaster.attach(
            BroadcastSink(
                delivered: { publication in
                    self.state.withLock { $0.arrived[publication.topic, default: []].append(publication) }
                },
                gap: { topic, newest in
                    self.state.withLock { $0.gaps[topic, default: []].append(newest) }
                },
                presence: { event in self.state.withLock { $0.events.append(event) } }
            )
        )
    }

    func arrived(_ topic: Topic) -> [Publication] {
        self.state.withLock { $0.arrived[topic] ?? [] }
    }

    func gaps(_ topic: Topic) -> [StreamPosition] {
        self.state.withLock { $0.gaps[topic] ?? [] }
    }

    /// Joins and leaves that have arrived, in order.
    var events: [PresenceEvent] {
        self.state.withLock { $0.events }
    }

    /// Whose join or leave has arrived, in order.
    func members(who kind: PresenceEvent.Kind) -> [String] {
        self.state.withLock { $0.events.filter { $0.kind == kind }.map(\.member.id) }
    }

    /// Waits for something that the node comes to, for a bounded time.
    func wait(
        _ what: Comment,
        upTo timeout: Duration = .seconds(20),
        until condition: @Sendable (Node) -> Bool
    ) async throws {
        try await eventually(what, within: timeout) { condition(self) }
    }
}

/// Runs nodes as long as `body` takes.
func withNodes(_ broadcasters: [RedisBroadcaster], _ body: ([Node]) async throws -> Void) async throws {
    let nodes = broadcasters.map(Node.init)
    try await withThrowingTaskGroup(of: Void.self) { group in
        for node in nodes { group.addTask { try await node.broadcaster.run() } }
        defer { group.cancelAll() }
        try await body(nodes)
    }
}
