/// Brings a subscriber from a position in a topic's history to what is live.
///
/// First the subscription: live publications are held back from then on. Then the history, page by page, until the held
/// ones connect to what was sent.
struct SubscriptionRecovery {
    private let connection: AsyncConnection
    private let topic: Topic
    private let policy: SlowConsumerPolicy?
    private let prologue: (@Sendable (TopicSubscription) async throws(BroadcastError) -> Message)?
    /// Whether the subscription came from another process, and holds live publications back already.
    private let goesOn: Bool

    /// Publications that are read from the history at once.
    static let pageCountMax = 256

    init(
        _ connection: AsyncConnection,
        _ topic: Topic,
        _ policy: SlowConsumerPolicy?,
        _ prologue: (@Sendable (TopicSubscription) async throws(BroadcastError) -> Message)?,
        goesOn: Bool = false
    ) {
        self.connection = connection
        self.topic = topic
        self.policy = policy
        self.prologue = prologue
        self.goesOn = goesOn
    }

    func run(from start: StreamPosition?) async throws(WebSocketError) -> TopicSubscription {
        let hub = try await self.begin()
        do {
            return try await self.recover(from: start, hub)
        } catch {
            // One that goes on may be another one's by now, or its connection is closed.
            if !self.goesOn { await self.connection.unsubscribe(from: self.topic) }
            throw error
        }
    }

    private func begin() async throws(WebSocketError) -> BroadcastHub {
        guard !self.connection.facts.isClient else { throw WebSocketError(.noTopics) }
        guard !self.topic.isReserved else { throw WebSocketError(.reservedTopic) }
        let (id, topic, policy, goesOn) = (self.connection.id, self.topic, self.policy, self.goesOn)
        let outcome = await self.connection.onLoop(orElse: .closed) {
            $0.beginRecovery(id, to: topic, policy, goesOn: goesOn)
        }
        switch outcome {
        case .began(let hub): return hub
        case .tooMany: throw WebSocketError(.tooManySubscriptions)
        case .closed: throw WebSocketError(.closed)
        }
    }

    private func recover(
        from start: StreamPosition?,
        _ hub: BroadcastHub
    ) async throws(WebSocketError) -> TopicSubscription {
        try await self.asking { () async throws(BroadcastError) in
            try await hub.waitUntilSubscribed(to: self.topic)
        }
        var page = try await self.page(after: start, hub)
        let isRecovered = start == nil || page.isComplete
        if start != nil { await self.count(isRecovered: isRecovered) }
        let base = start.flatMap { isRecovered ? $0 : nil } ?? page.newest
        let subscription = TopicSubscription(topic: self.topic, position: base, isRecovered: isRecovered)
        if let prologue = self.prologue {
            let message = try await self.asking { () async throws(BroadcastError) in
                try await prologue(subscription)
            }
            try await self.connection.sendSlowly(message)
        }
        do throws(WebSocketError) {
            // What an incomplete history still has is not wanted: it would follow a hole.
            let publications = isRecovered && start != nil ? page.publications : []
            page = TopicHistory(publications: [], newest: page.newest, isComplete: true)
            try await self.bringUp(from: base, consume publications, newest: page.newest, hub)
            return subscription
        } catch {
            await self.sendAwayIfMustReturn()
            throw error
        }
    }

    private func bringUp(
        from base: StreamPosition?,
        _ publications: consuming [Publication],
        newest: StreamPosition?,
        _ hub: BroadcastHub
    ) async throws(WebSocketError) {
        var (cursor, newest) = (base, newest)
        while true {
            let count = try await self.replay(publications)
            if count > 0, let last = publications[count - 1].position { cursor = last }
            if count == publications.count {
                switch await self.progress(cursor, newest: newest) {
                case .finished: return
                case .ended: throw WebSocketError(.closed)
                case .readOn: break
                }
            } else {
                // A page that a slow peer waited with would be a copy for each: the rest is read again.
                publications = []
                try await self.waitUntilDrained()
            }
            let page = try await self.page(after: cursor, hub)
            (publications, newest) = (page.publications, page.newest)
            if !page.isComplete {
                // The window has passed the subscriber while it was being brought up to date.
                try await self.reportGap(newest)
                cursor = newest
                publications = []
            }
        }
    }

    private func count(isRecovered: Bool) async {
        await self.connection.onLoop(orElse: ()) { driver in
            if isRecovered { driver.counts.recoveries &+= 1 } else { driver.counts.recoveryFailures &+= 1 }
        }
    }

    private func page(after cursor: StreamPosition?, _ hub: BroadcastHub) async throws(WebSocketError)
        -> TopicHistory
    {
        try await self.asking { () async throws(BroadcastError) in
            try await hub.page(of: self.topic, after: cursor, countMax: Self.pageCountMax)
        }
    }

    /// Sends publications until the peer takes no more; how many.
    private func replay(_ publications: [Publication]) async throws(WebSocketError) -> Int {
        let id = self.connection.id
        let connection = self.connection
        let (topic, goesOn) = (self.topic, self.goesOn)
        let count: Int? = await connection.onLoop(orElse: nil) { driver in
            if goesOn, !driver.isResuming(id, topic) { return nil }
            let count = driver.replay(publications[...], to: id)
            // Here, and not when the count has arrived elsewhere: it may be drained by then.
            if let count, count < publications.count { connection.passedHighWatermark() }
            return count
        }
        guard let count else { throw WebSocketError(.closed) }
        return count
    }

    private func waitUntilDrained() async throws(WebSocketError) {
        // What is half replayed cannot go on in another process: its connection stays, and is drained.
        guard await self.connection.waitUntilDrained(staysBehind: true) else {
            throw WebSocketError(.cancelled)
        }
    }

    /// What has begun and cannot be finished, since the body is to return, would leave the next body with a subscription of which
    /// nobody knows how far it is: the client is to come back.
    private func sendAwayIfMustReturn() async {
        let connection = self.connection
        await connection.onLoop(orElse: ()) { driver in
            guard connection.mustReturn, let index = driver.index(of: connection.id) else { return }
            driver.closeForGap(index)
        }
    }

    private func progress(_ cursor: StreamPosition?, newest: StreamPosition?) async -> RecoveryProgress {
        let (id, topic, goesOn) = (self.connection.id, self.topic, self.goesOn)
        return await self.connection.onLoop(orElse: .ended) {
            if goesOn, !$0.isResuming(id, topic) { return .ended }
            return $0.continueRecovery(id, of: topic, after: cursor, newest: newest)
        }
    }

    private func reportGap(_ newest: StreamPosition?) async throws(WebSocketError) {
        guard let newest else { throw WebSocketError(.publicationsLost) }
        let (id, gap) = (self.connection.id, TopicGap(topic: self.topic, newest: newest))
        guard await self.connection.onLoop(orElse: false, { $0.reportGap(gap, to: id) }) else {
            throw WebSocketError(.publicationsLost)
        }
    }

    private func asking<Answer>(
        _ question: () async throws(BroadcastError) -> Answer
    ) async throws(WebSocketError) -> Answer {
        do {
            return try await question()
        } catch {
            throw WebSocketError(.broadcasting, underlying: error)
        }
    }
}
