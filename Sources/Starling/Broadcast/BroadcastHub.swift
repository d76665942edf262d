/// Where an endpoint's subscriptions on all loops and its broadcaster meet.
///
/// It knows which loops have subscribers of which topic, tells the broadcaster of a topic's first and last one, and
/// hands what arrives to the loops that are interested. Interest changes are brought to the broadcaster by ``run()``, in
/// batches. Of a topic only one change is under way at a time, so that one that is left and joined again ends up subscribed;
/// different topics do not wait for each other, for the broadcaster may be long about one that it cannot subscribe to.
final class BroadcastHub: Sendable {
    private struct State {
        var loops: [EventLoop] = []
        /// The loops with subscribers, one bit each.
        var interest: [Topic: UInt64] = [:]
        /// Topics that the broadcaster delivers.
        var active: Set<Topic> = []
        /// Topics whose interest changed since `run` last looked, without those that a change is under way for.
        var changed: Set<Topic> = []
        /// Topics that a change is under way for, and whether there was another one meanwhile.
        var underWay: [Topic: Bool] = [:]
        /// Topics that have subscribers, and that the broadcaster did not subscribe to when it was last asked.
        var failed: Set<Topic> = []
        /// Those of them that failed together with others, and are to be tried by themselves at once.
        var unproven: Set<Topic> = []
        /// Batches of topics that are asked for the first time, and under way.
        var batchCount = 0
        /// Batches of failed topics that are under way.
        var retryCount = 0
        /// Whether failed topics are to be tried again now, and whether somebody waits until that is so.
        var isRetryDue = false
        var isRetryScheduled = false
        var waiters: [Topic: [Waiter]] = [:]
        var lastWaiter: UInt64 = 0
        /// Who waits until nothing waits to be published.
        var publishedWaiters: [UInt64: CheckedContinuation<Void, Never>] = [:]
        var queue: [Publication] = []
        /// Publications that come after a change which is under way, by topic: whoever subscribes and publishes is to hear it.
        var held: [Topic: [Publication]] = [:]
        var isPublishing = false
        /// Publications that were taken out of the queue, and that the broadcaster has not answered yet.
        var publishingCount = 0
        var queuedByteCount = 0
        var wakeup: CheckedContinuation<Void, Never>?
        var isFinished = false

        /// Publications that the broadcaster has not been given, or not answered.
        var unpublishedCount: Int {
            self.publishingCount + self.queue.count + self.held.values.reduce(0) { $0 + $1.count }
        }
    }

    /// Who waits until the broadcaster delivers a topic.
    private struct Waiter {
        let number: UInt64
        let continuation: CheckedContinuation<BroadcastError?, Never>

        func resume(returning error: BroadcastError?) {
            self.continuation.resume(returning: error)
        }
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
    /// From so many batches under way on, the next one is asked for after a while, with what has come by then.
    private static let batchesMax = 8
    private static let batchInterval = Duration.milliseconds(10)
    /// Batches of topics that failed before which the broadcaster is asked for at a time.
    static let retryBatchesMax = 64

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
        typealias Change = (wakeup: CheckedContinuation<Void, Never>?, abandoned: [Waiter])
        let (wakeup, abandoned): Change = self.state.withLock { state in
            guard var loops = state.interest[topic] else { return (nil, []) }
            loops &= ~(1 << UInt64(loop.index))
            state.interest[topic] = loops == 0 ? nil : loops
            // Whatever becomes of the change that is under way: the broadcaster may be long about it.
            let abandoned = loops == 0 ? Self.takeWaiters(of: [topic], in: &state) : []
            return (self.noteChange(of: topic, in: &state), abandoned)
        }
        wakeup?.resume()
        for waiter in abandoned { waiter.resume(returning: Self.nobodySubscribes) }
    }

    /// Returns once the broadcaster delivers the topic, which a loop has noted its interest in before; throws if all subscribers have
    /// gone by then, the server has ended, or the task is cancelled.
    func waitUntilSubscribed(to topic: Topic) async throws(BroadcastError) {
        guard self.needsInterest else { return }
        let number = self.makeWaiter()
        let error: BroadcastError? = await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let outcome: BroadcastError?? = self.state.withLock { state in
                    if state.active.contains(topic) { return .some(nil) }
                    guard !state.isFinished else { return .some(Self.serverHasEnded) }
                    guard state.interest[topic] != nil else { return .some(Self.nobodySubscribes) }
                    guard !Task.isCancelled else { return .some(Self.isCancelled) }
                    state.waiters[topic, default: []].append(
                        Waiter(number: number, continuation: continuation)
                    )
                    return nil
                }
                if let outcome { continuation.resume(returning: outcome) }
            }
        } onCancel: {
            let waiter: Waiter? = self.state.withLock { state in
                guard let index = state.waiters[topic]?.firstIndex(where: { $0.number == number }) else {
                    return nil
                }
                let waiter = state.waiters[topic]?.remove(at: index)
                if state.waiters[topic]?.isEmpty == true { state.waiters[topic] = nil }
                return waiter
            }
            waiter?.resume(returning: Self.isCancelled)
        }
        if let error { throw error }
    }

    private func makeWaiter() -> UInt64 {
        self.state.withLock { state in
            state.lastWaiter += 1
            return state.lastWaiter
        }
    }

    /// How many wait in ``waitUntilSubscribed(to:)``.
    var waitingCount: Int {
        self.state.withLock { $0.waiters.values.reduce(0) { $0 + $1.count } }
    }

    private static var nobodySubscribes: BroadcastError {
        BroadcastError(
            .unavailable,
            message: "the subscription ended before the broadcaster delivered its topic"
        )
    }

    private static var serverHasEnded: BroadcastError {
        BroadcastError(.unavailable, message: "the server has ended")
    }

    private static var isCancelled: BroadcastError {
        BroadcastError(.unavailable, message: "the task that waited for the broadcaster is cancelled")
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
            let byteCount = Self.queuedByteCount(of: message)
            guard state.queuedByteCount + byteCount <= Self.queuedByteCountMax, !state.isFinished
            else {
                return (false, nil)
            }
            state.queuedByteCount += byteCount
            let mustWait = state.changed.contains(topic) || state.underWay[topic] != nil
            if mustWait, !state.failed.contains(topic) {
                state.held[topic, default: []].append(Publication(message, to: topic))
            } else {
                state.queue.append(Publication(message, to: topic))
            }
            defer { state.wakeup = nil }
            return (true, state.wakeup)
        }
        wakeup?.resume()
        return isTaken
    }

    private func noteChange(of topic: Topic, in state: inout State) -> CheckedContinuation<Void, Never>? {
        guard self.needsInterest else { return nil }
        if state.underWay[topic] != nil {
            state.underWay[topic] = true
            return nil
        }
        state.changed.insert(topic)
        defer { state.wakeup = nil }
        return state.wakeup
    }

    // MARK: - The task between both

    /// Topics that the broadcaster is asked to subscribe to together.
    private struct Batch: Sendable {
        let topics: Set<Topic>
        /// Whether it has failed for all of them before.
        let isRetry: Bool
    }

    /// Brings interest and queued publications to the broadcaster until the task is cancelled.
    func run() async {
        await withDiscardingTaskGroup { group in
            while await self.waitForWork() {
                let (added, removed, mustPublish, abandoned) = self.takeWork()
                for waiter in abandoned { waiter.resume(returning: Self.nobodySubscribes) }
                for batch in added { group.addTask { await self.subscribe(batch) } }
                if !removed.isEmpty { group.addTask { await self.unsubscribe(from: removed) } }
                if mustPublish { group.addTask { await self.publishQueued() } }
                // What comes meanwhile is asked for together.
                if self.hasManyBatches { try? await self.surroundings.sleep(Self.batchInterval) }
            }
        }
        self.interest.end(self)
        let waiters = self.state.withLock { state in
            state.isFinished = true
            defer { state.waiters = [:] }
            return state.waiters.values.flatMap { $0 }
        }
        for waiter in waiters { waiter.resume(returning: Self.serverHasEnded) }
        self.releasePublishedWaiters { _ in true }
    }

    private var hasManyBatches: Bool {
        self.state.withLock { $0.batchCount >= Self.batchesMax }
    }

    private func waitForWork() async -> Bool {
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let isReady = self.state.withLock { state in
                    let mustPublish = !state.queue.isEmpty && !state.isPublishing
                    let hasWork =
                        !state.changed.isEmpty || mustPublish || state.isRetryDue || !state.unproven.isEmpty
                    if hasWork || Task.isCancelled { return true }
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

    /// What has changed; `abandoned` wait for topics that nobody is subscribed to any more.
    private func takeWork() -> (
        added: [Batch], removed: Set<Topic>, mustPublish: Bool, abandoned: [Waiter]
    ) {
        self.state.withLock { state in
            let changed = state.changed
            let wanted = changed.filter { state.interest[$0] != nil }
            let added = wanted.filter { !state.active.contains($0) && !state.failed.contains($0) }
            // Those that failed included: the broadcaster may have subscribed to them none the less.
            let removed = changed.subtracting(wanted)
            state.active.subtract(removed)
            state.failed.subtract(removed)
            state.unproven.subtract(removed)
            state.changed = []
            for topic in added.union(removed) { state.underWay[topic] = false }
            // Those that have got one loop more, for example, wait for nothing.
            Self.release(wanted.subtracting(added), in: &state)
            var batches = self.takeRetries(from: &state)
            if !added.isEmpty {
                batches.append(Batch(topics: added, isRetry: false))
                state.batchCount += 1
            }
            let mustPublish = !state.queue.isEmpty && !state.isPublishing
            if mustPublish { state.isPublishing = true }
            return (batches, removed, mustPublish, Self.takeWaiters(of: removed, in: &state))
        }
    }

    /// The failed topics in batches, if it is time for them, or those of them that may have failed for another one's sake.
    ///
    /// Each is alone if they are few. Of many, some are alone, others each time, for most may be such that cannot be
    /// subscribed; the rest is together, for the broker may be back for all of them.
    private func takeRetries(from state: inout State) -> [Batch] {
        guard state.isRetryDue || !state.unproven.isEmpty else { return [] }
        let topics = (state.isRetryDue ? state.failed : state.unproven).filter { state.underWay[$0] == nil }
        state.isRetryDue = false
        // Where there is no room for them now, it is time for them when it is for all.
        state.unproven = []
        let count = min(topics.count, Self.retryBatchesMax - state.retryCount)
        guard count > 0 else { return [] }
        // In one order before, so that a simulation always takes the same course.
        let dealt = topics.sorted { $0.name < $1.name }.map { (self.surroundings.random(0 ... .max), $0) }
            .sorted { $0.0 < $1.0 }
        let aloneCount = count == topics.count ? count : count / 2
        var batches = Array(repeating: Set<Topic>(), count: count)
        for (index, (_, topic)) in dealt.enumerated() {
            let isAlone = index < aloneCount
            let batch = isAlone ? index : aloneCount + (index - aloneCount) % (count - aloneCount)
            batches[batch].insert(topic)
            state.underWay[topic] = false
        }
        state.retryCount += count
        return batches.map { Batch(topics: $0, isRetry: true) }
    }

    private func subscribe(_ batch: Batch) async {
        defer {
            if !batch.isRetry { self.state.withLock { $0.batchCount -= 1 } }
        }
        let unconfirmed = Lock(batch.topics)
        var failure: BroadcastError?
        do throws(BroadcastError) {
            try await self.interest.subscribe(self, to: batch.topics) { topic in
                guard unconfirmed.withLock({ $0.remove(topic) }) != nil else { return }
                self.finishSubscribing(to: [topic], nil)
            }
        } catch {
            failure = error
        }
        // Nobody knows which of them it was that failed.
        if failure != nil, !self.interest.confirmsEach, batch.topics.count > 1, !batch.isRetry {
            return self.singleOut(batch.topics)
        }
        self.finishSubscribing(to: unconfirmed.withLock { $0 }, failure)
        guard self.scheduleRetry(after: batch) else { return }
        try? await self.surroundings.sleep(Self.retryDelay)
        self.wake { state in
            state.isRetryScheduled = false
            state.isRetryDue = true
        }
    }

    private func unsubscribe(from topics: Set<Topic>) async {
        // A failure to unsubscribe costs traffic for nobody, not correctness; the broadcaster logs it.
        try? await self.interest.unsubscribe(self, from: topics)
        self.wake { state in
            Self.end(topics, in: &state)
        }
    }

    /// Publishes until the queue is empty; one task at a time does.
    private func publishQueued() async {
        while let publications = self.takeQueue() {
            for publication in publications {
                // As above: the publisher has not waited for an answer, the broadcaster logs and counts.
                _ = try? await self.broadcaster.publish(publication.message, to: publication.topic)
                self.state.withLock { $0.publishingCount -= 1 }
            }
        }
        self.releasePublishedWaiters { $0.unpublishedCount == 0 }
    }

    private func takeQueue() -> [Publication]? {
        self.state.withLock { state in
            guard !state.queue.isEmpty, !Task.isCancelled else {
                state.isPublishing = false
                return nil
            }
            defer { state.queue = [] }
            state.queuedByteCount -= state.queue.reduce(0) { $0 + Self.queuedByteCount(of: $1.message) }
            state.publishingCount += state.queue.count
            return state.queue
        }
    }

    /// Empty ones need a bound too.
    private static func queuedByteCount(of message: Message) -> Int {
        Inbox.messageByteCount + message.byteCount
    }

    /// How many publications the broadcaster has not been given, or not answered.
    var unpublishedCount: Int {
        self.state.withLock(\.unpublishedCount)
    }

    /// Returns when the broadcaster has been given all publications, or the task is cancelled.
    func waitUntilPublished() async {
        let number = self.makeWaiter()
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let isDone = self.state.withLock { state in
                    if state.unpublishedCount == 0 || state.isFinished || Task.isCancelled { return true }
                    state.publishedWaiters[number] = continuation
                    return false
                }
                if isDone { continuation.resume() }
            }
        } onCancel: {
            self.state.withLock { $0.publishedWaiters.removeValue(forKey: number) }?.resume()
        }
    }

    private func releasePublishedWaiters(if isDone: (State) -> Bool) {
        let waiters = self.state.withLock { state in
            guard isDone(state) else { return [] as [CheckedContinuation<Void, Never>] }
            defer { state.publishedWaiters = [:] }
            return Array(state.publishedWaiters.values)
        }
        for waiter in waiters { waiter.resume() }
    }

    /// Notes what has become of topics that a change was under way for.
    private func finishSubscribing(to topics: Set<Topic>, _ failure: BroadcastError?) {
        var waiters: [Waiter] = []
        self.wake { state in
            if failure == nil {
                state.active.formUnion(topics)
                state.failed.subtract(topics)
            } else {
                // Their subscribers are still there; a later round tries again.
                state.failed.formUnion(topics)
            }
            Self.end(topics, in: &state)
            waiters = Self.takeWaiters(of: topics, in: &state)
        }
        for waiter in waiters { waiter.resume(returning: failure) }
    }

    /// In one order, so that a simulation always takes the same course.
    private static func takeWaiters(of topics: Set<Topic>, in state: inout State) -> [Waiter] {
        let awaited = topics.filter { state.waiters[$0] != nil }.sorted { $0.name < $1.name }
        return awaited.flatMap { state.waiters.removeValue(forKey: $0) ?? [] }
    }

    /// Has each topic tried alone at once, before anybody is told of a failure that may be another topic's.
    private func singleOut(_ topics: Set<Topic>) {
        self.wake { state in
            state.failed.formUnion(topics)
            state.unproven.formUnion(topics)
            Self.end(topics, in: &state)
        }
    }

    /// Whether the caller is to wait until failed topics are tried again.
    private func scheduleRetry(after batch: Batch) -> Bool {
        self.state.withLock { state in
            if batch.isRetry { state.retryCount -= 1 }
            guard !state.failed.isEmpty, !state.isRetryScheduled else { return false }
            state.isRetryScheduled = true
            return true
        }
    }

    /// No change of these topics is under way any more.
    private static func end(_ topics: Set<Topic>, in state: inout State) {
        for topic in topics where state.underWay.removeValue(forKey: topic) == true {
            state.changed.insert(topic)
        }
        // What was published behind a further change waits for that one; but for a topic that fails, nobody waits.
        let settled = topics.filter { !state.changed.contains($0) || state.failed.contains($0) }
        Self.release(settled, in: &state)
    }

    /// Lets publications go that waited for a change of their topic.
    private static func release(_ topics: Set<Topic>, in state: inout State) {
        guard !state.held.isEmpty else { return }
        // In one order, as above.
        for topic in topics.sorted(by: { $0.name < $1.name }) {
            if let held = state.held.removeValue(forKey: topic) { state.queue += held }
        }
    }

    /// Changes the state, and has ``run()`` look at it.
    private func wake(_ change: (inout State) -> Void) {
        let wakeup = self.state.withLock { state in
            change(&state)
            defer { state.wakeup = nil }
            return state.wakeup
        }
        wakeup?.resume()
    }
}
