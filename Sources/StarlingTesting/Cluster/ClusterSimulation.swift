internal import Starling

/// One run of a ``DeterministicCluster``.
final class ClusterSimulation {
    /// A client's stream to a node.
    private final class Link {
        let node: SimulatedNode
        let connection: Int
        let begunAt: UInt64
        var up: FaultLine
        var down: FaultLine
        var lastHeardAt: UInt64
        var wakeAt: UInt64?
        /// When something arrives, and up to which tick the server's output has been taken: before one of both changes there
        /// is nothing to carry.
        var nextArrival: UInt64 = 0
        var seenTicks = -1
        /// The server has ended its direction, and the client is to see it behind all bytes.
        var hasServerEnded = false
        /// The server does not know the connection any more.
        var isServerGone = false

        init(_ node: SimulatedNode, _ connection: Int, at now: UInt64, _ plan: FaultPlan) {
            var random = SeededGenerator(seed: plan.seed)
            self.node = node
            self.connection = connection
            self.begunAt = now
            self.lastHeardAt = now
            self.up = FaultLine(plan.sent, random.split())
            self.down = FaultLine(plan.received, random.split())
        }

        func breakNow(_ kind: BreakageKind, at now: UInt64) {
            self.nextArrival = 0
            self.up.breakNow(kind, at: now - self.begunAt)
            self.down.breakNow(kind, at: now - self.begunAt)
        }
    }

    private let configuration: DeterministicCluster.Configuration
    private let dialect: any ClusterDialect
    private let seed: UInt64
    private let simulation: Simulation
    private let broker: SimulatedBroker
    private let topics: [Topic]
    private var nodes: [SimulatedNode] = []
    private var dead: [SimulatedNode] = []
    private var lastIncarnation = 0
    private var clients: [SimulatedClient] = []
    private var links: [Link?] = []
    private var figures = ClusterFigures()
    /// Faults are over.
    private var isQuiet = false

    /// A client that hears nothing for so long gives its stream up.
    private static let silenceMax: UInt64 = 2_000_000_000
    private static let tickInterval: UInt64 = 100_000_000
    /// How long the cluster may take to settle, once nothing fails any more.
    private static let settlingMax: UInt64 = 30_000_000_000

    init(
        _ configuration: DeterministicCluster.Configuration,
        _ dialect: any ClusterDialect,
        seed: UInt64,
        mistake: ClusterMistake?
    ) {
        precondition(
            configuration.nodeCount > 0 && configuration.clientCount > 0 && configuration.topicCount > 0,
            "a cluster has nodes, clients and topics"
        )
        self.configuration = configuration
        self.dialect = dialect
        self.seed = seed
        self.simulation = Simulation(seed: seed)
        self.topics = (0..<configuration.topicCount).map { "topic-\($0)" }
        self.broker = SimulatedBroker(
            self.simulation,
            topics: self.topics,
            historyCountMax: configuration.historyCountMax,
            mistake: mistake
        )
        for index in 0..<configuration.nodeCount { self.nodes.append(self.makeNode(index)) }
        for index in 0..<configuration.clientCount {
            self.clients.append(
                SimulatedClient(name: "client-\(index)", topics: self.topics, dialect, self.broker)
            )
            self.links.append(nil)
        }
    }

    // MARK: - The run

    func run() -> ClusterRun {
        for index in self.clients.indices { self.connectSoon(index) }
        let end = self.configuration.duration.wholeNanoseconds
        for _ in 0..<self.configuration.actionCount {
            self.simulation.after(self.simulation.random.nanoseconds(.zero...self.configuration.duration)) {
                if !self.isQuiet { self.act() }
            }
        }
        self.scheduleTick()
        self.proceed(until: end)
        self.becomeQuiet()
        // By now every lease of the dead has ended, and every silence was noticed.
        var time = end + self.configuration.lease.wholeNanoseconds + 2 * Self.silenceMax
        var complaint: String?
        repeat {
            self.proceed(until: time)
            complaint = self.complaint()
            time += 1_000_000_000
        } while complaint != nil && self.simulation.violation == nil && time < end + Self.settlingMax
        if let complaint { self.simulation.violate("the cluster does not settle: \(complaint)") }
        let run = self.result()
        self.tearDown()
        return run
    }

    private func proceed(until end: UInt64) {
        while self.simulation.violation == nil, self.simulation.step(until: end) { self.settle() }
    }

    private func scheduleTick() {
        self.simulation.after(Self.tickInterval) {
            for node in self.nodes where node.isAlive { node.tick() }
            self.scheduleTick()
        }
    }

    /// Nothing fails any more: links heal, nodes live, and everybody publishes a last time.
    private func becomeQuiet() {
        self.simulation.note("quiet")
        self.isQuiet = true
        for index in self.nodes.indices {
            if self.nodes[index].isAlive { self.nodes[index].broadcaster.heal() } else { self.restart(index) }
        }
        for (number, topic) in self.topics.enumerated() {
            self.clients[number % self.clients.count].publish(to: topic)
        }
        self.settle()
    }

    private func complaint() -> String? {
        for topic in self.topics {
            if let key = self.broker.repeatedKey(of: topic) { return "\(key) stands in \(topic) twice" }
        }
        let present = Dictionary(
            uniqueKeysWithValues: self.topics.map { topic in
                (topic, Set(self.clients.filter { $0.wanted.contains(topic) }.map(\.name)))
            }
        )
        return self.clients.lazy.compactMap { $0.complaint { present[$0] ?? [] } }.first
    }

    private func result() -> ClusterRun {
        for client in self.clients { self.figures += client.figures }
        return ClusterRun(
            seed: self.seed,
            violation: self.simulation.violation,
            trace: self.simulation.trace.joined(separator: "\n"),
            figures: self.figures
        )
    }

    /// Ends all tasks: none may outlive its loop.
    private func tearDown() {
        for node in self.nodes {
            node.die()
            self.dead.append(node)
        }
        for index in self.links.indices { self.links[index] = nil }
        repeat { self.settle() } while self.simulation.wakeSleepers()
        self.settle()
        for node in self.dead { node.finish() }
    }

    // MARK: - What happens

    private func act() {
        let faults = self.configuration.faults
        let client = self.simulation.random.below(self.clients.count)
        let topic = self.simulation.random.pick(self.topics)
        let node = self.simulation.random.below(self.nodes.count)
        let duration = self.simulation.random.nanoseconds(.milliseconds(100) ... .milliseconds(1500))
        switch self.simulation.random.below(100) {
        case 0..<45: self.clients[client].publish(to: topic)
        case 45..<52: for _ in 0..<8 { self.clients[client].publish(to: topic) }
        case 52..<66: self.clients[client].togglePresence(in: topic)
        case 66..<71: self.clients[client].close()
        case 71..<80: if faults.contains(.clientLinks) { self.breakStream(of: client, .reset) }
        case 80..<85: if faults.contains(.clientLinks) { self.breakStream(of: client, .halfOpen) }
        case 85..<93: if faults.contains(.brokerLinks) { self.cut(node, for: duration) }
        case 93..<97: if faults.contains(.nodes) { self.kill(node, for: duration) }
        default: if faults.contains(.histories) { self.loseHistory(of: topic) }
        }
    }

    private func breakStream(of client: Int, _ kind: BreakageKind) {
        guard let link = self.links[client] else { return }
        self.simulation.note("the stream of client-\(client) \(kind == .reset ? "breaks" : "falls silent")")
        self.figures.breaks += 1
        link.breakNow(kind, at: self.simulation.now)
    }

    private func cut(_ index: Int, for duration: UInt64) {
        let node = self.nodes[index]
        guard node.isAlive, !node.broadcaster.isCut else { return }
        self.simulation.note("node \(index) loses its broker")
        self.figures.cuts += 1
        node.broadcaster.cut()
        self.simulation.after(duration) {
            guard node.broadcaster.isCut else { return }
            self.simulation.note("node \(index) has its broker again")
            node.broadcaster.heal()
        }
    }

    private func kill(_ index: Int, for duration: UInt64) {
        let node = self.nodes[index]
        guard node.isAlive else { return }
        self.simulation.note("node \(index) dies")
        self.figures.deaths += 1
        for client in self.links.indices {
            guard let link = self.links[client], link.node === node else { continue }
            link.isServerGone = true
            // The machine says goodbye to some, or is just gone.
            link.breakNow(self.simulation.random.happens(50) ? .reset : .halfOpen, at: self.simulation.now)
        }
        node.die()
        self.dead.append(node)
        self.simulation.after(self.configuration.lease.wholeNanoseconds) {
            self.simulation.note("the lease of incarnation \(node.broadcaster.incarnation) ends")
            self.broker.expire(node.broadcaster.incarnation)
        }
        self.simulation.after(duration) { self.restart(index) }
    }

    private func restart(_ index: Int) {
        guard !self.nodes[index].isAlive else { return }
        self.nodes[index] = self.makeNode(index)
        self.simulation.note("node \(index) is back as incarnation \(self.lastIncarnation)")
    }

    private func makeNode(_ index: Int) -> SimulatedNode {
        self.lastIncarnation += 1
        let broadcaster = SimulatedBroadcaster(
            self.broker,
            node: index,
            incarnation: self.lastIncarnation,
            faults: self.configuration.faults,
            delay: self.configuration.brokerDelay
        )
        var endpoint = EndpointConfiguration()
        endpoint.deflate = nil
        endpoint.timeouts.pingInterval = .seconds(1)
        endpoint.timeouts.pongTimeout = .milliseconds(1500)
        endpoint.timeouts.closeTimeout = .seconds(1)
        endpoint.timeouts.writeTimeout = .seconds(3)
        return SimulatedNode(
            index: index,
            broadcaster,
            self.simulation,
            routes: [
                WebSocketRoute(
                    "*",
                    self.dialect.makeEndpoint(broadcaster: broadcaster, configuration: endpoint)
                )
            ]
        )
    }

    private func loseHistory(of topic: Topic) {
        self.broker.beginEpoch(of: topic)
        self.simulation.note(
            "the history of \(topic) is lost, now \(self.broker.newest(of: topic)?.short ?? "")"
        )
    }

    // MARK: - Streams

    private func connectSoon(_ client: Int) {
        self.simulation.after(self.simulation.random.nanoseconds(.milliseconds(20) ... .milliseconds(600))) {
            self.connect(client)
        }
    }

    private func connect(_ client: Int) {
        let node = self.simulation.random.pick(self.nodes)
        guard node.isAlive,
            let connection = node.accept(from: RemoteAddress(host: "192.0.2.\(client)", port: 1))
        else {
            self.simulation.note("client-\(client) finds node \(node.index) dead")
            return self.connectSoon(client)
        }
        self.simulation.note("client-\(client) connects to node \(node.index)")
        let link = Link(node, connection, at: self.simulation.now, self.makePlan())
        self.links[client] = link
        self.clients[client].begin()
        self.watch(link, of: client)
    }

    /// How the stream of a client is, as long as nothing happens to it.
    private func makePlan() -> FaultPlan {
        var plan = FaultPlan(seed: self.simulation.random.next())
        guard self.configuration.faults.contains(.clientLinks) else { return plan }
        func degrade(_ direction: inout FaultPlan.Direction) {
            direction.delay = self.simulation.random.pick([
                .zero ... .zero, .milliseconds(1) ... .milliseconds(20),
                .milliseconds(5) ... .milliseconds(150),
            ])
            direction.pieceByteCountMax = self.simulation.random.pick([nil, nil, 40])
            direction.bytesPerSecondMax = self.simulation.random.pick([nil, nil, nil, 4000])
            direction.inTransitByteCountMax = 4096
        }
        degrade(&plan.sent)
        degrade(&plan.received)
        return plan
    }

    /// A client gives a stream up on which it hears nothing.
    private func watch(_ link: Link, of client: Int) {
        self.simulation.after(Self.silenceMax / 4) {
            guard self.links[client] === link else { return }
            guard self.simulation.now - link.lastHeardAt > Self.silenceMax else {
                return self.watch(link, of: client)
            }
            self.simulation.note("client-\(client) hears nothing any more")
            self.lose(client)
        }
    }

    /// A client's stream is over for it; the server finds out by itself, if nobody tells it.
    private func lose(_ client: Int) {
        self.links[client] = nil
        self.clients[client].lost()
        self.connectSoon(client)
    }

    /// Lets everything run that is ready now.
    private func settle() {
        var hasProgressed = true
        while hasProgressed {
            hasProgressed = self.simulation.executor.drain()
            for node in self.nodes { if node.settle() { hasProgressed = true } }
            for node in self.dead { if node.settle() { hasProgressed = true } }
            for client in self.links.indices {
                guard let link = self.links[client] else { continue }
                if self.carry(link, of: client) { hasProgressed = true }
            }
        }
    }

    /// Carries what is due on a stream; false if nothing was.
    private func carry(_ link: Link, of client: Int) -> Bool {
        let now = self.simulation.now - link.begunAt
        if link.seenTicks == link.node.tickCount, link.nextArrival > now, self.clients[client].output.isEmpty
        {
            return false
        }
        var hasProgressed = self.carryUp(link, client, now)
        if self.links[client] === link, self.carryDown(link, client, now) { hasProgressed = true }
        guard self.links[client] === link else { return true }
        for key in self.clients[client].takeFailedKeys() {
            self.simulation.after(
                self.simulation.random.nanoseconds(.milliseconds(50) ... .milliseconds(300))
            ) {
                self.clients[client].retry(key)
            }
        }
        link.nextArrival = min(link.up.nextArrival ?? .max, link.down.nextArrival ?? .max)
        let next = link.nextArrival
        if next > now, next != .max, link.wakeAt.map({ next < $0 || $0 <= now }) ?? true {
            link.wakeAt = next
            // The settling that follows every event does the rest.
            self.simulation.after(next - now) {}
        }
        if !hasProgressed { link.seenTicks = link.node.tickCount }
        return hasProgressed
    }

    private func carryUp(_ link: Link, _ client: Int, _ now: UInt64) -> Bool {
        var hasProgressed = false
        let count = min(self.clients[client].output.count, link.up.room)
        if count > 0 {
            link.up.send(Array(self.clients[client].output.prefix(count)), at: now)
            self.clients[client].output.removeFirst(count)
        }
        while !link.isServerGone, link.node.io.isReading(link.connection),
            let arrival = link.up.receive(at: now)
        {
            hasProgressed = true
            switch arrival {
            case .bytes(let bytes): link.node.receive(bytes, on: link.connection)
            case .end: link.node.endInput(of: link.connection)
            case .reset:
                self.reset(link, client)
                return true
            }
            self.noteClose(link, now)
        }
        return hasProgressed
    }

    private func carryDown(_ link: Link, _ client: Int, _ now: UInt64) -> Bool {
        if !link.isServerGone {
            let bytes = link.node.io.takeOutput(of: link.connection)
            if !bytes.isEmpty { link.down.send(bytes, at: now) }
            link.node.makeRoom(link.down.room, for: link.connection)
            self.noteClose(link, now)
        }
        var hasProgressed = false
        while let arrival = link.down.receive(at: now) {
            hasProgressed = true
            switch arrival {
            case .bytes(let bytes):
                link.lastHeardAt = self.simulation.now
                self.clients[client].received(bytes)
            case .end:
                self.simulation.note("client-\(client)'s stream ends")
                if !link.isServerGone { link.node.endInput(of: link.connection) }
                self.lose(client)
                return true
            case .reset:
                self.reset(link, client)
                return true
            }
        }
        return hasProgressed
    }

    /// The server may have ended its direction, or all of the connection.
    private func noteClose(_ link: Link, _ now: UInt64) {
        let isClosed = link.node.io.isClosed(link.connection)
        guard isClosed || link.node.io.isEnded(link.connection), !link.hasServerEnded else {
            if isClosed { link.isServerGone = true }
            return
        }
        link.hasServerEnded = true
        link.isServerGone = isClosed
        let bytes = link.node.io.takeOutput(of: link.connection)
        if !bytes.isEmpty { link.down.send(bytes, at: now) }
        link.down.end(at: now)
    }

    private func reset(_ link: Link, _ client: Int) {
        self.simulation.note("client-\(client)'s stream is reset")
        if !link.isServerGone { link.node.fail(link.connection) }
        self.lose(client)
    }
}
