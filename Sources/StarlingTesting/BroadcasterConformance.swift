public import Starling

/// What every broadcaster must do, as checks that a test runs against one's own.
///
/// ```swift
/// let names = try await BroadcasterConformance { try FileBroadcaster(directory: directory) }.run()
/// ```
///
/// Each node is a broadcaster of its own with a sink that collects what arrives; all nodes must reach each other. The
/// checks use topics with random names, so that a broker may be shared. Histories are checked if the broadcaster is a
/// ``/Starling/HistoryBroadcaster``; then it must keep at least 100 publications of topics whose names begin with
/// `history:`, and none of others.
public struct BroadcasterConformance: Sendable {
    private let makeNode: @Sendable () async throws -> any Broadcaster
    private let timeout: Duration

    /// Describes the broadcaster to check.
    ///
    /// - Parameters:
    ///   - timeout: How long a publication may take to arrive, and an operation to be done.
    ///   - makeNode: Makes a broadcaster that is connected to all others it has made.
    public init(
        timeout: Duration = .seconds(10),
        makeNode: @escaping @Sendable () async throws -> any Broadcaster
    ) {
        self.timeout = timeout
        self.makeNode = makeNode
    }

    /// Runs all checks, one after the other.
    ///
    /// - Returns: The names of the checks that were run.
    /// - Throws: ``ConformanceFailure`` at the first that fails, or the broadcaster's own error.
    @discardableResult
    public func run() async throws -> [String] {
        var checks: [(String, @Sendable (ConformanceNodes) async throws -> Void)] = [
            ("a publication reaches every subscribed node once, the publisher's included", self.reachesAll),
            ("kind and bytes arrive as they were published", self.keepsBytes),
            ("all nodes see a topic in the same order", self.keepsOrder),
            ("a topic that was left is not delivered, and joined again it is", self.leavesAndJoins),
            ("many topics are subscribed at once", self.manyTopics),
        ]
        if try await self.makeNode() is any HistoryBroadcaster {
            checks += [
                ("positions grow by one", self.positionsGrow),
                ("what came after a position is read in order, in pages", self.readsHistory),
                ("a position of another epoch or of the future is not complete", self.refusesStrangers),
                ("a key publishes once", self.publishesOnce),
                ("the history is bounded and says so", self.boundsHistory),
                ("topics without a history have no positions", self.hasPlainTopics),
            ]
        }
        if try await self.makeNode() is any PresenceBroadcaster {
            checks += [
                ("a member is present while one of its connections is, on any node", self.countsConnections),
                ("members are listed page by page", self.listsMembers),
            ]
        }
        for (name, check) in checks {
            do {
                try await self.withNodes(check)
            } catch let failure as ConformanceFailure {
                throw ConformanceFailure("\(name): \(failure.description)")
            }
        }
        return checks.map(\.0)
    }

    // MARK: - Delivery

    @Sendable private func reachesAll(_ nodes: ConformanceNodes) async throws {
        let topic = nodes.topic()
        for node in nodes.all { try await node.broadcaster.subscribe(to: [topic]) }
        let elsewhere = nodes.topic()
        try await nodes[0].broadcaster.publish("not for anybody", to: elsewhere)
        try await nodes[0].broadcaster.publish("one", to: topic)
        try await nodes[1].broadcaster.publish("two", to: topic)
        for node in nodes.all {
            let texts = try await node.wait(for: 2, of: topic).map { $0.message.text ?? "" }
            try expect(texts.sorted() == ["one", "two"], "a node has got \(texts)")
        }
        try expect(
            nodes.all.allSatisfy { $0.count(of: topic) == 2 },
            "a publication has arrived more than once"
        )
    }

    @Sendable private func keepsBytes(_ nodes: ConformanceNodes) async throws {
        let topic = nodes.topic()
        try await nodes[1].broadcaster.subscribe(to: [topic])
        let messages: [Message] = [
            .text(""), .text("🐦 \r\n\0 text"), .binary([]), .binary((0...255).map { UInt8($0) }),
            .binary([UInt8](repeating: 13, count: 300_000)),
        ]
        for message in messages { try await nodes[0].broadcaster.publish(message, to: topic) }
        let received = try await nodes[1].wait(for: messages.count, of: topic).map(\.message)
        try expect(received == messages, "\(received.count) messages have arrived, but not these")
    }

    @Sendable private func keepsOrder(_ nodes: ConformanceNodes) async throws {
        let topic = nodes.topic()
        for node in nodes.all { try await node.broadcaster.subscribe(to: [topic]) }
        try await withThrowingTaskGroup(of: Void.self) { group in
            for (name, node) in nodes.all.enumerated() {
                group.addTask {
                    for number in 0..<100 {
                        try await node.broadcaster.publish(.text("\(name) \(number)"), to: topic)
                    }
                }
            }
            try await group.waitForAll()
        }
        let orders = try await nodes.collect(100 * nodes.all.count, of: topic)
        for order in orders { try expect(order == orders[0], "two nodes have seen different orders") }
        for name in nodes.all.indices {
            let own = orders[0].filter { $0.hasPrefix("\(name) ") }
            try expect(own == (0..<100).map { "\(name) \($0)" }, "a publisher's order was not kept")
        }
    }

    @Sendable private func leavesAndJoins(_ nodes: ConformanceNodes) async throws {
        let topic = nodes.topic()
        let marker = nodes.topic()
        try await nodes[0].broadcaster.subscribe(to: [topic, marker])
        try await nodes[0].broadcaster.unsubscribe(from: [topic])
        try await nodes[0].broadcaster.subscribe(to: [topic])
        try await nodes[1].broadcaster.publish("after joining again", to: topic)
        _ = try await nodes[0].wait(for: 1, of: topic)
    }

    @Sendable private func manyTopics(_ nodes: ConformanceNodes) async throws {
        let topics = Set((0..<500).map { _ in nodes.topic() })
        try await nodes[0].broadcaster.subscribe(to: topics)
        for topic in topics { try await nodes[1].broadcaster.publish("x", to: topic) }
        for topic in topics { _ = try await nodes[0].wait(for: 1, of: topic) }
    }

    // MARK: - History

    @Sendable private func positionsGrow(_ nodes: ConformanceNodes) async throws {
        let topic = nodes.topic("history")
        try await nodes[1].broadcaster.subscribe(to: [topic])
        var positions: [StreamPosition] = []
        for number in 0..<10 {
            let position = try await nodes[number % 2].broadcaster.publish(.text("\(number)"), to: topic)
            try positions.append(unwrap(position, "a topic with a history gave no position"))
        }
        try expect(positions.map(\.offset) == (1...10).map { UInt64($0) }, "offsets are \(positions)")
        try expect(Set(positions.map(\.epoch)).count == 1, "the epoch has changed")
        let received = try await nodes[1].wait(for: 10, of: topic)
        try expect(received.map(\.position) == positions, "delivered with other positions")
    }

    @Sendable private func readsHistory(_ nodes: ConformanceNodes) async throws {
        let topic = nodes.topic("history")
        for number in 1...50 { try await nodes[0].broadcaster.publish(.text("\(number)"), to: topic) }
        let reader = try nodes.history(1)
        let newest = try await reader.history(of: topic, newest: 5)
        try expect(
            newest.publications.map(\.message.text) == (46...50).map { "\($0)" },
            "not the newest five"
        )
        let end = try unwrap(newest.newest, "no newest position")
        try expect(end.offset == 50, "the newest offset is \(end.offset)")
        let nothing = try await reader.history(of: topic, newest: 0)
        try expect(nothing.publications.isEmpty && nothing.newest == end, "0 publications are not none")

        var cursor = StreamPosition(epoch: end.epoch, offset: 7)
        var texts: [String] = []
        while cursor != end {
            let page = try await reader.history(of: topic, after: cursor, countMax: 20)
            try expect(page.isComplete && page.newest == end, "an incomplete page")
            cursor = try unwrap(page.publications.last?.position, "an empty page before the end")
            texts += page.publications.compactMap(\.message.text)
        }
        try expect(texts == (8...50).map { "\($0)" }, "read \(texts)")
        let last = try await reader.history(of: topic, after: end, countMax: 20)
        try expect(last.isComplete && last.publications.isEmpty, "something behind the end")
    }

    @Sendable private func refusesStrangers(_ nodes: ConformanceNodes) async throws {
        let topic = nodes.topic("history")
        let position = try unwrap(
            try await nodes[0].broadcaster.publish("x", to: topic),
            "no position"
        )
        let reader = try nodes.history(1)
        for stranger in [
            StreamPosition(epoch: position.epoch &+ 1, offset: 1),
            StreamPosition(epoch: position.epoch, offset: 2),
        ] {
            let answer = try await reader.history(of: topic, after: stranger, countMax: 10)
            try expect(!answer.isComplete, "a position that never was is complete")
            try expect(
                answer.newest == position,
                "another newest position than the last one's"
            )
        }
    }

    @Sendable private func publishesOnce(_ nodes: ConformanceNodes) async throws {
        let topic = nodes.topic("history")
        try await nodes[1].broadcaster.subscribe(to: [topic])
        let (first, second) = (try nodes.history(0), try nodes.history(1))
        let position = try await first.publish("once", to: topic, idempotencyKey: "key 1")
        let again = try await second.publish("once", to: topic, idempotencyKey: "key 1")
        try expect(position.isNew && !again.isNew, "it does not say which call has published")
        try expect(position.position == again.position, "the second time it has another position")
        try await first.publish("other", to: topic, idempotencyKey: "key 2")
        let texts = try await nodes[1].wait(for: 2, of: topic).map { $0.message.text }
        try expect(texts == ["once", "other"], "delivered \(texts)")
    }

    @Sendable private func boundsHistory(_ nodes: ConformanceNodes) async throws {
        let topic = nodes.topic("history")
        let countMax = 20_000
        let writer = nodes[0].broadcaster
        let first = try unwrap(try await writer.publish("first", to: topic), "no position")
        let reader = try nodes.history(1)
        for _ in 0..<(countMax / 500) {
            try await withThrowingTaskGroup(of: Void.self) { group in
                for _ in 0..<500 { group.addTask { try await writer.publish("x", to: topic) } }
                try await group.waitForAll()
            }
            let answer = try await reader.history(of: topic, after: first, countMax: 1)
            if !answer.isComplete { return }
        }
        throw ConformanceFailure("after \(countMax) publications the first one is still there")
    }

    @Sendable private func hasPlainTopics(_ nodes: ConformanceNodes) async throws {
        let topic = nodes.topic()
        let position = try await nodes[0].broadcaster.publish("x", to: topic)
        try expect(position == nil, "a position without a history")
        let answer = try await nodes.history(0).history(of: topic, newest: 10)
        try expect(answer.newest == nil && answer.publications.isEmpty, "a history where there is none")
    }

    // MARK: - Presence

    @Sendable private func countsConnections(_ nodes: ConformanceNodes) async throws {
        let topic = nodes.topic()
        for node in nodes.all { try await node.broadcaster.subscribe(to: [topic]) }
        let (first, second) = (try nodes.presence(0), try nodes.presence(1))
        let anna = PresenceMember(id: "anna", info: "Anna 🐦")
        let bert = PresenceMember(id: "bert", info: "")
        try await first.enter(anna, topic)
        try await first.enter(anna, topic)
        try await second.enter(anna, topic)
        try await second.enter(bert, topic)
        try expect(try await first.memberCount(of: topic) == 2, "not two members")
        try await first.leave("anna", from: topic)
        try await second.leave("anna", from: topic)
        try await second.leave("nobody", from: topic)
        try expect(try await second.memberCount(of: topic) == 2, "somebody has left too early")
        try await first.leave("anna", from: topic)
        try expect(try await second.memberCount(of: topic) == 1, "not one member")
        try await second.leave("bert", from: topic)
        let expected = [
            PresenceEvent(.joined, anna, topic), PresenceEvent(.joined, bert, topic),
            PresenceEvent(.left, anna, topic), PresenceEvent(.left, bert, topic),
        ]
        for node in nodes.all {
            let events = try await node.waitForEvents(4, of: topic)
            try expect(events == expected, "the events were \(events)")
        }
    }

    @Sendable private func listsMembers(_ nodes: ConformanceNodes) async throws {
        let topic = nodes.topic()
        let everybody = (0..<500).map { PresenceMember(id: "member \($0)", info: "number \($0)") }
        for (index, member) in everybody.enumerated() {
            try await nodes.presence(index % 2).enter(member, topic)
        }
        var listed: [PresenceMember] = []
        var cursor: PresenceCursor?
        repeat {
            let page = try await nodes.presence(2).members(of: topic, from: cursor, countMax: 50)
            listed += page.members
            cursor = page.next
        } while cursor != nil
        try expect(Set(listed) == Set(everybody), "\(Set(listed).count) of 500 are listed")
        for (index, member) in everybody.enumerated() {
            try await nodes.presence(index % 2).leave(member.id, from: topic)
        }
        try expect(try await nodes.presence(2).memberCount(of: topic) == 0, "somebody has stayed")
    }

    // MARK: - Nodes

    private func withNodes(_ check: @Sendable (ConformanceNodes) async throws -> Void) async throws {
        var nodes: [ConformanceNode] = []
        for _ in 0..<3 { nodes.append(ConformanceNode(try await self.makeNode(), self.timeout)) }
        let all = ConformanceNodes(all: nodes)
        try await withThrowingTaskGroup(of: Void.self) { group in
            for node in nodes {
                node.attach()
                group.addTask { try await node.broadcaster.run() }
            }
            defer { group.cancelAll() }
            try await check(all)
        }
    }
}

/// The nodes of one check.
struct ConformanceNodes: Sendable {
    let all: [ConformanceNode]

    subscript(index: Int) -> ConformanceNode {
        self.all[index]
    }

    /// A topic that nobody else uses.
    func topic(_ prefix: String = "plain") -> Topic {
        "\(prefix):\(UInt64.random(in: 0 ... .max))"
    }

    func history(_ index: Int) throws -> any HistoryBroadcaster {
        try unwrap(
            self[index].broadcaster as? any HistoryBroadcaster,
            "one node has a history, another has not"
        )
    }

    func presence(_ index: Int) throws -> any PresenceBroadcaster {
        try unwrap(
            self[index].broadcaster as? any PresenceBroadcaster,
            "one node has presence, another has not"
        )
    }

    /// The texts that each node has got.
    func collect(_ count: Int, of topic: Topic) async throws -> [[String]] {
        var texts: [[String]] = []
        for node in self.all {
            texts.append(try await node.wait(for: count, of: topic).compactMap(\.message.text))
        }
        return texts
    }
}

/// A broadcaster and what has arrived from it.
final class ConformanceNode: Sendable {
    private struct State {
        var arrived: [Topic: [Publication]] = [:]
        var gaps: [Topic] = []
        var events: [Topic: [PresenceEvent]] = [:]
    }

    let broadcaster: any Broadcaster
    private let timeout: Duration
    private let state = Lock(State())

    init(_ broadcaster: any Broadcaster, _ timeout: Duration) {
        self.broadcaster = broadcaster
        self.timeout = timeout
    }

    func attach() {
        self.broadcaster.attach(
            BroadcastSink(
                delivered: { publication in
                    self.state.withLock { $0.arrived[publication.topic, default: []].append(publication) }
                },
                gap: { topic, _ in self.state.withLock { $0.gaps.append(topic) } },
                presence: { event in
                    self.state.withLock { $0.events[event.topic, default: []].append(event) }
                }
            )
        )
    }

    func count(of topic: Topic) -> Int {
        self.state.withLock { $0.arrived[topic]?.count ?? 0 }
    }

    /// Waits until so many presence events have arrived.
    func waitForEvents(_ count: Int, of topic: Topic) async throws -> [PresenceEvent] {
        let end = ContinuousClock.now + self.timeout
        while true {
            let events = self.state.withLock { $0.events[topic] ?? [] }
            if events.count >= count { return events }
            if ContinuousClock.now > end {
                throw ConformanceFailure("\(events.count) of \(count) presence events arrived")
            }
            try await Task.sleep(for: .milliseconds(2))
        }
    }

    /// Waits until so many publications have arrived; a bounded look every few milliseconds.
    func wait(for count: Int, of topic: Topic) async throws -> [Publication] {
        let end = ContinuousClock.now + self.timeout
        while true {
            let (arrived, gaps) = self.state.withLock { ($0.arrived[topic] ?? [], $0.gaps) }
            if gaps.contains(topic) { throw ConformanceFailure("a gap was reported where nothing was lost") }
            if arrived.count >= count { return arrived }
            if ContinuousClock.now > end {
                throw ConformanceFailure("\(arrived.count) of \(count) publications arrived")
            }
            try await Task.sleep(for: .milliseconds(2))
        }
    }
}
