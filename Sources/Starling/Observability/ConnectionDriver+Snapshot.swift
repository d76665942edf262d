internal import StarlingCore

/// A loop's part of a snapshot is gathered in steps, each bounded, with a tick between two: no connection waits for it.
extension ConnectionDriver {
    /// Slots, or topics, that one tick looks at.
    static let snapshotStep = 4096
    /// Topics of a connection that are named.
    private static let topicsPerConnectionMax = 8

    /// What the loop is doing.
    func summarize(_ loop: inout ServerSnapshot.Loop) {
        loop.mailboxCount = self.mailCount
        loop.jobCount = self.jobs.count
        loop.timerCount = self.wheel.count
    }

    /// Looks at some topics, from the place `position` on; returns the next place, or nil if there is none.
    ///
    /// Topics that come or go between two steps may be seen or not.
    func collectTopics(
        from position: TopicPosition,
        into largest: inout LargestTopics
    ) -> TopicPosition? {
        var (endpoint, index) = (position.endpoint, position.index)
        var left = Self.snapshotStep
        while endpoint < self.endpoints.count {
            let list = self.endpoints[endpoint].topics.list
            while index < list.count {
                guard left > 0 else { return TopicPosition(endpoint: endpoint, index: index) }
                left -= 1
                largest.add(list[index].topic, list[index].subscribers.count)
                index += 1
            }
            (endpoint, index) = (endpoint + 1, 0)
        }
        return nil
    }

    /// How many subscribers topics have here.
    func subscriberCounts(of topics: [Topic]) -> [Int] {
        topics.map { topic in
            self.endpoints.reduce(0) { $0 + ($1.topics.subscribers(of: topic)?.subscribers.count ?? 0) }
        }
    }

    /// Describes up to `countMax` connections, from the slot `index` on; returns the next slot to look at, or nil if
    /// there is none.
    func collectConnections(
        from index: Int,
        countMax: Int,
        into summaries: inout [ServerSnapshot.ConnectionSummary]
    ) -> Int? {
        let end = min(self.slots.usedCapacity, index + Self.snapshotStep)
        guard index < end else { return nil }
        for slot in index..<end {
            guard summaries.count < countMax else { return slot }
            if unsafe self.slots.pointer(slot).pointee.phase != .free {
                summaries.append(self.summary(of: slot))
            }
        }
        return end < self.slots.usedCapacity ? end : nil
    }

    private func summary(of index: Int) -> ServerSnapshot.ConnectionSummary {
        let slot = unsafe self.slots.pointer(index)
        let details = unsafe slot.pointee.details
        let route = unsafe slot.pointee.endpoint?.path
        let path = details.map { $0.path.isEmpty ? route : $0.path } ?? route
        return unsafe ServerSnapshot.ConnectionSummary(
            id: "\(self.id(of: index))",
            phase: self.phaseName(of: index),
            path: path,
            user: details?.user,
            remoteAddress: "\(slot.pointee.address)",
            subprotocol: details?.subprotocol,
            ageSeconds: (self.now - slot.pointee.openedAt).seconds,
            silentSeconds: (self.now - slot.pointee.lastReceivedAt).seconds,
            messagesReceived: UInt64(slot.pointee.messagesReceived),
            bytesReceived: slot.pointee.bytesReceived,
            bytesSent: slot.pointee.bytesSent,
            bufferedBytes: slot.pointee.outbound.byteCount,
            subscriptionCount: slot.pointee.subscriptions.count,
            topics: slot.pointee.subscriptions.prefix(Self.topicsPerConnectionMax).map(\.entry.topic.name)
        )
    }

    private func phaseName(of index: Int) -> String {
        let slot = unsafe self.slots.pointer(index)
        switch unsafe slot.pointee.phase {
        case .free: return "free"
        case .http: return "http"
        case .connecting: return "connecting"
        case .deciding: return "deciding"
        case .open: return unsafe slot.pointee.closing.isOpen ? "open" : "closing"
        case .leaving: return "open"
        case .lingering: return "lingering"
        }
    }
}

/// Where a look at a loop's topics goes on.
struct TopicPosition: Sendable {
    var endpoint = 0
    var index = 0
}

/// The topics with the most subscribers that were seen so far, no more than are wanted.
struct LargestTopics: Sendable {
    let countMax: Int
    private(set) var topics: [(topic: Topic, count: Int)] = []
    /// What a further topic must exceed.
    private var threshold = 0

    init(countMax: Int) {
        self.countMax = countMax
    }

    mutating func add(_ topic: Topic, _ count: Int) {
        guard count > self.threshold, self.countMax > 0 else { return }
        self.topics.append((topic, count))
        // Sorted once for each `countMax` that come, so that a topic costs little on average.
        if self.topics.count >= 2 * self.countMax { self.cut() }
    }

    mutating func cut() {
        self.topics.sort { ($0.count, $1.topic.name) > ($1.count, $0.topic.name) }
        guard self.topics.count > self.countMax else { return }
        self.topics.removeLast(self.topics.count - self.countMax)
        self.threshold = self.topics.last?.count ?? 0
    }
}

extension LoopInterval {
    var seconds: Double { Double(self.hundredths) / 100 }
}
