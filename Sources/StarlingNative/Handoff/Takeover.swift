#if os(Linux)
internal import Glibc
internal import Logging
internal import Starling
internal import StarlingCore

/// The new process' side: takes the listeners and the connections of the one that serves.
///
/// For one thread at a time, which may block.
@safe final class Takeover: @unchecked Sendable {
    // Sendable because `serve` uses it on one thread, and then on another one that it waits for.

    private let channel: HandoffChannel
    private let timeout: Duration
    private let offer: HandoffOffer
    /// The descriptors of the listeners are the caller's once this returns without an error.
    var listeners: [Listener] { self.offer.listeners }

    /// Asks for the listeners; nil if the old process shuts down.
    ///
    /// Otherwise it then brings its connections to rest.
    private init?(_ channel: HandoffChannel, _ timeout: Duration) throws(HandoffError) {
        self.channel = channel
        self.timeout = timeout
        guard channel.isPeerTheSameUser else { throw HandoffError("it runs as another user") }
        var writer = ByteWriter()
        writer.write(HandoffMessage.magic)
        writer.write(HandoffMessage.version)
        try channel.send(HandoffMessage(kind: .hello, bytes: writer.bytes))
        var message = try channel.receive()
        if message.kind == .nothing { return nil }
        message = try channel.require(.offer, message)
        do throws(ByteReader.Malformed) {
            self.offer = try HandoffOffer(message)
        } catch {
            for descriptor in message.descriptors { _ = Glibc.close(descriptor) }
            throw HandoffError("its offer makes no sense")
        }
    }

    /// What a new process finds.
    enum Start {
        /// Nobody serves.
        case alone
        /// Who serves shuts down, and has closed its listeners, or is about to.
        case behind
        case takingOver(Takeover)
    }

    /// Takes the listeners of the process at a path.
    static func begin(_ point: HandoffPoint, _ transport: NativeTransport) throws(TransportError) -> Start {
        guard let channel = try point.connectToPredecessor() else { return .alone }
        do throws(HandoffError) {
            guard let takeover = try Takeover(channel, point.handoff.timeout) else { return .behind }
            do throws(HandoffError) {
                try takeover.check(transport)
            } catch {
                takeover.closeListeners(areLoopsGone: false)
                throw error
            }
            return .takingOver(takeover)
        } catch {
            throw Self.failure(point, error)
        }
    }

    static func failure(_ point: HandoffPoint, _ error: HandoffError) -> TransportError {
        TransportError("cannot take over from the process at '\(point.handoff.path)': \(error)")
    }

    /// The listeners are not used after all.
    ///
    /// - Parameter areLoopsGone: Whether there were loops, which have closed those of their own.
    func closeListeners(areLoopsGone: Bool) {
        for listener in self.offer.listeners where listener.isShared || !areLoopsGone {
            _ = Glibc.close(listener.descriptor)
        }
    }

    private func check(_ transport: NativeTransport) throws(HandoffError) {
        let wanted = transport.endpoint.description
        guard transport.endpoint.isAnyPort || wanted == self.offer.endpoint else {
            throw HandoffError("it listens on \(self.offer.endpoint), and this one is to listen on \(wanted)")
        }
        guard self.offer.isEncrypted == (transport.tls != nil) else {
            throw HandoffError("only one of the two speaks TLS")
        }
    }

    // MARK: - Connections

    /// A connection that has come: its loop here, and its number there; nil if it could not be made.
    private struct Received {
        let loop: Int
        let index: Int?
    }

    /// Takes the connections, and serves them once the old process has let go.
    ///
    /// - Throws: If the old process goes on; then nothing was read or written here.
    func complete(_ loops: [LoopRemote], _ server: ServerContext) throws(HandoffError) {
        let begin = ContinuousClock.now
        let received = try self.receiveConnections(loops)
        guard !server.isDraining else { throw HandoffError("this process is to end") }
        let refused = received.indices.filter { received[$0].index == nil }
        var writer = ByteWriter()
        writer.write(refused.count)
        for place in refused { writer.write(place) }
        try self.channel.send(HandoffMessage(kind: .restored, bytes: writer.bytes))
        let orders = try Self.orders(try self.channel.receive(.commit).bytes, received, loops.count)
        // After this the old process lets go, unless it has given up before; then this fails.
        try self.channel.send(HandoffMessage(kind: .taken))
        for (number, loop) in loops.enumerated() {
            let indices = received.compactMap { $0.loop == number ? $0.index : nil }
            _ = loop.begin { $0.begin(indices, orders[number], $1) }
        }
        server.logger.info(
            "taken over",
            metadata: [
                LoggingKeys.connections: "\(received.count - refused.count)",
                LoggingKeys.refused: "\(refused.count)", LoggingKeys.duration: "\(begin.duration(to: .now))",
            ]
        )
    }

    private func receiveConnections(_ loops: [LoopRemote]) throws(HandoffError) -> [Received] {
        var answers: [(loop: Int, answer: LoopAnswer<[Int?]>)] = []
        var places: [(batch: Int, position: Int)] = []
        while true {
            let message = try self.channel.receive()
            switch message.kind {
            case .connections: break
            case .end:
                guard message.descriptors.isEmpty else { throw HandoffError("descriptors are left over") }
                var results: [[Int?]] = []
                for (_, answer) in answers { results.append(try answer.wait(self.timeout)) }
                return places.map { place in
                    Received(loop: answers[place.batch].loop, index: results[place.batch][place.position])
                }
            case .hello, .offer, .refusal, .restored, .commit, .taken, .nothing:
                for descriptor in message.descriptors { _ = Glibc.close(descriptor) }
                throw HandoffError("it said \(message.kind) instead of connections")
            }
            var batches: [Int: [NativeLoop.Passenger]] = [:]
            var order: [(loop: Int, position: Int)] = []
            do throws(ByteReader.Malformed) {
                var reader = ByteReader(message.bytes)
                for descriptor in message.descriptors {
                    let origin: Int = try reader.read()
                    let passenger = NativeLoop.Passenger(
                        record: ConnectionRecord(index: 0, bytes: try reader.readBytes()),
                        descriptor: descriptor,
                        awaitsProxyHeader: try reader.readFlag()
                    )
                    let loop = origin % loops.count
                    order.append((loop, batches[loop]?.count ?? 0))
                    batches[loop, default: []].append(passenger)
                }
            } catch {
                for descriptor in message.descriptors { _ = Glibc.close(descriptor) }
                throw HandoffError("its connections make no sense")
            }
            var numbers: [Int: Int] = [:]
            for (loop, batch) in batches {
                numbers[loop] = answers.count
                answers.append(
                    (
                        loop,
                        loops[loop].begin { io, driver in batch.map { io.adopt($0, driver) } }
                    )
                )
            }
            for place in order { places.append((numbers[place.loop] ?? 0, place.position)) }
        }
    }

    /// What was asked of connections too late for their records, for each loop by their numbers there.
    private static func orders(
        _ bytes: [UInt8],
        _ received: [Received],
        _ loopCount: Int
    ) throws(HandoffError) -> [[Int: [UInt8]]] {
        var orders: [[Int: [UInt8]]] = Array(repeating: [:], count: loopCount)
        var reader = ByteReader(bytes)
        do throws(ByteReader.Malformed) {
            let count: Int = try reader.read()
            for _ in 0..<count {
                let place: Int = try reader.read()
                let bytes = try reader.readBytes()
                guard received.indices.contains(place) else { throw ByteReader.Malformed() }
                if let index = received[place].index { orders[received[place].loop][index] = bytes }
            }
        } catch {
            throw HandoffError("its last words make no sense")
        }
        return orders
    }
}
#endif
