internal import StarlingCore
internal import Synchronization

/// What the connections of a server may hold together, on all its loops.
///
/// Charged only when what a connection holds changes, which for most never happens: a peer that sends whole messages and
/// reads what it is sent holds nothing between two ticks.
final class MemoryBudget: Sendable {
    private let byteCountMax: Int
    private let used = Atomic<Int>(0)

    init(byteCountMax: Int) {
        self.byteCountMax = byteCountMax
    }

    func charge(_ byteCount: Int) {
        self.used.add(byteCount, ordering: .relaxed)
    }

    var byteCount: Int {
        self.used.load(ordering: .relaxed)
    }

    var isFull: Bool {
        self.byteCount > self.byteCountMax
    }
}

extension ConnectionDriver {
    /// Charges what a connection holds now instead of what it held before, and sheds it if it has come to hold more while
    /// there is no room.
    func chargeMemory(of index: Int) {
        let slot = unsafe self.slots.pointer(index)
        let waiting = unsafe slot.pointee.outbound.byteCount
        self.countWaiting(waiting, of: index)
        let held = unsafe waiting + slot.pointee.codec.partialByteCount
        let before = unsafe Int(slot.pointee.chargedByteCount)
        guard held != before else { return }
        unsafe slot.pointee.chargedByteCount = UInt32(clamping: held)
        self.server.memory.charge(unsafe Int(slot.pointee.chargedByteCount) - before)
        if held > before, self.server.memory.isFull { self.shed(index) }
    }

    /// The connection is gone, and what it held with it.
    func releaseMemory(of index: Int) {
        let slot = unsafe self.slots.pointer(index)
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

    /// Closes a connection for want of memory and lets go of what it holds, but for the rest of a frame that has begun.
    private func shed(_ index: Int) {
        let slot = unsafe self.slots.pointer(index)
        guard unsafe slot.pointee.phase == .open, unsafe slot.pointee.closing.isOpen,
            let endpoint = unsafe slot.pointee.endpoint
        else { return }
        unsafe slot.pointee.outbound.removeAllButStarted()
        unsafe slot.pointee.codec = FrameCodec(settings: endpoint.codecSettings)
        unsafe slot.pointee.flags.insert(.inputEnded)
        self.fail(index, .tryAgainLater, reason: "the server is out of memory", cause: .memoryExhausted)
        self.chargeMemory(of: index)
    }
}
