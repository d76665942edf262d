internal import StarlingCore

/// What connections hold, and what happens when it is too much together; see ``MemoryBudget``.
extension ConnectionDriver {
    /// Charges what a connection holds now instead of what it held before.
    ///
    /// Called only when that changes, which for most connections never happens.
    func chargeMemory(of index: Int) {
        // Of one that another process still has, the transport knows nothing yet: it is charged when it is served.
        if !self.restored.isEmpty, self.restored.contains(index) { return }
        let slot = unsafe self.slots.pointer(index)
        let waiting = unsafe slot.pointee.outbound.byteCount
        self.countWaiting(waiting, of: index)
        var held =
            unsafe waiting - slot.pointee.outbound.chargedByteCount + slot.pointee.codec.partialByteCount
        if let details = unsafe slot.pointee.details { held += details.heldByteCount }
        let before = unsafe Int(slot.pointee.chargedByteCount)
        guard held != before else { return }
        unsafe slot.pointee.chargedByteCount = UInt32(clamping: held)
        let growth = unsafe Int(slot.pointee.chargedByteCount) - before
        self.chargedByteCount += growth
        self.server.memory.charge(growth)
        if growth > 0 {
            if self.server.memory.isScarce { self.grew(index, by: growth) }
        } else if held == 0, unsafe slot.pointee.readingPauses.contains(.memory) {
            // It holds nothing any more: what its peer sends next is for the budget to judge.
            self.resumeReading(index, from: .memory)
        }
    }

    /// The connection is gone, and what it held with it.
    func releaseMemory(of index: Int) {
        let slot = unsafe self.slots.pointer(index)
        self.chargedByteCount -= unsafe Int(slot.pointee.chargedByteCount)
        self.server.memory.charge(unsafe -Int(slot.pointee.chargedByteCount))
        unsafe slot.pointee.chargedByteCount = 0
        self.countWaiting(0, of: index)
    }

    /// Counts what waits for a peer into the loop's figure.
    private func countWaiting(_ byteCount: Int, of index: Int) {
        let slot = unsafe self.slots.pointer(index)
        let waiting = UInt32(clamping: byteCount)
        let before = unsafe slot.pointee.countedOutboundByteCount
        guard waiting != before else { return }
        unsafe slot.pointee.countedOutboundByteCount = waiting
        self.counts.outboundBytes = self.counts.outboundBytes &+ UInt64(waiting) &- UInt64(before)
    }

    // MARK: - While memory is scarce

    /// A connection has come to hold more while memory is scarce: it is not read, unless it is the one whose turn it is.
    private func grew(_ index: Int, by growth: Int) {
        self.growthSinceShedding += growth
        if self.server.memory.isFull, self.growthSinceShedding >= self.growthBetweenSheddings {
            self.shedLargest(atLeast: index)
        }
        let slot = unsafe self.slots.pointer(index)
        guard unsafe slot.pointee.phase == .open, unsafe slot.pointee.closing.isOpen else { return }
        let id = self.id(of: index)
        guard self.memoryTurn?.connection != id, unsafe !slot.pointee.readingPauses.contains(.memory) else {
            return
        }
        self.waitForMemory(id, index)
        self.counts.memoryPauses &+= 1
    }

    private func waitForMemory(_ id: ConnectionID, _ index: Int) {
        self.pauseReading(index, for: .memory)
        // One that has held nothing for a while has kept its place.
        if self.waitersForMemory.insert(id).inserted { self.waitingForMemory.append(id) }
    }

    /// Looking for the largest looks at all: within a tick that is done once for so many bytes, in a small budget for each.
    private var growthBetweenSheddings: Int { min(64 << 10, self.server.memory.byteCountMax >> 14) }

    /// Once a tick: lets connections be read again as there is room, and takes what can be spared while there is none.
    func serveMemory() {
        let memory = self.server.memory
        guard memory.isScarce else {
            self.isMemoryScarce = false
            self.memoryTurn = nil
            if !self.waitingForMemory.isEmpty { self.endMemoryPauses() }
            return
        }
        if memory.isFull { self.shedLargest() }
        // Once when it begins, and then about once a second.
        if !self.isMemoryScarce || !self.now.isBefore(self.nextMemorySweep) {
            self.isMemoryScarce = true
            self.nextMemorySweep = self.now + LoopInterval(.seconds(1))
            self.releaseWhatIsIdle()
        }
        self.passTurn()
    }

    private func endMemoryPauses() {
        self.waitersForMemory = []
        while !self.waitingForMemory.isEmpty {
            let id = self.waitingForMemory.removeFirst()
            if let index = self.index(of: id) { self.resumeReading(index, from: .memory) }
        }
    }

    /// Lets the connection that has waited longest be read until it holds nothing, or its time is up.
    private func passTurn() {
        if let turn = self.memoryTurn, self.now.isBefore(turn.until),
            let index = self.index(of: turn.connection),
            unsafe self.slots.pointer(index).pointee.chargedByteCount > 0
        {
            return
        }
        let last = self.memoryTurn
        self.memoryTurn = nil
        while !self.waitingForMemory.isEmpty {
            let id = self.waitingForMemory.removeFirst()
            self.waitersForMemory.remove(id)
            guard let index = self.index(of: id),
                unsafe self.slots.pointer(index).pointee.readingPauses.contains(.memory)
            else { continue }
            self.memoryTurn = MemoryTurn(
                connection: id,
                until: self.now + LoopInterval(Self.memoryTurnMax),
                bytesReceived: unsafe self.slots.pointer(index).pointee.bytesReceived
            )
            self.resumeReading(index, from: .memory)
            break
        }
        if let last { self.endTurn(last) }
    }

    /// Whoever has not done in its time waits again, behind the others; but for one that is read for its close frame alone.
    private func endTurn(_ turn: MemoryTurn) {
        guard let index = self.index(of: turn.connection), self.isServed(index) else { return }
        let slot = unsafe self.slots.pointer(index)
        guard unsafe slot.pointee.chargedByteCount > 0 else { return }
        // Others wait for the memory of a message that does not go on.
        if self.memoryTurn != nil, unsafe slot.pointee.readingPauses.isEmpty,
            unsafe slot.pointee.codec.partialByteCount > 0,
            unsafe slot.pointee.bytesReceived == turn.bytesReceived
        {
            _ = unsafe self.shed(index, holding: Int(slot.pointee.chargedByteCount))
            return
        }
        self.waitForMemory(turn.connection, index)
    }

    /// How long a connection is read alone to complete its message, while others wait.
    static let memoryTurnMax = Duration.seconds(1)

    /// Lets compression windows and publications go that can be made or read anew.
    private func releaseWhatIsIdle() {
        for index in 0..<self.slots.usedCapacity {
            let slot = unsafe self.slots.pointer(index)
            guard unsafe slot.pointee.phase == .open, let deflate = unsafe slot.pointee.details?.deflate,
                deflate.hasWindow
            else { continue }
            deflate.releaseIdleWindow()
            self.chargeMemory(of: index)
        }
        for endpoint in self.endpoints {
            for entry in endpoint.topics.list {
                if let backlog = entry.backlog { self.trim(backlog, endpoint) }
            }
        }
    }

    // MARK: - When there is none left

    /// Frees the loop's share of what is too much: the rings of topics first, and if these are not enough, the connections that hold most.
    ///
    /// A ring that is given up closes nobody by itself: it is for each subscription's policy to say what becomes of it.
    ///
    /// - Parameter newest: The connection that has just come to hold more; of two that hold the same, the one to go.
    private func shedLargest(atLeast newest: Int? = nil) {
        guard !self.isShedding else { return }
        self.isShedding = true
        defer { self.isShedding = false }
        self.growthSinceShedding = 0
        let excess = self.server.memory.byteCount - self.server.memory.byteCountMax
        let total = max(1, self.server.memory.byteCount)
        var rings = self.endpoints.flatMap { $0.topics.list.compactMap(\.backlog) }
        let left = self.stragglers.values.reduce(0) { $0 + $1.leftByteCount }
        let charged = self.chargedByteCount + self.publicationCharges.byteCount + left
        let held = rings.reduce(charged) { $0 + $1.byteCount }
        // Each loop frees its share; whoever has just grown frees at least something.
        let share = Int((Double(excess) * Double(held) / Double(total)).rounded(.up))
        guard share > 0 else { return }
        rings.sort { $0.byteCount > $1.byteCount }
        var freed = 0
        for ring in rings where freed < share {
            freed += ring.byteCount
            ring.trimToNewest()
            freed -= ring.byteCount
        }
        if freed < share { freed += self.shedUnfinishedHeads() }
        if freed < share { freed += self.shedRequests(share - freed) }
        if freed < share { freed += self.shedStragglers(share - freed) }
        guard freed < share else { return }
        for holder in self.holders(newest: newest) where freed < share {
            freed += self.shed(holder.index, holding: holder.byteCount)
        }
    }

    /// Refuses, or cuts, those who have asked for something and hold what is not theirs yet: requests that wait for a decision or for their
    /// turn, and responses that are not taken; how many bytes that has freed.
    private func shedRequests(_ byteCount: Int) -> Int {
        var freed = 0
        for index in 0..<self.slots.usedCapacity where freed < byteCount {
            let slot = unsafe self.slots.pointer(index)
            let held = unsafe Int(slot.pointee.chargedByteCount)
            guard held > 0, unsafe !slot.pointee.flags.contains(.ending) else { continue }
            switch unsafe slot.pointee.phase {
            case .deciding:
                self.cancelDecision(of: index)
                let details = self.details(of: index)
                details.stash = []
                details.requestByteCount = 0
                details.isAwaitingTurn = false
                self.chargeMemory(of: index)
                freed += unsafe held - Int(slot.pointee.chargedByteCount)
                self.refuseForMemory(index)
            case .http where unsafe slot.pointee.flags.contains(.writeBlocked):
                self.end(index, cause: .memoryExhausted)
                self.chargeMemory(of: index)
                freed += unsafe held - Int(slot.pointee.chargedByteCount)
            case .free, .http, .connecting, .open, .leaving, .lingering: continue
            }
        }
        return freed
    }

    /// Gives up messages of connections that have ended, which their bodies have not come to; how many bytes that has freed.
    private func shedStragglers(_ byteCount: Int) -> Int {
        let holders = self.stragglers.values.filter { $0.leftByteCount > 0 }
        var freed = 0
        for connection in holders.sorted(by: { $0.leftByteCount > $1.leftByteCount })
        where freed < byteCount {
            freed += connection.leftByteCount
            connection.giveUpWhatIsLeft()
            self.counts.memorySheds &+= 1
        }
        return freed
    }

    /// Refuses requests of which a part has come; how many bytes that has freed.
    ///
    /// As a whole each would be refused as well, if it was an upgrade.
    private func shedUnfinishedHeads() -> Int {
        var freed = 0
        for index in 0..<self.slots.usedCapacity {
            let slot = unsafe self.slots.pointer(index)
            guard unsafe slot.pointee.phase == .http,
                unsafe slot.pointee.flags.isDisjoint(with: [.finishAfterFlush, .ending]),
                unsafe (slot.pointee.details?.headReader.byteCount ?? 0) > 0
            else { continue }
            freed += unsafe Int(slot.pointee.chargedByteCount)
            self.details(of: index).headReader = HTTPHeadReader(
                limits: self.server.configuration.headLimits
            )
            // Before it is answered: an answer that the peer takes is gone with this tick, and nobody's burden.
            self.chargeMemory(of: index)
            freed -= unsafe Int(slot.pointee.chargedByteCount)
            self.refuseForMemory(index)
        }
        return freed
    }

    /// The connections that hold anything, the largest first, each with its part of the rings that it keeps alive.
    private func holders(newest: Int?) -> [(byteCount: Int, index: Int)] {
        self.countSharers()
        var holders: [(byteCount: Int, index: Int)] = []
        for index in 0..<self.slots.usedCapacity {
            let slot = unsafe self.slots.pointer(index)
            guard unsafe slot.pointee.phase == .open, unsafe slot.pointee.closing.isOpen else { continue }
            var held = unsafe Int(slot.pointee.chargedByteCount) + slot.pointee.outbound.sharedPartByteCount
            if unsafe slot.pointee.flags.contains(.behind) {
                for subscription in unsafe slot.pointee.subscriptions {
                    held += subscription.entry.backlog?.part(of: UInt32(index)) ?? 0
                }
            }
            if held > 0 { holders.append((held, index)) }
        }
        holders.sort { left, right in
            left.byteCount != right.byteCount ? left.byteCount > right.byteCount : left.index == newest
        }
        return holders
    }

    /// Counts who has yet to write each of the big publications that are charged by themselves.
    private func countSharers() {
        guard self.publicationCharges.byteCount > 0 else { return }
        func forEachChunk(_ body: (OutboundChunk) -> Void) {
            for index in 0..<self.slots.usedCapacity {
                let slot = unsafe self.slots.pointer(index)
                guard unsafe slot.pointee.outbound.chargedByteCount > 0 else { continue }
                unsafe slot.pointee.outbound.forEachSegment { if $0.chunk.isCharged { body($0.chunk) } }
            }
        }
        forEachChunk { $0.sharerCount = 0 }
        forEachChunk { $0.sharerCount += 1 }
    }

    /// Closes a connection for want of memory and lets go of what it holds, but for the rest of a frame that has begun; how many
    /// bytes that has freed.
    private func shed(_ index: Int, holding held: Int) -> Int {
        let slot = unsafe self.slots.pointer(index)
        guard let endpoint = unsafe slot.pointee.endpoint else { return 0 }
        // The rest of a frame that has begun too: it is gone when the peer has taken it, or when its time is up.
        var freed = unsafe Int(slot.pointee.chargedByteCount) + slot.pointee.outbound.sharedPartByteCount
        unsafe slot.pointee.outbound.removeAllButStarted()
        if self.decoding == index {
            self.mustResetDecoding = true
        } else {
            unsafe slot.pointee.codec = FrameCodec(settings: endpoint.codecSettings)
        }
        if let details = unsafe slot.pointee.details {
            details.deflate?.releaseAll()
            details.stash = []
            details.fullInbox?.letGoOfInbox()
            details.fullInbox = nil
            details.inboxByteCount = 0
        }
        unsafe slot.pointee.flags.insert(.inputEnded)
        self.counts.memorySheds &+= 1
        self.fail(
            index,
            .tryAgainLater,
            reason: "the server is out of memory, of which this connection held \(held) bytes",
            cause: .memoryExhausted
        )
        self.chargeMemory(of: index)
        for subscription in unsafe slot.pointee.subscriptions {
            guard let ring = subscription.entry.backlog, ring.part(of: UInt32(index)) > 0 else { continue }
            subscription.entry.endBacklog(of: UInt32(index))
            if subscription.entry.backlog == nil { freed += ring.byteCount }
        }
        return freed
    }
}

/// The one connection of a loop that is read though it holds something, while memory is scarce.
struct MemoryTurn {
    let connection: ConnectionID
    let until: LoopInstant
    /// What it had received when its turn began.
    let bytesReceived: UInt64
}
