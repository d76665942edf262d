import Starling
import StarlingNative
import StarlingRedis
import StarlingTesting
import Testing

/// A broadcaster with histories for topics whose names begin with `history:`.
func makeBroadcaster(
    _ redis: RedisProcess,
    countMax: Int = 1000,
    _ change: (inout RedisConfiguration) -> Void = { _ in }
) throws -> RedisBroadcaster {
    var configuration = RedisConfiguration(try RedisServer(url: redis.url))
    configuration.history = { $0.name.hasPrefix("history:") ? HistoryLimits(countMax: countMax) : nil }
    change(&configuration)
    return RedisBroadcaster(configuration, connector: NativeConnector())
}

@Suite struct RedisBroadcasterTests {
    @Test("RedisBroadcaster does what every broadcaster must")
    func conformance() async throws {
        let redis = try await RedisProcess()
        let names = try await BroadcasterConformance { try makeBroadcaster(redis) }.run()
        #expect(names.count == 13)
    }
}
