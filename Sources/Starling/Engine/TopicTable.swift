/// A topic with subscribers on this loop.
final class TopicEntry {
    let topic: Topic
    /// Tells publications of different topics apart in outbound buffers; never 0.
    let number: UInt32
    /// The subscribers' slots, in no order.
    var subscribers: [UInt32] = []
    /// Those of them that are being brought up to date, and get nothing live until they are.
    var recovering: [UInt32: Recovery] = [:]
    /// The formats that subscribers have or had.
    var formats: [UInt8] = []

    init(topic: Topic, number: UInt32) {
        self.topic = topic
        self.number = number
    }
}

/// A connection's place among a topic's subscribers.
struct Subscription {
    let entry: TopicEntry
    var position: Int
}

/// Who on this loop is subscribed to what, for one endpoint.
struct TopicTable: ~Copyable {
    private var entries: [Topic: TopicEntry] = [:]
    private var lastNumber: UInt32 = 0

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
    mutating func subscribe(_ index: Int, to topic: Topic, in slots: borrowing Slots) -> Bool? {
        let slot = unsafe slots.pointer(index)
        if unsafe slot.pointee.subscriptions.contains(where: { $0.entry.topic == topic }) { return nil }
        let entry: TopicEntry
        if let known = self.entries[topic] {
            entry = known
        } else {
            self.lastNumber = self.lastNumber == .max ? 1 : self.lastNumber + 1
            entry = TopicEntry(topic: topic, number: self.lastNumber)
            self.entries[topic] = entry
        }
        unsafe slot.pointee.subscriptions.append(
            Subscription(entry: entry, position: entry.subscribers.count)
        )
        entry.subscribers.append(UInt32(index))
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
        if !entry.recovering.isEmpty { entry.recovering[entry.subscribers[subscription.position]] = nil }
        let moved = entry.subscribers.removeLast()
        if subscription.position < entry.subscribers.count {
            entry.subscribers[subscription.position] = moved
            let other = unsafe slots.pointer(Int(moved))
            // The moved subscriber has this topic in its list: it was in the topic's.
            let place = unsafe other.pointee.subscriptions.firstIndex { $0.entry === entry }
            if let place { unsafe other.pointee.subscriptions[place].position = subscription.position }
        }
        guard entry.subscribers.isEmpty else { return false }
        self.entries[entry.topic] = nil
        return true
    }
}
