internal import Logging
internal import Starling

/// Joins and leaves are told once, to whoever is subscribed at that moment: after a broken link a topic's members are read again, and
/// what has changed is told.
extension RedisSubscriptions {
    /// When a topic's members are to be read.
    struct Comparison {
        let generation: UInt64
        var at: ContinuousClock.Instant
        /// From when on whoever is not there has left: those whom a new Redis does not know yet are still being entered.
        let isCompleteAt: ContinuousClock.Instant
    }

    private static let comparisonsMax = 32
    private static let membersCountMax = 500
    private static let comparisonDelay = Duration.seconds(1)

    /// Somebody here was told of members.
    func told(_ members: [PresenceMember], of topic: Topic) {
        self.changeRoster(of: topic) { roster in
            for member in members { roster.tell(member) }
        }
    }

    func note(_ event: PresenceEvent) {
        self.changeRoster(of: event.topic) { $0.note(event) }
    }

    /// Changes what somebody was told of a topic; without room it is not known any more.
    private func changeRoster(of topic: Topic, _ change: (inout RedisRoster) -> Void) {
        guard let entry = self.entries[topic], !entry.hasTooManyMembers else { return }
        var roster = entry.roster ?? RedisRoster()
        self.entries[topic]?.roster = nil
        let byteCount = roster.byteCount
        change(&roster)
        if roster.byteCount <= byteCount {
            self.budgets.rosters.give(byteCount - roster.byteCount)
        } else if !self.budgets.rosters.take(roster.byteCount - byteCount) {
            self.budgets.rosters.give(byteCount)
            self.entries[topic]?.hasTooManyMembers = true
            self.configuration.logger.warning(
                "too many members to tell who has come or gone when a link has been broken",
                metadata: [LoggingKeys.topic: "\(topic)"]
            )
            return
        }
        self.entries[topic]?.roster = roster
    }

    func forgetRoster(of topic: Topic) {
        self.budgets.rosters.give(self.entries[topic]?.roster?.byteCount ?? 0)
        self.entries[topic]?.roster = nil
    }

    /// The topic is subscribed on a link, after another one.
    func compareMembers(of topic: Topic, isSameData: Bool) {
        if !isSameData {
            let delay = self.configuration.presenceLease + self.configuration.reconnectDelayMax
            self.entries[topic]?.membersSettleAt = .now + delay
        }
        guard let entry = self.entries[topic], entry.roster != nil else { return }
        self.comparisons[topic] = Comparison(
            generation: entry.generation,
            at: .now,
            isCompleteAt: entry.membersSettleAt
        )
        self.comparing?.yield()
    }

    /// Compares members until the task is cancelled.
    func serveComparisons() async {
        let (signals, signal) = AsyncStream.makeStream(of: Void.self, bufferingPolicy: .bufferingNewest(1))
        self.comparing = signal
        signal.yield()
        for await _ in signals {
            while let at = self.comparisons.values.map(\.at).min(), !Task.isCancelled {
                guard at <= .now else {
                    try? await Task.sleep(until: min(at, .now + Self.comparisonDelay))
                    continue
                }
                let due = self.comparisons.filter { $0.value.at <= .now }
                for topic in due.keys { self.comparisons[topic] = nil }
                await withTaskGroup(of: Void.self) { group in
                    for (index, (topic, comparison)) in due.enumerated() {
                        if index >= Self.comparisonsMax { await group.next() }
                        group.addTask { await self.compareMembers(of: topic, comparison) }
                    }
                }
            }
        }
    }

    private func compareMembers(of topic: Topic, _ comparison: Comparison) async {
        guard self.isComparable(topic, comparison) else { return }
        // Before anything is read.
        let isComplete = comparison.isCompleteAt <= .now
        self.changeRoster(of: topic) { $0.beginComparison() }
        let link = self.link
        var next = comparison
        do throws(RedisError) {
            let present = try await self.readMembers(of: topic)
            // On another link it is begun anew.
            guard self.link === link, self.isComparable(topic, comparison) else { return }
            if let present {
                var events: [PresenceEvent] = []
                self.changeRoster(of: topic) {
                    events = $0.compare(with: present, areComplete: isComplete, topic)
                }
                for event in events { self.sinks.deliver(event) }
                if isComplete { return }
                next.at = comparison.isCompleteAt
            } else {
                next.at = .now + Self.comparisonDelay
            }
        } catch {
            self.configuration.logger.warning(
                "members cannot be read",
                metadata: [LoggingKeys.topic: "\(topic)", LoggingKeys.error: "\(error)"]
            )
            next.at = .now + self.configuration.presenceLease
        }
        if self.comparisons[topic] == nil { self.comparisons[topic] = next }
    }

    private func isComparable(_ topic: Topic, _ comparison: Comparison) -> Bool {
        guard let entry = self.entries[topic], entry.generation == comparison.generation else { return false }
        return entry.isAcknowledged && entry.roster != nil
    }

    /// Reads all members; nil if another Redis answers than the one that is subscribed to.
    private func readMembers(of topic: Topic) async throws(RedisError) -> [UTF8Name: PresenceMember]? {
        var members: [UTF8Name: PresenceMember] = [:]
        var cursor: String? = "0"
        while let from = cursor {
            let make = self.topics.members(of: topic, from: from, countMax: Self.membersCountMax)
            let run = Lock("")
            let reply = try await self.commands.call(
                "the members of '\(topic)'",
                isPresence: true,
                isRepeatable: true
            ) { link in
                run.withLock { $0 = link.run }
                return make(link)
            }
            guard self.isCurrent(run.withLock { $0 }) else { return nil }
            let page = try self.topics.members(reply)
            for member in page.members { members[UTF8Name(member.id)] = member }
            cursor = page.next?.value
        }
        return members
    }
}
