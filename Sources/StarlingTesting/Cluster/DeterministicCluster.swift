internal import Dispatch
internal import Starling
internal import Synchronization

/// Nodes, clients and a broker in one thread, with links that fail, from one seed: the same seed gives the same trace, byte for
/// byte.
///
/// ```swift
/// let figures = try await DeterministicCluster(dialect: ChatDialect()).check(seeds: 0..<50)
/// ```
///
/// Each node is the real engine: drivers, hubs, and an endpoint with its tasks. Time is made by hand; the broker, the streams
/// and the clients are simulated. After a time full of faults there is a quiet one, and then this must hold:
///
/// - Every client has got each topic's publications in the broker's order, none twice, and none is missing unless it was told: by a
///   gap, or by a subscription that is not recovered.
/// - What was acknowledged stands in the history, once.
/// - Every client sees as present those who are, and no others; nobody joins or leaves twice, and nobody leaves who is connected.
///
/// A run that breaks a rule says which, when, and how to see it again: with `STARLING_SEED=…` in the environment
/// ``check(seeds:)`` runs that seed alone, and prints its whole trace.
public struct DeterministicCluster: Sendable {
    /// What a cluster is made of.
    public struct Configuration: Sendable {
        /// How many nodes.
        public var nodeCount = 3
        /// How many clients.
        public var clientCount = 5
        /// How many topics, each with a history.
        public var topicCount = 2
        /// Things that happen in a run: publications, comings and goings, faults.
        public var actionCount = 40
        /// The simulated time over which they happen.
        public var duration: Duration = .seconds(5)
        /// Publications that the broker keeps of a topic.
        public var historyCountMax = 10
        /// How long a message takes between a node and the broker.
        public var brokerDelay: ClosedRange<Duration> = .milliseconds(1) ... .milliseconds(40)
        /// How long a dead node's members stay.
        public var lease: Duration = .seconds(2)
        /// What may fail; everything by default.
        public var faults = ClusterFaults.all

        /// The defaults.
        public init() {}
    }

    private let configuration: Configuration
    private let dialect: any ClusterDialect
    private let mistake: ClusterMistake?

    /// Describes a cluster.
    ///
    /// - Parameters:
    ///   - configuration: How big it is, and what fails.
    ///   - dialect: The endpoint under test, and how its clients talk to it.
    public init(
        configuration: Configuration = Configuration(),
        dialect: any ClusterDialect = PlainDialect()
    ) {
        self.init(configuration: configuration, dialect: dialect, mistake: nil)
    }

    /// With a broadcaster that breaks a rule.
    package init(
        configuration: Configuration = Configuration(),
        dialect: any ClusterDialect = PlainDialect(),
        mistake: ClusterMistake?
    ) {
        self.configuration = configuration
        self.dialect = dialect
        self.mistake = mistake
    }

    /// Runs one seed to its end, on the calling thread.
    public func run(seed: UInt64) -> ClusterRun {
        ClusterSimulation(self.configuration, self.dialect, seed: seed, mistake: self.mistake).run()
    }

    /// Runs seeds, on threads of its own, as many as there are cores; the one that `STARLING_SEED` names, if it is set, and then
    /// alone.
    ///
    /// Suspends until all are done. Cancelling the task ends it after the runs that have begun.
    ///
    /// - Returns: What the runs did, added up.
    /// - Throws: ``ClusterFailure`` if a run breaks a rule, for the lowest seed that was seen to.
    @discardableResult
    public func check(seeds: Range<UInt64>) async throws -> ClusterFigures {
        if let seed = seedFromEnvironment() {
            let run = await self.onThread { self.run(seed: seed) }
            print(run.trace)
            if run.violation != nil { throw ClusterFailure(run) }
            return run.figures
        }
        let next = SeedCounter(seeds)
        let results = await withTaskGroup(of: (figures: ClusterFigures, failed: ClusterRun?).self) { group in
            for _ in 0..<coreCount() {
                group.addTask { await self.onThread { self.checkAll(next) } }
            }
            return await withTaskCancellationHandler {
                await group.reduce(into: []) { $0.append($1) }
            } onCancel: {
                next.stop()
            }
        }
        if let failed = results.compactMap(\.failed).min(by: { $0.seed < $1.seed }) {
            throw ClusterFailure(failed)
        }
        try Task.checkCancellation()
        return results.reduce(into: ClusterFigures()) { $0 += $1.figures }
    }

    /// A worker's part; ends at the first failure of any.
    private func checkAll(_ next: SeedCounter) -> (figures: ClusterFigures, failed: ClusterRun?) {
        var figures = ClusterFigures()
        while let seed = next.take() {
            let run = self.run(seed: seed)
            if run.violation != nil {
                next.stop()
                return (figures, run)
            }
            figures += run.figures
        }
        return (figures, nil)
    }

    /// Runs a long piece of work where it holds no other task up.
    private func onThread<Result: Sendable>(_ work: @escaping @Sendable () -> Result) async -> Result {
        await withCheckedContinuation { continuation in
            DispatchQueue(label: "starling.cluster").async { continuation.resume(returning: work()) }
        }
    }
}

/// Hands out seeds to several workers.
private final class SeedCounter: Sendable {
    private let next: Atomic<UInt64>
    private let end: UInt64
    private let isStopped = Atomic<Bool>(false)

    init(_ seeds: Range<UInt64>) {
        self.next = Atomic(seeds.lowerBound)
        self.end = seeds.upperBound
    }

    func take() -> UInt64? {
        guard !self.isStopped.load(ordering: .relaxed) else { return nil }
        let seed = self.next.add(1, ordering: .relaxed).oldValue
        return seed < self.end ? seed : nil
    }

    func stop() {
        self.isStopped.store(true, ordering: .relaxed)
    }
}

/// What may fail in a ``DeterministicCluster``.
public struct ClusterFaults: OptionSet, Sendable, Hashable {
    /// The bits.
    public let rawValue: Int

    /// Makes a set of bits.
    public init(rawValue: Int) {
        self.rawValue = rawValue
    }

    /// Clients' streams are late, split and slow; they break, and fall silent.
    public static let clientLinks = ClusterFaults(rawValue: 1)
    /// Nodes lose their link to the broker for a while.
    public static let brokerLinks = ClusterFaults(rawValue: 2)
    /// Nodes die, and come back as new ones.
    public static let nodes = ClusterFaults(rawValue: 4)
    /// The broker loses a topic's history.
    public static let histories = ClusterFaults(rawValue: 8)
    /// The broker's answers are lost.
    public static let lostAnswers = ClusterFaults(rawValue: 16)
    /// All of it.
    public static let all: ClusterFaults = [.clientLinks, .brokerLinks, .nodes, .histories, .lostAnswers]
}

/// What a run of a ``DeterministicCluster`` was like.
public struct ClusterRun: Sendable {
    /// The seed.
    public let seed: UInt64
    /// The rule that was broken, and when; nil if none was.
    public let violation: String?
    /// All that happened, a line each.
    public let trace: String
    /// How much happened.
    public let figures: ClusterFigures
}

/// How much has happened in runs of a ``DeterministicCluster``, so that a test can see that they were not idle.
public struct ClusterFigures: Sendable, Hashable {
    /// Publications that clients got.
    public var publications = 0
    /// Publications that were acknowledged to their clients.
    public var acknowledgements = 0
    /// Publications whose clients were told that they may have failed.
    public var failures = 0
    /// Subscriptions from a position that were recovered.
    public var recoveries = 0
    /// Subscriptions from a position that were not.
    public var lostHistories = 0
    /// Gaps that clients were told of.
    public var gaps = 0
    /// Joins and leaves that clients were told of.
    public var presenceEvents = 0
    /// Nodes that died.
    public var deaths = 0
    /// Links between node and broker that were cut.
    public var cuts = 0
    /// Streams of clients that broke or fell silent.
    public var breaks = 0

    /// Nothing.
    public init() {}

    /// Adds other runs' figures.
    public static func += (left: inout ClusterFigures, right: ClusterFigures) {
        left.publications += right.publications
        left.acknowledgements += right.acknowledgements
        left.failures += right.failures
        left.recoveries += right.recoveries
        left.lostHistories += right.lostHistories
        left.gaps += right.gaps
        left.presenceEvents += right.presenceEvents
        left.deaths += right.deaths
        left.cuts += right.cuts
        left.breaks += right.breaks
    }
}

/// A run of a ``DeterministicCluster`` that broke a rule.
public struct ClusterFailure: Error, Sendable, CustomStringConvertible {
    /// The run.
    public let run: ClusterRun

    init(_ run: ClusterRun) {
        self.run = run
    }

    /// The seed, the step, the rule, what came before, and how to see it again.
    public var description: String {
        let lines = self.run.trace.split(separator: "\n", omittingEmptySubsequences: false)
        let step = lines.firstIndex { $0.contains("VIOLATION") } ?? lines.count - 1
        return """
            seed \(self.run.seed): \(self.run.violation ?? "nothing is wrong")
            The steps before it:
            \(lines[max(0, step - 20)...step].joined(separator: "\n"))
            See all of it with STARLING_SEED=\(self.run.seed) in the environment of the same test.
            """
    }
}
