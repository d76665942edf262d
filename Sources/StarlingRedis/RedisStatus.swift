internal import Starling
internal import Synchronization

/// What a broadcaster has done and how its links are, for metrics and snapshots.
///
/// Links are few and change rarely; publications are counted without a lock.
final class RedisStatus: Sendable {
    private struct Link {
        var state = BrokerLink.State.down
        var since = ContinuousClock.now
        var lastError: String?
    }

    private let links: Lock<[(name: String, link: Link)]>
    private let published = Atomic<UInt64>(0)
    private let failed = Atomic<UInt64>(0)
    private let delivered = Atomic<UInt64>(0)

    /// Of links with these names, in their order.
    init(_ names: [String]) {
        self.links = Lock(names.map { ($0, Link()) })
    }

    /// The link's state has changed; an error says why it ended.
    func set(_ state: BrokerLink.State, of name: String, _ error: RedisError? = nil) {
        self.links.withLock { links in
            guard let index = links.firstIndex(where: { $0.name == name }) else { return }
            if let error { links[index].link.lastError = error.description }
            guard links[index].link.state != state else { return }
            links[index].link.state = state
            links[index].link.since = .now
        }
    }

    func countPublication(succeeded: Bool) {
        if succeeded {
            self.published.add(1, ordering: .relaxed)
        } else {
            self.failed.add(1, ordering: .relaxed)
        }
    }

    func countDelivery() {
        self.delivered.add(1, ordering: .relaxed)
    }

    func status(isReady: Bool) -> BroadcasterStatus {
        let now = ContinuousClock.now
        let links = self.links.withLock { $0 }
        return BroadcasterStatus(
            name: "redis",
            isReady: isReady,
            publishedCount: self.published.load(ordering: .relaxed),
            failedCount: self.failed.load(ordering: .relaxed),
            deliveredCount: self.delivered.load(ordering: .relaxed),
            links: links.map { name, link in
                BrokerLink(
                    name: name,
                    state: link.state,
                    stateSeconds: link.since.duration(to: now).inSeconds,
                    lastError: link.lastError
                )
            }
        )
    }

    /// What the links of a shard are called.
    static func names(ofShard name: String) -> (commands: String, subscriptions: String) {
        ("\(name), commands", "\(name), subscriptions")
    }
}
