import StarlingTesting
import StarlingTopics
import Testing

/// The arithmetic of `Documentation/Scaling.md`, for a thousand nodes.
///
/// One after the other: they compute for seconds, and other tests need the pool's threads meanwhile.
@Suite(.serialized) struct ScaleModelTests {
    // A node of the page has 10,000 or 100,000 clients and lets in a twentieth of them per second. With fewer clients and a rate
    // that is smaller by the same factor everything takes as long: the last test says so.
    private static let nodes = 1000
    private static let clientsPerNode = 100
    private static let rate = clientsPerNode / 20

    private static func storm(first: Duration = .milliseconds(500)) -> ReconnectStorm {
        ReconnectStorm(
            nodes: self.nodes,
            clients: self.nodes * self.clientsPerNode,
            upgradesPerSecondMax: self.rate,
            backoff: Backoff(first: first)
        )
    }

    @Test(
        "Everybody comes back: half of them in 10 s, 99 of 100 in 35 s, all in 60 s, with 4.3 attempts each"
    )
    func everybody() {
        let storm = Self.storm()
        let outcome = storm.run(seed: 1)
        // As long as many ask, every place is taken: half of twenty seconds' worth takes ten.
        #expect((9.5...10.5).contains(outcome.secondsUntil[50] ?? 0), "\(outcome)")
        #expect((20...23).contains(outcome.secondsUntil[90] ?? 0), "\(outcome)")
        #expect((28...35).contains(outcome.secondsUntil[99] ?? 0), "\(outcome)")
        #expect((40...60).contains(outcome.secondsUntil[100] ?? 0), "\(outcome)")
        #expect((4.0...4.6).contains(Double(outcome.attempts) / Double(storm.clients)), "\(outcome)")
        // The first second sees everybody, whatever a node lets in.
        #expect(outcome.attemptsPerNodeSecondMean == Double(Self.clientsPerNode))
        #expect(outcome.attemptsPerNodeSecondMax < Self.clientsPerNode * 14 / 10)
    }

    @Test("A first wait of up to 5 s takes no longer, with half the attempts and a quarter of the peak")
    func longerFirstWait() {
        let storm = Self.storm(first: .seconds(5))
        let outcome = storm.run(seed: 2)
        #expect((28...36).contains(outcome.secondsUntil[99] ?? 0), "\(outcome)")
        #expect((1.9...2.3).contains(Double(outcome.attempts) / Double(storm.clients)), "\(outcome)")
        #expect(outcome.attemptsPerNodeSecondMean < Double(Self.clientsPerNode) * 0.28, "\(outcome)")
    }

    @Test("Without a backoff on top of Retry-After there are more than twice the attempts")
    func retryAfterAlone() {
        var storm = Self.storm()
        storm.hasBackoffOnTop = false
        let outcome = storm.run(seed: 3)
        #expect((9.5...10.5).contains(Double(outcome.attempts) / Double(storm.clients)), "\(outcome)")
        #expect((19...22).contains(outcome.secondsUntil[100] ?? 0), "\(outcome)")
    }

    @Test("A tenth of the nodes dies: 90 of 100 are back in 2.5 s, all in 10 s; one node: all in 1 s")
    func someNodes() {
        let tenth = ReconnectStorm(
            nodes: Self.nodes * 9 / 10,
            clients: Self.nodes / 10 * Self.clientsPerNode,
            upgradesPerSecondMax: Self.rate
        ).run(seed: 4)
        #expect(tenth.secondsUntil[90] ?? .infinity <= 2.5, "\(tenth)")
        #expect(tenth.secondsUntil[100] ?? .infinity <= 10, "\(tenth)")
        let one = ReconnectStorm(
            nodes: Self.nodes - 1,
            clients: Self.clientsPerNode,
            upgradesPerSecondMax: Self.rate
        ).run(seed: 5)
        #expect(one.secondsUntil[100] ?? .infinity <= 1, "\(one)")
        #expect(one.attempts == Self.clientsPerNode)
    }

    @Test("The same seed gives the same storm; ten times the clients at ten times the rate take as long")
    func scaleFree() {
        let tiny = ReconnectStorm(nodes: 10, clients: 1000, upgradesPerSecondMax: Self.rate)
        #expect(tiny.run(seed: 6).secondsUntil == tiny.run(seed: 6).secondsUntil)
        #expect(tiny.run(seed: 6).attempts == tiny.run(seed: 6).attempts)
        let small = Self.storm().run(seed: 6)
        let big = ReconnectStorm(
            nodes: Self.nodes / 10,
            clients: Self.nodes * Self.clientsPerNode,
            upgradesPerSecondMax: Self.rate * 10
        ).run(seed: 6)
        for hundredths in [50, 90, 99] {
            let (one, other) = (small.secondsUntil[hundredths] ?? 0, big.secondsUntil[hundredths] ?? 0)
            #expect(abs(one - other) < one / 10, "\(small) \(big)")
        }
    }

    @Test(
        "A publication reaches n (1 - (1 - 1/n)^k) nodes, and no others have work with it",
        arguments: [(2, 2.0), (10, 9.96), (100, 95.2), (1000, 632)]
    )
    func fanOut(subscribers: Int, nodesReached: Double) {
        let fanOut = FanOut(nodes: Self.nodes, shards: 64)
        #expect(abs(fanOut.nodesReached(subscribers: subscribers) - nodesReached) < nodesReached / 200)
        // 300,000 subscriptions in all.
        let outcome = fanOut.run(topics: 300_000 / subscribers, subscribers: subscribers, seed: 7)
        #expect(abs(outcome.messagesPerPublication - nodesReached) < nodesReached / 100, "\(outcome)")
        // Chance loads no node with more than a quarter above the mean.
        #expect(outcome.busiestNode < 1.25, "\(outcome)")
    }

    @Test("Many small topics load 64 shards evenly, a few big ones do not")
    func shards() {
        let fanOut = FanOut(nodes: Self.nodes, shards: 64)
        #expect(fanOut.run(topics: 100_000, subscribers: 10, seed: 8).busiestShard < 1.1)
        #expect(fanOut.run(topics: 100, subscribers: 10_000, seed: 8).busiestShard > 2)
    }
}
