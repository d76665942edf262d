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

    private struct State {
        var hubs: [Topic: Set<ObjectIdentifier>] = [:]
        /// Topics that the broadcaster is being told to leave, and whose turn it is meanwhile.
        ///
        /// Whoever wants one anew comes after that. Hubs that want the same topic at once need not wait for each other.
        var leaving: [Topic: Turn] = [:]
    }

    private let number: UInt64
    private let broadcaster: any Broadcaster
    private let confirming: (any ConfirmingBroadcaster)?
    private let state = Lock(State())

    private init(_ broadcaster: any Broadcaster, number: UInt64) {
        self.broadcaster = broadcaster
        self.confirming = broadcaster as? any ConfirmingBroadcaster
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

    /// Whether ``subscribe(_:to:confirmed:)`` tells topics apart: one that was not confirmed is one that failed.
    var confirmsEach: Bool {
        self.confirming != nil
    }

    /// Subscribes; the interest counts even if it fails, for the hub will try again.
    ///
    /// `confirmed` is called for topics as they are subscribed, if the broadcaster tells them apart.
    func subscribe(
        _ hub: BroadcastHub,
        to topics: Set<Topic>,
        confirmed: @escaping @Sendable (Topic) -> Void
    ) async throws(BroadcastError) {
        let leaving = self.state.withLock { state in
            for topic in topics { state.hubs[topic, default: []].insert(ObjectIdentifier(hub)) }
            guard !state.leaving.isEmpty else { return [] as [Turn] }
            var turns: [ObjectIdentifier: Turn] = [:]
            for topic in topics {
                if let turn = state.leaving[topic] { turns[ObjectIdentifier(turn)] = turn }
            }
            return Array(turns.values)
        }
        // From now on nobody leaves them, so there is no later turn to wait for.
        for turn in leaving {
            guard await turn.take() else { throw Self.ended }
            turn.give()
        }
        if let confirming {
            try await confirming.subscribe(to: topics, confirmed: confirmed)
        } else {
            try await self.broadcaster.subscribe(to: topics)
        }
    }

    /// Unsubscribes from what nobody else wants.
    func unsubscribe(_ hub: BroadcastHub, from topics: Set<Topic>) async throws(BroadcastError) {
        let turn = Turn()
        guard await turn.take() else { throw Self.ended }
        let unwanted = self.state.withLock { state in
            let unwanted = Self.leave(hub, topics, &state)
            for topic in unwanted { state.leaving[topic] = turn }
            return unwanted
        }
        defer {
            self.state.withLock { state in
                for topic in unwanted where state.leaving[topic] === turn { state.leaving[topic] = nil }
            }
            turn.give()
        }
        if !unwanted.isEmpty { try await self.broadcaster.unsubscribe(from: unwanted) }
    }

    /// A hub has ended, and wants nothing any more.
    func end(_ hub: BroadcastHub) {
        self.state.withLock { state in
            _ = Self.leave(hub, Set(state.hubs.keys), &state)
        }
    }

    /// The topics that nobody wants now.
    private static func leave(
        _ hub: BroadcastHub,
        _ topics: Set<Topic>,
        _ state: inout State
    ) -> Set<Topic> {
        topics.filter { topic in
            // Somebody else is telling the broadcaster already.
            if state.leaving[topic] != nil, state.hubs[topic] == nil { return false }
            state.hubs[topic]?.remove(ObjectIdentifier(hub))
            guard state.hubs[topic]?.isEmpty != false else { return false }
            state.hubs[topic] = nil
            return true
        }
    }

    private static var ended: BroadcastError {
        BroadcastError(.unavailable, message: "the server has ended")
    }
}

/// A broadcaster that says of each topic when it is subscribed, so that one that cannot be has no part in what becomes of
/// others.
package protocol ConfirmingBroadcaster: Broadcaster {
    /// As ``Broadcaster/subscribe(to:)``; before it returns it calls `confirmed`, once and on any thread, for each topic whose
    /// publications will arrive. If it throws the others have failed.
    func subscribe(
        to topics: Set<Topic>,
        confirmed: @escaping @Sendable (Topic) -> Void
    ) async throws(BroadcastError)
}
