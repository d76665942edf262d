internal import Logging
internal import Starling

/// Who of this node is present in which topic, as one server is told.
///
/// All that a node has entered belongs to its *incarnation*, which it keeps alive by one command per third of a lease.
/// When the lease runs out, any other node takes the incarnation's entries away, each once, in one script. A node that is
/// not sure what Redis knows of it, after a broken link for example, enters everything anew as another incarnation and then
/// gives the old one up: whoever stayed is in both for a while, and nobody is told of anything. What Redis has refused is
/// another matter: it was certainly not done, and is tried again by itself.
actor RedisPresence {
    /// A member of a topic.
    private struct Entry: Hashable {
        let topic: Topic
        let name: UTF8Name
    }

    private let topics: RedisTopics
    private let commands: RedisCommands
    private var counts = PresenceCounts()
    private var incarnation = RedisPresence.makeIncarnation()
    /// Earlier incarnations of this node, the oldest first: they are kept alive until everybody is in the present one.
    private var former: [String] = []
    /// An entry that is still to be taken out of an incarnation.
    private struct Departure: Hashable {
        let entry: Entry
        let incarnation: String
    }

    /// Who is still to be entered into the present incarnation.
    private var owed: Set<Entry> = []
    /// Whom Redis will not have, whatever the moment: tried again, but nothing else waits for them.
    private var refused: Set<Entry> = []
    /// Who has left, and is still to be taken out: it was certainly not done, or the incarnation is a former one, where doing it twice
    /// is the same as doing it once, for nobody is entered there any more.
    private var departures: Set<Departure> = []
    /// Whether Redis may know something else than what was sent to the present incarnation.
    private var isUncertain = false
    /// Whether something could not be sent, and ought to be soon.
    private var isPressing = false
    private var isMending = false
    /// Whether Redis has heard of this incarnation.
    private var hasLease = false
    /// What the data was called that the lease was last renewed in.
    private var data: String?

    /// Entries that one call takes away from a dead incarnation.
    private static let reapCountMax = 100
    /// Entries that are on their way to Redis together when many are entered.
    private static let batchCountMax = 200
    /// Incarnations that are kept alive besides the present one; the oldest of more is left to its lease.
    private static let formerMax = 8
    /// Departures that are remembered; with more another incarnation begins, which has none of them.
    private static let departuresMax = 10_000
    private static let mendDelay = Duration.milliseconds(200)

    init(_ topics: RedisTopics, _ commands: RedisCommands) {
        self.topics = topics
        self.commands = commands
    }

    private static func makeIncarnation() -> String {
        String(UInt64.random(in: 1 ... .max), radix: 16)
    }

    // MARK: - Coming and going

    func enter(_ member: PresenceMember, _ topic: Topic) async throws(RedisError) {
        guard self.counts.enter(member, topic) else { return }
        let entry = Entry(topic: topic, name: UTF8Name(member.id))
        if !self.departures.isEmpty {
            for incarnation in self.former + [self.incarnation] {
                self.departures.remove(Departure(entry: entry, incarnation: incarnation))
            }
        }
        do throws(RedisError) {
            try await self.sendEntry(entry)
        } catch {
            try self.throwUnlessUnavailable(error)
        }
    }

    func leave(_ id: String, from topic: Topic) async throws(RedisError) {
        guard self.counts.leave(id, from: topic) != nil else { return }
        let entry = Entry(topic: topic, name: UTF8Name(id))
        self.owed.remove(entry)
        self.refused.remove(entry)
        // All are sent before anything else can run here: whoever comes back must come after that.
        for incarnation in self.former { self.postLeave(entry, incarnation) }
        do throws(RedisError) {
            try await self.sendDeparture(Departure(entry: entry, incarnation: self.incarnation))
        } catch {
            try self.throwUnlessUnavailable(error)
        }
    }

    private func sendDeparture(_ departure: Departure) async throws(RedisError) {
        self.departures.remove(departure)
        do throws(RedisError) {
            _ = try await self.send(self.command(for: departure))
        } catch {
            self.note(error, departure)
            throw error
        }
    }

    /// What may have been lost on the way is put right by ``keepLease()``.
    private func throwUnlessUnavailable(_ error: RedisError) throws(RedisError) {
        if error.broadcastError(in: self.topics).code != .unavailable { throw error }
    }

    private func sendEntry(_ entry: Entry) async throws(RedisError) {
        if !self.hasLease {
            do throws(RedisError) {
                try await self.beginLease()
            } catch {
                self.owed.insert(entry)
                self.isPressing = true
                throw error
            }
        }
        // It may have left meanwhile; between this look and the sending nothing else runs here.
        guard let member = self.counts.topics[entry.topic]?[entry.name]?.member else {
            self.owed.remove(entry)
            self.refused.remove(entry)
            return
        }
        let incarnation = self.incarnation
        do throws(RedisError) {
            let reply = try await self.send(self.topics.enter(member, entry.topic, incarnation))
            guard incarnation == self.incarnation else { return }
            self.owed.remove(entry)
            self.refused.remove(entry)
            // The lease had ended, so that it was not entered.
            if reply.number == -1 { self.isUncertain = true }
        } catch {
            if incarnation == self.incarnation { self.note(error, entry) }
            throw error
        }
    }

    private func note(_ error: RedisError, _ entry: Entry) {
        if error.isOpen {
            self.isUncertain = true
        } else if error.isRefusal {
            self.owed.remove(entry)
            self.refused.insert(entry)
        } else {
            self.owed.insert(entry)
            if error.isTemporary { self.isPressing = true }
        }
    }

    private func send(
        _ make: @escaping @Sendable (RedisLink) -> RedisCommand
    ) async throws(RedisError) -> RedisValue {
        // Not repeated: a later change of the same member could overtake it.
        try await self.commands.callOnce("presence", isPresence: true, make: make)
    }

    private func postLeave(_ entry: Entry, _ incarnation: String) {
        let departure = Departure(entry: entry, incarnation: incarnation)
        let isTaken = self.commands.trySend(
            "presence",
            byteCount: 128,
            isPresence: true,
            deadline: .now + self.topics.configuration.waitTimeout,
            make: self.command(for: departure)
        ) { result in
            guard case .failure(let error) = result else { return }
            Task { await self.note(error, departure) }
        }
        if !isTaken { self.remember(departure) }
    }

    private func command(for departure: Departure) -> @Sendable (RedisLink) -> RedisCommand {
        self.topics.leave(departure.entry.name.string, departure.entry.topic, departure.incarnation)
    }

    /// Somebody who has left may still be there.
    private func note(_ error: RedisError, _ departure: Departure) {
        // Where the key holds something else, nobody has ever been.
        guard error.code != .wrongType else { return }
        // Its incarnation is a former one by the time that it is tried again.
        if error.isOpen, departure.incarnation == self.incarnation { self.isUncertain = true }
        self.remember(departure)
        if error.isTemporary { self.isPressing = true }
    }

    private func remember(_ departure: Departure) {
        guard self.isWanted(departure) else { return }
        self.departures.insert(departure)
        if self.departures.count > Self.departuresMax { self.isUncertain = true }
    }

    // MARK: - The lease

    /// Keeps the lease, takes dead incarnations away, and puts right what is uncertain, until the task is cancelled.
    func keepLease() async {
        let interval = self.topics.configuration.presenceLease / 3
        await withDiscardingTaskGroup { group in
            while !Task.isCancelled {
                if self.mustMend, !self.isMending {
                    self.isMending = true
                    // Beside what follows: entering many may take longer than a lease.
                    group.addTask { await self.mend() }
                }
                let mayHaveMore = await self.refresh()
                let isUrgent = self.isUncertain || self.isPressing
                let pause = isUrgent ? min(Self.mendDelay, interval) : interval
                if !mayHaveMore { try? await Task.sleep(for: pause) }
            }
        }
    }

    /// What a renewal has found.
    private struct Renewal {
        let isKnown: Bool
        /// Entries of a dead incarnation that were taken away.
        let count: Int
        let data: String
        /// Whether data that was moved to the server is as it was where it came from.
        let isFresh: Bool
    }

    /// Renews the leases of all incarnations; returns whether a dead one may have more entries.
    private func refresh() async -> Bool {
        do throws(RedisError) {
            let count = try await self.renewLease(giveUp: [])
            for incarnation in self.former {
                let renewal = try await self.lease(incarnation, mustBeKnown: true, countMax: 0)
                if !renewal.isKnown { self.former.removeAll { $0 == incarnation } }
            }
            return count == Self.reapCountMax
        } catch {
            guard !Task.isCancelled else { return false }
            self.topics.configuration.logger.warning(
                "presence cannot be kept up",
                metadata: [LoggingKeys.error: "\(error)"]
            )
            return false
        }
    }

    /// The lease comes before what is entered: what comes without one is refused.
    private func beginLease() async throws(RedisError) {
        let incarnation = self.incarnation
        let renewal = try await self.lease(incarnation, mustBeKnown: false, countMax: 0)
        guard incarnation == self.incarnation else { return }
        self.hasLease = true
        self.note(renewal)
    }

    /// Renews the present incarnation's lease; returns how many entries of a dead one were taken away.
    private func renewLease(giveUp abandoned: [String]) async throws(RedisError) -> Int {
        // Nobody knows of a first lease.
        let (incarnation, mustBeKnown) = (self.incarnation, self.hasLease)
        let renewal = try await self.lease(
            incarnation,
            mustBeKnown: mustBeKnown,
            giveUp: abandoned,
            countMax: Self.reapCountMax
        )
        guard incarnation == self.incarnation else { return renewal.count }
        if mustBeKnown, !renewal.isKnown {
            self.isUncertain = true
        } else {
            self.hasLease = true
            self.former.removeAll { abandoned.contains($0) }
            self.note(renewal)
        }
        return renewal.count
    }

    /// A server that took over from another one may have the lease, and lack what was entered last.
    private func note(_ renewal: Renewal) {
        if let known = self.data, known != renewal.data,
            !renewal.isFresh || !self.topics.hasMovedData(known)
        {
            self.isUncertain = true
        }
        self.data = renewal.data
    }

    private func lease(
        _ incarnation: String,
        mustBeKnown: Bool,
        giveUp abandoned: [String] = [],
        countMax: Int
    ) async throws(RedisError) -> Renewal {
        let make = self.topics.refresh(
            incarnation,
            mustBeKnown: mustBeKnown,
            giveUp: abandoned,
            countMax: countMax
        )
        let asked = Lock<RedisLink?>(nil)
        let reply = try await self.commands.call("a presence lease", isPresence: true, isRepeatable: true) {
            link in
            asked.withLock { $0 = link }
            return make(link)
        }
        guard let link = asked.withLock({ $0 }), let parts = reply.elements, parts.count == 4,
            let data = parts[2].text
        else { throw RedisError(.protocolViolation, "Redis answers a script with something else") }
        // It became a master, again perhaps, behind the link's back.
        if !data.isEmpty, data != link.data { self.commands.replace(link) }
        return Renewal(
            isKnown: parts[0].number == 1,
            count: parts[1].number ?? 0,
            data: data,
            isFresh: parts[3].number == 1
        )
    }

    // MARK: - Putting right

    private var mustMend: Bool {
        self.isUncertain || !self.owed.isEmpty || !self.refused.isEmpty || !self.former.isEmpty
            || !self.departures.isEmpty
    }

    private func mend() async {
        defer { self.isMending = false }
        if self.isUncertain { self.beginIncarnation() }
        self.isPressing = false
        do throws(RedisError) {
            if !self.hasLease { try await self.beginLease() }
            await self.enterOwed()
            await self.sendDepartures()
            guard !self.isUncertain, self.owed.isEmpty, !self.former.isEmpty else { return }
            var count = try await self.renewLease(giveUp: self.former)
            while count == Self.reapCountMax { count = try await self.renewLease(giveUp: []) }
        } catch {
            // What keeps the lease says so.
            self.isPressing = true
        }
    }

    private func beginIncarnation() {
        // To one without a lease nothing was sent.
        if self.hasLease {
            self.former = (self.former + [self.incarnation]).suffix(Self.formerMax)
            self.incarnation = Self.makeIncarnation()
            self.hasLease = false
        }
        self.data = nil
        self.isUncertain = false
        if self.departures.count > Self.departuresMax { self.departures = [] }
        self.refused = []
        self.owed = []
        for (topic, members) in self.counts.topics {
            for name in members.keys { self.owed.insert(Entry(topic: topic, name: name)) }
        }
    }

    private func enterOwed() async {
        var failures: [(Entry, RedisError)] = []
        // Those that Redis would not have come last, others first each time.
        var rest = (Array(self.owed) + self.refused.shuffled())[...]
        while !rest.isEmpty, !self.isUncertain, !Task.isCancelled {
            let batch = rest.prefix(Self.batchCountMax)
            rest = rest.dropFirst(Self.batchCountMax)
            await withTaskGroup(of: (Entry, RedisError)?.self) { group in
                for entry in batch { group.addTask { await self.enterAgain(entry) } }
                for await failure in group {
                    if let failure { failures.append(failure) }
                }
            }
            // A Redis that is full or away has no use for the others.
            if batch.allSatisfy({ self.owed.contains($0) || self.refused.contains($0) }) { break }
        }
        guard let (entry, error) = failures.first(where: { !$0.1.isOpen && !$0.1.isTemporary }) else {
            return
        }
        self.topics.configuration.logger.error(
            "Redis refused somebody's presence",
            metadata: [
                LoggingKeys.topic: "\(entry.topic)", LoggingKeys.refused: "\(failures.count)",
                LoggingKeys.error: "\(error)",
            ]
        )
    }

    /// Who is back stays, and an incarnation that has no lease yet, or was given up, keeps nobody.
    private func isWanted(_ departure: Departure) -> Bool {
        let isPresent = departure.incarnation == self.incarnation && self.hasLease
        return (isPresent || self.former.contains(departure.incarnation))
            && self.counts.topics[departure.entry.topic]?[departure.entry.name] == nil
    }

    private func sendDepartures() async {
        self.departures = self.departures.filter(self.isWanted)
        var rest = Array(self.departures)[...]
        while !rest.isEmpty, !Task.isCancelled {
            let batch = rest.prefix(Self.batchCountMax)
            rest = rest.dropFirst(Self.batchCountMax)
            await withDiscardingTaskGroup { group in
                for departure in batch where self.departures.contains(departure) {
                    group.addTask { await self.departAgain(departure) }
                }
            }
            // As with who is to be entered.
            if batch.allSatisfy(self.departures.contains) { return }
        }
    }

    private func departAgain(_ departure: Departure) async {
        // It may be back meanwhile.
        guard self.departures.contains(departure) else { return }
        try? await self.sendDeparture(departure)
    }

    private func enterAgain(_ entry: Entry) async -> (Entry, RedisError)? {
        do throws(RedisError) {
            try await self.sendEntry(entry)
            return nil
        } catch {
            return (entry, error)
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
        return try self.topics.members(reply)
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
