internal import Logging
package import Starling

/// The subscribe link of one shard, and what arrives on it.
///
/// It knows which topics the node wants, brings that to Redis in batches, and to each new link anew. For topics with a
/// history it remembers the last position: whatever is missing between that and what arrives is read from the stream
/// first.
actor RedisSubscriptions {
    private struct Entry {
        /// Whether Redis has confirmed it on the present link.
        var isAcknowledged = false
        /// When it is to be left; nil as long as it has subscribers.
        var leaveAt: ContinuousClock.Instant?
        /// The last publication that was delivered, or the newest when the subscription began.
        var last: StreamPosition?
        /// Publications that arrived while the history is read.
        var held: [Publication] = []
        var heldByteCount = 0
        var isCatchingUp = false
        /// Whether the subscription was confirmed while the history was being read: there may be more in it by now.
        var mustReadAgain = false

        /// Whether whatever is published from now on will be delivered.
        var isLive: Bool {
            self.isAcknowledged && !self.isCatchingUp
        }
    }

    /// Topics in one SUBSCRIBE.
    private static let batchCountMax = 500
    /// Histories that are read at a time.
    private static let catchUpsMax = 64
    /// Bytes of publications that may be held back for one topic; more are let go, and read from the history.
    private static let heldByteCountMax = 1 << 20
    private static let pageCountMax = 256

    private let name: String
    private let topics: RedisTopics
    private let commands: RedisCommands
    private let source: any RedisLinkSource
    private let sinks: RedisSinks
    private let readiness: RedisReadiness
    private let status: RedisStatus

    private var link: RedisLink?
    private var entries: [Topic: Entry] = [:]
    private var waiters: [Topic: [CheckedContinuation<Bool, Never>]] = [:]
    private var catchUps: [Topic] = []
    private var catchUpsRunning = 0
    private var traces = PendingTraces()
    private var probeHeardAt = ContinuousClock.now
    private var hasHeardProbe = false
    /// Topics that the link before had, and Redis has not confirmed on this one.
    private var unconfirmed: Set<Topic> = []

    init(
        _ name: String,
        _ topics: RedisTopics,
        _ commands: RedisCommands,
        _ source: any RedisLinkSource,
        _ sinks: RedisSinks,
        _ readiness: RedisReadiness,
        _ status: RedisStatus
    ) {
        self.name = name
        self.topics = topics
        self.commands = commands
        self.source = source
        self.sinks = sinks
        self.readiness = readiness
        self.status = status
    }

    private var configuration: RedisConfiguration {
        self.topics.configuration
    }

    // MARK: - What the node wants

    func subscribe(to wanted: Set<Topic>) async throws(RedisError) {
        var added: [Topic] = []
        for topic in wanted {
            if self.entries[topic] == nil {
                self.entries[topic] = Entry()
                added.append(topic)
            }
            self.entries[topic]?.leaveAt = nil
        }
        self.sendSubscribe(added)
        let deadline = ContinuousClock.now + self.configuration.waitTimeout
        for topic in wanted {
            guard await self.waitUntilConfirmed(topic, deadline) else {
                throw RedisError(
                    .unreachable,
                    "Redis at \(self.name) has not confirmed a subscription within "
                        + "\(self.configuration.waitTimeout)"
                )
            }
        }
    }

    func unsubscribe(from topics: Set<Topic>) {
        let leaveAt = ContinuousClock.now + self.configuration.unsubscribeDelay
        for topic in topics { self.entries[topic]?.leaveAt = leaveAt }
    }

    private func waitUntilConfirmed(_ topic: Topic, _ deadline: ContinuousClock.Instant) async -> Bool {
        if self.entries[topic]?.isLive == true { return true }
        let timeout = Task {
            try await Task.sleep(until: deadline)
            self.resumeWaiters(topic, false)
        }
        defer { timeout.cancel() }
        return await withCheckedContinuation { self.waiters[topic, default: []].append($0) }
    }

    private func resumeWaiters(_ topic: Topic, _ isConfirmed: Bool) {
        for waiter in self.waiters.removeValue(forKey: topic) ?? [] { waiter.resume(returning: isConfirmed) }
    }

    private func sendSubscribe(_ topics: [Topic]) {
        guard let link = self.link else { return }
        self.send(self.topics.words.subscribe, topics.map(self.topics.channel), on: link)
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
        await withDiscardingTaskGroup { group in
            group.addTask { await self.leaveTopics() }
            group.addTask { await self.probe() }
            group.addTask { await self.serveCatchUps() }
            await RedisReconnection(self.configuration).run { await self.runLink() }
        }
        for topic in Array(self.waiters.keys) { self.resumeWaiters(topic, false) }
    }

    private func runLink() async -> RedisError {
        let failure = await self.source.withLink(pushes: { await self.received($0) }) {
            await self.linkIsUp($0)
        }
        self.link = nil
        self.hasHeardProbe = false
        for topic in self.entries.keys { self.entries[topic]?.isAcknowledged = false }
        self.updateReadiness(failure)
        return failure
    }

    private func linkIsUp(_ link: RedisLink) {
        self.link = link
        self.hasHeardProbe = false
        self.probeHeardAt = .now
        self.send(self.topics.words.subscribe, [self.topics.probeChannel], on: link)
        self.unconfirmed = Set(self.entries.keys)
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
        guard let topic = self.topics.topic(ofChannel: channel), self.entries[topic] != nil else { return }
        self.entries[topic]?.isAcknowledged = true
        defer { if self.unconfirmed.remove(topic) != nil { self.updateReadiness() } }
        if self.configuration.history(topic) == nil {
            self.resumeWaiters(topic, true)
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

    private func hold(_ publication: Publication) {
        let topic = publication.topic
        guard let count = self.entries[topic]?.heldByteCount else { return }
        let byteCount = publication.message.byteCount
        if count + byteCount > Self.heldByteCountMax {
            self.entries[topic]?.held = []
            self.entries[topic]?.heldByteCount = 0
        }
        self.entries[topic]?.held.append(publication)
        self.entries[topic]?.heldByteCount += byteCount
    }

    // MARK: - Catching up

    private func catchUp(_ topic: Topic) {
        guard self.entries[topic]?.isCatchingUp == false else { return }
        self.entries[topic]?.isCatchingUp = true
        self.catchUps.append(topic)
        self.updateReadiness()
        self.catchUpSignal?.resume()
        self.catchUpSignal = nil
    }

    private var catchUpSignal: CheckedContinuation<Void, Never>?

    private func serveCatchUps() async {
        await withDiscardingTaskGroup { group in
            while !Task.isCancelled {
                while self.catchUpsRunning < Self.catchUpsMax, !self.catchUps.isEmpty {
                    let topic = self.catchUps.removeFirst()
                    self.catchUpsRunning += 1
                    group.addTask { await self.bringUpToDate(topic) }
                }
                await self.waitForCatchUp()
            }
        }
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
    private func bringUpToDate(_ topic: Topic) async {
        defer {
            self.catchUpsRunning -= 1
            self.updateReadiness()
            self.signalCatchUp()
        }
        guard let limits = self.configuration.history(topic) else { return }
        while !Task.isCancelled, let entry = self.entries[topic] {
            let last = entry.last
            self.entries[topic]?.mustReadAgain = false
            let make = self.topics.history(
                of: topic,
                limits,
                after: last,
                countMax: last == nil ? 0 : Self.pageCountMax
            )
            let history: TopicHistory?
            do throws(RedisError) {
                history = self.topics.history(
                    try await self.commands.call("a history", isRepeatable: true, make: make),
                    of: topic
                )
            } catch {
                // The live publications stay held: without the history nobody could tell what is missing.
                self.configuration.logger.warning(
                    "a history cannot be read",
                    metadata: [LoggingKeys.topic: "\(topic)", LoggingKeys.error: "\(error)"]
                )
                try? await Task.sleep(for: .seconds(1))
                continue
            }
            guard let history, let newest = history.newest, self.entries[topic] != nil else { continue }
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
            guard self.entries[topic]?.last == newest, self.releaseHeld(topic),
                self.entries[topic]?.mustReadAgain == false
            else { continue }
            self.entries[topic]?.isCatchingUp = false
            if self.entries[topic]?.isAcknowledged == true { self.resumeWaiters(topic, true) }
            return
        }
    }

    /// Delivers what is held; false if something is missing before it.
    private func releaseHeld(_ topic: Topic) -> Bool {
        let held = self.entries[topic]?.held ?? []
        for (index, publication) in held.enumerated() {
            guard let position = publication.position, self.deliverIfNext(publication, position) else {
                self.entries[topic]?.held = Array(held[index...])
                self.entries[topic]?.heldByteCount = held[index...].reduce(0) { $0 + $1.message.byteCount }
                return false
            }
        }
        self.entries[topic]?.held = []
        self.entries[topic]?.heldByteCount = 0
        return true
    }

    // MARK: - The clock

    private func leaveTopics() async {
        while (try? await Task.sleep(for: min(self.configuration.unsubscribeDelay, .milliseconds(500))))
            != nil
        {
            let now = ContinuousClock.now
            let left = self.entries.filter { $0.value.leaveAt.map { $0 <= now } ?? false }.map(\.key)
            for topic in left { self.entries[topic] = nil }
            self.unconfirmed.subtract(left)
            if let link = self.link, !left.isEmpty {
                self.send(self.topics.words.unsubscribe, left.map(self.topics.channel), on: link)
            }
        }
    }

    /// Sends the node messages through Redis, and ends a link that does not deliver them: an open connection and an
    /// answered PING prove nothing.
    private func probe() async {
        while (try? await Task.sleep(for: self.configuration.probeInterval)) != nil {
            self.sendProbe()
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
            && self.catchUpsRunning == 0
        self.readiness.set(isReady, for: self.name)
        let state: BrokerLink.State = self.link == nil ? .down : isReady ? .up : .joining
        self.status.set(state, of: RedisStatus.names(ofShard: self.name).subscriptions, failure)
    }
}

/// Traces whose publications have not arrived.
///
/// Each comes right before its publication, but others may come between, and what is lost on its way leaves one over.
package struct PendingTraces {
    /// More are not kept: the oldest is let go.
    package static let countMax = 256
    private var traces: [(number: UInt64, context: TraceContext)] = []

    package init() {}

    package mutating func note(_ context: TraceContext?, _ number: UInt64) {
        guard let context else { return }
        if self.traces.count >= Self.countMax { self.traces.removeFirst() }
        self.traces.append((number, context))
    }

    /// The trace of the publication with this number.
    package mutating func take(_ number: UInt64?) -> TraceContext? {
        guard !self.traces.isEmpty, let number,
            let index = self.traces.firstIndex(where: { $0.number == number })
        else { return nil }
        return self.traces.remove(at: index).context
    }
}
