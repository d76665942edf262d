public import Starling

/// A node's broadcaster in a ``DeterministicCluster``.
///
/// It does what a good broadcaster does over a bad link: deliveries come late and in batches; what a cut link has swallowed is
/// read from the history, or reported as a gap; a publication whose answer is lost throws, and may have been made; presence
/// is brought up to date, and ends with the lease of a node that died.
///
/// Sendable because only the thread that runs the simulation touches it.
public final class SimulatedBroadcaster: HistoryBroadcaster, PresenceBroadcaster, @unchecked Sendable {
    enum Delivery {
        case publication(Publication)
        case presence(PresenceEvent)
    }

    /// What the node wants of a topic, and how far it is.
    private struct Subscription {
        let number: Int
        var position: StreamPosition
        var present: [String: PresenceMember]
    }

    private enum PresenceChange {
        case enter(PresenceMember, Topic)
        case leave(String, Topic)
    }

    /// Which of the cluster's nodes this is, from 0.
    public let node: Int
    let incarnation: Int
    private let broker: SimulatedBroker
    private let simulation: Simulation
    private let faults: ClusterFaults
    private let delay: ClosedRange<Duration>

    private var sinks: [BroadcastSink] = []
    private var subscriptions: [Topic: Subscription] = [:]
    private var lastSubscription = 0
    private var counts = PresenceCounts()
    private var changes: [(change: PresenceChange, waiter: CheckedContinuation<Void, Never>)] = []
    private var isDead = false
    private(set) var isCut = false
    /// Grows whenever the link breaks: what was on its way is lost.
    private var link = 0
    private var lastDue: UInt64 = 0
    private var linkWaiters: [CheckedContinuation<Void, Never>] = []
    /// For ``ClusterMistake/swaps``.
    private var heldBack: Publication?

    init(
        _ broker: SimulatedBroker,
        node: Int,
        incarnation: Int,
        faults: ClusterFaults,
        delay: ClosedRange<Duration>
    ) {
        self.broker = broker
        self.simulation = broker.simulation
        self.node = node
        self.incarnation = incarnation
        self.faults = faults
        self.delay = delay
        broker.join(self)
    }

    // MARK: - For the server

    /// Takes a sink.
    public func attach(_ sink: BroadcastSink) {
        self.sinks.append(sink)
    }

    /// Subscribes at the broker; suspends in simulated time.
    public func subscribe(to topics: Set<Topic>) async throws(BroadcastError) {
        try await self.reachBroker()
        for topic in topics.sorted(by: { $0.name < $1.name }) where self.subscriptions[topic] == nil {
            guard let newest = self.broker.newest(of: topic) else { continue }
            self.lastSubscription += 1
            self.subscriptions[topic] = Subscription(
                number: self.lastSubscription,
                position: newest,
                present: Dictionary(
                    uniqueKeysWithValues: self.broker.present(in: topic).map { ($0.id, $0) }
                )
            )
        }
        try await self.hearAnswer()
    }

    /// Unsubscribes at the broker; suspends in simulated time.
    public func unsubscribe(from topics: Set<Topic>) async throws(BroadcastError) {
        try await self.reachBroker()
        for topic in topics { self.subscriptions[topic] = nil }
        try await self.hearAnswer()
    }

    /// Publishes; suspends in simulated time.
    ///
    /// - Throws: `unavailable`; the publication may have been made all the same.
    @discardableResult
    public func publish(_ message: Message, to topic: Topic) async throws(BroadcastError) -> StreamPosition? {
        try await self.publish(message, to: topic, key: nil).position
    }

    /// Publishes, unless the topic's history has a publication with this key; suspends in simulated time.
    @discardableResult
    public func publish(
        _ message: Message,
        to topic: Topic,
        idempotencyKey: String
    ) async throws(BroadcastError) -> IdempotentPublication {
        try await self.publish(message, to: topic, key: idempotencyKey)
    }

    private func publish(
        _ message: Message,
        to topic: Topic,
        key: String?
    ) async throws(BroadcastError) -> IdempotentPublication {
        try await self.reachBroker()
        let outcome = self.broker.publish(message, to: topic, key: key)
        try await self.hearAnswer()
        return outcome
    }

    /// The publications after a position; suspends in simulated time.
    public func history(
        of topic: Topic,
        after position: StreamPosition,
        countMax: Int
    ) async throws(BroadcastError) -> TopicHistory {
        try await self.reachBroker()
        let history = self.broker.history(of: topic, after: position, countMax: countMax)
        try await self.hearAnswer()
        return history
    }

    /// The last publications; suspends in simulated time.
    public func history(of topic: Topic, newest count: Int) async throws(BroadcastError) -> TopicHistory {
        try await self.reachBroker()
        let history = self.broker.history(of: topic, newest: count)
        try await self.hearAnswer()
        return history
    }

    /// A connection of a member has come; suspends in simulated time, as long as the link is cut.
    public func enter(_ member: PresenceMember, _ topic: Topic) async throws(BroadcastError) {
        guard self.counts.enter(member, topic) else { return }
        try await self.tell(.enter(member, topic))
    }

    /// A connection of a member has gone; suspends in simulated time, as long as the link is cut.
    public func leave(_ id: String, from topic: Topic) async throws(BroadcastError) {
        guard self.counts.leave(id, from: topic) != nil else { return }
        try await self.tell(.leave(id, topic))
    }

    /// All members, in one page.
    ///
    /// As the node's subscribers have been told, if it has any: what is on its way to the node reaches them after this answer.
    public func members(
        of topic: Topic,
        from cursor: PresenceCursor?,
        countMax: Int
    ) async throws(BroadcastError) -> PresencePage {
        if let subscription = self.subscriptions[topic] {
            return PresencePage(members: subscription.present.values.sorted { $0.id < $1.id }, next: nil)
        }
        try await self.reachBroker()
        let members = self.broker.present(in: topic)
        try await self.hearAnswer()
        return PresencePage(members: members, next: nil)
    }

    /// How many members are present.
    public func memberCount(of topic: Topic) async throws(BroadcastError) -> Int {
        try await self.members(of: topic, from: nil, countMax: .max).members.count
    }

    /// Does nothing: the simulation delivers.
    public func run() async throws(BroadcastError) {}

    /// Whether the link to the broker stands.
    public var isReady: Bool { !self.isCut }

    // MARK: - The link

    /// A question is on its way; if this throws, it has not arrived.
    private func reachBroker() async throws(BroadcastError) {
        await self.pause()
        while self.isCut, !self.isDead {
            guard self.simulation.random.happens(50) else {
                throw BroadcastError(.unavailable, message: "the link is cut")
            }
            await withCheckedContinuation { self.linkWaiters.append($0) }
        }
        if self.isDead { throw Self.died }
    }

    /// The answer is on its way; if this throws, the question has been answered none the less.
    private func hearAnswer() async throws(BroadcastError) {
        let link = self.link
        await self.pause()
        if self.isDead { throw Self.died }
        let isLost =
            link != self.link || self.faults.contains(.lostAnswers) && self.simulation.random.happens(5)
        if isLost { throw BroadcastError(.unavailable, message: "the answer is lost") }
    }

    private func pause() async {
        guard !self.isDead else { return }
        await self.simulation.sleep(self.simulation.random.nanoseconds(self.delay))
    }

    private static var died: BroadcastError {
        BroadcastError(.unavailable, message: "the node has died")
    }

    /// Cuts the link: what is on its way to the node is lost.
    func cut() {
        self.isCut = true
        self.link += 1
    }

    /// The link stands again.
    func heal() {
        guard self.isCut, !self.isDead else { return }
        self.isCut = false
        if self.broker.mistake == .evictsTheLiving { self.broker.expire(self.incarnation) }
        let waiters = self.linkWaiters
        self.linkWaiters = []
        for waiter in waiters { waiter.resume() }
        if !self.changes.isEmpty { self.scheduleChanges() }
        let link = self.link
        self.simulation.after(self.simulation.random.nanoseconds(self.delay)) {
            guard link == self.link, !self.isDead else { return }
            for topic in self.subscriptions.keys.sorted(by: { $0.name < $1.name }) { self.catchUp(topic) }
        }
    }

    /// The node is gone; its tasks find out, and change nothing any more.
    func die() {
        self.isDead = true
        self.broker.part(self)
        let waiters = self.linkWaiters + self.changes.map(\.waiter)
        self.linkWaiters = []
        self.changes = []
        for waiter in waiters { waiter.resume() }
    }

    // MARK: - Deliveries

    /// The broker has something for the node.
    func send(_ delivery: Delivery, of topic: Topic) {
        guard !self.isCut, let subscription = self.subscriptions[topic] else { return }
        var due = self.simulation.now + self.simulation.random.nanoseconds(self.delay)
        // Now and then several come together.
        if self.simulation.random.happens(30) { due = (due / 50_000_000 + 1) * 50_000_000 }
        self.lastDue = max(self.lastDue, due)
        let link = self.link
        self.simulation.after(self.lastDue - self.simulation.now) {
            guard link == self.link, !self.isDead, self.subscriptions[topic]?.number == subscription.number
            else { return }
            switch delivery {
            case .publication(let publication): self.arrived(publication)
            case .presence(let event): self.arrived(event)
            }
        }
    }

    private func arrived(_ publication: Publication) {
        guard let subscription = self.subscriptions[publication.topic], let position = publication.position
        else {
            return
        }
        let last = subscription.position
        if position.epoch == last.epoch, position.offset <= last.offset { return }
        guard position.epoch == last.epoch, position.offset == last.offset + 1 else {
            return self.catchUp(publication.topic)
        }
        self.subscriptions[publication.topic]?.position = position
        self.deliver(publication)
    }

    private func deliver(_ publication: Publication) {
        var publications = [publication]
        switch self.broker.mistake {
        case .repeats: if self.simulation.random.happens(10) { publications.append(publication) }
        case .swaps:
            if let heldBack = self.heldBack {
                publications.append(heldBack)
                self.heldBack = nil
            } else if self.simulation.random.happens(10) {
                self.heldBack = publication
                publications = []
            }
        case .losesInSilence, .forgetsAcknowledged, .keepsTheDead, .evictsTheLiving, nil: break
        }
        for publication in publications {
            for sink in self.sinks { sink.deliver(publication) }
        }
    }

    private func arrived(_ event: PresenceEvent) {
        let isKnown = self.subscriptions[event.topic]?.present[event.member.id] != nil
        switch event.kind {
        case .joined: self.subscriptions[event.topic]?.present[event.member.id] = event.member
        case .left: self.subscriptions[event.topic]?.present[event.member.id] = nil
        }
        guard isKnown == (event.kind == .left) else { return }
        for sink in self.sinks { sink.deliver(event) }
    }

    /// Delivers what was missed, or says that it is lost.
    private func catchUp(_ topic: Topic) {
        guard let subscription = self.subscriptions[topic] else { return }
        let history = self.broker.history(of: topic, after: subscription.position, countMax: .max)
        if let newest = history.newest {
            self.subscriptions[topic]?.position = newest
            if self.broker.mistake == .losesInSilence {
                // As if nothing had happened.
            } else if history.isComplete {
                for publication in history.publications { self.deliver(publication) }
            } else {
                for sink in self.sinks { sink.reportGap(in: topic, newest: newest) }
            }
        }
        let present = self.broker.present(in: topic)
        let ids = Set(present.map(\.id))
        let gone = subscription.present.values.filter { !ids.contains($0.id) }.sorted { $0.id < $1.id }
        for member in gone { self.arrived(PresenceEvent(.left, member, topic)) }
        for member in present { self.arrived(PresenceEvent(.joined, member, topic)) }
    }

    // MARK: - Presence

    /// Whether a member is connected here, and the broker knows.
    func holds(_ id: String, in topic: Topic) -> Bool {
        guard self.counts.topics[topic]?[UTF8Name(id)] != nil else { return false }
        return !self.changes.contains { entry in
            switch entry.change {
            case .enter(let member, let changed): member.id == id && changed == topic
            case .leave(let member, let changed): member == id && changed == topic
            }
        }
    }

    private func tell(_ change: PresenceChange) async throws(BroadcastError) {
        if self.isDead { throw Self.died }
        await withCheckedContinuation { waiter in
            self.changes.append((change, waiter))
            self.scheduleChanges()
        }
        if self.isDead { throw Self.died }
    }

    private func scheduleChanges() {
        guard !self.isCut else { return }
        self.simulation.after(self.simulation.random.nanoseconds(self.delay)) {
            guard !self.isCut, !self.isDead else { return }
            while !self.changes.isEmpty {
                let (change, waiter) = self.changes.removeFirst()
                switch change {
                case .enter(let member, let topic): self.broker.enter(member, topic, self.incarnation)
                case .leave(let id, let topic): self.broker.leave(id, topic, self.incarnation)
                }
                waiter.resume()
            }
        }
    }
}
