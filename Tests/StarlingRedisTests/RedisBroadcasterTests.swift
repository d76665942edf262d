import Starling
import StarlingNative
import StarlingRedis
import StarlingTesting
import Testing

/// A broadcaster with histories for topics whose names begin with `history:`.
func makeBroadcaster(
    _ redis: RedisProcess,
    countMax: Int = 1000,
    _ change: (inout RedisConfiguration) throws -> Void = { _ in }
) throws -> RedisBroadcaster {
    var configuration = RedisConfiguration(try RedisServer(url: redis.url))
    configuration.history = { $0.name.hasPrefix("history:") ? HistoryLimits(countMax: countMax) : nil }
    try change(&configuration)
    return RedisBroadcaster(configuration, connector: NativeConnector())
}

@Suite struct RedisBroadcasterTests {
    @Test("RedisBroadcaster does what every broadcaster must")
    func conformance() async throws {
        let redis = try await RedisProcess()
        let names = try await BroadcasterConformance { try makeBroadcaster(redis) }.run()
        #expect(names.count == 13)
    }

    @Test("So it does on several servers, each with its share of the topics")
    func shards() async throws {
        let servers = [try await RedisProcess(), try await RedisProcess(), try await RedisProcess()]
        try await BroadcasterConformance {
            try makeBroadcaster(servers[0]) {
                // The order does not matter.
                $0.servers = try servers.shuffled().map { try RedisServer(url: $0.url) }
            }
        }.run()
        let broadcaster = try makeBroadcaster(servers[0]) {
            $0.servers = try servers.map { try RedisServer(url: $0.url) }
        }
        try await withNodes([broadcaster]) { nodes in
            for number in 0..<300 { try await nodes[0].broadcaster.publish("x", to: "history:\(number)") }
        }
        for server in servers {
            // Two keys for each topic; a third of them would be 200.
            let keys = Int(try await server.ask("DBSIZE").dropFirst()) ?? 0
            #expect(keys > 100, "\(keys) keys")
        }
    }

    @Test("Two servers share a broadcaster: one call of run keeps the links, and the other goes on with them")
    func shared() async throws {
        let redis = try await RedisProcess()
        let node = Node(try makeBroadcaster(redis))
        let first = Task { try await node.broadcaster.run() }
        try await node.broadcaster.subscribe(to: ["plain"])
        let second = Task { try await node.broadcaster.run() }
        try await node.broadcaster.publish("1", to: "plain")
        try await node.wait("the first") { $0.arrived("plain").count == 1 }
        first.cancel()
        try await first.value
        try await node.wait("the links of the other") { $0.broadcaster.isReady }
        try await node.broadcaster.publish("2", to: "plain")
        try await node.wait("the second, once") { $0.arrived("plain").count == 2 }
        second.cancel()
        try await second.value
    }

    @Test("Without run, publishing fails in time instead of waiting for ever")
    func neverRun() async throws {
        let redis = try await RedisProcess()
        let broadcaster = try makeBroadcaster(redis) { $0.waitTimeout = .milliseconds(200) }
        let error = await #expect(throws: BroadcastError.self) {
            try await broadcaster.publish("x", to: "plain")
        }
        #expect(error?.code == .unavailable)
    }

    @Test("Three nodes, thirty topics, publishers on all of them: one order everywhere, and nothing twice")
    func manyPublishers() async throws {
        let redis = try await RedisProcess()
        let topics = Set((0..<30).map { Topic("\($0 % 2 == 0 ? "history" : "plain"):\($0)") })
        let nodes = try (0..<3).map { _ in try makeBroadcaster(redis) }
        try await withNodes(nodes) { nodes in
            for node in nodes { try await node.broadcaster.subscribe(to: topics) }
            try await withThrowingTaskGroup(of: Void.self) { group in
                for (name, node) in nodes.enumerated() {
                    for topic in topics {
                        group.addTask {
                            for number in 0..<50 {
                                try await node.broadcaster.publish(.text("\(name) \(number)"), to: topic)
                            }
                        }
                    }
                }
                try await group.waitForAll()
            }
            for topic in topics {
                for node in nodes {
                    try await node.wait("all of \(topic)") { $0.arrived(topic).count >= 150 }
                }
                let first = nodes[0].arrived(topic).map(\.message)
                #expect(Set(first).count == 150)
                for node in nodes { #expect(node.arrived(topic).map(\.message) == first) }
            }
        }
    }
}
