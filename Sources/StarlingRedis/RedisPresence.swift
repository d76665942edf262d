internal import Logging
internal import Starling

/// Who of this node is present in which topic, as one server is told.
///
/// All that a node has entered belongs to its *incarnation*, which it keeps alive by one command per third of a lease.
/// When the lease runs out, any other node takes the incarnation's entries away, each once, in one script. A node that is
/// not sure what Redis knows of it, after a broken link for example, enters everything anew as another incarnation and then
/// gives the old one up: whoever stayed is in both for a moment, and nobody is told of anything.
actor RedisPresence {
    private let topics: RedisTopics
    private let commands: RedisCommands
    private var counts = PresenceCounts()
    private var incarnation = RedisPresence.makeIncarnation()
    /// Incarnations of this node that are to be given up.
    private var abandoned: [String] = []
    private var isUncertain = false
    /// Whether Redis has heard of this incarnation.
    private var hasLease = false

    /// Entries that one call takes away from a dead incarnation.
    private static let reapCountMax = 100
    /// Entries that are on their way to Redis together when all are entered anew.
    private static let batchCountMax = 200

    init(_ topics: RedisTopics, _ commands: RedisCommands) {
        self.topics = topics
        self.commands = commands
    }

    private static func makeIncarnation() -> String {
        String(UInt64.random(in: 1 ... .max), radix: 16)
    }

    func enter(_ member: PresenceMember, _ topic: Topic) async throws(RedisError) {
        guard self.counts.enter(member, topic) else { return }
        try await self.tell { () throws(RedisError) in try await self.sendEntry(of: member, topic) }
    }

    func leave(_ id: String, from topic: Topic) async throws(RedisError) {
        guard self.counts.leave(id, from: topic) != nil else { return }
        try await self.tell { () throws(RedisError) in
            try await self.send(self.topics.leave(id, topic, self.incarnation))
        }
    }

    /// Tells Redis of a change; what may have been lost on the way is put right by ``keepLease()``.
    private func tell(_ change: () async throws(RedisError) -> Void) async throws(RedisError) {
        do throws(RedisError) {
            try await change()
        } catch {
            self.isUncertain = true
            switch error.broadcastError.code {
            case .unavailable: return
            default: throw error
            }
        }
    }

    private func sendEntry(of member: PresenceMember, _ topic: Topic) async throws(RedisError) {
        if !self.hasLease { try await self.beginLease() }
        // It may have left meanwhile; between this look and the sending nothing else runs here.
        guard self.counts.topics[topic]?[UTF8Name(member.id)] != nil else { return }
        try await self.send(self.topics.enter(member, topic, self.incarnation))
    }

    private func send(_ make: @escaping @Sendable (RedisLink) -> RedisCommand) async throws(RedisError) {
        // Not repeated: a later change of the same member could overtake it.
        _ = try await self.commands.callOnce("presence", make: make)
    }

    /// Keeps the lease, takes dead incarnations away, and puts right what is uncertain, until the task is cancelled.
    func keepLease() async {
        let interval = self.topics.configuration.presenceLease / 3
        while !Task.isCancelled {
            if self.isUncertain { await self.enterAnew() }
            let mayHaveMore = await self.refresh()
            if !mayHaveMore { try? await Task.sleep(for: self.isUncertain ? .milliseconds(200) : interval) }
        }
    }

    /// Returns whether a dead incarnation may have more entries.
    private func refresh() async -> Bool {
        let (incarnation, abandoned) = (self.incarnation, self.isUncertain ? [] : self.abandoned)
        // Nobody knows of a first lease.
        let mustBeKnown = self.hasLease
        do throws(RedisError) {
            let reply = try await self.commands.call(
                "a presence lease",
                isRepeatable: true,
                make: self.topics.refresh(incarnation, giveUp: abandoned, countMax: Self.reapCountMax)
            )
            let isKnown = reply.elements?.first?.number == 1
            if incarnation == self.incarnation {
                self.hasLease = true
                if mustBeKnown, !isKnown, !self.counts.topics.isEmpty { self.isUncertain = true }
            }
            self.abandoned.removeAll { abandoned.contains($0) }
            return reply.elements?.last?.number == Self.reapCountMax
        } catch {
            guard !Task.isCancelled else { return false }
            self.topics.configuration.logger.warning(
                "presence cannot be kept up",
                metadata: [LoggingKeys.error: "\(error)"]
            )
            return false
        }
    }

    private func enterAnew() async {
        self.abandoned.append(self.incarnation)
        self.incarnation = Self.makeIncarnation()
        self.hasLease = false
        self.isUncertain = false
        guard (try? await self.beginLease()) != nil else {
            self.isUncertain = true
            return
        }
        let everybody = self.counts.topics.flatMap { topic, members in
            members.values.map { (topic, $0.member) }
        }
        var rest = everybody[...]
        while !rest.isEmpty, !self.isUncertain {
            let batch = rest.prefix(Self.batchCountMax)
            rest = rest.dropFirst(Self.batchCountMax)
            await withTaskGroup(of: Void.self) { group in
                for (topic, member) in batch {
                    group.addTask { await self.enterAgain(member, topic) }
                }
            }
        }
    }

    /// The lease comes before what is entered: without one the entries would belong to nobody, and stay for ever.
    private func beginLease() async throws(RedisError) {
        let incarnation = self.incarnation
        _ = try await self.commands.call(
            "a presence lease",
            isRepeatable: true,
            make: self.topics.refresh(incarnation, giveUp: [], countMax: 0)
        )
        if incarnation == self.incarnation { self.hasLease = true }
    }

    private func enterAgain(_ member: PresenceMember, _ topic: Topic) async {
        do throws(RedisError) {
            try await self.tell { () throws(RedisError) in try await self.sendEntry(of: member, topic) }
        } catch {
            self.topics.configuration.logger.error(
                "Redis refused somebody's presence",
                metadata: [LoggingKeys.topic: "\(topic)", LoggingKeys.error: "\(error)"]
            )
        }
    }

    // MARK: - Questions

    func members(
        of topic: Topic,
        from cursor: PresenceCursor?,
        countMax: Int
    ) async throws(RedisError) -> PresencePage {
        let reply = try await self.commands.call(
            "the members of '\(topic)'",
            isRepeatable: true,
            make: self.topics.members(of: topic, from: cursor?.value ?? "0", countMax: countMax)
        )
        guard let parts = reply.elements, parts.count == 2, let next = parts[0].text,
            let fields = parts[1].elements
        else { throw RedisError(.protocolViolation, "Redis answers HSCAN with something else") }
        var members: [PresenceMember] = []
        for index in stride(from: 0, to: fields.count - 1, by: 2) {
            members.append(PresenceMember(id: fields[index].text ?? "", info: fields[index + 1].text ?? ""))
        }
        return PresencePage(members: members, next: next == "0" ? nil : PresenceCursor(next))
    }

    func memberCount(of topic: Topic) async throws(RedisError) -> Int {
        let reply = try await self.commands.call(
            "the number of members of '\(topic)'",
            isRepeatable: true,
            make: self.topics.memberCount(of: topic)
        )
        return reply.number ?? 0
    }
}
