/// Brings a subscriber from a position in a topic's history to what is live.
///
/// First the subscription: live publications are held back from then on. Then the history, page by page, until the held
/// ones connect to what was sent.
struct SubscriptionRecovery {
    private let connection: AsyncConnection
    private let topic: Topic
    private let policy: SlowConsumerPolicy?
    private let prologue: (@Sendable (TopicSubscription) async throws(BroadcastError) -> Message)?
    /// The recovery of a subscription that came from another process, which holds live publications back already.
    private let resumed: UInt64?

    /// Publications that are read from the history at once.
    static let pageCountMax = 256

    init(
        _ connection: AsyncConnection,
        _ topic: Topic,
        _ policy: SlowConsumerPolicy?,
        _ prologue: (@Sendable (TopicSubscription) async throws(BroadcastError) -> Message)?,
        resumed: UInt64? = nil
    ) {
        self.connection = connection
        self.topic = topic
        self.policy = policy
        self.prologue = prologue
        self.resumed = resumed
    }

    func run(from start: StreamPosition?) async throws(WebSocketError) -> TopicSubscription {
        let (hub, number) = try await self.begin()
        var isBegun = false
        do {
            return try await self.recover(from: start, hub, number, &isBegun)
        } catch {
            // One that was resumed is seen to by whoever has resumed it.
            if self.resumed == nil { await self.giveUp(number, isBegun: isBegun) }
            throw error
        }
    }

    private func begin() async throws(WebSocketError) -> (BroadcastHub, recovery: UInt64) {
        guard !self.connection.facts.isClient else { throw WebSocketError(.noTopics) }
        guard !self.topic.isReserved else { throw WebSocketError(.reservedTopic) }
        let (id, topic, policy, resumed) = (self.connection.id, self.topic, self.policy, self.resumed)
        let outcome = await self.connection.onLoop(orElse: .closed) {
            $0.beginRecovery(id, to: topic, policy, resumed: resumed)
        }
        switch outcome {
        case .began(let hub, let number): return (hub, number)
        case .tooMany: throw WebSocketError(.tooManySubscriptions)
        case .closed: throw WebSocketError(.closed)
        }
    }

    private func recover(
        from start: StreamPosition?,
        _ hub: BroadcastHub,
        _ number: UInt64,
        _ isBegun: inout Bool
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
        isBegun = true
        // What an incomplete history still has is not wanted: it would follow a hole.
        let publications = isRecovered && start != nil ? page.publications : []
        page = TopicHistory(publications: [], newest: page.newest, isComplete: true)
        try await self.bringUp(from: base, consume publications, newest: page.newest, hub, number)
        return subscription
    }

    private func bringUp(
        from base: StreamPosition?,
        _ publications: consuming [Publication],
        newest: StreamPosition?,
        _ hub: BroadcastHub,
        _ number: UInt64
    ) async throws(WebSocketError) {
        var (cursor, newest) = (base, newest)
        while true {
            let count = try await self.replay(publications, number)
            if count > 0, let last = publications[count - 1].position { cursor = last }
            if count == publications.count {
                switch await self.progress(number, cursor, newest: newest) {
                case .finished: return
                case .ended: throw WebSocketError(.closed)
                case .replaced: throw WebSocketError(.cancelled)
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
                try await self.reportGap(after: cursor, newest)
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
    private func replay(_ publications: [Publication], _ number: UInt64) async throws(WebSocketError) -> Int {
        let (connection, topic) = (self.connection, self.topic)
        let outcome: ReplayOutcome = await connection.onLoop(orElse: .closed) { driver in
            guard driver.isRecovering(connection.id, topic, number) else { return .replaced }
            guard let count = driver.replay(publications[...], to: connection.id) else { return .closed }
            // Here, and not when the count has arrived elsewhere: it may be drained by then.
            if count < publications.count { connection.passedHighWatermark() }
            return .sent(count)
        }
        switch outcome {
        case .sent(let count): return count
        case .closed: throw WebSocketError(.closed)
        case .replaced: throw WebSocketError(self.connection.isOver ? .closed : .cancelled)
        }
    }

    private enum ReplayOutcome {
        case sent(Int)
        case closed
        case replaced
    }

    private func waitUntilDrained() async throws(WebSocketError) {
        // What is half replayed cannot go on in another process: its connection stays, and is drained.
        guard await self.connection.waitUntilDrained(staysBehind: true) else {
            throw WebSocketError(.cancelled)
        }
    }

    /// `isBegun` says that the prologue is out, if there is one: a client that was told of the subscription would believe in it, and
    /// where the body is to return, nobody would tell the next one how far it is.
    private func giveUp(_ number: UInt64, isBegun: Bool) async {
        let (connection, topic, hasPrologue) = (self.connection, self.topic, self.prologue != nil)
        await connection.onLoop(orElse: ()) {
            let isHalfTold = isBegun && (hasPrologue || connection.mustReturn)
            $0.giveUpRecovery(number, of: topic, connection.id, isHalfTold: isHalfTold)
        }
    }

    private func progress(
        _ number: UInt64,
        _ cursor: StreamPosition?,
        newest: StreamPosition?
    ) async -> RecoveryProgress {
        let (id, topic) = (self.connection.id, self.topic)
        return await self.connection.onLoop(orElse: .ended) {
            $0.continueRecovery(number, of: topic, id, after: cursor, newest: newest)
        }
    }

    private func reportGap(
        after cursor: StreamPosition?,
        _ newest: StreamPosition?
    ) async throws(WebSocketError) {
        guard let newest else { throw WebSocketError(.publicationsLost) }
        let (id, gap) = (self.connection.id, TopicGap(topic: self.topic, after: cursor, newest: newest))
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
            throw await self.connection.failure(of: error)
        }
    }
}
