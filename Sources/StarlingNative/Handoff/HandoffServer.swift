#if os(Linux)
internal import CStarlingLinux
internal import Glibc
internal import Logging
internal import Starling
internal import StarlingCore

/// The old process' side: waits for a successor, and gives it the listeners and the connections.
///
/// On a thread of its own, which may block; the loops do what it asks between their ticks.
final class HandoffServer: Sendable {
    private let point: HandoffPoint
    private let server: ServerContext
    /// Nil once the listeners are closed.
    private let offer: @Sendable () -> HandoffOffer?
    private let loops: [LoopRemote]
    private let stopSignal: Int32
    private let isDone = Lock(false)

    /// Connections that one message carries.
    private static let batchCount = 128
    /// Bytes of their records after which a message is full.
    private static let batchByteCount = 1 << 20

    init(
        _ point: HandoffPoint,
        _ server: ServerContext,
        loops: [LoopRemote],
        offer: @escaping @Sendable () -> HandoffOffer?
    ) {
        self.point = point
        self.server = server
        self.loops = loops
        self.offer = offer
        self.stopSignal = starling_eventfd_create()
    }

    deinit {
        if self.stopSignal >= 0 { _ = Glibc.close(self.stopSignal) }
    }

    /// Whether a successor has the listeners.
    var isHandedOff: Bool {
        self.isDone.withLock { $0 }
    }

    /// Ends ``run()``, from another thread.
    func stop() {
        starling_eventfd_signal(self.stopSignal)
    }

    /// Serves one successor after the other, until one has everything or the server ends.
    func run() {
        while self.waitForSuccessor() {
            let socket = Glibc.accept(self.point.socket, nil, nil)
            guard socket >= 0 else {
                // Without a descriptor to accept it with it would be there again at once, and again.
                _ = Syscalls.wait(for: POLLIN, on: self.stopSignal, milliseconds: 100)
                continue
            }
            _ = fcntl(socket, F_SETFD, FD_CLOEXEC)
            let channel = HandoffChannel(socket, timeout: self.point.handoff.timeout)
            guard channel.isPeerTheSameUser else {
                self.server.logger.warning("a hand-off was asked for by another user")
                continue
            }
            let begin = ContinuousClock.now
            do throws(HandoffError) {
                guard let outcome = try self.handOff(channel) else {
                    self.server.logger.info("nothing to hand off: this process shuts down already")
                    continue
                }
                self.server.logger.info(
                    "handed off",
                    metadata: [
                        LoggingKeys.connections: "\(outcome.gone)",
                        LoggingKeys.stayed: "\(outcome.stayed)",
                        LoggingKeys.duration: "\(begin.duration(to: .now))",
                    ]
                )
                return
            } catch {
                self.server.logger.warning(
                    "a hand-off has failed; this process goes on",
                    metadata: [LoggingKeys.error: "\(error)"]
                )
            }
        }
    }

    /// False once the server ends.
    private func waitForSuccessor() -> Bool {
        var entries = [
            pollfd(fd: self.point.socket, events: Int16(POLLIN), revents: 0),
            pollfd(fd: self.stopSignal, events: Int16(POLLIN), revents: 0),
        ]
        while unsafe poll(&entries, 2, -1) < 0 {}
        return entries[1].revents == 0
    }

    // MARK: - One hand-off

    /// A connection that was sent: its loop, and its number there.
    private struct Sent {
        let loop: Int
        let index: Int
    }

    /// Nil if there is nothing to hand off.
    private func handOff(_ channel: HandoffChannel) throws(HandoffError) -> (gone: Int, stayed: Int)? {
        try self.greet(channel)
        guard let offer = self.offer() else {
            try channel.send(HandoffMessage(kind: .nothing))
            return nil
        }
        try channel.send(offer.message)
        do throws(HandoffError) {
            let sent = try self.sendConnections(channel)
            let restored = try channel.receive(.restored)
            let refused = try Self.refused(restored.bytes, of: sent.count)
            try channel.send(HandoffMessage(kind: .commit, bytes: try self.lateOrders(sent)))
            // It says so before it touches anything. If it does not in time, it never can.
            let isTaken: Bool
            do throws(HandoffError) {
                _ = try channel.receive(.taken)
                isTaken = true
            } catch {
                isTaken = channel.receiveLastChance(.taken)
            }
            guard isTaken else { throw HandoffError("the new process has not taken the connections") }
            self.isDone.withLock { $0 = true }
            self.letGo(sent, refused)
            return (sent.count - refused.count, refused.count)
        } catch {
            for loop in self.loops { _ = loop.begin { $0.resume($1) } }
            throw error
        }
    }

    private func greet(_ channel: HandoffChannel) throws(HandoffError) {
        let hello = try channel.receive(.hello)
        var reader = ByteReader(hello.bytes)
        guard (try? reader.readText()) == HandoffMessage.magic, let version: Int = try? reader.read(),
            version == HandoffMessage.version
        else {
            let reason = "the process that serves hands off in version \(HandoffMessage.version)"
            try? channel.send(HandoffMessage(kind: .refusal, bytes: Array(reason.utf8)))
            throw HandoffError("the new process asks in another version")
        }
    }

    /// Brings the loops to rest and sends what they have.
    private func sendConnections(_ channel: HandoffChannel) throws(HandoffError) -> [Sent] {
        try self.askForPositions()
        guard try self.ask({ $0.pause($1) }).allSatisfy({ $0 }) else {
            throw HandoffError("this process has begun to shut down")
        }
        let handoff = self.point.handoff
        let deadline = Syscalls.monotonicNanoseconds() &+ handoff.bodiesTimeout.wholeNanoseconds
        // Between two questions the loops run the bodies.
        while try self.ask({ _, driver in driver.isAtRest }).contains(false),
            Syscalls.monotonicNanoseconds() < deadline
        {}
        // Each loop has ticked since all were paused: what they have published to each other has arrived.
        let exports = try self.ask { $0.export($1) }
        var sent: [Sent] = []
        for (loop, connections) in exports.enumerated() {
            var rest = connections[...]
            while !rest.isEmpty {
                var writer = ByteWriter()
                var descriptors: [Int32] = []
                while let passenger = rest.first, descriptors.count < Self.batchCount,
                    writer.bytes.count < Self.batchByteCount
                {
                    writer.write(loop)
                    writer.write(passenger.record.bytes)
                    writer.write(passenger.awaitsProxyHeader)
                    descriptors.append(passenger.descriptor)
                    sent.append(Sent(loop: loop, index: passenger.record.index))
                    rest.removeFirst()
                }
                try channel.send(
                    HandoffMessage(kind: .connections, bytes: writer.bytes, descriptors: descriptors)
                )
            }
        }
        try channel.send(HandoffMessage(kind: .end))
        return sent
    }

    /// Asks the histories where topics are of which nothing has come live: before the pause, so that what is on its way then
    /// arrives before the records are made.
    private func askForPositions() throws(HandoffError) {
        let topics = Set(try self.ask { _, driver in driver.topicsWithoutPosition() }.joined())
        guard !topics.isEmpty else { return }
        let (server, answer) = (self.server, LoopAnswer<[HandoffTopic: StreamPosition?]>())
        Task { answer.give(await server.newestPositions(of: topics)) }
        let positions = try answer.wait(self.point.handoff.timeout)
        try self.ask { _, driver in driver.notePositions(positions) }
    }

    /// Asks all loops at once, and waits for their answers.
    @discardableResult
    private func ask<Answer: Sendable>(
        _ question: @escaping @Sendable (NativeLoop, ConnectionDriver) -> Answer
    ) throws(HandoffError) -> [Answer] {
        let answers = self.loops.map { $0.begin(question) }
        var results: [Answer] = []
        for answer in answers { results.append(try answer.wait(self.point.handoff.timeout)) }
        return results
    }

    /// The places, in the order in which connections were sent, of those that the new process cannot make.
    private static func refused(_ bytes: [UInt8], of count: Int) throws(HandoffError) -> Set<Int> {
        var reader = ByteReader(bytes)
        var refused: Set<Int> = []
        do throws(ByteReader.Malformed) {
            let refusedCount: Int = try reader.read()
            for _ in 0..<refusedCount { refused.insert(try reader.read()) }
        } catch {
            throw HandoffError("the new process' answer makes no sense")
        }
        guard refused.allSatisfy({ $0 < count }) else {
            throw HandoffError("the new process' answer makes no sense")
        }
        return refused
    }

    /// What was asked of connections after their records were made, by their places.
    private func lateOrders(_ sent: [Sent]) throws(HandoffError) -> [UInt8] {
        var places: [[Int: Int]] = Array(repeating: [:], count: self.loops.count)
        for (place, connection) in sent.enumerated() { places[connection.loop][connection.index] = place }
        var writer = ByteWriter()
        let orders = try self.ask { _, driver in driver.takeLateOrders() }
        writer.write(orders.reduce(0) { $0 + $1.count })
        for (loop, records) in orders.enumerated() {
            for record in records {
                writer.write(places[loop][record.index] ?? 0)
                writer.write(record.bytes)
            }
        }
        return writer.bytes
    }

    /// The new process serves: forgets what it has, and drains the rest.
    private func letGo(_ sent: [Sent], _ refused: Set<Int>) {
        var gone: [[Int]] = Array(repeating: [], count: self.loops.count)
        for (place, connection) in sent.enumerated() where !refused.contains(place) {
            gone[connection.loop].append(connection.index)
        }
        // A loop that does not answer in time does it later.
        let answers = zip(self.loops, gone).map { loop, indices in
            loop.begin { $0.letGo(of: indices, $1) }
        }
        for answer in answers { try? answer.wait(self.point.handoff.timeout) }
        self.server.beginDrain()
    }
}
#endif
