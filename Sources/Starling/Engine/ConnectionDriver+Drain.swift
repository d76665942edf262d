internal import StarlingCore

/// A planned end of the server: connections are told to go one after the other, and cut at a deadline.
///
/// A connection's turn is when it is closed, its slot the time after which it is asked to come back. Turns are even over
/// `spread`, slots random up to `slotMax`: all of them lie before the deadline, so that nobody is asked to come back after
/// the next node may have begun to go.
struct Drain {
    let startedAt: LoopInstant
    let spread: LoopInterval
    let slotMax: LoopInterval
    let deadline: LoopInstant
    /// How many connections there were.
    let connectionCount: Int
    /// How many of them have had their turn.
    var passedCount = 0
    /// The next connection to look at, by its number.
    var position = 0
    var isDeadlineServed = false

    init(of connectionCount: Int, at now: LoopInstant, _ configuration: ServerConfiguration) {
        self.connectionCount = connectionCount
        let timeout = LoopInterval(configuration.drainTimeout).hundredths
        // Who is told last needs time to answer the close before the rest is cut.
        let longestSpread = timeout - min(Self.farewellHundredths, timeout / 2)
        self.startedAt = now
        self.spread = LoopInterval(
            hundredths: min(LoopInterval(configuration.drainSpread).hundredths, longestSpread)
        )
        self.slotMax = LoopInterval(configuration.drainRetryDelayMax)
        self.deadline = now + LoopInterval(hundredths: timeout)
    }

    /// What is left between the last turn and the deadline, if the deadline is far enough.
    private static let farewellHundredths: UInt32 = 100

    /// How long a connection whose turn is `now` may be asked to stay away.
    func slotMax(at now: LoopInstant) -> LoopInterval {
        guard now.isBefore(self.deadline) else { return LoopInterval(hundredths: 0) }
        return LoopInterval(hundredths: min(self.slotMax.hundredths, (self.deadline - now).hundredths))
    }
}

extension ConnectionDriver {
    /// Begins to drain: no new connections and upgrades, and 1001 for those that are there, one after the other.
    func beginDrain() {
        guard self.drain == nil else { return }
        self.drain = Drain(of: self.slots.count, at: self.now, self.server.configuration)
        self.io.stopListening()
    }

    /// Closes those connections whose turn has come; at the deadline cuts what is left and cancels its tasks.
    func continueDrain() {
        guard var drain = self.drain else { return }
        let elapsed = Int((self.now - drain.startedAt).hundredths)
        let spread = Int(drain.spread.hundredths)
        let capacity = self.slots.usedCapacity
        // Those that have gone by themselves meanwhile have had no turn: the others' come a little earlier.
        let target = elapsed >= spread ? .max : drain.connectionCount * elapsed / spread
        while drain.position < capacity, drain.passedCount < target {
            if unsafe self.slots.pointer(drain.position).pointee.phase != .free {
                self.drainConnection(drain.position)
                drain.passedCount += 1
            }
            drain.position += 1
        }
        if !drain.isDeadlineServed, !self.now.isBefore(drain.deadline) {
            drain.isDeadlineServed = true
            for index in 0..<capacity where unsafe self.slots.pointer(index).pointee.phase != .free {
                self.end(index, cause: .serverDraining)
            }
            self.endConnections()
            for connection in self.stragglers.values { connection.cancel() }
            for decision in self.decisions.values { decision.cancel() }
        }
        self.drain = drain
    }

    /// Closes a WebSocket with the word to come back, each after a time of its own: all at once would be a storm.
    private func sendAway(_ index: Int) {
        let slotMax =
            self.drain?.slotMax(at: self.now) ?? LoopInterval(self.server.configuration.drainRetryDelayMax)
        let milliseconds = slotMax.hundredths > UInt32.max / 10 ? UInt32.max : slotMax.hundredths * 10
        let delay = Duration.milliseconds(self.server.surroundings.random(0...milliseconds))
        let slot = unsafe self.slots.pointer(index)
        let format = unsafe Int(slot.pointee.format)
        if format > 0, let endpoint = unsafe slot.pointee.endpoint,
            let message = self.drainMessage(of: endpoint.configuration.subprotocols[format - 1], index, delay)
        {
            // Whether or not there is room: nothing can come back with what it has not got.
            self.appendMessage(message, to: index)
        }
        self.close(
            index,
            .goingAway,
            reason: "the server shuts down; \(RetryHint(delay))",
            cause: .serverDraining
        )
    }

    private func drainMessage(of subprotocol: Subprotocol, _ index: Int, _ delay: Duration) -> Message? {
        subprotocol.connectionDrainMessage?(self.id(of: index), self.topics(of: index), delay)
            ?? subprotocol.drainMessage?(delay)
    }

    /// Sees one connection off, as a shutdown does.
    func drainConnection(_ index: Int) {
        let slot = unsafe self.slots.pointer(index)
        switch unsafe slot.pointee.phase {
        case .open: self.sendAway(index)
        case .http where unsafe !slot.pointee.flags.contains(.finishAfterFlush):
            self.end(index, cause: .serverDraining)
        case .connecting: self.end(index, cause: .serverDraining)
        case .http, .deciding, .leaving, .lingering, .free: break
        }
    }
}
