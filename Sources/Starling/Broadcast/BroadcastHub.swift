/// Where an endpoint's subscriptions on all loops and its broadcaster meet.
///
/// It knows which loops have subscribers of which topic, tells the broadcaster of a topic's first and last one, and
/// hands what arrives to the loops that are interested. Interest changes are brought to the broadcaster by one task
/// (``run()``), in batches and in order, so that a topic that is left and joined again ends up subscribed.
final class BroadcastHub: Sendable {
    private struct State {
        var loops: [EventLoop] = []
        /// The loops with subscribers, one bit each.
        var interest: [Topic: UInt64] = [:]
        /// Topics that the broadcaster delivers.
        var active: Set<Topic> = []
        /// Topics whose interest changed since `run` last looked.
        var changed: Set<Topic> = []
        var waiters: [Topic: [Waiter]] = [:]
        var queue: [Publication] = []
        var queuedByteCount = 0
        var wakeup: CheckedContinuation<Void, Never>?
        var isFinished = false
    }

    private let state = Lock(State())
    private let broadcaster: any Broadcaster
    private let interest: SharedInterest
    private let immediate: (any ImmediateBroadcaster)?
    private let endpoint: Int
    private let surroundings: Surroundings
    private let needsInterest: Bool
    private let historyReads = HistoryReads()
    /// The broadcaster, if it keeps histories.
    let history: (any HistoryBroadcaster)?

    /// Bytes of publications from synchronous handlers that may wait for a broadcaster that suspends; a further one is
    /// dropped, and its publisher told so.
    static let queuedByteCountMax = 8 << 20
    /// How long the broadcaster is left alone after it failed to subscribe.
    private static let retryDelay = Duration.seconds(1)

    init(_ broadcaster: any Broadcaster, endpoint: Int, _ surroundings: Surroundings) {
        self.broadcaster = broadcaster
        self.interest = .of(broadcaster)
        self.immediate = broadcaster as? any ImmediateBroadcaster
        self.needsInterest = self.immediate?.deliversEverything != true
        self.endpoint = endpoint
        self.surroundings = surroundings
        self.history = broadcaster as? any HistoryBroadcaster
    }

    /// Whether the broker is there for other processes too.
    var spansProcesses: Bool {
        self.needsInterest
    }

    /// Connects hub and broadcaster; once, before anything else.
    func attach() {
        self.broadcaster.attach(BroadcastSink(hub: self))
    }

    func add(_ loop: EventLoop) {
        self.state.withLock { $0.loops.append(loop) }
    }

    // MARK: - From the broadcaster

    func deliver(_ publication: Publication) {
        self.state.withLock { state in
            guard var interested = state.interest[publication.topic] else { return }
            while interested != 0 {
                let index = interested.trailingZeroBitCount
                interested &= interested - 1
                guard let loop = state.loops.first(where: { $0.index == index }) else { continue }
                loop.post(.publication(publication, endpoint: self.endpoint))
            }
        }
    }

    // MARK: - From the loops

    func addInterest(in topic: Topic, of loop: EventLoop) {
        let wakeup = self.state.withLock { state in
            state.interest[topic, default: 0] |= 1 << UInt64(loop.index)
            return self.noteChange(of: topic, in: &state)
        }
        wakeup?.resume()
    }

    func removeInterest(in topic: Topic, of loop: EventLoop) {
        let wakeup: CheckedContinuation<Void, Never>? = self.state.withLock { state in
            guard var loops = state.interest[topic] else { return nil }
            loops &= ~(1 << UInt64(loop.index))
            state.interest[topic] = loops == 0 ? nil : loops
            return self.noteChange(of: topic, in: &state)
        }
        wakeup?.resume()
    }

    /// Returns once the broadcaster delivers the topic, which a loop has noted its interest in before; throws if all subscribers have
    /// gone by then.
    func waitUntilSubscribed(to topic: Topic) async throws(BroadcastError) {
        guard self.needsInterest else { return }
        let error: BroadcastError? = await withCheckedContinuation { continuation in
            let outcome: BroadcastError?? = self.state.withLock { state in
                if state.active.contains(topic) || state.isFinished { return .some(nil) }
                guard state.interest[topic] != nil else { return .some(Self.nobodySubscribes) }
                state.waiters[topic, default: []].append(continuation)
                return nil
            }
            if let outcome { continuation.resume(returning: outcome) }
        }
        if let error { throw error }
    }

    private static var nobodySubscribes: BroadcastError {
        BroadcastError(
            .unavailable,
            message: "the subscription ended before the broadcaster delivered its topic"
        )
    }

    /// A page of a topic's history for a subscriber that is brought up to date: what has come behind `position`, or for nil where the
    /// topic is.
    ///
    /// Without a history nothing is known of either.
    func page(
        of topic: Topic,
        after position: StreamPosition?,
        countMax: Int
    ) async throws(BroadcastError) -> TopicHistory {
        guard let history = self.history else {
            return TopicHistory(publications: [], newest: nil, isComplete: position == nil)
        }
        let question = HistoryReads.Question(topic: topic, position: position)
        return try await self.historyReads.answer(to: question) { () async throws(BroadcastError) in
            if let position {
                try await history.history(of: topic, after: position, countMax: countMax)
            } else {
                try await history.history(of: topic, newest: 0)
            }
        }
    }

    func tryPublish(_ message: Message, to topic: Topic) -> Bool {
        if let immediate = self.immediate { return immediate.tryPublish(message, to: topic) }
        let (isTaken, wakeup): (Bool, CheckedContinuation<Void, Never>?) = self.state.withLock { state in
            guard state.queuedByteCount + message.byteCount <= Self.queuedByteCountMax, !state.isFinished
            else {
                return (false, nil)
            }
            state.queuedByteCount += message.byteCount
            state.queue.append(Publication(message, to: topic))
            defer { state.wakeup = nil }
            return (true, state.wakeup)
        }
        wakeup?.resume()
        return isTaken
    }

    private func noteChange(of topic: Topic, in state: inout State) -> CheckedContinuation<Void, Never>? {
        guard self.needsInterest else { return nil }
        state.changed.insert(topic)
        defer { state.wakeup = nil }
        return state.wakeup
    }

    // MARK: - The task between both

    /// Brings interest and queued publications to the broadcaster until the task is cancelled.
    func run() async {
        while await self.waitForWork() {
            let (added, removed, publications, abandoned) = self.takeWork()
            for waiter in abandoned { waiter.resume(returning: Self.nobodySubscribes) }
            if !added.isEmpty {
                var failure: BroadcastError?
                do throws(BroadcastError) {
                    try await self.interest.subscribe(self, to: added)
                } catch {
                    failure = error
                }
                self.finishSubscribing(to: added, failure)
                if failure != nil { try? await self.surroundings.sleep(Self.retryDelay) }
            }
            // A failure to unsubscribe costs traffic for nobody, not correctness; the broadcaster logs it.
            if !removed.isEmpty { try? await self.interest.unsubscribe(self, from: removed) }
            for publication in publications {
                // As above: the publisher has not waited for an answer, the broadcaster logs and counts.
                _ = try? await self.broadcaster.publish(publication.message, to: publication.topic)
            }
        }
        self.interest.end(self)
        let waiters = self.state.withLock { state in
            state.isFinished = true
            defer { state.waiters = [:] }
            return state.waiters.values.flatMap { $0 }
        }
        for waiter in waiters {
            waiter.resume(returning: BroadcastError(.unavailable, message: "the server has ended"))
        }
    }

    private func waitForWork() async -> Bool {
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let isReady = self.state.withLock { state in
                    if !state.changed.isEmpty || !state.queue.isEmpty || Task.isCancelled { return true }
                    state.wakeup = continuation
                    return false
                }
                if isReady { continuation.resume() }
            }
        } onCancel: {
            let wakeup = self.state.withLock { state in
                defer { state.wakeup = nil }
                return state.wakeup
            }
            wakeup?.resume()
        }
        return !Task.isCancelled
    }

    private typealias Waiter = CheckedContinuation<BroadcastError?, Never>

    /// What has changed; `abandoned` wait for topics that nobody is subscribed to any more.
    private func takeWork() -> (
        added: Set<Topic>, removed: Set<Topic>, publications: [Publication], abandoned: [Waiter]
    ) {
        self.state.withLock { state in
            let wanted = state.changed.filter { state.interest[$0] != nil }
            let added = wanted.subtracting(state.active)
            // Those that failed included: the broadcaster may have subscribed to them none the less.
            let removed = state.changed.subtracting(wanted)
            state.active.subtract(removed)
            state.changed = []
            defer {
                state.queue = []
                state.queuedByteCount = 0
            }
            return (added, removed, state.queue, Self.takeWaiters(of: removed, in: &state))
        }
    }

    private func finishSubscribing(to topics: Set<Topic>, _ failure: BroadcastError?) {
        let waiters = self.state.withLock { state in
            if failure == nil {
                state.active.formUnion(topics)
            } else {
                // Their subscribers are still there; the next round tries again.
                state.changed.formUnion(topics)
            }
            return Self.takeWaiters(of: topics, in: &state)
        }
        for waiter in waiters { waiter.resume(returning: failure) }
    }

    /// In one order, so that a simulation always takes the same course.
    private static func takeWaiters(of topics: Set<Topic>, in state: inout State) -> [Waiter] {
        let awaited = topics.filter { state.waiters[$0] != nil }.sorted { $0.name < $1.name }
        return awaited.flatMap { state.waiters.removeValue(forKey: $0) ?? [] }
    }
}
