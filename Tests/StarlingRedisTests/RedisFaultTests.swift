import Starling
import StarlingNative
import StarlingRedis
import Testing

@Suite(.serialized) struct RedisFaultTests {
    private func publishing(
        _ redis: RedisProcess,
        through fault: () async throws -> Void
    ) async throws -> Int {
        try await publishingTo(RedisServer(url: redis.url), through: fault)
    }

    @Test("A killed subscribe link loses nothing")
    func killedLink() async throws {
        let redis = try await RedisProcess()
        let gaps = try await self.publishing(redis) {
            for _ in 0..<5 { try await redis.ask("CLIENT KILL TYPE pubsub") }
        }
        #expect(gaps == 0)
    }

    @Test("All links killed at once lose nothing")
    func killedLinks() async throws {
        let redis = try await RedisProcess()
        let gaps = try await self.publishing(redis) {
            try await redis.ask("CLIENT KILL TYPE pubsub")
            try await redis.ask("CLIENT KILL TYPE normal")
        }
        #expect(gaps == 0)
    }

    @Test("A Redis that does nothing for a while loses nothing")
    func frozen() async throws {
        let redis = try await RedisProcess()
        let gaps = try await self.publishing(redis) {
            redis.freeze()
            try await Task.sleep(for: .seconds(4))
            redis.thaw()
        }
        #expect(gaps == 0)
    }

    @Test("A Redis that starts again with nothing says that something may be missing")
    func restartedEmpty() async throws {
        let redis = try await RedisProcess()
        let gaps = try await self.publishing(redis) {
            redis.kill()
            try await redis.start()
        }
        #expect(gaps == 1)
    }

    @Test("So does one that starts again with what it had written")
    func restartedWithAppendOnlyFile() async throws {
        let redis = try await RedisProcess(["--appendonly", "yes", "--appendfsync", "everysec"])
        let gaps = try await self.publishing(redis) {
            redis.kill()
            try await redis.start()
        }
        #expect(gaps == 1)
    }

    @Test("A link that takes bytes and delivers nothing is found, and the node is not ready meanwhile")
    func deaf() async throws {
        let redis = try await RedisProcess()
        let proxy = try TCPProxy(to: redis.port)
        defer { proxy.stop() }
        var configuration = RedisConfiguration(try RedisServer(url: "redis://127.0.0.1:\(proxy.port)"))
        configuration.history = { _ in HistoryLimits() }
        configuration.deafAfter = .seconds(1)
        configuration.probeInterval = .milliseconds(100)
        // Whatever comes after this is not found by a late reply.
        configuration.replyTimeout = .seconds(60)
        let listener = RedisBroadcaster(configuration, connector: NativeConnector())
        try await withNodes([try makeBroadcaster(redis), listener]) { nodes in
            try await nodes[1].broadcaster.subscribe(to: ["history:deaf"])
            try await nodes[1].wait("readiness") { $0.broadcaster.isReady }
            proxy.mute()
            for number in 1...10 {
                try await nodes[0].broadcaster.publish(.text("\(number)"), to: "history:deaf")
            }
            try await nodes[1].wait("the node to notice", upTo: .seconds(3)) { !$0.broadcaster.isReady }
            #expect(nodes[1].arrived("history:deaf").isEmpty)
            #expect(proxy.swallowedByteCount > 0)
            proxy.unmute()
            try await nodes[1].wait("readiness") { $0.broadcaster.isReady }
            let texts = nodes[1].arrived("history:deaf").map(\.message.text)
            #expect(texts == (1...10).map { "\($0)" })
        }
    }
}
