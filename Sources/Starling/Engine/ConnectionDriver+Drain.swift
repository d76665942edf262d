internal import StarlingCore

/// A planned end of the server: connections are told to go, spread over some time, and cut at a deadline.
struct Drain {
    let startedAt: LoopInstant
    let spread: LoopInterval
    let deadline: LoopInstant
    /// The next slot to look at.
    var position = 0
    var isDeadlineServed = false
}

extension ConnectionDriver {
    /// Begins to drain: no new connections, and 1001 for those that are there, one after the other over `spread`.
    func beginDrain(spread: Duration, deadline: Duration) {
        guard self.drain == nil else { return }
        self.drain = Drain(
            startedAt: self.now,
            spread: LoopInterval(spread),
            deadline: self.now + LoopInterval(deadline)
        )
        self.io.stopListening()
    }

    /// Closes those connections whose turn has come; at the deadline cuts what is left and cancels its tasks.
    func continueDrain() {
        guard var drain = self.drain else { return }
        let elapsed = Int((self.now - drain.startedAt).hundredths)
        let spread = Int(drain.spread.hundredths)
        let capacity = self.slots.usedCapacity
        // Slots are passed in proportion to the time, whatever is in them: an even pace without counting.
        let target = elapsed >= spread ? capacity : capacity * elapsed / spread
        while drain.position < target {
            self.drainConnection(drain.position)
            drain.position += 1
        }
        if !drain.isDeadlineServed, !self.now.isBefore(drain.deadline) {
            drain.isDeadlineServed = true
            for index in 0..<capacity where unsafe self.slots.pointer(index).pointee.phase != .free {
                self.end(index, cause: .serverDraining)
            }
            self.endConnections()
            for connection in self.stragglers.values { connection.cancel() }
        }
        self.drain = drain
    }

    /// Closes a WebSocket with the word to come back, each after a time of its own: all at once would be a storm.
    private func sendAway(_ index: Int) {
        let milliseconds = self.server.configuration.drainRetryDelayMax.wholeMilliseconds
        let delay = Duration.milliseconds(Int64.random(in: 0...milliseconds))
        let slot = unsafe self.slots.pointer(index)
        let format = unsafe Int(slot.pointee.format)
        if format > 0, let endpoint = unsafe slot.pointee.endpoint,
            let message = endpoint.configuration.subprotocols[format - 1].drainMessage?(delay)
        {
            // If there is no room for it, the close frame says the same.
            _ = self.send(message.kind, message.bytes, to: index)
        }
        self.close(
            index,
            .goingAway,
            reason: "the server shuts down; \(RetryHint(delay))",
            cause: .serverDraining
        )
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
