import StarlingTesting
import StarlingTopics

@testable import Starling

/// A node's door for upgrades: the queue of ``Starling``'s servers, and who stands in it.
struct UpgradeDoor {
    enum Answer: Equatable {
        case upgraded
        case waits
        /// 503, with a `Retry-After` out of these seconds.
        case refused(retryAfter: ClosedRange<UInt32>)
    }

    private let rules: UpgradeQueue.Rules
    private let timeout: LoopInterval
    private var queue = UpgradeQueue()
    /// When those who wait have come, and how often they had been refused before.
    private var waiting: [(since: LoopInstant, attempt: UInt8)] = []
    private var first = 0

    init(_ configuration: ServerConfiguration) {
        self.rules = UpgradeQueue.Rules(configuration)
        self.timeout = LoopInterval(configuration.upgradeQueueTimeout)
    }

    mutating func ask(at now: LoopInstant, attempt: UInt8 = 0) -> Answer {
        switch self.queue.request(at: now, isDecided: false, self.rules) {
        case .proceed: return .upgraded
        case .wait:
            self.waiting.append((now, attempt))
            return .waits
        case .refuse(let delay): return .refused(retryAfter: Self.retryAfter(delay))
        }
    }

    /// Those whose turn has come, or whose time is up.
    mutating func serve(at now: LoopInstant) -> [(answer: Answer, attempt: UInt8)] {
        var served: [(Answer, UInt8)] = []
        while self.first < self.waiting.count {
            let (since, attempt) = self.waiting[self.first]
            if self.queue.takeTurn(at: now, isDecided: false, self.rules) {
                served.append((.upgraded, attempt))
            } else if !now.isBefore(since + self.timeout) {
                self.queue.stopWaiting(isDecided: false)
                served.append(
                    (.refused(retryAfter: Self.retryAfter(self.queue.promise(at: now, self.rules))), attempt)
                )
            } else {
                break
            }
            self.first += 1
        }
        if self.first == self.waiting.count {
            self.waiting.removeAll(keepingCapacity: true)
            self.first = 0
        }
        return served
    }

    /// As `ConnectionDriver.tooManyUpgrades` has it; a test holds the two against each other.
    private static func retryAfter(_ delay: Duration?) -> ClosedRange<UInt32> {
        guard let delay else { return 1...5 }
        let least = min(LoopInterval(delay).wholeSeconds, 60)
        return max(1, least)...(least < 60 ? least + 1 : 120)
    }
}

/// Everybody of a cluster, or of some of its nodes, comes back at once: who asks when, who is let in, and who is told what.
///
/// Clients wait as `Backoff` says, a balancer picks a node at random, and each node has an ``UpgradeDoor`` for
/// `ServerConfiguration.upgradesPerSecondMax` upgrades a second. Time goes in steps of 50 ms.
struct ReconnectStorm {
    /// Nodes that clients come back to.
    var nodes: Int
    /// Clients that have lost their connection.
    var clients: Int
    /// Upgrades per second and node; nil lets everybody in.
    var upgradesPerSecondMax: Int?
    /// Upgrades that a node lets wait.
    var upgradeQueueMax = ServerConfiguration().upgradeQueueMax
    /// What clients that are refused go by.
    var waits = Waits.retryAfterAndBackoff
    var backoff = Backoff()

    enum Waits {
        /// As `ReconnectingClient` does.
        case retryAfterAndBackoff
        case retryAfter
        /// As clients in browsers do, which are not shown the response.
        case backoff
    }

    struct Outcome {
        /// Handshakes, refused ones included.
        var attempts = 0
        /// The most handshakes that one node had in one second.
        var attemptsPerNodeSecondMax = 0
        /// The mean over the nodes in the busiest second.
        var attemptsPerNodeSecondMean = 0.0
        /// Seconds until so many hundredths were back.
        var secondsUntil: [Int: Double] = [:]
    }

    private static let stepsPerSecond = 20

    /// Gives way to others after each step: it computes for seconds, and they have deadlines.
    func run(seed: UInt64) async -> Outcome {
        var configuration = ServerConfiguration()
        configuration.upgradesPerSecondMax = self.upgradesPerSecondMax
        configuration.upgradeQueueMax = self.upgradeQueueMax
        var course = Course(
            storm: self,
            doors: UpgradeDoor(configuration),
            random: SeededGenerator(seed: seed)
        )
        for _ in 0..<self.clients { course.wait(0, nil) }
        while course.back < self.clients {
            course.go()
            await Task.yield()
        }
        return course.outcome
    }

    /// A storm that is under way.
    private struct Course {
        let storm: ReconnectStorm
        var outcome = Outcome()
        var back = 0
        private var doors: [UpgradeDoor]
        private var random: SeededGenerator
        private var step = 0
        /// Clients that ask in a step, each as the number of its attempt; who it is makes no difference.
        private var schedule: [[UInt8]] = []
        /// What each node was asked in this second.
        private var asked: [Int]

        init(storm: ReconnectStorm, doors door: UpgradeDoor, random: SeededGenerator) {
            self.storm = storm
            self.doors = Array(repeating: door, count: storm.nodes)
            self.asked = Array(repeating: 0, count: storm.nodes)
            self.random = random
        }

        mutating func wait(_ attempt: UInt8, _ retryAfter: ClosedRange<UInt32>?) {
            let told = retryAfter.map { Duration.seconds(Int64(UInt32.random(in: $0, using: &self.random))) }
            let backoff = self.storm.backoff.delay(
                beforeAttempt: Int(attempt),
                hint: nil,
                using: &self.random
            )
            let delay =
                switch self.storm.waits {
                case .retryAfterAndBackoff: (told ?? .zero) + backoff
                case .retryAfter: told ?? backoff
                case .backoff: backoff
                }
            let later = self.step + 1 + Int(delay.wholeMilliseconds) * ReconnectStorm.stepsPerSecond / 1000
            while self.schedule.count <= later { self.schedule.append([]) }
            self.schedule[later].append(attempt == .max ? attempt : attempt + 1)
        }

        mutating func go() {
            let now = LoopInstant(hundredths: UInt32(self.step * 100 / ReconnectStorm.stepsPerSecond))
            if self.step % ReconnectStorm.stepsPerSecond == 0 {
                self.asked = Array(repeating: 0, count: self.storm.nodes)
            }
            for node in self.doors.indices {
                for (answer, attempt) in self.doors[node].serve(at: now) { self.hear(answer, attempt) }
            }
            let asking = self.step < self.schedule.count ? self.schedule[self.step] : []
            for attempt in asking {
                self.outcome.attempts += 1
                let node = Int(self.random.next() % UInt64(self.storm.nodes))
                self.asked[node] += 1
                self.hear(self.doors[node].ask(at: now, attempt: attempt), attempt)
            }
            if self.step < self.schedule.count { self.schedule[self.step] = [] }
            self.step += 1
            self.note()
        }

        private mutating func hear(_ answer: UpgradeDoor.Answer, _ attempt: UInt8) {
            switch answer {
            case .upgraded: self.back += 1
            case .waits: break
            case .refused(let retryAfter): self.wait(attempt, retryAfter)
            }
        }

        private mutating func note() {
            if self.step % ReconnectStorm.stepsPerSecond == 0 || self.back == self.storm.clients {
                let most = self.asked.max() ?? 0
                let mean = Double(self.asked.reduce(0, +)) / Double(self.storm.nodes)
                self.outcome.attemptsPerNodeSecondMax = max(self.outcome.attemptsPerNodeSecondMax, most)
                self.outcome.attemptsPerNodeSecondMean = max(self.outcome.attemptsPerNodeSecondMean, mean)
            }
            for hundredths in [50, 90, 99, 100] where self.outcome.secondsUntil[hundredths] == nil {
                if self.back * 100 >= self.storm.clients * hundredths {
                    self.outcome.secondsUntil[hundredths] =
                        Double(self.step) / Double(ReconnectStorm.stepsPerSecond)
                }
            }
        }
    }
}

/// Who has to do with a publication, if nodes subscribe to what their own clients want and to nothing else.
struct FanOut {
    var nodes: Int
    var shards: Int

    struct Outcome {
        /// Messages that the brokers send to nodes, for each publication.
        var messagesPerPublication = 0.0
        /// The busiest node's, and the busiest broker's, of the mean.
        var busiestNode = 0.0
        var busiestShard = 0.0
    }

    /// How many nodes have at least one of so many subscribers, if chance places them.
    func nodesReached(subscribers: Int) -> Double {
        Double(self.nodes) * (1 - power(1 - 1 / Double(self.nodes), subscribers))
    }

    /// Publishes once in each of many topics of one size.
    func run(topics: Int, subscribers: Int, seed: UInt64) -> Outcome {
        var random = SeededGenerator(seed: seed)
        var byNode = [Int](repeating: 0, count: self.nodes)
        var byShard = [Int](repeating: 0, count: self.shards)
        var marks = [Int](repeating: -1, count: self.nodes)
        for topic in 0..<topics {
            // A hash of the topic's name picks the shard.
            let shard = Int(random.next() % UInt64(self.shards))
            for _ in 0..<subscribers {
                let node = Int(random.next() % UInt64(self.nodes))
                guard marks[node] != topic else { continue }
                marks[node] = topic
                byNode[node] += 1
                byShard[shard] += 1
            }
        }
        let messages = Double(byNode.reduce(0, +))
        return Outcome(
            messagesPerPublication: messages / Double(topics),
            busiestNode: Double(byNode.max() ?? 0) * Double(self.nodes) / messages,
            busiestShard: Double(byShard.max() ?? 0) * Double(self.shards) / messages
        )
    }

    private func power(_ base: Double, _ exponent: Int) -> Double {
        var (result, square, rest) = (1.0, base, exponent)
        while rest > 0 {
            if rest % 2 == 1 { result *= square }
            square *= square
            rest /= 2
        }
        return result
    }
}
