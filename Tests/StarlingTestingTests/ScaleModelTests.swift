import StarlingTesting
import StarlingTopics
import Testing

@testable import Starling

/// The storms and the fan-out of `Documentation/Scaling.md`, for a thousand nodes.
///
/// One after the other, and giving way: they compute for seconds, and other tests need the pool's threads meanwhile.
@Suite(.serialized) struct ScaleModelTests {
    // A node of the page has 10,000 or 100,000 clients and lets in a twentieth of them per second. With fewer clients and a rate
    // that is smaller by the same factor everything takes as long: a test says so.
    private static let nodes = 1000
    private static let clientsPerNode = 400

    private static func storm(
        lost: Int = nodes,
        left: Int = nodes,
        part: Int = 20,
        _ change: (inout ReconnectStorm) -> Void = { _ in }
    ) -> ReconnectStorm {
        var storm = ReconnectStorm(
            nodes: left,
            clients: lost * self.clientsPerNode,
            upgradesPerSecondMax: self.clientsPerNode / part
        )
        change(&storm)
        return storm
    }

    /// The rows of the page's table, by how they begin.
    private static let storms: [(row: String, storm: ReconnectStorm)] = [
        ("all nodes' connections are cut", storm()),
        ("the same, no upgrade may wait", storm { $0.upgradeQueueMax = 0 }),
        ("the same, `Backoff(first:", storm { $0.backoff = Backoff(first: .seconds(5)) }),
        ("the same, a rate of a hundredth", storm(part: 100)),
        ("the same, clients in browsers", storm { $0.waits = .backoff }),
        (
            "the same, in browsers with `waitMin: 5000`",
            storm {
                $0.waits = .backoff
                $0.backoff = Backoff(first: .seconds(5))
            }
        ),
        ("a tenth of the nodes dies", storm(lost: nodes / 10, left: nodes * 9 / 10)),
        ("one of 1,000 nodes dies", storm(lost: 1, left: nodes - 1)),
    ]

    @Test("The page's table of storms is what the model computes", arguments: storms.indices)
    func table(_ index: Int) async throws {
        let (words, storm) = Self.storms[index]
        let page = try TablePage.scaling()
        #expect(try page.rows(under: "Everybody comes back").dropFirst(2).count == Self.storms.count)
        let cells = try page.row(words, under: "Everybody comes back")
        let outcome = await storm.run(seed: 1)
        for (cell, hundredths) in zip(cells, [50, 90, 99, 100]) {
            expect(cell, says: outcome.secondsUntil[hundredths] ?? .infinity, within: 0.02)
        }
        expect(cells[4], says: Double(outcome.attempts) / Double(storm.clients))
        expect(cells[5], says: outcome.attemptsPerNodeSecondMean * 100 / Double(Self.clientsPerNode))
    }

    @Test(
        "The model's node answers as a server does, whoever comes when",
        arguments: [(10, 10_000), (10, 4), (40, 0)]
    )
    func door(rate: Int, queueMax: Int) async throws {
        var configuration = ServerConfiguration()
        configuration.upgradesPerSecondMax = rate
        configuration.upgradeBurstMax = 3
        configuration.upgradeQueueMax = queueMax
        configuration.upgradeQueueTimeout = .milliseconds(980)
        let server = EmbeddedTransport(configuration: configuration) {
            WebSocketRoute("/", WebSocketEndpoint { socket in for try await _ in socket {} })
        }
        var door = UpgradeDoor(configuration)
        var random = SeededGenerator(seed: UInt64(rate))
        var waiting: [TestClient] = []
        var counts: [Int: Int] = [:]
        func check(_ client: TestClient, _ answer: UpgradeDoor.Answer) throws {
            counts[client.status ?? 0, default: 0] += 1
            switch answer {
            case .upgraded: #expect(client.status == 101)
            case .waits: #expect(client.status == nil)
            case .refused(let seconds):
                #expect(client.status == 503)
                let line = client.responseHead.split(separator: "\r\n").first {
                    $0.lowercased().hasPrefix("retry-after: ")
                }
                let told = try #require(line.flatMap { UInt32($0.dropFirst(13)) })
                #expect(seconds.contains(told))
            }
        }
        for step in 1...300 {
            await Task.yield()
            server.advance(by: .milliseconds(50))
            let now = LoopInstant(hundredths: UInt32(step * 5))
            for (answer, _) in door.serve(at: now) { try check(waiting.removeFirst(), answer) }
            #expect(waiting.allSatisfy { $0.status == nil })
            for _ in 0..<([0, 0, 0, 0, 0, 1, 2, 40].randomElement(using: &random) ?? 0) {
                let client = try TestClient(server)
                let answer = door.ask(at: now)
                if answer == .waits { waiting.append(client) }
                try check(client, answer)
                if client.status == 101 { server.endInput(of: client.connection) }
            }
        }
        #expect(counts[101] ?? 0 > 100 && counts[503] ?? 0 > 100, "\(counts)")
    }

    @Test("The same seed gives the same storm; ten times the clients at ten times the rate take as long")
    func scaleFree() async {
        let tiny = ReconnectStorm(nodes: 10, clients: 1000, upgradesPerSecondMax: 5)
        let (once, again) = (await tiny.run(seed: 6), await tiny.run(seed: 6))
        #expect(once.secondsUntil == again.secondsUntil && once.attempts == again.attempts)
        let small = await Self.storm().run(seed: 6)
        var big: [ReconnectStorm.Outcome] = []
        for storm in [
            // Of these 1,500 wait at a node, for three seconds; of those 10,000, for two.
            ReconnectStorm(nodes: 20, clients: 20 * 10_000, upgradesPerSecondMax: 500),
            ReconnectStorm(nodes: 2, clients: 2 * 100_000, upgradesPerSecondMax: 5000),
        ] {
            big.append(await storm.run(seed: 6))
        }
        for (outcome, hundredths) in big.flatMap({ outcome in [50, 90, 99].map { (outcome, $0) } }) {
            let (one, other) = (small.secondsUntil[hundredths] ?? 0, outcome.secondsUntil[hundredths] ?? 0)
            #expect(abs(one - other) < one / 10, "\(small) \(outcome)")
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

    @Test("What the page says of fan-out is so: how many nodes are reached, how even shards are")
    func pageOfFanOut() throws {
        let text = try TablePage.scaling().text
        let fanOut = FanOut(nodes: Self.nodes, shards: 64)
        let reached = [2, 10, 100, 1000].map { fanOut.nodesReached(subscribers: $0) }
        let sentence = try #require(text.firstMatch(of: /Of 1,000 nodes a publication to [^:]*?\. For/))
        expect(
            String(sentence.output),
            says: 1000,
            2,
            reached[0],
            10,
            reached[1],
            100,
            reached[2],
            1000,
            reached[3],
            within: 0.001
        )
        #expect(
            text.contains(
                "(the busiest is 10 % above the mean), and not by a hundred big ones (more than twice the mean)"
            )
        )
    }

    @Test("Many small topics load 64 shards evenly, a few big ones do not")
    func shards() {
        let fanOut = FanOut(nodes: Self.nodes, shards: 64)
        #expect(fanOut.run(topics: 100_000, subscribers: 10, seed: 8).busiestShard < 1.1)
        #expect(fanOut.run(topics: 100, subscribers: 10_000, seed: 8).busiestShard > 2)
    }
}
