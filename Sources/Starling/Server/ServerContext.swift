internal import HTTPTypes
public import Logging
package import StarlingCore

/// A running server as its transport sees it: what its drivers share, and the word to end.
public final class ServerContext: Sendable {
    let configuration: ServerConfiguration
    let routes: [Route]
    let admission: AdmissionControl
    package let memory: MemoryBudget
    /// Where to log.
    public let logger: Logger
    /// Which end of its connections this is; the context of a client has one endpoint and no transport.
    let role: Role
    let surroundings: Surroundings
    let handshakeTimeout: LoopInterval
    let lingerTimeout: LoopInterval
    let upgradeQueueTimeout: LoopInterval

    private struct Endpoint {
        let endpoint: WebSocketEndpoint
        let route: Int
        let hub: BroadcastHub
    }

    private struct State {
        var loops: [(loop: EventLoop, statistics: LoopStatistics)] = []
        var isDraining = false
        var isListening = false
        var longestTickNanoseconds: UInt64 = 0
    }

    private let endpoints: [Endpoint]
    private let state = Lock(State())
    private let startedAt = ContinuousClock.now

    package init(
        configuration: ServerConfiguration,
        routes: [Route],
        role: Role = .server,
        surroundings: Surroundings = Surroundings()
    ) {
        var routes = routes
        if let path = configuration.readyPath {
            routes.insert(
                Route(
                    pattern: path,
                    target: .http { _, server in
                        server.isReady
                            ? .text("ready\n") : .text("not ready\n", status: .serviceUnavailable)
                    }
                ),
                at: 0
            )
        }
        if let path = configuration.healthPath {
            routes.insert(Route(pattern: path, target: .http { _, _ in .text("ok\n") }), at: 0)
        }
        self.role = role
        self.surroundings = surroundings
        self.configuration = configuration
        self.routes = routes
        self.admission = AdmissionControl(configuration)
        self.memory = configuration.memory
        self.logger = configuration.logger
        self.handshakeTimeout = LoopInterval(configuration.handshakeTimeout)
        self.lingerTimeout = LoopInterval(configuration.lingerTimeout)
        self.upgradeQueueTimeout = LoopInterval(configuration.upgradeQueueTimeout)
        var endpoints: [Endpoint] = []
        for (route, entry) in routes.enumerated() {
            guard case .webSocket(let endpoint) = entry.target else { continue }
            let hub = BroadcastHub(endpoint.broadcaster, endpoint: endpoints.count, surroundings)
            hub.attach()
            endpoints.append(Endpoint(endpoint: endpoint, route: route, hub: hub))
        }
        self.endpoints = endpoints
    }

    // MARK: - For transports

    /// Says that the transport listens: `/ready` now answers 200.
    public func startedListening() {
        self.state.withLock { $0.isListening = true }
    }

    /// Whether new connections are welcome.
    ///
    /// Not while a broadcaster does not hear the other nodes.
    public var isReady: Bool {
        self.state.withLock { $0.isListening && !$0.isDraining } && self.broadcasters.allSatisfy(\.isReady)
    }

    /// What to write to a connection that ``ConnectionDriver/accept(from:handshakeByteCount:)`` does not take, as far as it can be written
    /// at once: 503 with a `Retry-After` that is not the same each time.
    public var fullResponse: [UInt8] {
        self.fullResponses[Int(self.surroundings.random(1...UInt32(self.fullResponses.count))) - 1]
    }

    /// Made once, so that a flood costs little.
    private let fullResponses = (1...ConnectionDriver.blindRetryDelayMax).map { seconds in
        ConnectionDriver.busy("The server has no room for another connection.\n", retryAfter: seconds)
            .serialized(keepsConnection: false, isHeadRequest: false)
    }

    // MARK: - For drivers

    func makeLoopEndpoints(for loop: EventLoop) -> [LoopEndpoint] {
        self.endpoints.enumerated().map { index, entry in
            entry.hub.add(loop)
            return LoopEndpoint(
                entry.endpoint,
                index: index,
                path: self.routes[entry.route].pattern,
                hub: entry.hub,
                role: self.role,
                logger: self.logger
            )
        }
    }

    func endpoint(_ index: Int) -> WebSocketEndpoint {
        self.endpoints[index].endpoint
    }

    func endpointIndex(ofRoute route: Int) -> Int {
        guard let index = self.endpoints.firstIndex(where: { $0.route == route }) else {
            preconditionFailure("a route without an endpoint was asked for one")
        }
        return index
    }

    func routeIndex(ofEndpoint index: Int) -> Int {
        self.endpoints[index].route
    }

    /// The newest positions of topics, of those whose history answers, nil for those without one; so many are asked for at once.
    package func newestPositions(
        of topics: Set<HandoffTopic>,
        atOnce: Int = 64
    ) async -> [HandoffTopic: StreamPosition?] {
        await withTaskGroup(of: (HandoffTopic, TopicHistory?).self) { group in
            var positions: [HandoffTopic: StreamPosition?] = [:]
            func note(_ topic: HandoffTopic, _ history: TopicHistory?) {
                if let history { positions.updateValue(history.newest, forKey: topic) }
            }
            for (count, topic) in topics.enumerated() {
                if count >= atOnce, let (topic, history) = await group.next() { note(topic, history) }
                group.addTask {
                    let history = self.endpoints[topic.endpoint].hub.history
                    return (topic, try? await history?.history(of: topic.topic, newest: 0))
                }
            }
            for await (topic, history) in group { note(topic, history) }
            return positions
        }
    }

    /// Whether the planned end has begun.
    package var isDraining: Bool {
        self.state.withLock { $0.isDraining }
    }

    func register(_ loop: EventLoop, _ statistics: LoopStatistics) {
        let isDraining = self.state.withLock { state in
            state.loops.append((loop, statistics))
            return state.isDraining
        }
        if isDraining { self.drain(loop) }
    }

    // MARK: - For the server

    var loops: [EventLoop] {
        self.state.withLock { $0.loops.map(\.loop) }
    }

    var hubs: [BroadcastHub] {
        self.endpoints.map(\.hub)
    }

    /// Brings subscriptions and queued publications to the broadcasters, until the task is cancelled.
    package func runHubs() async {
        await withDiscardingTaskGroup { group in
            for hub in self.hubs { group.addTask { await hub.run() } }
        }
    }

    /// Waits until the last publications of handlers are with their broadcasters, for a while.
    func finishPublishing() async {
        await withTaskGroup(of: Void.self) { group in
            group.addTask {
                await withDiscardingTaskGroup { group in
                    for hub in self.hubs { group.addTask { await hub.waitUntilPublished() } }
                }
            }
            group.addTask { try? await Task.sleep(for: Self.lastPublicationsTimeout) }
            await group.next()
            group.cancelAll()
        }
        let count = self.hubs.reduce(0) { $0 + $1.unpublishedCount }
        guard count > 0 else { return }
        self.logger.warning(
            "a broadcaster has not taken the last publications before the server's end",
            metadata: [LoggingKeys.reason: "\(count) of them"]
        )
    }

    /// How long an ended server waits for a broadcaster that takes its last publications.
    private static let lastPublicationsTimeout = Duration.seconds(5)

    /// Each once, however many endpoints share it.
    var broadcasters: [any Broadcaster] {
        var known: Set<ObjectIdentifier> = []
        let cluster: [any Broadcaster] = (self.configuration.cluster?.broadcaster).map { [$0] } ?? []
        return (self.endpoints.map(\.endpoint.broadcaster) + cluster).filter {
            known.insert(ObjectIdentifier($0)).inserted
        }
    }

    /// Begins the planned end, once.
    package func beginDrain() {
        let loops: [EventLoop] = self.state.withLock { state in
            guard !state.isDraining else { return [] }
            state.isDraining = true
            return state.loops.map(\.loop)
        }
        for loop in loops { self.drain(loop) }
    }

    private func drain(_ loop: EventLoop) {
        loop.post(.perform { $0?.beginDrain() })
    }

    /// Takes the longest tick of any loop since the last call, which ``metricReadings()`` repeat until the next one.
    ///
    /// For one caller, once a second: taking it resets it.
    func takeLongestTick() {
        self.state.withLock { state in
            state.longestTickNanoseconds = state.loops.map { $0.statistics.takeLongestTick() }.max() ?? 0
        }
    }

    /// All loops' figures, added up.
    func figures() -> LoopFigures {
        self.statistics.reduce(LoopFigures.zero) { $0 + $1.statistics.snapshot() }
    }

    /// The loops and what they count.
    var statistics: [(loop: EventLoop, statistics: LoopStatistics)] {
        self.state.withLock { $0.loops }
    }

    /// Where the server stands between its start and its end.
    var stage: ServerSnapshot.Stage {
        self.state.withLock { $0.isDraining ? .draining : $0.isListening ? .serving : .starting }
    }

    /// How long the server has been there.
    var uptime: Duration {
        self.startedAt.duration(to: .now)
    }

    /// Every metric of ``MetricFamily/all``, as it is now.
    func metricReadings() -> [MetricReading] {
        let figures = self.figures()
        let lag = self.state.withLock(\.longestTickNanoseconds)
        var readings = LoopFigure.allCases.map { MetricReading($0.family, figures[$0]) }
        readings += [
            MetricReading(.heldBytes, UInt64(max(0, self.memory.byteCount))),
            MetricReading(.heldBytesMax, UInt64(self.memory.byteCountMax)),
            MetricReading(.connectionsMax, UInt64(max(0, self.configuration.connectionsMax))),
            MetricReading(.ready, self.isReady ? 1 : 0),
            MetricReading(.draining, self.stage == .draining ? 1 : 0),
            MetricReading(.uptime, UInt64(self.uptime.components.seconds)),
            MetricReading(.loopLag, lag),
            MetricReading(.tickDuration, figures.ticks, Histogram.tickBounds),
            MetricReading(.handshakeDuration, figures.handshakes, Histogram.handshakeBounds),
            MetricReading(.closes, figures.closesByCause),
            MetricReading(.refusals, figures.refusalsByCause),
        ]
        let brokers = self.broadcasterStatuses
        readings += [
            MetricReading(.brokerPublished, brokers.map { ($0.name, $0.publishedCount) }),
            MetricReading(.brokerFailed, brokers.map { ($0.name, $0.failedCount) }),
            MetricReading(.brokerDelivered, brokers.map { ($0.name, $0.deliveredCount) }),
            MetricReading(.brokerLinks, brokers.map { ($0.name, UInt64($0.links.count)) }),
            MetricReading(
                .brokerLinksUp,
                brokers.map { ($0.name, UInt64($0.links.count { $0.state == .up })) }
            ),
        ]
        return readings
    }

    /// What the broadcasters say of themselves; names that two of them have are told apart by a number.
    var broadcasterStatuses: [BroadcasterStatus] {
        var known: [String: Int] = [:]
        return self.broadcasters.map { broadcaster in
            var status =
                (broadcaster as? any InspectableBroadcaster)?.status
                ?? BroadcasterStatus(name: "\(type(of: broadcaster))", isReady: broadcaster.isReady)
            known[status.name, default: 0] += 1
            if let number = known[status.name], number > 1 { status.name += " \(number)" }
            return status
        }
    }

    /// The figures in Prometheus' text format, version 0.0.4.
    package func prometheusText() -> String {
        self.metricReadings().map(\.prometheusText).joined()
    }
}
