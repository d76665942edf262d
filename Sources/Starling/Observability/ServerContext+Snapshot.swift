internal import StarlingCore
internal import Synchronization

extension ServerSnapshot {
    /// More of anything is not listed, whatever the options say.
    static let countMax = 1000
}

extension ServerContext {
    /// Asks every loop, and waits for each as long as the options say.
    package func snapshot(_ options: ServerSnapshot.Options) async -> ServerSnapshot {
        let figures = self.figures()
        let deadline = ContinuousClock.now + options.timeout
        let loops = await self.loopSummaries(deadline)
        let page = await self.connectionPage(options, deadline)
        return ServerSnapshot(
            version: ServerSnapshot.libraryVersion,
            stage: self.stage,
            isReady: self.isReady,
            uptimeSeconds: Double(self.uptime / .milliseconds(1)) / 1000,
            totals: Dictionary(
                uniqueKeysWithValues: LoopFigure.allCases.map { figure in
                    (String(figure.family.name.dropFirst("starling_".count)), figures[figure])
                }
            ),
            closes: Dictionary(uniqueKeysWithValues: figures.closesByCause),
            refusals: Dictionary(uniqueKeysWithValues: figures.refusalsByCause),
            loops: loops,
            topics: await self.largestTopics(min(options.topicCountMax, ServerSnapshot.countMax), deadline),
            memory: ServerSnapshot.Memory(
                heldBytes: self.memory.byteCount,
                heldBytesMax: self.memory.byteCountMax,
                outboundBytes: figures[.outboundBytes]
            ),
            limits: ServerSnapshot.ServerLimits(
                connectionsMax: self.configuration.connectionsMax,
                connectionsPerAddressMax: self.configuration.connectionsPerAddressMax,
                connectionsPerUserMax: self.configuration.connectionsPerUserMax,
                upgradesPerSecondMax: self.configuration.upgradesPerSecondMax,
                handshakeTimeoutSeconds: self.configuration.handshakeTimeout.inSeconds,
                drainTimeoutSeconds: self.configuration.drainTimeout.inSeconds
            ),
            endpoints: self.endpointSummaries,
            broadcasters: self.broadcasterStatuses,
            connections: page.connections,
            nextConnection: page.next
        )
    }

    private var endpointSummaries: [ServerSnapshot.Endpoint] {
        self.routes.compactMap { route in
            guard case .webSocket(let endpoint) = route.target else { return nil }
            let configuration = endpoint.configuration
            return ServerSnapshot.Endpoint(
                path: route.pattern,
                messageBytesMax: configuration.limits.messageBytesMax,
                outboundBytesMax: configuration.outbound.byteCountMax,
                subscriptionsMax: configuration.subscriptionsMax,
                messagesPerSecondMax: configuration.rates.messagesPerSecondMax,
                bytesPerSecondMax: configuration.rates.bytesPerSecondMax,
                pingIntervalSeconds: configuration.timeouts.pingInterval?.inSeconds,
                idleTimeoutSeconds: configuration.timeouts.idleTimeout?.inSeconds
            )
        }
    }

    // MARK: - Loops

    private func loopSummaries(_ deadline: ContinuousClock.Instant) async -> [ServerSnapshot.Loop] {
        await withTaskGroup(of: ServerSnapshot.Loop.self) { group in
            for (loop, statistics) in self.statistics {
                group.addTask {
                    let figures = statistics.snapshot()
                    var summary = ServerSnapshot.Loop(
                        index: loop.index,
                        hasAnswered: false,
                        connections: Int(figures[.connections]),
                        webSockets: Int(figures[.openConnections]),
                        topics: Int(figures[.topics]),
                        subscriptions: Int(figures[.subscriptions]),
                        tasks: Int(figures[.tasks]),
                        outboundBytes: figures[.outboundBytes],
                        ticks: figures[.ticks],
                        busyNanoseconds: figures.ticks.sum,
                        longestTickNanoseconds: statistics.longestTickNanoseconds,
                        answerNanoseconds: 0,
                        mailboxCount: 0,
                        jobCount: 0,
                        timerCount: 0
                    )
                    let asked = ContinuousClock.now
                    let known = summary
                    let answer = await loop.ask(deadline) { driver in
                        var summary = known
                        driver.summarize(&summary)
                        summary.hasAnswered = true
                        summary.answerNanoseconds = UInt64(
                            asked.duration(to: .now) / .nanoseconds(1)
                        )
                        return summary
                    }
                    if let answer { summary = answer }
                    return summary
                }
            }
            return await group.reduce(into: []) { $0.append($1) }.sorted { $0.index < $1.index }
        }
    }

    // MARK: - Topics

    /// Each loop's largest are candidates; then all loops are asked for their subscribers, so that the sums are right.
    private func largestTopics(
        _ countMax: Int,
        _ deadline: ContinuousClock.Instant
    ) async -> [ServerSnapshot.TopicSummary] {
        guard countMax > 0 else { return [] }
        var candidates: Set<Topic> = []
        for loop in self.loops {
            var position: TopicPosition? = TopicPosition()
            var largest = LargestTopics(countMax: countMax)
            while let from = position {
                let before = largest
                let step = await loop.ask(deadline) { driver in
                    var largest = before
                    let next = driver.collectTopics(from: from, into: &largest)
                    return (largest, next)
                }
                guard let step else { break }
                (largest, position) = step
            }
            largest.cut()
            candidates.formUnion(largest.topics.map(\.topic))
        }
        let topics = Array(candidates)
        var counts = Array(repeating: 0, count: topics.count)
        for loop in self.loops {
            let more = await loop.ask(deadline) { $0.subscriberCounts(of: topics) } ?? []
            for (index, count) in more.enumerated() { counts[index] += count }
        }
        var largest = LargestTopics(countMax: countMax)
        for (topic, count) in zip(topics, counts) { largest.add(topic, count) }
        largest.cut()
        return largest.topics.map {
            ServerSnapshot.TopicSummary(name: $0.topic.name, subscriberCount: $0.count)
        }
    }

    // MARK: - Connections

    private func connectionPage(
        _ options: ServerSnapshot.Options,
        _ deadline: ContinuousClock.Instant
    ) async -> (connections: [ServerSnapshot.ConnectionSummary], next: String?) {
        let countMax = min(options.connectionCountMax, ServerSnapshot.countMax)
        guard countMax > 0 else { return ([], nil) }
        let start = options.connectionsFrom.flatMap(ConnectionPlace.init) ?? ConnectionPlace()
        var connections: [ServerSnapshot.ConnectionSummary] = []
        for loop in self.loops.sorted(by: { $0.index < $1.index }) where loop.index >= start.loop {
            var place: Int? = loop.index == start.loop ? start.slot : 0
            while let from = place {
                guard connections.count < countMax else {
                    return (connections, "\(ConnectionPlace(loop: loop.index, slot: from))")
                }
                let before = connections
                let step = await loop.ask(deadline) { driver in
                    var connections = before
                    let next = driver.collectConnections(from: from, countMax: countMax, into: &connections)
                    return (connections, next)
                }
                guard let step else { break }
                (connections, place) = step
            }
        }
        return (connections, nil)
    }
}

/// Where a page of connections begins: loop and slot, with a dot between.
struct ConnectionPlace: CustomStringConvertible {
    var loop = 0
    var slot = 0

    init(loop: Int = 0, slot: Int = 0) {
        self.loop = loop
        self.slot = slot
    }

    init?(_ text: String) {
        let parts = text.split(separator: ".", omittingEmptySubsequences: false).map { Int($0) }
        guard parts.count == 2, let loop = parts[0], let slot = parts[1], loop >= 0,
            (0..<ConnectionID.slotsPerLoopMax).contains(slot)
        else { return nil }
        self.init(loop: loop, slot: slot)
    }

    var description: String {
        "\(self.loop).\(self.slot)"
    }
}

extension EventLoop {
    /// Asks the loop's driver something, in one of its ticks; nil if it has ended, or does not answer in time.
    func ask<Answer: Sendable>(
        _ deadline: ContinuousClock.Instant,
        _ question: @escaping @Sendable (ConnectionDriver) -> Answer
    ) async -> Answer? {
        let answer = FirstAnswer<Answer>()
        let timer = Task {
            try await Task.sleep(until: deadline)
            answer.give(nil)
        }
        defer { timer.cancel() }
        return await withCheckedContinuation { continuation in
            answer.wait(continuation)
            self.post(.perform { driver in answer.give(driver.map(question)) })
        }
    }
}

/// Resumes a continuation with what comes first.
private final class FirstAnswer<Answer: Sendable>: Sendable {
    private enum State {
        case idle
        case waiting(CheckedContinuation<Answer?, Never>)
        case given(Answer?)
        case done
    }

    private let state = Lock(State.idle)

    func wait(_ continuation: CheckedContinuation<Answer?, Never>) {
        let known: Answer?? = self.state.withLock { state in
            switch state {
            case .idle:
                state = .waiting(continuation)
                return .none
            case .given(let answer):
                state = .done
                return .some(answer)
            case .waiting, .done: preconditionFailure("an answer is waited for twice")
            }
        }
        if case .some(let answer) = known { continuation.resume(returning: answer) }
    }

    func give(_ answer: Answer?) {
        let waiting: CheckedContinuation<Answer?, Never>? = self.state.withLock { state in
            switch state {
            case .idle:
                state = .given(answer)
                return nil
            case .waiting(let continuation):
                state = .done
                return continuation
            case .given, .done: return nil
            }
        }
        waiting?.resume(returning: answer)
    }
}

extension Duration {
    /// Whole and broken seconds.
    package var inSeconds: Double {
        Double(self.components.seconds) + Double(self.components.attoseconds) / 1e18
    }
}
