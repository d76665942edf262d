internal import StarlingCore
internal import Synchronization

/// Why a handshake was refused, for logs and metrics.
enum RefusalCause: UInt8, CaseIterable, Sendable, CustomStringConvertible {
    case malformed, tooLarge, notAnUpgrade, version, body, origin, application, handshakeTimeout
    case authenticationTimeout, upgradeRate, connectionsPerUser, connectionsPerAddress, serverFull, draining,
        memory

    init(_ error: HandshakeError) {
        switch error.kind {
        case .headTooLarge, .tooManyFields: self = .tooLarge
        case .notAnUpgrade, .methodNotAllowed: self = .notAnUpgrade
        case .unsupportedVersion, .unsupportedProtocolVersion: self = .version
        case .unexpectedBody: self = .body
        case .subprotocolNotOffered: self = .application
        default: self = .malformed
        }
    }

    var description: String {
        switch self {
        case .malformed: "malformed"
        case .tooLarge: "tooLarge"
        case .notAnUpgrade: "notAnUpgrade"
        case .version: "version"
        case .body: "body"
        case .origin: "origin"
        case .application: "application"
        case .handshakeTimeout: "handshakeTimeout"
        case .authenticationTimeout: "authenticationTimeout"
        case .upgradeRate: "upgradeRate"
        case .connectionsPerUser: "connectionsPerUser"
        case .connectionsPerAddress: "connectionsPerAddress"
        case .serverFull: "serverFull"
        case .draining: "draining"
        case .memory: "memory"
        }
    }
}

/// One counter for each member of a closed set.
struct CountsByCause<Cause> {
    private(set) var values: [UInt64]
    private let number: @Sendable (Cause) -> Int

    init(count: Int, _ number: @escaping @Sendable (Cause) -> Int) {
        self.values = [UInt64](repeating: 0, count: count)
        self.number = number
    }

    subscript(cause: Cause) -> UInt64 {
        get { self.values[self.number(cause)] }
        set { self.values[self.number(cause)] = newValue }
    }
}

/// What a loop has counted since it began; the loop's alone.
struct LoopCounts {
    var accepted: UInt64 = 0
    var opened: UInt64 = 0
    var openConnections: UInt64 = 0
    var messagesReceived: UInt64 = 0
    var messagesSent: UInt64 = 0
    var bytesReceived: UInt64 = 0
    var bytesSent: UInt64 = 0
    var publicationsDelivered: UInt64 = 0
    var pings: UInt64 = 0
    var httpResponses: UInt64 = 0
    var slowConsumerDisconnects: UInt64 = 0
    var slowConsumerDrops: UInt64 = 0
    var slowConsumerConflations: UInt64 = 0
    var acceptPauses: UInt64 = 0
    var affinityHits: UInt64 = 0
    var affinityMisses: UInt64 = 0
    var recoveries: UInt64 = 0
    var recoveryFailures: UInt64 = 0
    var closes = CountsByCause<CloseCause>(count: CloseCause.Base.allCases.count) { Int($0.base.rawValue) }
    var refusals = CountsByCause<RefusalCause>(count: RefusalCause.allCases.count) { Int($0.rawValue) }

    mutating func count(_ outcome: SessionAffinity.Outcome) {
        switch outcome {
        case .hit: self.affinityHits &+= 1
        case .miss: self.affinityMisses &+= 1
        case .none: break
        }
    }
}

/// The same figures as others may read them, at most a tick old.
///
/// Only the loop writes, so that plain loads and stores of atomics suffice.
final class LoopStatistics: Sendable {
    static let plainCount = 20
    private let plain: [Box]
    private let closes: [Box]
    private let refusals: [Box]

    /// An atomic of its own, because an array cannot hold one directly.
    final class Box: Sendable {
        let value = Atomic<UInt64>(0)
    }

    init() {
        self.plain = (0..<Self.plainCount).map { _ in Box() }
        self.closes = CloseCause.Base.allCases.map { _ in Box() }
        self.refusals = RefusalCause.allCases.map { _ in Box() }
    }

    func publish(_ counts: LoopCounts, connections: Int, topics: Int) {
        func store(_ index: Int, _ value: UInt64) {
            self.plain[index].value.store(value, ordering: .relaxed)
        }
        store(0, UInt64(connections))
        store(1, UInt64(topics))
        store(2, counts.accepted)
        store(3, counts.opened)
        store(4, counts.messagesReceived)
        store(5, counts.messagesSent)
        store(6, counts.bytesReceived)
        store(7, counts.bytesSent)
        store(8, counts.publicationsDelivered)
        store(9, counts.pings)
        store(10, counts.httpResponses)
        store(11, counts.slowConsumerDisconnects)
        store(12, counts.slowConsumerDrops)
        store(13, counts.slowConsumerConflations)
        store(14, counts.acceptPauses)
        store(15, counts.openConnections)
        store(16, counts.affinityHits)
        store(17, counts.affinityMisses)
        store(18, counts.recoveries)
        store(19, counts.recoveryFailures)
        // Connections end, or are not let in, rarely: look at the causes only when one was.
        let ended = counts.accepted &- UInt64(connections) &+ counts.refusals[.serverFull]
        if ended != self.lastEnded.value.load(ordering: .relaxed) {
            self.lastEnded.value.store(ended, ordering: .relaxed)
            for (box, value) in zip(self.closes, counts.closes.values) {
                box.value.store(value, ordering: .relaxed)
            }
            for (box, value) in zip(self.refusals, counts.refusals.values) {
                box.value.store(value, ordering: .relaxed)
            }
        }
    }

    private let lastEnded = Box()
    private let longestTick = Box()

    /// Remembers how long a tick took, if none took longer since the last ``takeLongestTick()``.
    func tickTook(nanoseconds: UInt64) {
        // A reader may come in between; at worst it never hears of a tick that was no longer than the one it took.
        if nanoseconds > self.longestTick.value.load(ordering: .relaxed) {
            self.longestTick.value.store(nanoseconds, ordering: .relaxed)
        }
    }

    /// The longest tick since the last call, in nanoseconds.
    func takeLongestTick() -> UInt64 {
        self.longestTick.value.exchange(0, ordering: .relaxed)
    }

    /// The figures as they were at the end of the loop's last tick.
    func snapshot() -> LoopFigures {
        func load(_ index: Int) -> UInt64 {
            self.plain[index].value.load(ordering: .relaxed)
        }
        return LoopFigures(
            plain: (0..<Self.plainCount).map(load),
            closes: self.closes.map { $0.value.load(ordering: .relaxed) },
            refusals: self.refusals.map { $0.value.load(ordering: .relaxed) }
        )
    }
}

/// Figures of one loop, or of several added up.
struct LoopFigures {
    var plain: [UInt64]
    var closes: [UInt64]
    var refusals: [UInt64]

    static let zero = LoopFigures(
        plain: Array(repeating: 0, count: LoopStatistics.plainCount),
        closes: Array(repeating: 0, count: CloseCause.Base.allCases.count),
        refusals: Array(repeating: 0, count: RefusalCause.allCases.count)
    )

    static func + (left: LoopFigures, right: LoopFigures) -> LoopFigures {
        LoopFigures(
            plain: zip(left.plain, right.plain).map(&+),
            closes: zip(left.closes, right.closes).map(&+),
            refusals: zip(left.refusals, right.refusals).map(&+)
        )
    }

    /// What each plain figure is called and means, in their order: the metrics' names, and their help texts.
    static let names: [(name: String, isGauge: Bool, help: String)] = [
        ("connections", true, "Connections of any kind that exist."),
        ("topics", true, "Topics with subscribers, added up over event loops."),
        ("connections_accepted_total", false, "Connections accepted."),
        ("websockets_opened_total", false, "Upgrades that succeeded."),
        ("messages_received_total", false, "Messages received."),
        ("messages_sent_total", false, "Messages sent, each delivery of a publication counted."),
        ("bytes_received_total", false, "Bytes received, framing included."),
        ("bytes_sent_total", false, "Bytes sent, framing included."),
        ("publications_delivered_total", false, "Publications delivered to an event loop's subscribers."),
        ("pings_sent_total", false, "Heartbeat pings sent."),
        ("http_responses_total", false, "Plain HTTP requests answered."),
        ("slow_consumer_disconnects_total", false, "Connections closed because their peer read too slowly."),
        ("slow_consumer_drops_total", false, "Messages left out because a peer read too slowly."),
        ("slow_consumer_conflations_total", false, "Publications replaced by newer ones of their topic."),
        ("accept_pauses_total", false, "Pauses of accepting because descriptors or memory were used up."),
        ("websockets", true, "WebSockets that are open."),
        ("affinity_hits_total", false, "Upgrades whose cookie names this node."),
        ("affinity_misses_total", false, "Upgrades whose cookie names another node."),
        ("recoveries_total", false, "Subscriptions from a position that were recovered."),
        (
            "recovery_failures_total", false,
            "Subscriptions from a position that was too old, or of a lost epoch."
        ),
    ]
}
