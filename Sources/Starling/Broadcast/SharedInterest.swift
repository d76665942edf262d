/// What all hubs of a process want of one broadcaster.
///
/// Endpoints, and servers, may share a broadcaster, which knows topics alone: a topic that one hub leaves must stay as long as
/// another one wants it.
final class SharedInterest: Sendable {
    private struct Entry: Sendable {
        let number: UInt64
        weak var interest: SharedInterest?
    }

    private struct All {
        var entries: [ObjectIdentifier: Entry] = [:]
        var lastNumber: UInt64 = 0
    }

    private static let all = Lock(All())

    private let number: UInt64
    private let broadcaster: any Broadcaster
    private let hubs = Lock<[Topic: Set<ObjectIdentifier>]>([:])
    /// The broadcaster is told of one change at a time, so that it learns of them in the order in which they are counted.
    private let turn = Turn()

    private init(_ broadcaster: any Broadcaster, number: UInt64) {
        self.broadcaster = broadcaster
        self.number = number
    }

    deinit {
        // Another one may stand there already, if somebody asked while this one was on its way out. It is told by its number:
        // looked at, it could end in here too, with the lock held.
        Self.all.withLock { all in
            let id = ObjectIdentifier(self.broadcaster)
            if all.entries[id]?.number == self.number { all.entries[id] = nil }
        }
    }

    /// The one for a broadcaster; as long as somebody has it, it stays the same.
    static func of(_ broadcaster: any Broadcaster) -> SharedInterest {
        Self.all.withLock { all in
            let id = ObjectIdentifier(broadcaster)
            if let known = all.entries[id]?.interest { return known }
            all.lastNumber += 1
            let interest = SharedInterest(broadcaster, number: all.lastNumber)
            all.entries[id] = Entry(number: all.lastNumber, interest: interest)
            return interest
        }
    }

    /// Subscribes; the interest counts even if it fails, for the hub will try again.
    func subscribe(_ hub: BroadcastHub, to topics: Set<Topic>) async throws(BroadcastError) {
        guard await self.turn.take() else { throw Self.ended }
        defer { self.turn.give() }
        self.hubs.withLock { hubs in
            for topic in topics { hubs[topic, default: []].insert(ObjectIdentifier(hub)) }
        }
        try await self.broadcaster.subscribe(to: topics)
    }

    /// Unsubscribes from what nobody else wants.
    func unsubscribe(_ hub: BroadcastHub, from topics: Set<Topic>) async throws(BroadcastError) {
        guard await self.turn.take() else { throw Self.ended }
        defer { self.turn.give() }
        let unwanted = self.leave(hub, topics)
        if !unwanted.isEmpty { try await self.broadcaster.unsubscribe(from: unwanted) }
    }

    /// A hub has ended, and wants nothing any more.
    func end(_ hub: BroadcastHub) {
        let topics = self.hubs.withLock { Set($0.keys) }
        _ = self.leave(hub, topics)
    }

    /// The topics that nobody wants now.
    private func leave(_ hub: BroadcastHub, _ topics: Set<Topic>) -> Set<Topic> {
        self.hubs.withLock { hubs in
            topics.filter { topic in
                hubs[topic]?.remove(ObjectIdentifier(hub))
                guard hubs[topic]?.isEmpty != false else { return false }
                hubs[topic] = nil
                return true
            }
        }
    }

    private static var ended: BroadcastError {
        BroadcastError(.unavailable, message: "the server has ended")
    }
}
