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

    /// What the connection that was refused ends with.
    var closeCause: CloseCause {
        switch self {
        case .handshakeTimeout: .handshakeTimeout
        case .authenticationTimeout: .authenticationTimeout
        case .malformed, .tooLarge, .notAnUpgrade, .version, .body, .origin, .application, .upgradeRate,
            .connectionsPerUser, .connectionsPerAddress, .serverFull, .draining, .memory:
            .refused
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
    /// All of them together.
    private(set) var total: UInt64 = 0
    private let number: @Sendable (Cause) -> Int

    init(count: Int, _ number: @escaping @Sendable (Cause) -> Int) {
        self.values = [UInt64](repeating: 0, count: count)
        self.number = number
    }

    subscript(cause: Cause) -> UInt64 {
        get { self.values[self.number(cause)] }
        set {
            let number = self.number(cause)
            self.total = self.total &+ newValue &- self.values[number]
            self.values[number] = newValue
        }
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
    var slowConsumers: UInt64 = 0
    var memoryPauses: UInt64 = 0
    var memorySheds: UInt64 = 0
    var slowConsumerGaps: UInt64 = 0
    var slowConsumerRecoveries: UInt64 = 0
    var acceptPauses: UInt64 = 0
    var affinityHits: UInt64 = 0
    var affinityMisses: UInt64 = 0
    var recoveries: UInt64 = 0
    var recoveryFailures: UInt64 = 0
    var outboundBytes: UInt64 = 0
    var ticks: UInt64 = 0
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
    /// What a loop has, apart from what it counts.
    struct Gauges {
        var connections = 0
        var topics = 0
        var subscriptions = 0
        var tasks = 0
        var waitingUpgrades = 0
    }

    private let plain: [Box]
    private let closes: [Box]
    private let refusals: [Box]
    private let lastEnded = Box()
    private let longestTick = Box()
    private let longestTickEver = Box()
    /// How long ticks took.
    let ticks = Histogram(bounds: Histogram.tickBounds)
    /// How long upgrades took.
    let handshakes = Histogram(bounds: Histogram.handshakeBounds)

    /// An atomic of its own, because an array cannot hold one directly.
    final class Box: Sendable {
        let value = Atomic<UInt64>(0)
    }

    init() {
        self.plain = LoopFigure.allCases.map { _ in Box() }
        self.closes = CloseCause.Base.allCases.map { _ in Box() }
        self.refusals = RefusalCause.allCases.map { _ in Box() }
    }

    func publish(_ counts: LoopCounts, _ gauges: Gauges) {
        func store(_ figure: LoopFigure, _ value: UInt64) {
            self.plain[figure.rawValue].value.store(value, ordering: .relaxed)
        }
        store(.connections, UInt64(gauges.connections))
        store(.topics, UInt64(gauges.topics))
        store(.accepted, counts.accepted)
        store(.opened, counts.opened)
        store(.messagesReceived, counts.messagesReceived)
        store(.messagesSent, counts.messagesSent)
        store(.bytesReceived, counts.bytesReceived)
        store(.bytesSent, counts.bytesSent)
        store(.publicationsDelivered, counts.publicationsDelivered)
        store(.pings, counts.pings)
        store(.httpResponses, counts.httpResponses)
        store(.slowConsumerDisconnects, counts.slowConsumerDisconnects)
        store(.slowConsumerDrops, counts.slowConsumerDrops)
        store(.slowConsumerConflations, counts.slowConsumerConflations)
        store(.memoryPauses, counts.memoryPauses)
        store(.memorySheds, counts.memorySheds)
        store(.slowConsumers, counts.slowConsumers)
        store(.slowConsumerGaps, counts.slowConsumerGaps)
        store(.slowConsumerRecoveries, counts.slowConsumerRecoveries)
        store(.acceptPauses, counts.acceptPauses)
        store(.openConnections, counts.openConnections)
        store(.affinityHits, counts.affinityHits)
        store(.affinityMisses, counts.affinityMisses)
        store(.recoveries, counts.recoveries)
        store(.recoveryFailures, counts.recoveryFailures)
        store(.subscriptions, UInt64(gauges.subscriptions))
        store(.tasks, UInt64(gauges.tasks))
        store(.waitingUpgrades, UInt64(gauges.waitingUpgrades))
        store(.outboundBytes, counts.outboundBytes)
        store(.ticks, counts.ticks)
        // Connections end, or are not let in, rarely: look at the causes only when one was.
        let ended = counts.closes.total &+ counts.refusals.total
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

    /// Counts a tick, and remembers how long it took, if none took longer since the last ``takeLongestTick()``.
    func tickTook(nanoseconds: UInt64) {
        self.ticks.record(nanoseconds: nanoseconds)
        // A reader may come in between; at worst it never hears of a tick that was no longer than the one it took.
        if nanoseconds > self.longestTick.value.load(ordering: .relaxed) {
            self.longestTick.value.store(nanoseconds, ordering: .relaxed)
        }
        if nanoseconds > self.longestTickEver.value.load(ordering: .relaxed) {
            self.longestTickEver.value.store(nanoseconds, ordering: .relaxed)
        }
    }

    /// The longest tick since the last call, in nanoseconds.
    func takeLongestTick() -> UInt64 {
        self.longestTick.value.exchange(0, ordering: .relaxed)
    }

    /// The longest tick since the loop began, in nanoseconds.
    var longestTickNanoseconds: UInt64 {
        self.longestTickEver.value.load(ordering: .relaxed)
    }

    /// The figures as they were at the end of the loop's last tick.
    func snapshot() -> LoopFigures {
        LoopFigures(
            plain: self.plain.map { $0.value.load(ordering: .relaxed) },
            closes: self.closes.map { $0.value.load(ordering: .relaxed) },
            refusals: self.refusals.map { $0.value.load(ordering: .relaxed) },
            ticks: self.ticks.figures,
            handshakes: self.handshakes.figures
        )
    }
}

/// Figures of one loop, or of several added up.
struct LoopFigures {
    var plain: [UInt64]
    var closes: [UInt64]
    var refusals: [UInt64]
    var ticks: HistogramFigures
    var handshakes: HistogramFigures

    static let zero = LoopFigures(
        plain: Array(repeating: 0, count: LoopFigure.allCases.count),
        closes: Array(repeating: 0, count: CloseCause.Base.allCases.count),
        refusals: Array(repeating: 0, count: RefusalCause.allCases.count),
        ticks: .zero(Histogram.tickBounds),
        handshakes: .zero(Histogram.handshakeBounds)
    )

    static func + (left: LoopFigures, right: LoopFigures) -> LoopFigures {
        LoopFigures(
            plain: zip(left.plain, right.plain).map(&+),
            closes: zip(left.closes, right.closes).map(&+),
            refusals: zip(left.refusals, right.refusals).map(&+),
            ticks: left.ticks + right.ticks,
            handshakes: left.handshakes + right.handshakes
        )
    }

    subscript(figure: LoopFigure) -> UInt64 {
        self.plain[figure.rawValue]
    }

    /// What was counted by cause; `none` is no cause.
    var closesByCause: [(String, UInt64)] {
        zip(CloseCause.Base.allCases, self.closes).filter { $0.0 != .none }.map { ("\($0.0)", $0.1) }
    }

    /// What was counted by cause.
    var refusalsByCause: [(String, UInt64)] {
        zip(RefusalCause.allCases, self.refusals).map { ("\($0.0)", $0.1) }
    }
}
