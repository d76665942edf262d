/// Names a connection within its process: the event loop, the slot in the loop's table, and how often the slot was
/// used before, so that a late message for a connection that is gone never reaches its successor.
public struct ConnectionID: Hashable, Sendable {
    let bits: UInt64

    init(loop: Int, slot: Int, generation: UInt32) {
        self.bits = UInt64(loop) << 56 | UInt64(slot) << 32 | UInt64(generation)
    }

    var loop: Int { Int(self.bits >> 56) }
    var slot: Int { Int(self.bits >> 32 & 0xFF_FFFF) }
    var generation: UInt32 { UInt32(truncatingIfNeeded: self.bits) }

    /// Slots that an identifier can tell apart on one loop.
    static let slotsPerLoopMax = 1 << 24
    /// Loops that an identifier can tell apart.
    static let loopsMax = 64
}

extension ConnectionID: CustomStringConvertible {
    /// Loop, slot and generation, as they stand in logs: `1.42.7`.
    public var description: String {
        "\(self.loop).\(self.slot).\(self.generation)"
    }
}
