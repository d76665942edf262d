import Testing

/// `Documentation/Scaling.md` against the results that it cites, and against its own formulae.
@Suite struct ScalingPageTests {
    /// What the page's plans rest on.
    private struct Measured {
        /// Bytes of a connection in Starling; what the async form and TLS take beside, and the kernel for one end.
        var connectionBytes = 0.0
        var asyncBytes = 0.0
        var tlsBytes = 0.0
        var kernelBytes = 0.0
        /// Microseconds.
        var delivery = 0.0
        var ping = 0.0
        var messageOverTLS = 0.0
        var publicationFromRedis = 0.0

        init() throws {
            let crowd = try TablePage("Benchmarks/Results/million-1000000.md")
            let fewer = try TablePage("Benchmarks/Results/million-200000.md")
            let redis = try TablePage("Documentation/Redis.md")
            self.connectionBytes = try Self.first(crowd.row("memory of a connection in the server"))
            self.kernelBytes = try Self.first(crowd.row("memory in the kernel")) / 2
            self.asyncBytes =
                try Self.benchmark("15,000 idle", "Starling, async")
                - Self.benchmark("15,000 idle", "Starling, synchronous")
            self.tlsBytes =
                try Self.benchmark("15,000 idle, TLS", "Starling, synchronous")
                - Self.benchmark("15,000 idle", "Starling, synchronous")
            self.delivery = try Self.deliveries(fewer).upperBound
            self.ping = try Self.microseconds(fewer.row("idle"), of: "µs of the servers' time for each ping")
            self.messageOverTLS =
                try 1e6 / Self.benchmark("echo over TLS, 200 × 20 B", "Starling, synchronous")
                - 1e6 / Self.benchmark("echo, 200 × 20 B", "Starling, synchronous")
            self.publicationFromRedis = try Self.first(redis.row("CPU of both nodes per publication"))
        }

        private static func first(_ cells: [String]) throws -> Double {
            try #require(Figure.all(in: cells[0]).first).value
        }

        static func microseconds(_ cells: [String], of what: String) throws -> Double {
            let end = try #require(cells[0].firstRange(of: " " + what))
            return try #require(Figure.all(in: String(cells[0][..<end.lowerBound])).last).value
        }

        /// The servers' time for each upgrade of a run.
        static func upgrade(_ page: TablePage) throws -> Double {
            try Self.microseconds(page.row("opened"), of: "µs of the servers' time each")
        }

        /// The servers' time for each delivery, of all publications of a run.
        static func deliveries(_ page: TablePage) throws -> ClosedRange<Double> {
            let all = try page.rows().filter { $0[0].hasPrefix("published") }.map {
                try Self.microseconds([$0[1]], of: "µs of the servers' time each")
            }
            return try #require(all.min())...(try #require(all.max()))
        }

        /// The figure that the benchmarks' run has for a server in a scenario.
        static func benchmark(_ scenario: String, _ server: String) throws -> Double {
            var current = ""
            for row in try TablePage("Benchmarks/Results/2026-11-26-amd-epyc/results.md").rows() {
                if !row[0].isEmpty { current = row[0] }
                if current == scenario, row[1] == server { return try Self.first([row[2]]) }
            }
            throw NoSuchResult(scenario: scenario, server: server)
        }

        struct NoSuchResult: Error {
            let scenario: String
            let server: String
        }
    }

    private static let measured = "What is measured"

    @Test("What is measured is what the stored results have")
    func results() throws {
        let page = try TablePage.scaling()
        func cell(_ words: String) throws -> String { try page.row(words, under: Self.measured)[0] }
        let measured = try Measured()
        let crowd = try TablePage("Benchmarks/Results/million-1000000.md")
        let fewer = try TablePage("Benchmarks/Results/million-200000.md")
        expect(try cell("memory of a plain connection"), says: measured.connectionBytes, within: 0)
        expect(try cell("the async form"), says: measured.asyncBytes, within: 0)
        expect(try cell("TLS"), says: measured.tlsBytes, within: 0)
        let kernel = measured.kernelBytes
        expect(try cell("memory in the kernel"), says: kernel * 2, kernel / 1000, within: 0)

        let plain = try 1e6 / Measured.benchmark("connect, upgrade, close", "Starling, synchronous")
        expect(
            try cell("an upgrade"),
            says: plain,
            try Measured.upgrade(fewer),
            200_000,
            try Measured.upgrade(crowd),
            1_000_000,
            within: 0
        )
        func handshake(_ scenario: String) throws -> Double {
            try 1e6 / Measured.benchmark(scenario, "Starling, synchronous") - plain
        }
        expect(
            try cell("the same over TLS"),
            says: try handshake("connect, full TLS handshake, upgrade, close"),
            try handshake("connect, TLS resumed by a ticket, upgrade, close"),
            within: 0
        )
        let ping = try Measured.microseconds(crowd.row("idle"), of: "µs of the servers' time for each ping")
        expect(try cell("a ping and its pong"), says: measured.ping, ping, 56, 2, within: 0)
        let (few, many) = (try Measured.deliveries(fewer), try Measured.deliveries(crowd))
        expect(
            try cell("a publication to many"),
            says: few.lowerBound,
            few.upperBound,
            many.lowerBound,
            many.upperBound,
            56,
            2,
            within: 0
        )
        let warm = try 1e6 / Measured.benchmark("fan-out, 1,000 × 100 B", "Starling, synchronous")
        expect(try cell("the same to 1,000 that are warm"), says: warm, within: 0)
        expect(try cell("a message there and back over TLS"), says: measured.messageOverTLS, within: 0)
    }

    @Test("What Redis costs is what its page has")
    func redis() throws {
        let page = try TablePage.scaling()
        let redis = try TablePage("Documentation/Redis.md")
        func cell(_ words: String) throws -> String { try page.row(words, under: Self.measured)[0] }
        func figure(_ words: String) throws -> [Double] {
            Figure.all(in: try redis.row(words, under: "Figures")[0]).map(\.value)
        }
        let processor = try figure("CPU of both nodes per publication")
        expect(try cell("a publication from node to node"), says: processor[0], processor[1], within: 0)
        expect(
            try cell("one Redis"),
            says: try figure("node to node, 500 in flight, without a history")[0],
            try figure("node to node, 500 in flight, with a history")[0],
            within: 0
        )
        expect(try cell("100,000 topics"), says: try figure("the same after a broken link")[0], within: 0)
        let user = Figure.all(in: try cell("a user in `ClusterRegistry`"))
        #expect(redis.text.contains("two in the node's set, \(Int(user[0].value)) bytes"))
        // What a history adds to each publication, and what 10,000 a second are of a server's time.
        let rates = Figure.all(in: try cell("one Redis")).map(\.value)
        let history = 1e6 / rates[1] - 1e6 / rates[0]
        #expect(
            page.text.contains("A history adds \(Int(history.rounded())) µs of Redis to each publication")
        )
        #expect((0.105...0.115).contains(history * 10_000 / 1e6), "a ninth")
    }

    @Test("The formulae have the measured figures")
    func formulae() throws {
        let page = try TablePage.scaling()
        func cell(_ words: String) throws -> String { try page.row(words, under: "Formulae")[0] }
        let measured = try Measured()
        expect(
            try cell("memory of a node"),
            says: measured.kernelBytes / 1000,
            measured.connectionBytes / 1000,
            measured.asyncBytes / 1000,
            measured.tlsBytes / 1000,
            within: 0
        )
        let overTLS = measured.messageOverTLS / 2
        expect(
            try cell("deliveries per second"),
            says: 1e6 / measured.delivery,
            1e6 / (measured.delivery + overTLS)
        )
        expect(try cell("pings per second"), says: 1e6 / measured.ping, 1e6 / (measured.ping + 2 * overTLS))
        expect(
            try cell("a burst to everybody"),
            says: measured.delivery,
            measured.delivery + overTLS,
            within: 0
        )
    }

    @Test("The plans for 1, 10 and 100 million follow from the formulae", arguments: [1, 10, 100])
    func plans(_ millions: Int) throws {
        let page = try TablePage.scaling()
        let column = try #require([1: 0, 10: 1, 100: 2][millions])
        func cell(_ words: String) throws -> String { try page.row(words, under: "Plans")[column] }
        let measured = try Measured()
        let connections = Double(millions) * 1e6
        // As the page assumes: a message for each every ten seconds, rooms of 100, pings every 25 s.
        let ofNode = 100_000.0
        let nodes = connections / ofNode
        let deliveries = connections / 10
        let publications = deliveries / 100
        let reached = FanOut(nodes: Int(nodes), shards: 1).nodesReached(subscribers: 100)
        let messages = publications * reached
        let shards = (messages / 200_000).rounded(.up)
        let pings = connections / 25
        expect(try cell("nodes of 8 cores"), says: nodes)
        let bytes =
            measured.kernelBytes + measured.connectionBytes + measured.asyncBytes + measured.tlsBytes
        expect(try cell("memory of a node's connections"), says: bytes * ofNode / 1e9)
        expect(try cell("deliveries per second"), says: deliveries, deliveries / nodes)
        let overTLS = measured.messageOverTLS / 2
        expect(
            try cell("CPU of a node"),
            says: deliveries / nodes * (measured.delivery + overTLS) / 1e6,
            pings / nodes * (measured.ping + 2 * overTLS) / 1e6,
            messages / nodes * measured.publicationFromRedis / 1e6
        )
        expect(try cell("publications per second"), says: publications)
        expect(try cell("nodes reached by each"), says: reached)
        expect(try cell("messages from Redis per second"), says: messages)
        expect(try cell("Redis shards"), says: shards, within: 0)
        expect(try cell("publications that a node takes in"), says: messages / nodes)
        expect(try cell("links in all"), says: 2 * nodes * shards, 2 * nodes, 2 * shards)
        expect(try cell("probes that a Redis sees"), says: nodes)
        expect(
            try cell("traffic to clients"),
            says: deliveries * 200 * 8 / 1e9,
            pings * 180 * 8 / 1e9
        )
        expect(try cell("traffic from Redis to nodes"), says: messages * 200 * 8 / 1e9)
    }

    @Test("What the text says of the plans follows from them too")
    func text() throws {
        let page = try TablePage.scaling()
        func says(_ words: String, _ isSo: Bool = true) {
            #expect(isSo && page.text.contains(words), "\(words)")
        }
        let measured = try Measured()
        let delivery = measured.delivery + measured.messageOverTLS / 2
        let burst = (100_000 * delivery / 8 / 1e4).rounded() / 100
        says("a publication to everybody takes a node \(burst) s with 8 loops")
        let more = FanOut(nodes: 1000, shards: 1).nodesReached(subscribers: 100)
        let fewer = FanOut(nodes: 100, shards: 1).nodesReached(subscribers: 100)
        says("each publication reaches \(Int(more)) nodes instead of \(Int(fewer))")
        // Bits a second of a connection: a message in ten seconds, and a ping every 25 or 60.
        let (message, ping, rarePing) = (200.0 * 8 / 10, 180.0 * 8 / 25, 180.0 * 8 / 60)
        says("Pings are a quarter of the traffic", (0.24...0.28).contains(ping / (ping + message)))
        says(
            "if the proxies in between allow it, an eighth",
            (0.12...0.14).contains(rarePing / (rarePing + message))
        )
        says("are 2,000 links per Redis, which it bears, and 96 at a node")
        says("1,000 nodes and 200 publications a second fill a Redis")
        // Half of an entry is in the topic that all users are members of.
        says("half of the 586 bytes")
        says("10 million users are 3 GB", (2.8...3.1).contains(586.0 / 2 * 10e6 / 1e9))
        says("10 million at a twentieth per second are 500,000 reads a second")
        let upgrade = try 1e6 / Measured.benchmark("connect, upgrade, close", "Starling, synchronous")
        let overTLS =
            try 1e6
            / Measured.benchmark("connect, full TLS handshake, upgrade, close", "Starling, synchronous")
        let rounded = (overTLS / 10).rounded() / 100
        says("costs about as much as one that is taken, over TLS \(rounded) ms")
        let seconds = (overTLS / 10).rounded()
        says(
            "That is \(Int(seconds)) seconds of a core for 100,000 clients, and \(Int(seconds / 5)) in the busiest"
        )
        let crowded = try Measured.upgrade(TablePage("Benchmarks/Results/million-1000000.md"))
        says(
            "\(Int(upgrade.rounded())) to \(Int(crowded)) µs an upgrade say that a core can take 15,000 a second",
            (14_500...).contains(1e6 / crowded)
        )
        says(
            "and \(Int(overTLS.rounded())) µs that it can take 2,900 over TLS",
            (2850...2950).contains(1e6 / overTLS)
        )
    }
}
