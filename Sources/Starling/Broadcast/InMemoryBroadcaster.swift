/// A broadcaster for one process: publications reach every event loop of every server that it is attached to.
///
/// One order per topic on all loops. At most once, or with a history, which lives as long as the process. Needs nothing to
/// run.
public final class InMemoryBroadcaster: ImmediateBroadcaster, HistoryBroadcaster, PresenceBroadcaster,
    InspectableBroadcaster
{
    private struct State {
        var sinks: [BroadcastSink] = []
        var streams: [Topic: TopicStream] = [:]
        var publishCount = 0
        var deliveredCount: UInt64 = 0
        var publishedCount: UInt64 = 0
        var presence = PresenceCounts()
    }

    private let state = Lock(State())
    private let limits: (@Sendable (Topic) -> HistoryLimits?)?
    private let topicsMax: Int
    private let now: @Sendable () -> ContinuousClock.Instant

    /// Makes a broadcaster.
    ///
    /// - Parameters:
    ///   - historyTopicsMax: Topics whose history is kept at a time. When there are more, the one that was published to least
    ///     recently is forgotten; subscribers that come back to it are told that they were not recovered.
    ///   - history: How much of a topic is kept; nil for a topic without a history. Called for each publication, on any
    ///     thread, and must always say the same of a topic.
    public convenience init(
        historyTopicsMax: Int = 10_000,
        history: (@Sendable (Topic) -> HistoryLimits?)? = nil
    ) {
        self.init(historyTopicsMax: historyTopicsMax, now: { ContinuousClock.now }, history: history)
    }

    /// With a clock of a test's own.
    package init(
        historyTopicsMax: Int,
        now: @escaping @Sendable () -> ContinuousClock.Instant,
        history: (@Sendable (Topic) -> HistoryLimits?)?
    ) {
        precondition(historyTopicsMax > 0, "histories of no topic can be had without limits")
        self.limits = history
        self.topicsMax = historyTopicsMax
        self.now = now
    }

    /// Takes a sink.
    public func attach(_ sink: BroadcastSink) {
        self.state.withLock { $0.sinks.append(sink) }
    }

    /// Hands the publication to every sink; always true.
    ///
    /// The lock is held meanwhile: it is what makes the order the same on all loops.
    public func tryPublish(_ message: Message, to topic: Topic) -> Bool {
        _ = self.publish(message, topic, key: nil)
        return true
    }

    /// Hands the publication to every sink.
    ///
    /// Does not suspend.
    @discardableResult
    public func publish(_ message: Message, to topic: Topic) async throws(BroadcastError) -> StreamPosition? {
        self.publish(message, topic, key: nil).position
    }

    /// Hands the publication to every sink, unless the topic's history has one with this key.
    ///
    /// Does not suspend.
    @discardableResult
    public func publish(
        _ message: Message,
        to topic: Topic,
        idempotencyKey: String
    ) async throws(BroadcastError) -> IdempotentPublication {
        self.publish(message, topic, key: idempotencyKey)
    }

    /// The publications after a position; does not suspend.
    public func history(
        of topic: Topic,
        after position: StreamPosition,
        countMax: Int
    ) async throws(BroadcastError) -> TopicHistory {
        self.ask(topic) { $0.after(position, countMax: countMax) }
    }

    /// The last publications; does not suspend.
    public func history(of topic: Topic, newest count: Int) async throws(BroadcastError) -> TopicHistory {
        self.ask(topic) { $0.newest(count) }
    }

    /// A connection of a member has come; does not suspend.
    public func enter(_ member: PresenceMember, _ topic: Topic) async throws(BroadcastError) {
        self.state.withLock { state in
            guard state.presence.enter(member, topic) else { return }
            let event = PresenceEvent(.joined, member, topic)
            for sink in state.sinks { sink.deliver(event) }
        }
    }

    /// A connection of a member has gone; does not suspend.
    public func leave(_ id: String, from topic: Topic) async throws(BroadcastError) {
        self.state.withLock { state in
            guard let member = state.presence.leave(id, from: topic) else { return }
            let event = PresenceEvent(.left, member, topic)
            for sink in state.sinks { sink.deliver(event) }
        }
    }

    /// All members, in one page; does not suspend.
    public func members(
        of topic: Topic,
        from cursor: PresenceCursor?,
        countMax: Int
    ) async throws(BroadcastError) -> PresencePage {
        let members = self.state.withLock { $0.presence.topics[topic]?.values.map(\.member) ?? [] }
        return PresencePage(members: members, next: nil)
    }

    /// How many members are present; does not suspend.
    public func memberCount(of topic: Topic) async throws(BroadcastError) -> Int {
        self.state.withLock { $0.presence.topics[topic]?.count ?? 0 }
    }

    /// What was published, and handed to servers.
    public var status: BroadcasterStatus {
        self.state.withLock { state in
            BroadcasterStatus(
                name: "memory",
                publishedCount: state.publishedCount,
                deliveredCount: state.deliveredCount
            )
        }
    }

    /// True: all is in this process.
    public var deliversEverything: Bool { true }
    /// Does nothing.
    public func subscribe(to topics: Set<Topic>) async throws(BroadcastError) {}
    /// Does nothing.
    public func unsubscribe(from topics: Set<Topic>) async throws(BroadcastError) {}

    /// Waits for its cancellation.
    public func run() async throws(BroadcastError) {
        try? await Task.sleep(for: .seconds(1 << 40))
    }

    private func publish(_ message: Message, _ topic: Topic, key: String?) -> IdempotentPublication {
        let limits = self.limits?(topic)
        let now = limits == nil ? nil : self.now()
        let span = PublishSpan.begin(topic, system: "memory", byteCount: message.byteCount)
        defer { span?.end() }
        return self.state.withLock { state in
            var publication = Publication(message, to: topic)
            if let limits, let now {
                self.makeRoom(for: topic, in: &state)
                state.publishCount += 1
                let appended = state.streams[topic, default: TopicStream(limits)]
                    .append(message, to: topic, key: key, at: now, number: state.publishCount)
                guard appended.isNew else {
                    return IdempotentPublication(position: appended.position, isNew: false)
                }
                publication = Publication(message, to: topic, position: appended.position)
            }
            publication.trace = span?.context
            state.publishedCount += 1
            state.deliveredCount += UInt64(state.sinks.count)
            for sink in state.sinks { sink.deliver(publication) }
            return IdempotentPublication(position: publication.position, isNew: true)
        }
    }

    private func makeRoom(for topic: Topic, in state: inout State) {
        guard state.streams[topic] == nil, state.streams.count >= self.topicsMax else { return }
        // A tenth at once, so that the search is paid for by many publications.
        let oldest = state.streams.sorted { $0.value.lastNumber < $1.value.lastNumber }
        for (topic, _) in oldest.prefix(max(1, self.topicsMax / 10)) { state.streams[topic] = nil }
    }

    private func ask(
        _ topic: Topic,
        _ question: @Sendable (TopicStream) -> TopicHistory
    ) -> TopicHistory {
        guard let limits = self.limits?(topic) else {
            return TopicHistory(publications: [], newest: nil, isComplete: false)
        }
        let now = self.now()
        return self.state.withLock { state in
            // Asking makes a stream too: the position that is answered must still hold when somebody publishes.
            self.makeRoom(for: topic, in: &state)
            state.streams[topic, default: TopicStream(limits)].removeExpired(at: now)
            return question(state.streams[topic, default: TopicStream(limits)])
        }
    }
}

/// The last publications of a topic.
private struct TopicStream {
    private struct Entry {
        let publication: Publication
        let key: String?
        let time: ContinuousClock.Instant
    }

    private let limits: HistoryLimits
    private let epoch = UInt64.random(in: 1 ... .max)
    private var entries = Deque<Entry>()
    private var keys: [String: StreamPosition] = [:]
    private var byteCount = 0
    private var lastOffset: UInt64 = 0
    /// Grows with each publication to any topic: whose is the smallest was published to least recently.
    private(set) var lastNumber = 0

    init(_ limits: HistoryLimits) {
        self.limits = limits
    }

    private var position: StreamPosition {
        StreamPosition(epoch: self.epoch, offset: self.lastOffset)
    }

    mutating func append(
        _ message: Message,
        to topic: Topic,
        key: String?,
        at time: ContinuousClock.Instant,
        number: Int
    ) -> (position: StreamPosition, isNew: Bool) {
        self.removeExpired(at: time)
        self.lastNumber = number
        if let key, let known = self.keys[key] { return (known, false) }
        self.lastOffset += 1
        let position = self.position
        self.entries.append(
            Entry(
                publication: Publication(message, to: topic, position: position),
                key: key,
                time: time
            )
        )
        if let key { self.keys[key] = position }
        self.byteCount += message.byteCount
        while self.entries.count > self.limits.countMax || self.byteCount > self.limits.byteCountMax {
            self.removeOldest()
        }
        return (position, true)
    }

    mutating func removeExpired(at now: ContinuousClock.Instant) {
        while let oldest = self.entries.first, now - oldest.time > self.limits.ageMax { self.removeOldest() }
    }

    func after(_ position: StreamPosition, countMax: Int) -> TopicHistory {
        let firstOffset = self.lastOffset - UInt64(self.entries.count) + 1
        let isComplete =
            position.epoch == self.epoch && position.offset <= self.lastOffset
            && position.offset + 1 >= firstOffset
        let skipped = isComplete ? Int(position.offset + 1 - firstOffset) : 0
        return TopicHistory(
            publications: self.entries.elements(from: skipped, countMax: countMax).map(\.publication),
            newest: self.position,
            isComplete: isComplete
        )
    }

    func newest(_ count: Int) -> TopicHistory {
        let skipped = max(0, self.entries.count - count)
        return TopicHistory(
            publications: self.entries.elements(from: skipped, countMax: count).map(\.publication),
            newest: self.position,
            isComplete: true
        )
    }

    private mutating func removeOldest() {
        let oldest = self.entries.removeFirst()
        self.byteCount -= oldest.publication.message.byteCount
        if let key = oldest.key { self.keys[key] = nil }
    }
}
