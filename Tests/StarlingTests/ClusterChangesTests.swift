import Logging
import StarlingCore
import TestSupport
import Testing

@testable import Starling

/// Notes who enters and leaves, and refuses some topics.
private final class RefusingBroadcaster: PresenceBroadcaster {
    private let changes = Lock<[String]>([])

    var seen: [String] { self.changes.withLock { $0 } }

    func enter(_ member: PresenceMember, _ topic: Topic) async throws(BroadcastError) {
        try self.note("+\(member.id)", topic)
    }

    func leave(_ id: String, from topic: Topic) async throws(BroadcastError) {
        try self.note("-\(id)", topic)
    }

    private func note(_ change: String, _ topic: Topic) throws(BroadcastError) {
        let name = topic.name.split(separator: ":").dropFirst().joined(separator: ":")
        self.changes.withLock { $0.append("\(change) \(name)") }
        if name == "user:ada" || name == "users" { throw BroadcastError(.refused, message: "not now") }
    }

    func members(
        of topic: Topic,
        from cursor: PresenceCursor?,
        countMax: Int
    ) async throws(BroadcastError) -> PresencePage {
        PresencePage(members: [], next: nil)
    }

    func memberCount(of topic: Topic) async throws(BroadcastError) -> Int { 0 }
    func attach(_ sink: BroadcastSink) {}
    func subscribe(to topics: Set<Topic>) async throws(BroadcastError) {}
    func unsubscribe(from topics: Set<Topic>) async throws(BroadcastError) {}
    func publish(_ message: Message, to topic: Topic) async throws(BroadcastError) -> StreamPosition? { nil }
    func run() async throws(BroadcastError) {}
}

@Suite(.timeLimit(.minutes(1))) struct ClusterChangesTests {
    /// Runs a registry as long as `body` takes.
    private func withRegistry(_ body: (ClusterRegistry, RefusingBroadcaster) async throws -> Void)
        async throws
    {
        let broadcaster = RefusingBroadcaster()
        let registry = ClusterRegistry(broadcaster, node: "one")
        let running = Task { await registry.run(Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }) }
        try await eventually("the node to join") { broadcaster.seen == ["+one nodes"] }
        try await body(registry, broadcaster)
        running.cancel()
        await running.value
    }

    @Test("A user's place and name are told each by itself: a refusal of one keeps nothing from the other")
    func refusal() async throws {
        try await self.withRegistry { registry, broadcaster in
            registry.came("ada")
            try await eventually("both") { broadcaster.seen.count == 3 }
            registry.gone("ada")
            try await eventually("both to be taken back") { broadcaster.seen.count == 5 }
            #expect(
                broadcaster.seen == [
                    "+one nodes", "+one user:ada", "+ada users", "-ada users", "-one user:ada",
                ]
            )
        }
    }

    @Test("Users whose names look alike are two, and both leave")
    func bytes() async throws {
        let names = ["caf\u{E9}", "cafe\u{301}"]
        try await self.withRegistry { registry, broadcaster in
            for name in names { registry.came(name) }
            try await eventually("all to come") { broadcaster.seen.count == 5 }
            for name in names { registry.gone(name) }
            try await eventually("all to go") { broadcaster.seen.count == 9 }
            let changes = broadcaster.seen.map { Array($0.utf8) }
            for name in names {
                for change in ["+one user:\(name)", "+\(name) users", "-\(name) users", "-one user:\(name)"] {
                    #expect(changes.count { $0 == Array(change.utf8) } == 1)
                }
            }
        }
    }
}
