internal import Logging
public import Starling

/// Carries publications between nodes by way of Redis 7.
///
/// ```swift
/// let broadcaster = try RedisBroadcaster(url: "redis://127.0.0.1", connector: NativeConnector())
/// let chat = WebSocketEndpoint(broadcaster: broadcaster) { socket in
///     try await socket.subscribe(to: "news")
///     for try await message in socket { try await broadcaster.publish(message, to: "news") }
/// }
/// ```
///
/// Without a history a publication reaches every node that is connected, at most once. With one, what a node missed is
/// read from Redis before it goes on, and what cannot be read is reported as a gap: nothing is lost in silence. The order
/// of a topic is Redis', the same on all nodes, the publisher's own included.
///
/// Two links per server: one for commands, one that is subscribed. Both are made anew with growing pauses when they
/// break. <doc:Redis> says which keys and channels there are.
public final class RedisBroadcaster: HistoryBroadcaster, ImmediateBroadcaster, PresenceBroadcaster,
    InspectableBroadcaster, ConfirmingBroadcaster
{
    private let configuration: RedisConfiguration
    private let shards: [RedisShard]
    private let cluster: RedisCluster?
    private let sinks: RedisSinks
    private let readiness: RedisReadiness
    private let counts: RedisStatus
    private let turn = Turn()

    /// Makes a broadcaster; the server that it is given to runs it.
    ///
    /// - Parameters:
    ///   - configuration: Servers, limits, deadlines.
    ///   - connector: Opens the connections, `NativeConnector()` for example.
    public init(_ configuration: RedisConfiguration, connector: any Connector) {
        precondition(!configuration.servers.isEmpty, "a Redis broadcaster needs a server")
        precondition(
            configuration.servers.count == 1 || !configuration.servers.contains(where: \.isCluster),
            "a Redis Cluster spreads topics by itself: it must be the only server"
        )
        let node = UInt64.random(in: 1 ... .max)
        let parts: [RedisShard.Parts]
        if let server = configuration.servers.first, server.isCluster {
            precondition(
                !configuration.namespace.contains { "{}".contains($0) },
                "a namespace in a Redis Cluster has no braces: they would name another slot"
            )
            let cluster = RedisCluster(server, configuration, connector)
            self.cluster = cluster
            parts = RedisShard.partitions(of: cluster, server.name, configuration, node: node)
        } else {
            self.cluster = nil
            parts = configuration.servers.map { RedisShard.single($0, configuration, connector, node: node) }
        }
        precondition(
            Set(parts.map(\.name)).count == parts.count,
            "servers of a Redis broadcaster have names of their own, which say what topics belong to them: "
                + "two have the same address, or the same master's name at their Sentinels"
        )
        let readiness = RedisReadiness(parts.map(\.name))
        let counts = RedisStatus(
            parts.flatMap { part in
                let names = RedisStatus.names(ofShard: part.name)
                return [names.commands, names.subscriptions]
            }
        )
        let sinks = RedisSinks(counts)
        self.configuration = configuration
        self.sinks = sinks
        self.readiness = readiness
        self.counts = counts
        self.shards = parts.map { RedisShard($0, sinks, readiness, counts) }
    }

    /// Makes a broadcaster for one server.
    ///
    /// - Parameters:
    ///   - url: See ``RedisServer/init(url:)``.
    ///   - connector: Opens the connections, `NativeConnector()` for example.
    ///   - history: How much of a topic is kept; nil for a topic without a history.
    /// - Throws: ``RedisError`` if the URL makes no sense.
    public convenience init(
        url: String,
        connector: any Connector,
        history: @escaping @Sendable (Topic) -> HistoryLimits? = { _ in nil }
    ) throws(RedisError) {
        var configuration = RedisConfiguration(try RedisServer(url: url))
        configuration.history = history
        self.init(configuration, connector: connector)
    }

    /// Takes a sink.
    public func attach(_ sink: BroadcastSink) {
        self.sinks.add(sink)
    }

    /// Keeps the links until the task is cancelled.
    ///
    /// Several servers that share the broadcaster all call it: one call keeps the links, the others stand by.
    public func run() async throws(BroadcastError) {
        guard await self.turn.take() else { return }
        defer { self.turn.give() }
        await withDiscardingTaskGroup { group in
            if let cluster { group.addTask { await cluster.run() } }
            for shard in self.shards {
                group.addTask { await shard.commands.run() }
                group.addTask { await shard.subscriptions.run() }
                group.addTask { await shard.presence.keepLease() }
            }
        }
    }

    /// Whether every server's messages arrive, and every topic with a history is up to date.
    public var isReady: Bool {
        self.readiness.isReady
    }

    /// What was published and has arrived, and how each link is: two for each server, or for each partition of a Cluster.
    public var status: BroadcasterStatus {
        self.counts.status(isReady: self.isReady)
    }

    /// False: topics that nobody here subscribed to are not sent here.
    public var deliversEverything: Bool { false }

    /// Subscribes on the servers that the topics belong to; returns when Redis has confirmed all.
    ///
    /// - Throws: ``/Starling/BroadcastError/Code/unavailable`` after ``RedisConfiguration/waitTimeout``. The topics are subscribed as
    ///   soon as there is a link, all the same.
    public func subscribe(to topics: Set<Topic>) async throws(BroadcastError) {
        try await self.subscribe(to: topics, confirmed: { _ in })
    }

    /// As ``subscribe(to:)``, and says of each topic when Redis has confirmed it.
    package func subscribe(
        to topics: Set<Topic>,
        confirmed: @escaping @Sendable (Topic) -> Void
    ) async throws(BroadcastError) {
        let failures = await withTaskGroup(of: RedisError?.self) { group in
            for (shard, topics) in self.byShard(topics) {
                group.addTask {
                    do throws(RedisError) {
                        try await shard.subscriptions.subscribe(to: topics, confirmed: confirmed)
                        return nil
                    } catch {
                        return error
                    }
                }
            }
            return await group.reduce(into: []) { $0 += $1.map { [$0] } ?? [] }
        }
        if let failure = failures.first { throw failure.broadcastError }
    }

    /// Leaves the topics, after ``RedisConfiguration/unsubscribeDelay``.
    public func unsubscribe(from topics: Set<Topic>) async throws(BroadcastError) {
        for (shard, topics) in self.byShard(topics) { await shard.subscriptions.unsubscribe(from: topics) }
    }

    /// Takes a publication without waiting for Redis; false if too many bytes wait.
    ///
    /// A publication that Redis then refuses is logged.
    public func tryPublish(_ message: Message, to topic: Topic) -> Bool {
        let shard = self.shard(of: topic)
        let logger = self.configuration.logger
        let span = PublishSpan.begin(topic, system: "redis", byteCount: message.byteCount)
        let origin = self.send(span?.context, to: topic, shard)
        let isTaken = shard.commands.trySend(
            "a publication to '\(topic)'",
            byteCount: message.byteCount + 256,
            deadline: .now + self.configuration.waitTimeout,
            make: shard.topics.publish(message, to: topic, key: nil, origin: origin)
        ) { [counts] result in
            guard case .failure(let error) = result else {
                span?.end()
                return counts.countPublication(succeeded: true)
            }
            span?.end(error)
            counts.countPublication(succeeded: false)
            logger.error(
                "a publication was not delivered",
                metadata: [LoggingKeys.topic: "\(topic)", LoggingKeys.error: "\(error)"]
            )
        }
        if !isTaken {
            span?.end(BroadcastError(.queueFull, message: "too many bytes wait for Redis"))
            self.counts.countPublication(succeeded: false)
        }
        return isTaken
    }

    /// Publishes, and returns when Redis has the publication.
    ///
    /// - Throws: ``/Starling/BroadcastError/Code/unavailable`` if there is no link for ``RedisConfiguration/waitTimeout``, or if it
    ///   breaks before Redis answers: then the publication may have been made. ``/Starling/BroadcastError/Code/queueFull``, and
    ///   ``/Starling/BroadcastError/Code/refused`` with Redis' reason.
    @discardableResult
    public func publish(_ message: Message, to topic: Topic) async throws(BroadcastError) -> StreamPosition? {
        try await self.publish(message, topic, key: nil).position
    }

    /// Publishes once, however often it is called with this key; a link that breaks is no error then, as long as a new one
    /// comes in time.
    @discardableResult
    public func publish(
        _ message: Message,
        to topic: Topic,
        idempotencyKey: String
    ) async throws(BroadcastError) -> IdempotentPublication {
        try await self.publish(message, topic, key: idempotencyKey)
    }

    /// The publications after a position, as Redis has them.
    public func history(
        of topic: Topic,
        after position: StreamPosition,
        countMax: Int
    ) async throws(BroadcastError) -> TopicHistory {
        try await self.history(topic, after: position, countMax: countMax)
    }

    /// The last publications, as Redis has them.
    public func history(of topic: Topic, newest count: Int) async throws(BroadcastError) -> TopicHistory {
        try await self.history(topic, after: nil, countMax: count)
    }

    /// Notes that a connection of a member has come.
    ///
    /// If Redis cannot be reached it returns none the less, and the others learn of it when Redis is back.
    public func enter(_ member: PresenceMember, _ topic: Topic) async throws(BroadcastError) {
        try await self.asking { () async throws(RedisError) in
            try await self.shard(of: topic).presence.enter(member, topic)
        }
    }

    /// Notes that a connection of a member has gone; as ``enter(_:_:)``.
    public func leave(_ id: String, from topic: Topic) async throws(BroadcastError) {
        try await self.asking { () async throws(RedisError) in
            try await self.shard(of: topic).presence.leave(id, from: topic)
        }
    }

    /// The members on all nodes, by one question to Redis; no other node is asked.
    public func members(
        of topic: Topic,
        from cursor: PresenceCursor?,
        countMax: Int
    ) async throws(BroadcastError) -> PresencePage {
        let shard = self.shard(of: topic)
        let page = try await self.asking { () async throws(RedisError) in
            try await shard.presence.members(of: topic, from: cursor, countMax: countMax)
        }
        await shard.subscriptions.told(page.members, of: topic)
        return page
    }

    /// How many members are present on all nodes.
    public func memberCount(of topic: Topic) async throws(BroadcastError) -> Int {
        try await self.asking { () async throws(RedisError) in
            try await self.shard(of: topic).presence.memberCount(of: topic)
        }
    }

    // MARK: - How

    private func publish(
        _ message: Message,
        _ topic: Topic,
        key: String?
    ) async throws(BroadcastError) -> IdempotentPublication {
        let shard = self.shard(of: topic)
        let hasHistory = self.configuration.history(topic) != nil
        let span = PublishSpan.begin(topic, system: "redis", byteCount: message.byteCount)
        let origin = self.send(span?.context, to: topic, shard)
        do {
            let reply = try await self.asking { () async throws(RedisError) in
                try await shard.commands.call(
                    "a publication to '\(topic)'",
                    byteCount: message.byteCount + 256,
                    isRepeatable: hasHistory && key != nil,
                    make: shard.topics.publish(message, to: topic, key: key, origin: origin)
                )
            }
            self.counts.countPublication(succeeded: true)
            span?.end()
            return shard.topics.outcome(reply)
        } catch {
            self.counts.countPublication(succeeded: false)
            span?.end(error)
            throw error
        }
    }

    /// Sends a publication's trace before it, if there is one; returns the number that the publication is to have.
    ///
    /// Lost traces cost a span, not a publication.
    private func send(_ trace: TraceContext?, to topic: Topic, _ shard: RedisShard) -> UInt64? {
        guard let trace else { return nil }
        let number = UInt64.random(in: 1 ... .max)
        _ = shard.commands.trySend(
            "a trace",
            byteCount: TraceContext.byteCountMax,
            deadline: .now + self.configuration.waitTimeout,
            make: shard.topics.publish(trace, number: number, to: topic),
            { _ in }
        )
        return number
    }

    private func history(
        _ topic: Topic,
        after position: StreamPosition?,
        countMax: Int
    ) async throws(BroadcastError) -> TopicHistory {
        guard let limits = self.configuration.history(topic) else {
            return TopicHistory(publications: [], newest: nil, isComplete: false)
        }
        let shard = self.shard(of: topic)
        return try await self.asking { () async throws(RedisError) in
            let reply = try await shard.commands.call(
                "the history of '\(topic)'",
                isRepeatable: true,
                make: shard.topics.history(of: topic, limits, after: position, countMax: countMax)
            )
            guard let history = shard.topics.history(reply, of: topic) else {
                throw RedisError(
                    .protocolViolation,
                    "the history of '\(topic)' holds what we did not write: choose another namespace"
                )
            }
            return history
        }
    }

    /// Asks Redis; its errors become those that all broadcasters have.
    private func asking<Answer>(
        _ question: () async throws(RedisError) -> Answer
    ) async throws(BroadcastError) -> Answer {
        do {
            return try await question()
        } catch {
            throw error.broadcastError(in: self.shards[0].topics)
        }
    }

    /// The server that a topic belongs to: the one with the highest weight for it (rendezvous hashing, Thaler and
    /// Ravishankar 1998), so that another server takes only its own share.
    private func shard(of topic: Topic) -> RedisShard {
        guard self.shards.count > 1 else { return self.shards[0] }
        if self.cluster != nil {
            return self.shards[Int(RedisShard.hash("", topic) % UInt64(self.shards.count))]
        }
        var best = self.shards[0]
        var weightMax: UInt64 = 0
        for shard in self.shards {
            let weight = shard.weight(of: topic)
            if weight >= weightMax { (best, weightMax) = (shard, weight) }
        }
        return best
    }

    private func byShard(_ topics: Set<Topic>) -> [(RedisShard, Set<Topic>)] {
        guard self.shards.count > 1 else { return [(self.shards[0], topics)] }
        let groups = Dictionary(grouping: topics) { self.shard(of: $0).name }
        return self.shards.compactMap { shard in groups[shard.name].map { (shard, Set($0)) } }
    }
}

/// One server, or one partition of a Cluster, and what is kept there.
struct RedisShard: Sendable {
    /// What a shard is made of.
    struct Parts {
        let name: String
        let topics: RedisTopics
        let source: any RedisLinkSource
        let budgets: RedisBudgets
    }

    let name: String
    let topics: RedisTopics
    let commands: RedisCommands
    let subscriptions: RedisSubscriptions
    let presence: RedisPresence

    init(_ parts: Parts, _ sinks: RedisSinks, _ readiness: RedisReadiness, _ status: RedisStatus) {
        self.name = parts.name
        self.topics = parts.topics
        self.commands = RedisCommands(
            parts.name,
            parts.topics.configuration,
            parts.source,
            parts.budgets,
            status
        )
        self.subscriptions = RedisSubscriptions(
            parts.name,
            parts.topics,
            self.commands,
            parts.source,
            sinks,
            parts.budgets,
            readiness,
            status
        )
        self.presence = RedisPresence(parts.topics, self.commands)
    }

    /// A server of its own, which Sentinels may point to.
    static func single(
        _ server: RedisServer,
        _ configuration: RedisConfiguration,
        _ connector: any Connector,
        node: UInt64
    ) -> Parts {
        var sentinels: RedisSentinels?
        if case .sentinel(let master) = server.discovery {
            sentinels = RedisSentinels(server, master: master, configuration, connector)
        }
        return Parts(
            name: server.name,
            topics: RedisTopics(configuration, node: node),
            source: RedisSingleSource(
                server: server,
                configuration: configuration,
                connector: connector,
                sentinels: sentinels
            ),
            budgets: RedisBudgets(configuration.queuedByteCountMax)
        )
    }

    /// The partitions of a Cluster; the bounds on what waits are for all of them.
    static func partitions(
        of cluster: RedisCluster,
        _ name: String,
        _ configuration: RedisConfiguration,
        node: UInt64
    ) -> [Parts] {
        let budgets = RedisBudgets(configuration.queuedByteCountMax)
        return (0..<RedisPartitions.count).map { partition in
            Parts(
                name: "\(name), partition \(partition)",
                topics: RedisTopics(configuration, node: node, cluster, partition: partition),
                source: RedisClusterSource(cluster: cluster, partition: partition),
                budgets: budgets
            )
        }
    }

    /// How strongly this shard claims a topic; the same on every node.
    func weight(of topic: Topic) -> UInt64 {
        Self.hash(self.name, topic)
    }

    /// A hash that is the same on every node (FNV-1a, then the finaliser of SplitMix64).
    static func hash(_ name: String, _ topic: Topic) -> UInt64 {
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        for byte in name.utf8 { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3 }
        hash = (hash ^ 0xFF) &* 0x100_0000_01b3
        for byte in topic.name.utf8 { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3 }
        hash = (hash ^ hash >> 30) &* 0xbf58_476d_1ce4_e5b9
        hash = (hash ^ hash >> 27) &* 0x94d0_49bb_1331_11eb
        return hash ^ hash >> 31
    }
}

/// The servers of this process that want what arrives.
final class RedisSinks: Sendable {
    private let sinks = Lock<[BroadcastSink]>([])
    private let status: RedisStatus

    init(_ status: RedisStatus) {
        self.status = status
    }

    func add(_ sink: BroadcastSink) {
        self.sinks.withLock { $0.append(sink) }
    }

    func deliver(_ publication: Publication) {
        self.status.countDelivery()
        for sink in self.sinks.withLock({ $0 }) { sink.deliver(publication) }
    }

    func deliver(_ event: PresenceEvent) {
        for sink in self.sinks.withLock({ $0 }) { sink.deliver(event) }
    }

    func reportGap(in topic: Topic, newest: StreamPosition) {
        for sink in self.sinks.withLock({ $0 }) { sink.reportGap(in: topic, newest: newest) }
    }
}

/// Which servers are heard.
final class RedisReadiness: Sendable {
    private let unready: Lock<Set<String>>

    init(_ servers: [String]) {
        self.unready = Lock(Set(servers))
    }

    var isReady: Bool {
        self.unready.withLock { $0.isEmpty }
    }

    func set(_ isReady: Bool, for server: String) {
        self.unready.withLock { unready in
            if isReady { unready.remove(server) } else { unready.insert(server) }
        }
    }
}
