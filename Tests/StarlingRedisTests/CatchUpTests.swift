import Starling
import StarlingRedis
import TestSupport
import Testing

/// How a topic with a history is caught up with, answer by answer.
@Suite(.timeLimit(.minutes(2))) struct CatchUpTests {
    private let topic: Topic = "history:x"
    private let channel = "starling:c:history:x"

    private func broadcaster(
        _ redis: ScriptedRedis,
        _ change: (inout RedisConfiguration) -> Void = { _ in }
    ) -> RedisBroadcaster {
        var configuration = RedisConfiguration(RedisServer(.tcp(host: "scripted", port: 1)))
        configuration.history = { _ in HistoryLimits() }
        configuration.reconnectDelayMin = .milliseconds(1)
        configuration.reconnectDelayMax = .milliseconds(10)
        configuration.unsubscribeDelay = .zero
        configuration.waitTimeout = .seconds(60)
        configuration.replyTimeout = .seconds(60)
        change(&configuration)
        return RedisBroadcaster(configuration, connector: redis)
    }

    /// Answers everything but histories.
    private static func others(_ call: ScriptedRedis.Call) -> [UInt8]? {
        switch call.script {
        case "refresh": call.renewal
        default: nil
        }
    }

    private func scripted() -> ScriptedRedis {
        let redis = ScriptedRedis()
        redis.answer(Self.others)
        return redis
    }

    private func offsets(_ node: Node) -> [Int] {
        node.arrived(self.topic).compactMap { $0.position.map { Int($0.offset) } }
    }

    @Test("What was held before a history began anew is let go, and not waited for")
    func formerEpoch() async throws {
        let redis = self.scripted()
        let broadcaster = self.broadcaster(redis)
        try await withNodes([broadcaster]) { nodes in
            let subscribing = Task { try await broadcaster.subscribe(to: [topic]) }
            // Redis dies before it answers, after a publication of its first epoch.
            _ = try await redis.call(of: "history")
            redis.push(ScriptedRedis.publication(epoch: 1, 5), to: self.channel)
            try await self.waitForPush(redis, nodes[0])
            redis.breakLinks(areSubscribed: false)
            try await redis.call(of: "history").answer(ScriptedRedis.history(epoch: 2, newest: 0))
            redis.answer { call in
                call.script == "history" ? ScriptedRedis.history(epoch: 2, newest: 0) : Self.others(call)
            }
            try await subscribing.value
            redis.push(ScriptedRedis.publication(epoch: 2, 1), to: self.channel)
            try await nodes[0].wait("the first of the second epoch") { !$0.arrived(self.topic).isEmpty }
            #expect(nodes[0].arrived(self.topic).map(\.position) == [StreamPosition(epoch: 2, offset: 1)])
            #expect(nodes[0].gaps(self.topic).isEmpty)
            try await nodes[0].wait("readiness") { $0.broadcaster.isReady }
        }
    }

    @Test("What was asked for a subscription that has ended says nothing to the next one")
    func earlierSubscription() async throws {
        let redis = self.scripted()
        let broadcaster = self.broadcaster(redis)
        try await withNodes([broadcaster]) { nodes in
            let first = Task { try? await broadcaster.subscribe(to: [topic]) }
            let early = try await redis.call(of: "history")
            try await broadcaster.unsubscribe(from: [self.topic])
            try await eventually("the topic to be left") {
                redis.channels.allSatisfy { !$0.contains(self.channel) }
            }
            let second = Task { try await broadcaster.subscribe(to: [topic]) }
            let late = try await redis.call(of: "history")
            early.answer(ScriptedRedis.history(epoch: 1, newest: 60))
            redis.push(ScriptedRedis.publication(epoch: 1, 61), to: self.channel)
            // Another topic's publication, which comes behind: 61 has been seen by then.
            try await self.waitForPush(redis, nodes[0])
            late.answer(ScriptedRedis.history(epoch: 1, newest: 60))
            try await second.value
            await first.value
            redis.answer { call in
                call.script == "history"
                    ? ScriptedRedis.history(epoch: 1, newest: 62, 61...62) : Self.others(call)
            }
            redis.push(ScriptedRedis.publication(epoch: 1, 62), to: self.channel)
            try await nodes[0].wait("62") { self.offsets($0).last == 62 }
            try await self.waitForPush(redis, nodes[0])
            #expect(self.offsets(nodes[0]) == [61, 62])
        }
    }

    /// Somebody joins.
    private static let event: [UInt8] =
        [UInt8(ascii: "S"), 1, 3] + Array(repeating: 0, count: 8) + [0, 0, 0, 1] + [65]

    /// Waits until all that was pushed before has been looked at.
    private func waitForPush(_ redis: ScriptedRedis, _ node: Node) async throws {
        let count = node.members(who: .joined).count
        redis.push(Self.event, to: self.channel)
        try await node.wait("what was pushed") { $0.members(who: .joined).count > count }
    }

    @Test("A server that takes the links over catches up with what another one had begun")
    func handOver() async throws {
        let redis = self.scripted()
        let node = Node(self.broadcaster(redis))
        let first = Task { try await node.broadcaster.run() }
        let subscribing = Task { try? await node.broadcaster.subscribe(to: [topic]) }
        _ = try await redis.call(of: "history")
        let second = Task { try await node.broadcaster.run() }
        first.cancel()
        try await first.value
        await subscribing.value
        redis.answer { call in
            call.script == "history" ? ScriptedRedis.history(epoch: 1, newest: 7) : Self.others(call)
        }
        try await node.broadcaster.subscribe(to: [self.topic])
        redis.push(ScriptedRedis.publication(epoch: 1, 8), to: self.channel)
        try await node.wait("8") { self.offsets($0) == [8] }
        try await node.wait("readiness") { $0.broadcaster.isReady }
        second.cancel()
        try await second.value
    }

    @Test("Histories that cannot be read keep no other topic from being caught up with")
    func unreadable() async throws {
        let redis = self.scripted()
        redis.answer { call in
            guard call.script == "history" else { return Self.others(call) }
            return call.keys[0].contains("foreign")
                ? ScriptedRedis.integer(42) : ScriptedRedis.history(epoch: 1, newest: 7)
        }
        let broadcaster = self.broadcaster(redis)
        try await withNodes([broadcaster]) { nodes in
            let foreign = Set((0..<100).map { Topic("foreign \($0)") })
            let waiting = Task { try await broadcaster.subscribe(to: foreign) }
            try await eventually("all to be asked for") { redis.channels.contains { $0.count == 101 } }
            try await broadcaster.subscribe(to: [self.topic])
            #expect(!broadcaster.isReady)
            redis.answer { call in
                call.script == "history" ? ScriptedRedis.history(epoch: 1, newest: 7) : Self.others(call)
            }
            try await waiting.value
            try await nodes[0].wait("readiness") { $0.broadcaster.isReady }
        }
    }

    /// What a history of so many publications says.
    private func history(_ call: ScriptedRedis.Call, epoch: UInt64 = 1, newest: Int) -> [UInt8] {
        let after = call.arguments.count > 6 ? Int(call.text(6)) ?? 0 : newest
        let last = min(after + 256, newest)
        return ScriptedRedis.history(epoch: epoch, newest: newest, after < last ? after + 1...last : nil)
    }

    @Test("Publications that are held back are bounded by more than their bytes, and nothing is lost by it")
    func heldWithoutBytes() async throws {
        let redis = self.scripted()
        let broadcaster = self.broadcaster(redis)
        try await withNodes([broadcaster]) { nodes in
            let subscribing = Task { try await broadcaster.subscribe(to: [self.topic]) }
            let first = try await redis.call(of: "history")
            for offset in 1...7000 {
                redis.push(ScriptedRedis.publication(epoch: 1, offset, payload: ""), to: self.channel)
            }
            try await self.waitForPush(redis, nodes[0])
            first.answer(ScriptedRedis.history(epoch: 1, newest: 0))
            let second = try await redis.call(of: "history")
            redis.answer { call in
                call.script == "history" ? self.history(call, newest: 7000) : Self.others(call)
            }
            second.answer(self.history(second, newest: 7000))
            try await subscribing.value
            try await nodes[0].wait("all") { self.offsets($0).last == 7000 }
            #expect(self.offsets(nodes[0]) == Array(1...7000))
        }
    }

    @Test("So are those of all topics together")
    func heldTogether() async throws {
        let redis = self.scripted()
        let broadcaster = self.broadcaster(redis)
        let topics = (0..<40).map { Topic("history:\($0)") }
        let payload = String(repeating: "x", count: 900_000)
        try await withNodes([broadcaster]) { nodes in
            // What is held in one round must not count in the next.
            for (round, count) in [(1, 40), (2, 30), (3, 30)] {
                let topics = topics.prefix(count)
                let subscribing = Task { try await broadcaster.subscribe(to: Set(topics)) }
                var calls: [ScriptedRedis.Call] = []
                for _ in topics { calls.append(try await redis.call(of: "history")) }
                for topic in topics {
                    let publication = ScriptedRedis.publication(epoch: 1, round, payload: payload)
                    redis.push(publication, to: "starling:c:\(topic)")
                }
                let joined = nodes[0].members(who: .joined).count
                redis.push(Self.event, to: "starling:c:\(topics[0])")
                try await nodes[0].wait("what was pushed") { $0.members(who: .joined).count > joined }
                let asked = Lock(0)
                redis.answer { call in
                    guard call.script == "history" else { return Self.others(call) }
                    asked.withLock { $0 += 1 }
                    return self.history(call, newest: round)
                }
                for call in calls { call.answer(ScriptedRedis.history(epoch: 1, newest: round - 1)) }
                try await subscribing.value
                for topic in topics {
                    try await nodes[0].wait("\(topic)") {
                        $0.arrived(topic).last?.position == StreamPosition(epoch: 1, offset: UInt64(round))
                    }
                }
                #expect((asked.withLock { $0 } > 0) == (round == 1))
                redis.answer(Self.others)
                try await broadcaster.unsubscribe(from: Set(topics))
                try await eventually("the topics to be left") { redis.channels.allSatisfy { $0.count < 2 } }
            }
        }
    }

    @Test("Links that stay at two servers are both made anew", arguments: [true, false])
    func linksApart(areSubscribed: Bool) async throws {
        let redis = self.scripted()
        redis.answer { call in
            guard call.script == "history" else { return Self.others(call) }
            guard call.run == "2" else { return ScriptedRedis.history(epoch: 1, newest: 10) }
            let isOther = call.arguments.count > 5 && call.arguments[5].last == 1
            return isOther
                ? ScriptedRedis.history(epoch: 2, newest: 1, isComplete: false)
                : self.history(call, epoch: 2, newest: 1)
        }
        let broadcaster = self.broadcaster(redis) {
            $0.deafAfter = .milliseconds(500)
            $0.probeInterval = .milliseconds(50)
        }
        try await withNodes([broadcaster]) { nodes in
            try await broadcaster.subscribe(to: [self.topic])
            // The name points to another server, and one link breaks; the other one stands and works.
            redis.start(run: "2")
            redis.breakLinks(areSubscribed: areSubscribed)
            try await eventually("the other server") {
                redis.push(ScriptedRedis.publication(epoch: 2, 1), to: self.channel)
                return nodes[0].gaps(self.topic) == [StreamPosition(epoch: 2, offset: 0)]
            }
            try await nodes[0].wait("readiness") { $0.broadcaster.isReady }
            #expect(redis.runs == ["2"])
        }
    }

    @Test("After a failover what was missed is not read from the old master")
    func oldMaster() async throws {
        let redis = self.scripted()
        let broadcaster = self.broadcaster(redis)
        let asked = Lock(0)
        redis.answer { call in
            guard call.script == "history" else { return Self.others(call) }
            asked.withLock { $0 += 1 }
            guard call.run == "1" else {
                // Whoever goes on from the old epoch is told that there is none.
                let isOld = call.arguments.count > 5 && call.arguments[5].last == 1
                return ScriptedRedis.history(epoch: 2, newest: 0, isComplete: !isOld)
            }
            return ScriptedRedis.history(epoch: 1, newest: 10)
        }
        try await withNodes([broadcaster]) { nodes in
            try await broadcaster.subscribe(to: [self.topic])
            try await nodes[0].wait("readiness") { $0.broadcaster.isReady }
            // The subscribed link finds the new master first.
            redis.start(run: "2")
            let count = asked.withLock { $0 }
            redis.breakLinks(areSubscribed: true)
            try await eventually("the old master to be asked, again") { asked.withLock { $0 } > count + 2 }
            #expect(!broadcaster.isReady)
            #expect(nodes[0].gaps(self.topic).isEmpty)
            redis.breakLinks(areSubscribed: false)
            try await nodes[0].wait("the gap") { !$0.gaps(self.topic).isEmpty }
            #expect(nodes[0].gaps(self.topic) == [StreamPosition(epoch: 2, offset: 0)])
            try await nodes[0].wait("readiness") { $0.broadcaster.isReady }
        }
    }
}
