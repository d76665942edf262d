/// A clock that a test moves by hand.
///
/// ``EmbeddedTransport`` has one: ``EmbeddedTransport/advance(by:)`` moves it, and ``EmbeddedTransport/clock`` tells code that is
/// given the time, instead of asking the system for it, the time of the server under test. Whoever drives a
/// ``/Starling/ConnectionDriver`` by hand, in a test of a transport of one's own, passes ``nanoseconds`` to
/// ``/Starling/ConnectionDriver/beginTick(at:)``.
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
