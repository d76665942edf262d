internal import Logging
internal import Starling

/// The subscribe link of one shard, and what arrives on it.
///
/// It knows which topics the node wants, brings that to Redis in batches, and to each new link anew. For topics with a
/// history it remembers the last position: whatever is missing between that and what arrives is read from the stream
/// first.
actor RedisSubscriptions {
    struct Entry {
        /// Tells it from earlier entries of the topic: what was begun for those is none of its business.
        let generation: UInt64
        /// Whether Redis has confirmed it on the present link.
        var isAcknowledged = false
        /// Whether Redis has confirmed it on any link.
        var wasAcknowledged = false
        /// Whether the present link was asked for it in a SUBSCRIBE of its own.
        var isAskedForAlone = false
        /// Whether the present link had not confirmed it when that was looked at last.
        var isLate = false
        /// When it is to be left; nil as long as it has subscribers.
        var leaveAt: ContinuousClock.Instant?
        /// The last publication that was delivered, or the newest when the subscription began.
        var last: StreamPosition?
        /// Publications that arrived while the history is read.
        var held: [Publication] = []
        var heldByteCount = 0
        /// How many of ``held`` were there before the history was read last.
        var heldBeforeRead = 0
        var isCatchingUp = false
        /// Whether the subscription was confirmed while the history was being read: there may be more in it by now.
        var mustReadAgain = false
        /// Whom of the members somebody was told of; nil if nobody has asked, and no event has come.
        var roster: RedisRoster?
        var hasTooManyMembers = false
        /// The data that it was subscribed at last.
        var data: String?
        /// Until when other nodes may still be entering their members there.
        var membersSettleAt = ContinuousClock.now

        /// Whether whatever is published from now on will be delivered.
        var isLive: Bool {
            self.isAcknowledged && !self.isCatchingUp
        }
    }

    /// Somebody who waits for topics to be live.
    private final class Waiter {
        var missing: Set<Topic> = []
        let confirmed: @Sendable (Topic) -> Void
        var continuation: CheckedContinuation<Void, Never>?

        init(_ confirmed: @escaping @Sendable (Topic) -> Void) {
            self.confirmed = confirmed
        }

        func finish() {
            self.continuation?.resume()
            self.continuation = nil
        }
    }

    /// A topic whose history is to be read.
    private struct CatchUp: Sendable {
        let topic: Topic
        let generation: UInt64
    }

    /// Topics in one SUBSCRIBE.
    private static let batchCountMax = 500
    /// Histories that are read at a time.
    private static let catchUpsMax = 64
    /// Bytes of publications that may be held back for one topic; more are let go, and read from the history.
    ///
    /// For all topics together there is a bound of its own, ``RedisBudgets/held``.
    private static let heldByteCountMax = 1 << 20
    /// What a publication takes besides its payload.
    private static let heldByteCountMin = 160
    private static let pageCountMax = 256
    /// How long a history is left alone that could not be read, and one that did not say what it must say in the end.
    private static let refusedReadDelay = Duration.seconds(1)
    private static let uselessReadDelay = Duration.milliseconds(100)

    private let name: String
    let topics: RedisTopics
    let commands: RedisCommands
    private let source: any RedisLinkSource
    let sinks: RedisSinks
    let budgets: RedisBudgets
    private let readiness: RedisReadiness
    private let status: RedisStatus

    private(set) var link: RedisLink?
    var entries: [Topic: Entry] = [:]
    private var lastGeneration: UInt64 = 0
    private var waiters: [Topic: [Waiter]] = [:]
    private var catchUps = Deque<CatchUp>()
    private var catchUpsRunning = 0
    /// Topics that are caught up in a while, for their history could not be read.
    private var catchUpsPostponed = 0
    /// Topics whose members are to be read.
    var comparisons: [Topic: Comparison] = [:]
    var comparing: AsyncStream<Void>.Continuation?
    private var traces = PendingTraces()
    private var probeHeardAt = ContinuousClock.now
    private var hasHeardProbe = false
    /// Since when both links are at different servers, as far as histories have said.
    private var isApartSince: ContinuousClock.Instant?
    /// Topics that the link before had, and Redis has not confirmed on this one.
    private var unconfirmed: Set<Topic> = []

    init(
        _ name: String,
        _ topics: RedisTopics,
        _ commands: RedisCommands,
        _ source: any RedisLinkSource,
        _ sinks: RedisSinks,
        _ budgets: RedisBudgets,
        _ readiness: RedisReadiness,
        _ status: RedisStatus
    ) {
        self.name = name
        self.topics = topics
        self.commands = commands
        self.source = source
        self.sinks = sinks
        self.budgets = budgets
        self.readiness = readiness
        self.status = status
    }

    var configuration: RedisConfiguration {
        self.topics.configuration
    }

    // MARK: - What the node wants

    /// Returns when all topics are live; `confirmed` is called for each as soon as it is.
    func subscribe(
        to wanted: Set<Topic>,
        confirmed: @escaping @Sendable (Topic) -> Void
    ) async throws(RedisError) {
        var unasked: [Topic] = []
        let waiter = Waiter(confirmed)
        for topic in wanted {
            if self.entries[topic] == nil {
                self.lastGeneration += 1
                self.entries[topic] = Entry(generation: self.lastGeneration)
            }
            self.entries[topic]?.leaveAt = nil
            if self.entries[topic]?.isLive == true {
                confirmed(topic)
            } else {
                waiter.missing.insert(topic)
                self.waiters[topic, default: []].append(waiter)
            }
            // Asked again after a failure: the command that it was in may have been refused.
            if self.entries[topic]?.isAcknowledged == false { unasked.append(topic) }
        }
        self.sendSubscribe(unasked)
        await self.wait(for: waiter)
        guard let missing = waiter.missing.first else { return }
        let others = waiter.missing.count > 1 ? " and \(waiter.missing.count - 1) others" : ""
        throw RedisError(
            .unreachable,
            "Redis at \(self.name) has not confirmed the subscription of '\(missing)'\(others) within "
                + "\(self.configuration.waitTimeout)"
        )
    }

    func unsubscribe(from topics: Set<Topic>) {
        let leaveAt = ContinuousClock.now + self.configuration.unsubscribeDelay
        for topic in topics { self.entries[topic]?.leaveAt = leaveAt }
    }

    private func wait(for waiter: Waiter) async {
        guard !waiter.missing.isEmpty else { return }
        let deadline = ContinuousClock.now + self.configuration.waitTimeout
        let timeout = Task {
            try await Task.sleep(until: deadline)
            self.giveUp(waiter)
        }
        defer { timeout.cancel() }
        await withCheckedContinuation { waiter.continuation = $0 }
    }

    private func giveUp(_ waiter: Waiter) {
        for topic in waiter.missing {
            self.waiters[topic]?.removeAll { $0 === waiter }
            if self.waiters[topic]?.isEmpty == true { self.waiters[topic] = nil }
        }
        waiter.finish()
    }

    private func becameLive(_ topic: Topic) {
        for waiter in self.waiters.removeValue(forKey: topic) ?? [] {
            waiter.missing.remove(topic)
            waiter.confirmed(topic)
            if waiter.missing.isEmpty { waiter.finish() }
        }
    }

    private func sendSubscribe(_ topics: [Topic]) {
        guard let link = self.link else { return }
        let alone = topics.filter { self.entries[$0]?.isAskedForAlone == true }
        let together = topics.filter { self.entries[$0]?.isAskedForAlone == false }
        let word = self.topics.words.subscribe
        self.send(word, together.map(self.topics.channel), on: link)
        for topic in alone { self.send(word, [self.topics.channel(topic)], on: link) }
    }

    /// Asks for each topic that the link has not confirmed alone, once: Redis refuses a whole SUBSCRIBE for one channel in it.
    private func subscribeAlone() {
        let topics = self.entries.filter { !$0.value.isAcknowledged && !$0.value.isAskedForAlone }.map(\.key)
        for topic in topics { self.entries[topic]?.isAskedForAlone = true }
        self.sendSubscribe(topics)
    }

    /// Asks again for what the link has not confirmed for a while, each alone: the rights may have been changed.
    private func subscribeLate() {
        guard self.link != nil else { return }
        let open = self.entries.filter { !$0.value.isAcknowledged }
        let late = open.filter(\.value.isLate).map(\.key).shuffled().prefix(Self.batchCountMax)
        for topic in open.keys { self.entries[topic]?.isLate = true }
        for topic in late { self.entries[topic]?.isAskedForAlone = true }
        self.sendSubscribe(Array(late))
    }

    private func send(_ command: String, _ channels: [String], on link: RedisLink) {
        var rest = channels[...]
        while !rest.isEmpty {
            let batch = rest.prefix(Self.batchCountMax)
            rest = rest.dropFirst(Self.batchCountMax)
            link.post(RedisCommand([Array(command.utf8)] + batch.map { Array($0.utf8) }))
        }
    }

    // MARK: - The link

    /// Keeps a link until the task is cancelled.
    func run() async {
        self.forgetCatchUps()
        await withDiscardingTaskGroup { group in
            group.addTask { await self.leaveTopics() }
            group.addTask { await self.probe() }
            group.addTask { await self.serveCatchUps() }
            group.addTask { await self.serveComparisons() }
            await RedisReconnection(self.configuration).run { await self.runLink() }
        }
        while let waiter = self.waiters.values.first?.first { self.giveUp(waiter) }
    }

    /// What another call of ``run()`` has not finished begins anew with the first link.
    private func forgetCatchUps() {
        self.catchUps = Deque()
        for topic in self.entries.keys { self.entries[topic]?.isCatchingUp = false }
    }

    private func runLink() async -> RedisError {
        let failure = await self.source.withLink(pushes: { await self.received($0) }) {
            await self.linkIsUp($0)
        }
        self.link = nil
        self.hasHeardProbe = false
        for topic in self.entries.keys {
            self.entries[topic]?.isAcknowledged = false
            self.entries[topic]?.isAskedForAlone = false
            self.entries[topic]?.isLate = false
        }
        self.updateReadiness(failure)
        return failure
    }

    private func linkIsUp(_ link: RedisLink) {
        self.link = link
        self.isApartSince = nil
        self.hasHeardProbe = false
        self.probeHeardAt = .now
        self.send(self.topics.words.subscribe, [self.topics.probeChannel], on: link)
        self.unconfirmed = Set(self.entries.filter { $0.value.wasAcknowledged }.keys)
        // Whatever came by the link before is read with the rest when this one is confirmed. It may be of an epoch that is over.
        for topic in self.entries.keys { self.keepHeld([], topic) }
        self.updateReadiness()
        self.sendSubscribe(Array(self.entries.keys))
    }

    private func received(_ pushes: [RedisValue]) {
        let words = self.topics.words
        for push in pushes {
            guard let parts = push.elements, parts.count >= 3, let channel = parts[1].text else {
                if case .error(let text) = push {
                    let error = RedisError(reply: text, to: "SUBSCRIBE", at: self.name)
                    self.configuration.logger.error(
                        "Redis refused a subscription",
                        metadata: [LoggingKeys.error: "\(error)"]
                    )
                    self.subscribeAlone()
                }
                continue
            }
            let word = parts[0].text
            if word == words.message {
                self.received(parts[2].byteArray ?? [], on: channel)
            } else if word == words.subscribe.lowercased() {
                self.confirmed(channel)
            } else if word == words.unsubscribe.lowercased(), channel == self.topics.probeChannel {
                // We never leave it: the slot has moved, and all its channels with it.
                self.source.moved(to: nil)
            }
        }
    }

    private func confirmed(_ channel: String) {
        // So that the node is ready without waiting for the next one.
        if channel == self.topics.probeChannel { return self.sendProbe() }
        guard let topic = self.topics.topic(ofChannel: channel), let entry = self.entries[topic] else {
            return
        }
        self.entries[topic]?.isAcknowledged = true
        if !entry.isAcknowledged {
            let data = self.link.map { $0.run + $0.data }
            self.entries[topic]?.data = data
            if entry.wasAcknowledged { self.compareMembers(of: topic, isSameData: entry.data == data) }
        }
        self.entries[topic]?.wasAcknowledged = true
        defer { if self.unconfirmed.remove(topic) != nil { self.updateReadiness() } }
        if self.configuration.history(topic) == nil {
            self.becameLive(topic)
        } else {
            // Whoever subscribes is told when the position is known too: what is published from then on has a higher one.
            self.entries[topic]?.mustReadAgain = true
            self.catchUp(topic)
        }
    }

    // MARK: - What arrives

    private func received(_ payload: [UInt8], on channel: String) {
        if channel == self.topics.probeChannel {
            self.probeHeardAt = .now
            self.hasHeardProbe = true
            return self.updateReadiness()
        }
        guard let topic = self.topics.topic(ofChannel: channel), self.entries[topic] != nil else { return }
        if let event = PublicationCodec.decodeEvent(payload, topic: topic) {
            self.note(event)
            return self.sinks.deliver(event)
        }
        if let (number, context) = PublicationCodec.decodeTrace(payload) {
            return self.traces.note(context, number)
        }
        guard var publication = PublicationCodec.decode(payload, topic: topic) else {
            return self.configuration.logger.warning(
                "somebody else publishes on our channels: choose another namespace",
                metadata: [LoggingKeys.topic: "\(topic)"]
            )
        }
        publication.trace = self.traces.take(PublicationCodec.origin(of: payload))
        guard let position = publication.position else { return self.sinks.deliver(publication) }
        guard self.entries[topic]?.isCatchingUp != true else { return self.hold(publication) }
        if self.deliverIfNext(publication, position) { return }
        self.hold(publication)
        self.catchUp(topic)
    }

    /// Delivers a publication that follows the last one, or drops one that was delivered; false if there is a gap.
    private func deliverIfNext(_ publication: Publication, _ position: StreamPosition) -> Bool {
        guard let last = self.entries[publication.topic]?.last, last.epoch == position.epoch,
            position.offset <= last.offset + 1
        else { return false }
        guard position.offset == last.offset + 1 else { return true }
        self.entries[publication.topic]?.last = position
        self.sinks.deliver(publication)
        return true
    }

    /// Holds a publication back until the history has been read; without room for it the history is read once more.
    private func hold(_ publication: Publication) {
        let topic = publication.topic
        guard let count = self.entries[topic]?.heldByteCount else { return }
        let byteCount = Self.byteCount(publication)
        if count + byteCount > Self.heldByteCountMax { self.keepHeld([], topic) }
        if !self.budgets.held.take(byteCount) {
            self.keepHeld([], topic)
            guard self.budgets.held.take(byteCount) else {
                self.entries[topic]?.mustReadAgain = true
                return
            }
        }
        self.entries[topic]?.held.append(publication)
        self.entries[topic]?.heldByteCount += byteCount
    }

    private static func byteCount(_ publication: Publication) -> Int {
        publication.message.byteCount + self.heldByteCountMin
    }

    /// Lets go of what is held but for some of it.
    private func keepHeld(_ held: [Publication], beforeRead: Int = 0, _ topic: Topic) {
        guard let entry = self.entries[topic], !entry.held.isEmpty else { return }
        let byteCount = held.reduce(0) { $0 + Self.byteCount($1) }
        self.budgets.held.give(entry.heldByteCount - byteCount)
        self.entries[topic]?.held = held
        self.entries[topic]?.heldByteCount = byteCount
        self.entries[topic]?.heldBeforeRead = beforeRead
    }

    // MARK: - Catching up

    private func catchUp(_ topic: Topic) {
        guard let entry = self.entries[topic], !entry.isCatchingUp else { return }
        self.entries[topic]?.isCatchingUp = true
        self.enqueue(CatchUp(topic: topic, generation: entry.generation))
    }

    private func enqueue(_ catchUp: CatchUp) {
        self.catchUps.append(catchUp)
        self.updateReadiness()
        self.signalCatchUp()
    }

    private var catchUpSignal: CheckedContinuation<Void, Never>?

    private func serveCatchUps() async {
        await withDiscardingTaskGroup { group in
            while !Task.isCancelled {
                while self.catchUpsRunning < Self.catchUpsMax, !self.catchUps.isEmpty {
                    let catchUp = self.catchUps.removeFirst()
                    self.catchUpsRunning += 1
                    group.addTask { await self.serve(catchUp) }
                }
                await self.waitForCatchUp()
            }
        }
    }

    /// A topic that cannot be caught up now leaves its place to others before it is tried again.
    private func serve(_ catchUp: CatchUp) async {
        let pause = await self.bringUpToDate(catchUp)
        self.catchUpsRunning -= 1
        if pause != nil { self.catchUpsPostponed += 1 }
        self.signalCatchUp()
        self.updateReadiness()
        guard let pause else { return }
        try? await Task.sleep(for: pause)
        self.catchUpsPostponed -= 1
        if !Task.isCancelled, self.entry(of: catchUp) != nil {
            self.enqueue(catchUp)
        } else {
            self.updateReadiness()
        }
    }

    /// The entry that is caught up, if it is still there.
    private func entry(of catchUp: CatchUp) -> Entry? {
        self.entries[catchUp.topic].flatMap { $0.generation == catchUp.generation ? $0 : nil }
    }

    private func waitForCatchUp() async {
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let hasWork = self.catchUpsRunning < Self.catchUpsMax && !self.catchUps.isEmpty
                if hasWork || Task.isCancelled {
                    continuation.resume()
                } else {
                    self.catchUpSignal = continuation
                }
            }
        } onCancel: {
            Task { await self.signalCatchUp() }
        }
    }

    private func signalCatchUp() {
        self.catchUpSignal?.resume()
        self.catchUpSignal = nil
    }

    /// Reads what is missing of a topic until what is held connects to it.
    ///
    /// Returns nil when that is so, or when nobody wants it any more; otherwise in how long to try again. Live publications
    /// stay held meanwhile: without the history nobody could tell what is missing.
    private func bringUpToDate(_ catchUp: CatchUp) async -> Duration? {
        let topic = catchUp.topic
        guard let limits = self.configuration.history(topic) else { return nil }
        while !Task.isCancelled, let entry = self.entry(of: catchUp) {
            self.entries[topic]?.mustReadAgain = false
            self.entries[topic]?.heldBeforeRead = entry.held.count
            let answer: (history: TopicHistory, newest: StreamPosition, run: String)
            do throws(RedisError) {
                answer = try await self.read(topic, limits, after: entry.last)
            } catch {
                guard !Task.isCancelled, self.entry(of: catchUp) != nil else { return nil }
                self.configuration.logger.warning(
                    "a history cannot be read",
                    metadata: [LoggingKeys.topic: "\(topic)", LoggingKeys.error: "\(error)"]
                )
                return Self.refusedReadDelay
            }
            guard self.entry(of: catchUp) != nil else { return nil }
            // After a failover one link may be at the new master while the other one is still at the old one.
            guard self.isCurrent(answer.run) else {
                self.linksAreApart()
                return Self.uselessReadDelay
            }
            self.isApartSince = nil
            self.take(answer.history, answer.newest, of: topic, after: entry.last)
            if entry.last?.epoch != answer.newest.epoch || answer.run == self.link?.run {
                self.letGo(ofOtherEpochsThan: answer.newest.epoch, topic)
            }
            let isConnected = self.entries[topic]?.last == answer.newest && self.releaseHeld(topic)
            if self.entries[topic]?.mustReadAgain == true { continue }
            if isConnected {
                self.entries[topic]?.isCatchingUp = false
                if self.entries[topic]?.isAcknowledged == true { self.becameLive(topic) }
                return nil
            }
            if self.entries[topic]?.last == entry.last { return Self.uselessReadDelay }
        }
        return nil
    }

    /// Asks for what comes behind a position, or for the newest position alone; says also which run of Redis answered.
    private func read(
        _ topic: Topic,
        _ limits: HistoryLimits,
        after last: StreamPosition?
    ) async throws(RedisError) -> (history: TopicHistory, newest: StreamPosition, run: String) {
        let countMax = last == nil ? 0 : Self.pageCountMax
        let make = self.topics.history(of: topic, limits, after: last, countMax: countMax)
        let run = Lock("")
        let reply = try await self.commands.call("a history", isRepeatable: true) { link in
            run.withLock { $0 = link.run }
            return make(link)
        }
        guard let history = self.topics.history(reply, of: topic), let newest = history.newest else {
            throw RedisError(
                .protocolViolation,
                "the history of '\(topic)' holds what we did not write: choose another namespace"
            )
        }
        return (history, newest, run.withLock { $0 })
    }

    /// Whether what a run of Redis says of a topic agrees with what is subscribed to.
    ///
    /// In a Cluster a slot takes its histories along, and both links follow one table of slots.
    func isCurrent(_ run: String) -> Bool {
        guard let link = self.link, !self.source.followsRedirections else { return true }
        return link.run == run
    }

    /// Makes both links anew if they stay at different servers.
    ///
    /// Behind a name or an address that moves each may be the one that is late: a master that became a replica goes on passing on
    /// what is published, and one that was cut off goes on answering.
    private func linksAreApart() {
        let since = self.isApartSince ?? .now
        self.isApartSince = since
        guard since.duration(to: .now) > self.configuration.deafAfter else { return }
        self.isApartSince = nil
        self.configuration.logger.error(
            "the links to Redis are at two servers: making them anew",
            metadata: [LoggingKeys.server: "\(self.name)"]
        )
        self.link?.close()
        self.commands.replace()
    }

    /// Delivers what was read.
    private func take(
        _ history: TopicHistory,
        _ newest: StreamPosition,
        of topic: Topic,
        after last: StreamPosition?
    ) {
        if last == nil {
            self.entries[topic]?.last = newest
        } else if history.isComplete {
            for publication in history.publications {
                self.sinks.deliver(publication)
                self.entries[topic]?.last = publication.position
            }
        } else {
            // Of another epoch nothing need be missing since it began.
            let isNewEpoch = newest.epoch != last?.epoch
            let resumed = isNewEpoch ? StreamPosition(epoch: newest.epoch, offset: 0) : newest
            self.sinks.reportGap(in: topic, newest: resumed)
            self.entries[topic]?.last = resumed
        }
    }

    /// Lets go of what was held before the history was read and is of another epoch: that one is over.
    private func letGo(ofOtherEpochsThan epoch: UInt64, _ topic: Topic) {
        guard let entry = self.entries[topic], entry.heldBeforeRead > 0 else { return }
        let current = entry.held.prefix(entry.heldBeforeRead).filter { $0.position?.epoch == epoch }
        let held = current + entry.held.dropFirst(entry.heldBeforeRead)
        self.keepHeld(held, beforeRead: current.count, topic)
    }

    /// Delivers what is held; false if something is missing before it.
    private func releaseHeld(_ topic: Topic) -> Bool {
        let held = self.entries[topic]?.held ?? []
        for (index, publication) in held.enumerated() {
            guard let position = publication.position, self.deliverIfNext(publication, position) else {
                self.keepHeld(Array(held[index...]), topic)
                return false
            }
        }
        self.keepHeld([], topic)
        return true
    }

    // MARK: - The clock

    private func leaveTopics() async {
        let interval = max(min(self.configuration.unsubscribeDelay, .milliseconds(500)), .milliseconds(10))
        while (try? await Task.sleep(for: interval)) != nil {
            let now = ContinuousClock.now
            let left = self.entries.filter { $0.value.leaveAt.map { $0 <= now } ?? false }.map(\.key)
            for topic in left {
                self.keepHeld([], topic)
                self.forgetRoster(of: topic)
                self.entries[topic] = nil
            }
            self.unconfirmed.subtract(left)
            if let link = self.link, !left.isEmpty {
                self.send(self.topics.words.unsubscribe, left.map(self.topics.channel), on: link)
            }
        }
    }

    /// Sends the node messages through Redis, and ends a link that does not deliver them: an open connection and an
    /// answered PING prove nothing.
    private func probe() async {
        var lookedForLate = ContinuousClock.now
        while (try? await Task.sleep(for: self.configuration.probeInterval)) != nil {
            self.sendProbe()
            if lookedForLate.duration(to: .now) >= self.configuration.deafAfter {
                lookedForLate = .now
                self.subscribeLate()
            }
            guard let link = self.link,
                self.probeHeardAt.duration(to: .now) > self.configuration.deafAfter
            else { continue }
            self.configuration.logger.error(
                "a link to Redis is up but delivers nothing: making it anew",
                metadata: [LoggingKeys.server: "\(self.name)"]
            )
            self.hasHeardProbe = false
            self.probeHeardAt = .now
            self.updateReadiness()
            link.close()
        }
    }

    private func sendProbe() {
        let channel = self.topics.probeChannel
        // If there is no link for it, the next one will do.
        _ = self.commands.trySend(
            "a probe",
            byteCount: 64,
            deadline: .now + self.configuration.probeInterval,
            make: { [words = self.topics.words] _ in RedisCommand(words.publish, channel, "probe") },
            { _ in }
        )
    }

    private func updateReadiness(_ failure: RedisError? = nil) {
        let isReady =
            self.link != nil && self.hasHeardProbe && self.unconfirmed.isEmpty && self.catchUps.isEmpty
            && self.catchUpsRunning == 0 && self.catchUpsPostponed == 0
        self.readiness.set(isReady, for: self.name)
        let state: BrokerLink.State = self.link == nil ? .down : isReady ? .up : .joining
        self.status.set(state, of: RedisStatus.names(ofShard: self.name).subscriptions, failure)
    }
}
