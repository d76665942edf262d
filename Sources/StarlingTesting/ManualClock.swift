/// A clock that a test moves by hand.
public struct ManualClock: Sendable {
    /// Nanoseconds since the clock was made.
    public private(set) var nanoseconds: UInt64 = 0

    /// A clock at 0.
    public init() {}

    /// Moves the clock forward.
    public mutating func advance(by duration: Duration) {
        let parts = duration.components
        precondition(parts.seconds >= 0 && parts.attoseconds >= 0, "a clock does not go back")
        self.nanoseconds += UInt64(parts.seconds) * 1_000_000_000 + UInt64(parts.attoseconds / 1_000_000_000)
    }
}
