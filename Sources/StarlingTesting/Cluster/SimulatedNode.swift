internal import Starling

/// One life of a node: a server's drivers and hubs, without threads or time of their own.
final class SimulatedNode {
    let index: Int
    let broadcaster: SimulatedBroadcaster
    let io = EmbeddedIO()
    private(set) var isAlive = true
    /// How many ticks the loop has had: as long as there is no other one, nothing new has been written.
    private(set) var tickCount = 0
    private let simulation: Simulation
    private let context: ServerContext
    private let driver: ConnectionDriver
    private let hubs: Task<Void, Never>

    init(index: Int, _ broadcaster: SimulatedBroadcaster, _ simulation: Simulation, routes: [Route]) {
        self.index = index
        self.broadcaster = broadcaster
        self.simulation = simulation
        let context = ServerContext(
            configuration: ServerConfiguration(),
            routes: routes,
            surroundings: simulation.surroundings
        )
        self.context = context
        self.driver = ConnectionDriver(loop: EventLoop(index: 0) {}, server: context, io: self.io)
        self.hubs = Task(executorPreference: simulation.executor) { await context.runHubs() }
        context.startedListening()
    }

    // MARK: - What happens

    func accept(from address: RemoteAddress) -> Int? {
        var connection: Int?
        self.tick { connection = self.driver.accept(from: address) }
        if let connection { self.io.open(connection) }
        return connection
    }

    func receive(_ bytes: [UInt8], on connection: Int) {
        var buffer = bytes
        self.tick {
            var span = buffer.mutableSpan
            var bytes = unsafe span.mutableBytes
            self.driver.received(&bytes, on: connection)
        }
    }

    func endInput(of connection: Int) {
        self.tick { self.driver.readingEnded(connection) }
    }

    func fail(_ connection: Int) {
        self.tick { self.driver.failed(connection) }
    }

    func makeRoom(_ byteCount: Int, for connection: Int) {
        self.io.setCapacity(byteCount, of: connection)
        guard byteCount > 0, self.io.isBlocked(connection) else { return }
        self.tick { self.driver.writable(connection) }
    }

    /// Serves deadlines.
    func tick() {
        self.tick {}
    }

    /// Runs ticks as long as the loop has mail; false if it had none.
    func settle() -> Bool {
        guard self.driver.prepareToSleep() == 0 else { return false }
        self.tick {}
        return true
    }

    /// The node is gone: nobody is told, and its tasks end.
    func die() {
        guard self.isAlive else { return }
        self.isAlive = false
        self.broadcaster.die()
        self.hubs.cancel()
        for connection in self.io.openConnections.sorted() { self.fail(connection) }
    }

    /// Ends the loop, when no task is left that prefers it.
    func finish() {
        self.driver.finish()
    }

    private func tick(_ body: () -> Void) {
        self.tickCount += 1
        self.driver.beginTick(at: self.simulation.now)
        self.driver.withCurrent(body)
        while self.driver.endTick() { self.driver.beginTick(at: self.simulation.now) }
    }
}
