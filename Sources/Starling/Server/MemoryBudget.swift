internal import Synchronization

/// Limits the bytes that all connections of a process may hold together, so that overload costs some of them their connection
/// and never the process its life.
///
/// **Counted** are unfinished messages; the heads of requests until they are answered; TLS handshakes under way (on the native
/// transport, an estimate of 32 KiB each); what waits for peers that read slowly (a publication of more than 64 KiB once, however many
/// have yet to write it); the rings of topics with slow subscribers; connections' own compression windows; and inboxes of async
/// handlers that are full, or whose connection has ended before their task. A connection that is idle, or whose peer sends whole
/// messages and reads what it is sent, counts nothing and never touches the budget, unless it has windows of its own.
///
/// **Not counted** are the application's memory, the connections' slots, TLS sessions and the kernel's socket buffers.
///
/// **Above ``scarceByteCount``**
/// - Connections that come to hold more are no longer read, except one at a time on each event loop, so that unfinished messages
///   can be completed. It has a second; if its message makes no progress while others wait, it is closed with 1013.
/// - The rings of topics shrink to an eighth.
/// - Once a second, connections free their own compressors' windows, even those in use: the next message is compressed without
///   reference to earlier ones. A peer's window stays, because only the peer may give it up (RFC 7692 §7.2.2).
///
/// **Above ``byteCountMax``**
/// - Upgrades get 503 with `Retry-After`, and so do requests of which only a part has arrived.
/// - Rings keep only their newest publication.
/// - If that is not enough, waiting requests are refused, responses that their peers do not read are cut, and messages are given up
///   that tasks have not taken of connections which have ended.
/// - Then the connections that hold most are closed with 1013 until the rest fits. A connection counts as holding its share of
///   the rings that it is behind in. What it holds is freed at once, except the rest of a frame whose beginning has been sent, which
///   must follow so that the peer can be told why.
///
/// **TLS handshakes** may use ``handshakeByteCountMax``, so that strangers who begin them and do not go on take no room from those
/// who are connected: further connections are turned away.
///
/// Servers share ``process`` unless their configuration says otherwise. Any thread.
public final class MemoryBudget: Sendable {
    /// The budget of every server that is given no other: 1 GiB.
    public static let process = MemoryBudget(byteCountMax: 1 << 30)

    /// Bytes above which the largest holders are closed.
    public let byteCountMax: Int
    /// Bytes above which connections are held back.
    public let scarceByteCount: Int
    private let used = Atomic<Int>(0)
    /// What of that is held by TLS handshakes.
    private let usedByHandshakes = Atomic<Int>(0)

    /// Makes a budget.
    ///
    /// - Parameters:
    ///   - byteCountMax: Leave room for the rest of the process, and for what one tick of each loop may receive before it is
    ///     noticed: some 16 MiB.
    ///   - scarceByteCount: Three quarters of that unless told otherwise.
    public init(byteCountMax: Int, scarceByteCount: Int? = nil) {
        precondition(byteCountMax > 0, "a budget without bytes would refuse every upgrade")
        self.byteCountMax = byteCountMax
        self.scarceByteCount = min(scarceByteCount ?? byteCountMax / 4 * 3, byteCountMax)
    }

    /// What TLS handshakes under way may hold together: a quarter of ``byteCountMax``.
    public var handshakeByteCountMax: Int { self.byteCountMax / 4 }

    /// Bytes that are held now.
    public var byteCount: Int {
        self.used.load(ordering: .relaxed)
    }

    package func charge(_ byteCount: Int) {
        self.used.add(byteCount, ordering: .relaxed)
    }

    /// Charges for a TLS handshake, which counts against ``handshakeByteCountMax`` as well.
    package func charge(forHandshake byteCount: Int) {
        self.usedByHandshakes.add(byteCount, ordering: .relaxed)
        self.charge(byteCount)
    }

    /// Whether a TLS handshake may begin that will be charged so much; true for 0.
    func hasRoom(forHandshake byteCount: Int) -> Bool {
        byteCount == 0
            || self.usedByHandshakes.load(ordering: .relaxed) + byteCount <= self.handshakeByteCountMax
    }

    var isScarce: Bool {
        self.byteCount > self.scarceByteCount
    }

    var isFull: Bool {
        self.byteCount > self.byteCountMax
    }
}

/// What is charged to a budget as long as this lives.
final class MemoryCharge {
    let byteCount: Int
    private let budget: MemoryBudget

    init(_ byteCount: Int, to budget: MemoryBudget) {
        self.byteCount = byteCount
        self.budget = budget
        budget.charge(byteCount)
    }

    deinit {
        self.budget.charge(-self.byteCount)
    }
}

@available(*, unavailable) extension MemoryCharge: Sendable {}
