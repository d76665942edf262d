internal import Logging
public import StarlingCore

/// Who is connected where, on all nodes of a cluster, and a way to reach them from any node.
///
/// ```swift
/// let cluster = ClusterRegistry(broadcaster, node: "chat-1")
/// var configuration = ServerConfiguration()
/// configuration.cluster = cluster
///
/// try await cluster.send(.text("your order is on its way"), toUser: "ada")
/// ```
///
/// Users are those that `authenticate` names. What is known of them lies with the broadcaster, under this node's lease: a
/// node that dies is gone within it, and its users leave once. No question but ``survey(_:about:deadline:)`` waits for other
/// nodes. Orders to other nodes arrive at most once; for messages that must arrive there are topics with a history.
///
/// Topics whose names begin with `$starling:` belong to it. Connections cannot use them; what an application publishes by
/// its broadcaster is not checked, so let no client choose a whole name there.
public final class ClusterRegistry: Sendable {
    /// This node's name, by which other nodes and surveys know it.
    public let node: String

    private struct State {
        /// Connections of users on this node, by their names' bytes, as the broadcaster tells them apart.
        var counts: [UTF8Name: Int] = [:]
        /// Users that the broadcaster knows of.
        var told: Set<UTF8Name> = []
        /// Users whose coming or going it may not know of.
        var changed: Set<UTF8Name> = []
        var inProgress: Set<UTF8Name> = []
        var registry: ConnectionRegistry?
        var surveys: [UInt64: AsyncStream<ClusterReport>.Continuation] = [:]
        var listeners: [UInt64: AsyncThrowingStream<ClusterEvent, any Error>.Continuation] = [:]
        var lastID: UInt64 = 0
    }

    let broadcaster: any PresenceBroadcaster
    private let answer: @Sendable (String) async -> String
    private let state = Lock(State())
    private let orders: AsyncStream<ClusterMessage>
    private let order: AsyncStream<ClusterMessage>.Continuation
    private let changes: AsyncStream<Void>
    private let change: AsyncStream<Void>.Continuation

    /// Orders from other nodes that may wait for this one; a further one is dropped, and an error logged.
    public static let queuedOrdersMax = 10_000
    /// Users whose coming or going is on its way to the broadcaster at a time.
    private static let changesMax = 64
    /// Events that may wait for a listener; one more ends its stream with ``BroadcastError/Code/queueFull``.
    public static let queuedEventsMax = 10_000

    private static let nodesTopic: Topic = "$starling:nodes"
    private static let usersTopic: Topic = "$starling:users"
    private static let everybody: Topic = "$starling:all"

    /// Makes a registry; the server that it is configured for runs it.
    ///
    /// - Parameters:
    ///   - broadcaster: Joins the nodes.
    ///   - node: This node's name, different from all others'; one by chance if it is nil.
    ///   - answer: Answers the surveys of other nodes, on any thread.
    public init(
        _ broadcaster: any PresenceBroadcaster,
        node: String? = nil,
        answer: @escaping @Sendable (String) async -> String = { _ in "" }
    ) {
        self.broadcaster = broadcaster
        self.node = node ?? "node-" + String(UInt64.random(in: 0 ... .max), radix: 16)
        self.answer = answer
        (self.orders, self.order) = AsyncStream.makeStream(
            bufferingPolicy: .bufferingOldest(Self.queuedOrdersMax)
        )
        (self.changes, self.change) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1))
    }

    // MARK: - Who is where

    /// The nodes that are alive.
    ///
    /// - Throws: If the broker cannot be asked.
    public func nodes() async throws(BroadcastError) -> [String] {
        try await self.everyMember(of: Self.nodesTopic)
    }

    /// The nodes that a user has connections to; empty for a user that is not connected.
    ///
    /// - Throws: If the broker cannot be asked.
    public func nodes(ofUser user: String) async throws(BroadcastError) -> [String] {
        try await self.everyMember(of: Self.topic(ofUser: user))
    }

    /// The users that are connected, page by page and in no order.
    ///
    /// - Parameters:
    ///   - cursor: Where the last page ended; nil for the first one.
    ///   - countMax: About how many users a page has.
    /// - Returns: A page, whose members' ids are the users' names.
    /// - Throws: If the broker cannot be asked.
    public func users(
        from cursor: PresenceCursor? = nil,
        countMax: Int = 100
    ) async throws(BroadcastError) -> PresencePage {
        try await self.broadcaster.members(of: Self.usersTopic, from: cursor, countMax: countMax)
    }

    /// How many users are connected, each counted once.
    ///
    /// - Throws: If the broker cannot be asked.
    public func userCount() async throws(BroadcastError) -> Int {
        try await self.broadcaster.memberCount(of: Self.usersTopic)
    }

    /// Users and nodes that come and go, from now on.
    ///
    /// A user comes with the first connection on any node and goes with the last. The stream throws
    /// ``BroadcastError/Code/queueFull`` if it is not read for too long; then ask for all anew.
    ///
    /// - Throws: If the broker cannot be subscribed to.
    public func events() async throws(BroadcastError) -> AsyncThrowingStream<ClusterEvent, any Error> {
        let (events, continuation) = AsyncThrowingStream<ClusterEvent, any Error>.makeStream(
            bufferingPolicy: .bufferingOldest(Self.queuedEventsMax)
        )
        let id = self.state.withLock { state in
            state.lastID += 1
            state.listeners[state.lastID] = continuation
            return state.lastID
        }
        continuation.onTermination = { _ in self.state.withLock { $0.listeners[id] = nil } }
        try await self.broadcaster.subscribe(to: [Self.nodesTopic, Self.usersTopic])
        return events
    }

    // MARK: - Reaching users

    /// Sends a message to every connection of a user.
    ///
    /// - Returns: On how many nodes the user is connected; 0 if on none.
    /// - Throws: If the broker cannot be reached.
    @discardableResult
    public func send(_ message: Message, toUser user: String) async throws(BroadcastError) -> Int {
        try await self.tell(user, .send(user, message))
    }

    /// Closes every connection of a user; returns on how many nodes.
    ///
    /// - Throws: If the broker cannot be reached.
    @discardableResult
    public func close(
        user: String,
        _ code: CloseCode = .normalClosure,
        reason: String = ""
    ) async throws(BroadcastError) -> Int {
        try await self.tell(user, .close(user, code, reason))
    }

    /// Subscribes every connection of a user to a topic; returns on how many nodes.
    ///
    /// Connections that come later are not subscribed.
    ///
    /// - Throws: If the broker cannot be reached.
    @discardableResult
    public func subscribe(user: String, to topic: Topic) async throws(BroadcastError) -> Int {
        try await self.tell(user, .subscribe(user, topic))
    }

    /// Unsubscribes every connection of a user from a topic; returns on how many nodes.
    ///
    /// - Throws: If the broker cannot be reached.
    @discardableResult
    public func unsubscribe(user: String, from topic: Topic) async throws(BroadcastError) -> Int {
        try await self.tell(user, .unsubscribe(user, topic))
    }

    /// Asks all nodes something, and returns what has arrived by the deadline.
    ///
    /// - Parameters:
    ///   - question: Given to each node's `answer`.
    ///   - topic: A topic whose subscribers are counted, or nil.
    ///   - deadline: How long answers are waited for.
    /// - Returns: The answers, and the names of the nodes that are alive and did not answer in time.
    /// - Throws: If the broker cannot be reached.
    public func survey(
        _ question: String = "",
        about topic: Topic? = nil,
        deadline: Duration = .seconds(2)
    ) async throws(BroadcastError) -> ClusterSurvey {
        let (answers, continuation) = AsyncStream<ClusterReport>.makeStream()
        let id = UInt64.random(in: 1 ... .max)
        self.state.withLock { $0.surveys[id] = continuation }
        defer { self.state.withLock { $0.surveys[id] = nil } }
        let end = ContinuousClock.now + deadline
        let timeout = Task {
            try await Task.sleep(until: end)
            continuation.finish()
        }
        defer { timeout.cancel() }
        let nodes = Set(try await self.nodes())
        let ask = ClusterMessage.ask(id, asker: self.node, question, topic)
        try await self.broadcaster.publish(.binary(ask.encoded()), to: Self.everybody)
        var reports: [ClusterReport] = []
        var missing = nodes
        for await report in answers {
            guard !reports.contains(where: { $0.node == report.node }) else { continue }
            reports.append(report)
            missing.remove(report.node)
            if missing.isEmpty { break }
        }
        return ClusterSurvey(reports: reports, missing: missing.sorted())
    }

    private func tell(_ user: String, _ message: ClusterMessage) async throws(BroadcastError) -> Int {
        let nodes = try await self.nodes(ofUser: user)
        for node in nodes {
            try await self.broadcaster.publish(.binary(message.encoded()), to: Self.topic(ofNode: node))
        }
        return nodes.count
    }

    private func everyMember(of topic: Topic) async throws(BroadcastError) -> [String] {
        var members: Set<UTF8Name> = []
        var cursor: PresenceCursor?
        repeat {
            let page = try await self.broadcaster.members(of: topic, from: cursor, countMax: 500)
            members.formUnion(page.members.map { UTF8Name($0.id) })
            cursor = page.next
        } while cursor != nil
        return members.map(\.string).sorted()
    }

    private static func topic(ofUser user: String) -> Topic { Topic("$starling:user:\(user)") }
    private static func topic(ofNode node: String) -> Topic { Topic("$starling:node:\(node)") }

    // MARK: - From the server

    /// Connects the registry to its server; once, before anything else.
    func attach(to registry: ConnectionRegistry, _ logger: Logger) {
        self.state.withLock { $0.registry = registry }
        let own = Self.topic(ofNode: self.node)
        self.broadcaster.attach(
            BroadcastSink(
                delivered: { publication in
                    guard publication.topic == own || publication.topic == Self.everybody else { return }
                    guard let message = ClusterMessage(publication.message.byteArray) else {
                        return logger.error(
                            "somebody else publishes on our topics",
                            metadata: [LoggingKeys.topic: "\(publication.topic)"]
                        )
                    }
                    if case .dropped = self.order.yield(message) {
                        logger.error("too many orders of other nodes wait: one was dropped")
                    }
                },
                gap: { _, _ in },
                presence: { self.noted($0) }
            )
        )
    }

    /// A connection of a user has been accepted; any thread.
    func came(_ user: String) {
        self.note(UTF8Name(user), by: 1)
    }

    /// It has ended; any thread.
    func gone(_ user: String) {
        self.note(UTF8Name(user), by: -1)
    }

    private func note(_ user: UTF8Name, by difference: Int) {
        let isChange = self.state.withLock { state in
            let count = (state.counts[user] ?? 0) + difference
            state.counts[user] = count == 0 ? nil : count
            let isChange = (count > 0) != state.told.contains(user)
            if isChange { state.changed.insert(user) }
            return isChange
        }
        if isChange { self.change.yield() }
    }

    private func noted(_ event: PresenceEvent) {
        let isJoin = event.kind == .joined
        let name = event.member.id
        let noted: ClusterEvent
        switch event.topic {
        case Self.usersTopic: noted = isJoin ? .userJoined(name) : .userLeft(name)
        case Self.nodesTopic: noted = isJoin ? .nodeJoined(name) : .nodeLeft(name)
        default: return
        }
        for listener in self.state.withLock({ Array($0.listeners.values) }) {
            guard case .dropped = listener.yield(noted) else { continue }
            listener.finish(
                throwing: BroadcastError(
                    .queueFull,
                    message: "more than \(Self.queuedEventsMax) events of a cluster were not read"
                )
            )
        }
    }

    // MARK: - At work

    /// Keeps the broadcaster informed, and carries out orders, until the task is cancelled.
    func run(_ logger: Logger) async {
        await self.begin(logger)
        await withDiscardingTaskGroup { group in
            group.addTask { for await order in self.orders { await self.carryOut(order) } }
            group.addTask {
                await withDiscardingTaskGroup { group in
                    for await _ in self.changes {
                        while let user = self.takeChange() {
                            group.addTask { await self.report(user, logger) }
                        }
                    }
                }
            }
        }
    }

    private func begin(_ logger: Logger) async {
        while !Task.isCancelled {
            do throws(BroadcastError) {
                try await self.broadcaster.subscribe(to: [Self.topic(ofNode: self.node), Self.everybody])
                try await self.broadcaster.enter(PresenceMember(id: self.node), Self.nodesTopic)
                return
            } catch {
                logger.warning("this node cannot join its cluster", metadata: [LoggingKeys.error: "\(error)"])
                try? await Task.sleep(for: .seconds(1))
            }
        }
    }

    /// Takes leave before a planned end, for two seconds at most; whoever is left then leaves with the lease.
    ///
    /// If the task is cancelled there is no time for it.
    func leave() async {
        let end = ContinuousClock.now + .seconds(2)
        while self.state.withLock({ !$0.changed.isEmpty || !$0.inProgress.isEmpty }), .now < end {
            guard (try? await Task.sleep(for: .milliseconds(10))) != nil else { return }
        }
        if !Task.isCancelled, .now < end {
            try? await self.broadcaster.leave(self.node, from: Self.nodesTopic)
        }
    }

    /// A user whose coming or going is to be reported; nil if there is none, or no more may be on the way.
    private func takeChange() -> UTF8Name? {
        self.state.withLock { state in
            guard state.inProgress.count < Self.changesMax,
                let user = state.changed.first(where: { !state.inProgress.contains($0) })
            else { return nil }
            state.changed.remove(user)
            state.inProgress.insert(user)
            return user
        }
    }

    private func report(_ user: UTF8Name, _ logger: Logger) async {
        let (isHere, isTold) = self.state.withLock { state in
            defer {
                if state.counts[user] == nil { state.told.remove(user) } else { state.told.insert(user) }
            }
            return (state.counts[user] != nil, state.told.contains(user))
        }
        // When all ends at once nobody carries the word: the lease does.
        guard !Task.isCancelled else { return }
        let (name, place) = (user.string, Self.topic(ofUser: user.string))
        if isHere, !isTold {
            await self.tell(logger) { () async throws(BroadcastError) in
                try await self.broadcaster.enter(PresenceMember(id: self.node), place)
            }
            await self.tell(logger) { () async throws(BroadcastError) in
                try await self.broadcaster.enter(PresenceMember(id: name), Self.usersTopic)
            }
        } else if !isHere, isTold {
            await self.tell(logger) { () async throws(BroadcastError) in
                try await self.broadcaster.leave(name, from: Self.usersTopic)
            }
            await self.tell(logger) { () async throws(BroadcastError) in
                try await self.broadcaster.leave(self.node, from: place)
            }
        }
        let isChanged = self.state.withLock { state in
            state.inProgress.remove(user)
            if (state.counts[user] != nil) != state.told.contains(user) { state.changed.insert(user) }
            return !state.changed.isEmpty
        }
        if isChanged { self.change.yield() }
    }

    /// Tells the broadcaster of a change, whatever has become of the one before: each coming is to be matched by a going.
    private func tell(_ logger: Logger, _ change: () async throws(BroadcastError) -> Void) async {
        do throws(BroadcastError) {
            try await change()
        } catch {
            logger.error("a cluster does not know of a user", metadata: [LoggingKeys.error: "\(error)"])
        }
    }

    private func carryOut(_ order: ClusterMessage) async {
        guard let registry = self.state.withLock(\.registry) else { return }
        switch order {
        case .send(let user, let message): await registry.send(message, toUser: user)
        case .close(let user, let code, let reason): await registry.close(user: user, code, reason: reason)
        case .subscribe(let user, let topic): await registry.subscribe(user: user, to: topic)
        case .unsubscribe(let user, let topic): await registry.unsubscribe(user: user, from: topic)
        case .ask(let id, let asker, let question, let topic):
            var subscriberCount = 0
            if let topic { subscriberCount = await registry.count(subscribedTo: topic) }
            let report = ClusterReport(
                node: self.node,
                connectionCount: registry.count,
                subscriberCount: subscriberCount,
                answer: await self.answer(question)
            )
            let message = ClusterMessage.answer(id, report)
            // An asker that cannot be reached names this node as missing.
            _ = try? await self.broadcaster.publish(
                .binary(message.encoded()),
                to: Self.topic(ofNode: asker)
            )
        case .answer(let id, let report):
            self.state.withLock { $0.surveys[id] }?.yield(report)
        }
    }
}

/// Somebody has come to a cluster, or gone.
public enum ClusterEvent: Hashable, Sendable {
    /// A user's first connection, on any node.
    case userJoined(String)
    /// A user's last connection has ended, or its node has died.
    case userLeft(String)
    /// A node has come.
    case nodeJoined(String)
    /// A node has gone or died.
    case nodeLeft(String)
}

/// What the nodes of a cluster answered.
public struct ClusterSurvey: Sendable {
    /// The answers, in the order of arrival.
    public let reports: [ClusterReport]
    /// The nodes that are alive, as far as is known, and did not answer in time.
    public let missing: [String]
}

/// What one node says of itself.
public struct ClusterReport: Hashable, Sendable {
    /// Its name.
    public let node: String
    /// Its open WebSockets.
    public let connectionCount: Int
    /// Those that are subscribed to the topic that was asked about; 0 if none was.
    public let subscriberCount: Int
    /// What the application answered.
    public let answer: String
}
