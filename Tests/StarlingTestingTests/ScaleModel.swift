import StarlingTesting
import StarlingTopics

/// Everybody of a cluster, or of some of its nodes, comes back at once: who asks when, and who is let in.
///
/// Clients wait as `Backoff` says, a balancer picks a node at random, and a node lets in so many per second
/// (`ServerConfiguration.upgradesPerSecondMax`) and tells the others `Retry-After: 1`. Time goes in steps of 50 ms.
struct ReconnectStorm {
    /// Nodes that clients come back to.
    var nodes: Int
    /// Clients that have lost their connection.
    var clients: Int
    /// Upgrades per second and node; nil lets everybody in.
    var upgradesPerSecondMax: Int?
    /// Whether clients that are refused wait for a backoff on top of what the server says.
    var hasBackoffOnTop = true
    var backoff = Backoff()

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

    func run(seed: UInt64) -> Outcome {
        var random = SeededGenerator(seed: seed)
        var outcome = Outcome()
        // Clients that ask in a step, each as the number of its attempt; who it is makes no difference.
        var schedule: [[UInt8]] = []
        func wait(_ attempt: Int, _ hint: Backoff.Hint?, from step: Int) {
            let number = hint != nil && !self.hasBackoffOnTop ? nil : attempt
            let delay =
                number.map { self.backoff.delay(beforeAttempt: $0, hint: hint, using: &random) }
                ?? .seconds(1)
            let later = step + 1 + Int(delay / .milliseconds(1)) * Self.stepsPerSecond / 1000
            while schedule.count <= later { schedule.append([]) }
            schedule[later].append(UInt8(min(attempt + 1, 255)))
        }
        for _ in 0..<self.clients { wait(0, nil, from: 0) }
        var attempts = [Int](repeating: 0, count: self.nodes)
        var back = 0
        var step = 0
        while back < self.clients {
            if step % Self.stepsPerSecond == 0 { attempts = [Int](repeating: 0, count: self.nodes) }
            let asking = step < schedule.count ? schedule[step] : []
            if step < schedule.count { schedule[step] = [] }
            for attempt in asking {
                outcome.attempts += 1
                let node = Int(random.next() % UInt64(self.nodes))
                attempts[node] += 1
                if attempts[node] <= self.upgradesPerSecondMax ?? .max {
                    back += 1
                } else {
                    wait(Int(attempt), .leastTime(.seconds(1)), from: step)
                }
            }
            step += 1
            if step % Self.stepsPerSecond == 0 || back == self.clients {
                outcome.attemptsPerNodeSecondMax = max(outcome.attemptsPerNodeSecondMax, attempts.max() ?? 0)
                let mean = Double(attempts.reduce(0, +)) / Double(self.nodes)
                outcome.attemptsPerNodeSecondMean = max(outcome.attemptsPerNodeSecondMean, mean)
            }
            for hundredths in [50, 90, 99, 100] where outcome.secondsUntil[hundredths] == nil {
                if back * 100 >= self.clients * hundredths {
                    outcome.secondsUntil[hundredths] = Double(step) / Double(Self.stepsPerSecond)
                }
            }
        }
        return outcome
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
