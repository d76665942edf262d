/// What a link does to the bytes that it carries.
///
/// A stream's promise holds whatever the plan says: bytes arrive in order and none is missing in the middle. They may come
/// late, in pieces, or slowly; and from some point on not at all.
///
/// ```swift
/// var plan = FaultPlan(seed: 7)
/// plan.received.pieceByteCountMax = 1
/// plan.sent.breakage = .reset(.afterBytes(1000))
/// let client = WebSocketClient(connector: FaultyConnector(network.connector, plan: plan))
/// ```
///
/// The same plan makes the same decisions. What a test sees is the same too where its time is made by hand, as in
/// ``DeterministicCluster``.
public struct FaultPlan: Sendable, Hashable {
    /// Where the decisions come from.
    public var seed: UInt64
    /// What happens to the bytes of the end that has connected.
    public var sent = Direction()
    /// What happens to the bytes of the other end.
    public var received = Direction()

    /// A plan in which nothing happens yet.
    public init(seed: UInt64 = 0) {
        self.seed = seed
    }

    /// One direction of a link.
    public struct Direction: Sendable, Hashable {
        /// How long a piece is on its way; it never overtakes another one.
        public var delay: ClosedRange<Duration> = .zero ... .zero
        /// Splits what is written into pieces of 1 to so many bytes; nil leaves it whole.
        public var pieceByteCountMax: Int?
        /// How fast the reader takes bytes; nil for at once.
        ///
        /// The sender is held up as soon as ``inTransitByteCountMax`` bytes wait.
        public var bytesPerSecondMax: Int?
        /// Bytes that may be on their way; a further one waits with its sender.
        ///
        /// 64 KiB by default.
        public var inTransitByteCountMax = 64 << 10
        /// Where the direction ends.
        public var breakage: Breakage?

        /// A direction in which nothing happens.
        public init() {}
    }

    /// When something happens.
    public enum Moment: Sendable, Hashable {
        /// As soon as so many bytes of the direction have been taken: these still arrive.
        case afterBytes(Int)
        /// So long after the connection was made.
        case after(Duration)
    }

    /// How a direction ends.
    public enum Breakage: Sendable, Hashable {
        /// The connection breaks for both ends at once; what was on its way is lost.
        case reset(Moment)
        /// Nothing arrives any more, and nobody is told: the other end's machine has lost its power.
        ///
        /// The sender may go on until ``Direction/inTransitByteCountMax`` bytes wait. On an ``InMemoryNetwork`` the server does not
        /// hear either that the client gives the stream up; over other connectors it does.
        case halfOpen(Moment)
        /// Nothing arrives any more, and after `resetAfter` the connection breaks, as TCP gives up when nothing is confirmed.
        case drop(Moment, resetAfter: Duration)
    }
}
