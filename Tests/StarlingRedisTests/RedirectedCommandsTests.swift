import Starling
import TestSupport
import Testing

@testable import StarlingRedis

/// Links to a scripted Redis, one after the other as the test says.
private final class LinksByHand: RedisLinkSource {
    private let redis: ScriptedRedis
    private let configuration: RedisConfiguration
    private let moves: AsyncStream<Void>
    private let move: AsyncStream<Void>.Continuation

    init(_ redis: ScriptedRedis, _ configuration: RedisConfiguration) {
        self.redis = redis
        self.configuration = configuration
        (self.moves, self.move) = AsyncStream.makeStream()
    }

    /// Gives the next link.
    func goOn() {
        self.move.yield()
    }

    var followsRedirections: Bool { true }

    func withLink(
        pushes: RedisLink.PushHandler?,
        _ begin: @Sendable (RedisLink) async -> Void
    ) async -> RedisError {
        do throws(RedisError) {
            let link = try await RedisLink.open(
                self.configuration.servers[0],
                self.configuration,
                self.redis,
                isForCommands: true
            )
            await begin(link)
            return await withTaskGroup(of: Void.self) { group in
                group.addTask { _ = await link.run(pushes: pushes) }
                for await _ in self.moves { break }
                group.cancelAll()
                return RedisError(.movedAway, "moved by the test")
            }
        } catch {
            return error
        }
    }

    func moved(to redirection: RedisRedirection?) {}
    func link(asked redirection: RedisRedirection) -> RedisLink? { nil }
}

@Suite(.timeLimit(.minutes(1))) struct RedirectedCommandsTests {
    @Test("Commands that are sent elsewhere one by one go out there in their order, before what came later")
    func order() async throws {
        let redis = ScriptedRedis()
        var configuration = RedisConfiguration(RedisServer(.tcp(host: "scripted", port: 1)))
        configuration.reconnectDelayMin = .milliseconds(1)
        configuration.waitTimeout = .seconds(60)
        configuration.replyTimeout = .seconds(60)
        let source = LinksByHand(redis, configuration)
        let commands = RedisCommands(
            "scripted",
            configuration,
            source,
            RedisBudgets(1 << 20),
            RedisStatus([])
        )
        let running = Task { await commands.run() }
        func send(_ name: String) {
            let isTaken = commands.trySend(name, byteCount: 1, deadline: .now + .seconds(60)) { _ in
                RedisCommand("EVALSHA", "publish", "0", name)
            } _: { _ in
            }
            #expect(isTaken)
        }
        send("1")
        send("2")
        let (first, second) = (try await redis.call(of: "publish"), try await redis.call(of: "publish"))
        let moved = Array("-MOVED 1 elsewhere:1\r\n".utf8)
        first.answer(moved)
        // It waits for the next link: from now on so does what is new, though the second one's answer is still to come.
        try await eventually("the first to wait") { commands.waitingCount == 1 }
        send("3")
        second.answer(moved)
        try await eventually("all to wait") { commands.waitingCount == 3 }
        source.goOn()
        var names: [String] = []
        for _ in 1...3 { names.append(try await redis.call(of: "publish").text(0)) }
        #expect(names == ["1", "2", "3"])
        running.cancel()
        await running.value
    }
}
