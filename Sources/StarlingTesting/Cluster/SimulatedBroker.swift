internal import Starling

/// A broker in a simulation: the topics' histories and members, and a record of all that ever was, to check against.
///
/// Sendable as ``Simulation`` is.
final class SimulatedBroker: @unchecked Sendable {
    struct Entry {
        let message: Message
        let key: String?
        let position: StreamPosition
    }

    private struct Stream {
        var epoch: UInt64
        var window: [Entry] = []
        var lastOffset: UInt64 = 0
        var keys: [String: StreamPosition] = [:]

        var newest: StreamPosition { StreamPosition(epoch: self.epoch, offset: self.lastOffset) }
    }

    private struct Presence {
        let member: PresenceMember
        /// In the order in which they entered.
        var incarnations: [Int]
    }

    let simulation: Simulation
    let mistake: ClusterMistake?
    private let historyCountMax: Int
    private var streams: [Topic: Stream] = [:]
    /// Every publication of every epoch; the one with offset 1 first.
    private var record: [Topic: [UInt64: [Entry]]] = [:]
    private var members: [Topic: [String: Presence]] = [:]
    private var nodes: [SimulatedBroadcaster] = []
    private var lastEpoch: UInt64 = 0

    init(_ simulation: Simulation, topics: [Topic], historyCountMax: Int, mistake: ClusterMistake?) {
        self.simulation = simulation
        self.historyCountMax = historyCountMax
        self.mistake = mistake
        for topic in topics { self.beginEpoch(of: topic) }
    }

    func join(_ node: SimulatedBroadcaster) {
        self.nodes.append(node)
    }

    func part(_ node: SimulatedBroadcaster) {
        self.nodes.removeAll { $0 === node }
    }

    // MARK: - Publications

    func newest(of topic: Topic) -> StreamPosition? {
        self.streams[topic]?.newest
    }

    func publish(_ message: Message, to topic: Topic, key: String?) -> IdempotentPublication {
        guard let stream = self.streams[topic] else {
            return IdempotentPublication(position: nil, isNew: true)
        }
        if let key, let known = stream.keys[key] {
            return IdempotentPublication(position: known, isNew: false)
        }
        let position = StreamPosition(epoch: stream.epoch, offset: stream.lastOffset + 1)
        if self.mistake == .forgetsAcknowledged, self.simulation.random.happens(10) {
            return IdempotentPublication(position: position, isNew: true)
        }
        let entry = Entry(message: message, key: key, position: position)
        self.streams[topic]?.lastOffset += 1
        self.streams[topic]?.window.append(entry)
        if let key { self.streams[topic]?.keys[key] = position }
        if stream.window.count >= self.historyCountMax, let gone = self.streams[topic]?.window.removeFirst(),
            let key = gone.key
        {
            self.streams[topic]?.keys[key] = nil
        }
        self.record[topic]?[position.epoch]?.append(entry)
        self.simulation.note("broker: \(topic) \(position.short) = \(message)")
        let publication = Publication(message, to: topic, position: position)
        for node in self.nodes { node.send(.publication(publication), of: topic) }
        return IdempotentPublication(position: position, isNew: true)
    }

    func history(of topic: Topic, after position: StreamPosition, countMax: Int) -> TopicHistory {
        guard let stream = self.streams[topic] else {
            return TopicHistory(publications: [], newest: nil, isComplete: false)
        }
        let firstOffset = stream.lastOffset - UInt64(stream.window.count) + 1
        let isComplete =
            position.epoch == stream.epoch && position.offset <= stream.lastOffset
            && position.offset + 1 >= firstOffset
        let skipped = isComplete ? Int(position.offset + 1 - firstOffset) : 0
        return TopicHistory(
            publications: self.publications(of: topic, stream.window.dropFirst(skipped).prefix(countMax)),
            newest: stream.newest,
            isComplete: isComplete
        )
    }

    func history(of topic: Topic, newest count: Int) -> TopicHistory {
        guard let stream = self.streams[topic] else {
            return TopicHistory(publications: [], newest: nil, isComplete: false)
        }
        return TopicHistory(
            publications: self.publications(of: topic, stream.window.suffix(count)),
            newest: stream.newest,
            isComplete: true
        )
    }

    /// The history is lost: offsets start over.
    func beginEpoch(of topic: Topic) {
        self.lastEpoch += 1
        self.streams[topic] = Stream(epoch: self.lastEpoch)
        self.record[topic, default: [:]][self.lastEpoch] = []
    }

    private func publications(of topic: Topic, _ entries: ArraySlice<Entry>) -> [Publication] {
        entries.map { Publication($0.message, to: topic, position: $0.position) }
    }

    /// What was published at a position, ever.
    func entry(of topic: Topic, at position: StreamPosition) -> Entry? {
        guard let entries = self.record[topic]?[position.epoch], position.offset >= 1,
            position.offset <= UInt64(entries.count)
        else { return nil }
        return entries[Int(position.offset) - 1]
    }

    /// A key that stands in one epoch twice, while its first publication was in the window.
    func repeatedKey(of topic: Topic) -> String? {
        for (_, entries) in (self.record[topic] ?? [:]).sorted(by: { $0.key < $1.key }) {
            var last: [String: Int] = [:]
            for (index, entry) in entries.enumerated() {
                guard let key = entry.key else { continue }
                if let previous = last[key], index - previous < self.historyCountMax { return key }
                last[key] = index
            }
        }
        return nil
    }

    // MARK: - Presence

    func present(in topic: Topic) -> [PresenceMember] {
        (self.members[topic] ?? [:]).values.map(\.member).sorted { $0.id < $1.id }
    }

    func enter(_ member: PresenceMember, _ topic: Topic, _ incarnation: Int) {
        if self.members[topic]?[member.id] != nil {
            if self.members[topic]?[member.id]?.incarnations.contains(incarnation) == false {
                self.members[topic]?[member.id]?.incarnations.append(incarnation)
            }
            return
        }
        self.members[topic, default: [:]][member.id] = Presence(member: member, incarnations: [incarnation])
        self.tell(PresenceEvent(.joined, member, topic))
    }

    func leave(_ id: String, _ topic: Topic, _ incarnation: Int) {
        guard let presence = self.members[topic]?[id], presence.incarnations.contains(incarnation) else {
            return
        }
        guard presence.incarnations.count == 1 else {
            self.members[topic]?[id]?.incarnations.removeAll { $0 == incarnation }
            return
        }
        self.members[topic]?[id] = nil
        if let node = self.nodes.first(where: { $0.holds(id, in: topic) }) {
            self.simulation.violate("\(id) has left \(topic), but is connected to node \(node.node)")
        }
        self.tell(PresenceEvent(.left, presence.member, topic))
    }

    /// An incarnation's lease has ended: its members leave.
    func expire(_ incarnation: Int) {
        guard self.mistake != .keepsTheDead else { return }
        for topic in self.members.keys.sorted(by: { $0.name < $1.name }) {
            for id in (self.members[topic] ?? [:]).keys.sorted() { self.leave(id, topic, incarnation) }
        }
    }

    private func tell(_ event: PresenceEvent) {
        self.simulation.note("broker: \(event.member.id) has \(event.kind) \(event.topic)")
        for node in self.nodes { node.send(.presence(event), of: event.topic) }
    }
}

/// A rule that a simulated broadcaster breaks on purpose, to see that it is noticed.
package enum ClusterMistake: String, Sendable, CaseIterable {
    /// What a node missed while its link was cut is not made good, and nobody is told.
    case losesInSilence
    /// A publication is delivered twice now and then.
    case repeats
    /// Two publications are delivered in the wrong order now and then.
    case swaps
    /// A publication is acknowledged and not kept.
    case forgetsAcknowledged
    /// The members of a dead node stay.
    case keepsTheDead
    /// A node whose link was cut loses its members.
    case evictsTheLiving
}

extension StreamPosition {
    /// As it stands in a trace.
    var short: String { "\(self.epoch)/\(self.offset)" }
}
