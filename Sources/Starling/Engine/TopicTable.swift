/// A topic with subscribers on this loop.
final class TopicEntry {
    let topic: Topic
    /// The subscribers' slots, in no order.
    var subscribers: [UInt32] = []
    /// Those of them that are being brought up to date, and get nothing live until they are.
    var recovering: [UInt32: Recovery] = [:]
    /// Its place in ``TopicTable/list``.
    var position = 0
    /// The formats that subscribers have or had.
    var formats: [UInt8] = []
    /// The position of the newest live publication on this loop.
    var lastPosition: StreamPosition?
    /// The newest position when nothing live had come yet; only asked for before a hand-off.
    var basePosition: StreamPosition?
    /// Whether it turned out then that the topic has no history.
    var hasNoHistory = false
    /// Those that have been brought further by the history than the live publications are.
    private(set) var ahead: [UInt32: Ahead] = [:]

    /// What a subscriber has had from the history.
    struct Ahead {
        let cursor: StreamPosition
        /// The epoch of the live publications then, if it was another one: what still comes of it is older.
        let pastEpoch: UInt64?
    }

    /// What subscribers that have fallen behind have yet to get; nil while there are none.
    var backlog: TopicBacklog?

    init(topic: Topic) {
        self.topic = topic
    }

    /// A subscriber has had everything up to `cursor`.
    ///
    /// A broker's answer may overtake what is on its way to the node: such publications come live, and must not come twice.
    func broughtUp(_ subscriber: UInt32, to cursor: StreamPosition) {
        let last = self.lastPosition
        if let last, last.epoch == cursor.epoch, last.offset >= cursor.offset { return }
        let pastEpoch = last.flatMap { $0.epoch == cursor.epoch ? nil : $0.epoch }
        self.ahead[subscriber] = Ahead(cursor: cursor, pastEpoch: pastEpoch)
    }

    /// Whether a subscriber has had a live publication, or is told of a gap that is none for it; asked in their order.
    func hasHad(_ publication: Publication, _ subscriber: UInt32) -> Bool {
        guard let position = publication.position, let ahead = self.ahead[subscriber] else { return false }
        if position.epoch == ahead.cursor.epoch {
            if position.offset <= ahead.cursor.offset { return true }
        } else if position.epoch == ahead.pastEpoch {
            return true
        }
        self.ahead[subscriber] = nil
        return false
    }

    /// A subscriber has gone, or begins anew.
    func forget(_ subscriber: UInt32) {
        if !self.recovering.isEmpty { self.recovering[subscriber] = nil }
        if !self.ahead.isEmpty { self.ahead[subscriber] = nil }
        self.endBacklog(of: subscriber)
    }

    /// A subscriber is up to date, or does without; the last one takes the ring along.
    func endBacklog(of subscriber: UInt32) {
        guard let backlog = self.backlog else { return }
        backlog.remove(subscriber)
        if backlog.isEmpty { self.backlog = nil }
    }
}

/// A connection's place among a topic's subscribers.
struct Subscription {
    let entry: TopicEntry
    var position: UInt32
    /// What happens when the ring has passed the subscriber.
    var policy: SlowConsumerPolicy
}

/// Who on this loop is subscribed to what, for one endpoint.
struct TopicTable: ~Copyable {
    private var entries: [Topic: TopicEntry] = [:]
    /// The same entries, in no order, for whoever looks at some of them at a time.
    private(set) var list: [TopicEntry] = []
    /// Subscribers of all topics together.
    private(set) var subscriptionCount = 0

    var count: Int {
        self.entries.count
    }

    func subscribers(of topic: Topic) -> TopicEntry? {
        self.entries[topic]
    }

    func isSubscribed(_ index: Int, to topic: Topic, in slots: borrowing Slots) -> Bool {
        unsafe slots.pointer(index).pointee.subscriptions.contains { $0.entry.topic == topic }
    }

    /// Adds a subscriber; says whether it is the loop's first of the topic, or nil if it was one before.
    mutating func subscribe(
        _ index: Int,
        to topic: Topic,
        _ policy: SlowConsumerPolicy,
        in slots: borrowing Slots
    ) -> Bool? {
        let slot = unsafe slots.pointer(index)
        if let place = unsafe slot.pointee.subscriptions.firstIndex(where: { $0.entry.topic == topic }) {
            unsafe slot.pointee.subscriptions[place].policy = policy
            return nil
        }
        let entry: TopicEntry
        if let known = self.entries[topic] {
            entry = known
        } else {
            entry = TopicEntry(topic: topic)
            self.entries[topic] = entry
            entry.position = self.list.count
            self.list.append(entry)
        }
        unsafe slot.pointee.subscriptions.append(
            Subscription(entry: entry, position: UInt32(entry.subscribers.count), policy: policy)
        )
        entry.subscribers.append(UInt32(index))
        self.subscriptionCount += 1
        let format = unsafe slot.pointee.format
        if !entry.formats.contains(format) { entry.formats.append(format) }
        return entry.subscribers.count == 1
    }

    /// Removes a subscriber; says whether it was the loop's last of the topic, or nil if it was none.
    mutating func unsubscribe(_ index: Int, from topic: Topic, in slots: borrowing Slots) -> Bool? {
        let slot = unsafe slots.pointer(index)
        guard let place = unsafe slot.pointee.subscriptions.firstIndex(where: { $0.entry.topic == topic })
        else { return nil }
        let subscription = unsafe slot.pointee.subscriptions.remove(at: place)
        return self.remove(subscription, in: slots)
    }

    /// Takes a subscriber's place away, moves the last one there, and says whether the topic is now empty.
    mutating func remove(_ subscription: Subscription, in slots: borrowing Slots) -> Bool {
        let entry = subscription.entry
        let position = Int(subscription.position)
        entry.forget(entry.subscribers[position])
        let moved = entry.subscribers.removeLast()
        self.subscriptionCount -= 1
        if position < entry.subscribers.count {
            entry.subscribers[position] = moved
            let other = unsafe slots.pointer(Int(moved))
            // The moved subscriber has this topic in its list: it was in the topic's.
            let place = unsafe other.pointee.subscriptions.firstIndex { $0.entry === entry }
            if let place { unsafe other.pointee.subscriptions[place].position = subscription.position }
        }
        guard entry.subscribers.isEmpty else { return false }
        self.entries[entry.topic] = nil
        let last = self.list.removeLast()
        if last !== entry {
            self.list[entry.position] = last
            last.position = entry.position
        }
        return true
    }
}
