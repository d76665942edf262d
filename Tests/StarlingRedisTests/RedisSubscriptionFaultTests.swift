import StarlingNative
import StarlingRedis
import TestSupport
import Testing

@testable import Starling

@Suite(.timeLimit(.minutes(2))) struct RedisSubscriptionFaultTests {
    @Test("While one of two servers is down, topics of the other one are subscribed at once")
    func oneServerDown() async throws {
        let servers = [try await RedisProcess(), try await RedisProcess()]
        let topics = (0..<50).map { Topic("\($0 % 2 == 0 ? "history" : "plain"):\($0)") }
        let broadcaster = try makeBroadcaster(servers[0]) {
            $0.servers = try servers.map { try RedisServer(url: $0.url) }
            $0.waitTimeout = .seconds(60)
        }
        let hub = BroadcastHub(broadcaster, endpoint: 0, Surroundings())
        let loop = EventLoop(index: 0) {}
        try await withNodes([broadcaster]) { nodes in
            try await nodes[0].wait("both servers") { $0.broadcaster.isReady }
            servers[1].kill()
            // All in one batch.
            for topic in topics { hub.addInterest(in: topic, of: loop) }
            let running = Task { await hub.run() }
            let subscribed = Lock<Set<Topic>>([])
            let waiting = topics.map { topic in
                Task {
                    try await hub.waitUntilSubscribed(to: topic)
                    subscribed.withLock { _ = $0.insert(topic) }
                }
            }
            // Far from the end of the wait for the other server's.
            try await eventually("the living server's topics") { subscribed.withLock { $0.count } > 10 }
            for topic in subscribed.withLock({ $0 }) {
                try await broadcaster.publish("here", to: topic)
                try await nodes[0].wait("\(topic)") { $0.arrived(topic).count == 1 }
            }
            #expect(subscribed.withLock { $0.count } < topics.count)
            try await servers[1].start()
            for task in waiting { try await task.value }
            running.cancel()
            await running.value
        }
    }

    @Test(
        "A subscription that the rights do not allow takes no other one with it, after a broken link either"
    )
    func forbiddenTopic() async throws {
        let redis = try await RedisProcess()
        try await redis.ask("ACL SETUSER chat on >pw +@all ~* resetchannels &starling:p:* &starling:c:plain*")
        let broadcaster = try makeBroadcaster(redis) {
            $0.servers = [try RedisServer(url: "redis://chat:pw@127.0.0.1:\(redis.port)")]
            $0.waitTimeout = .seconds(2)
            $0.reconnectDelayMax = .milliseconds(100)
        }
        let good = Set((0..<10).map { Topic("plain \($0)") })
        try await withNodes([broadcaster]) { nodes in
            try await nodes[0].wait("readiness") { $0.broadcaster.isReady }
            let error = await #expect(throws: BroadcastError.self) {
                try await broadcaster.subscribe(to: good.union(["forbidden"]))
            }
            #expect(error?.message.contains("'forbidden'") == true, "\(String(describing: error))")
            try await broadcaster.subscribe(to: good)
            for round in 1...2 {
                for topic in good {
                    try await broadcaster.publish("x", to: topic)
                    try await nodes[0].wait("\(topic)") { $0.arrived(topic).count == round }
                }
                let link = try await redis.subscribedLink()
                try await redis.ask("CLIENT KILL TYPE pubsub")
                try await eventually("a new link") {
                    guard let new = try await redis.subscribedLink() else { return false }
                    return new != link
                }
                try await broadcaster.subscribe(to: good)
            }
            try await nodes[0].wait("readiness") { $0.broadcaster.isReady }
        }
    }

    @Test("A topic whose rights are taken away and given back is subscribed again")
    func rightsComeBack() async throws {
        let redis = try await RedisProcess()
        let rights = "ACL SETUSER chat on >pw +@all ~* resetchannels &starling:p:* &starling:c:other"
        try await redis.ask(rights + " &starling:c:plain")
        let broadcaster = try makeBroadcaster(redis) {
            $0.servers = [try RedisServer(url: "redis://chat:pw@127.0.0.1:\(redis.port)")]
            $0.reconnectDelayMax = .milliseconds(100)
            $0.probeInterval = .milliseconds(50)
            $0.deafAfter = .milliseconds(500)
        }
        try await withNodes([broadcaster]) { nodes in
            try await broadcaster.subscribe(to: ["plain", "other"])
            let link = try await redis.subscribedLink()
            // Redis ends the link that has what is not allowed any more.
            try await redis.ask(rights)
            try await eventually("a new link") {
                guard let new = try await redis.subscribedLink() else { return false }
                return new != link
            }
            // Both in one command, and then it alone.
            try await eventually("the topic to be refused twice") {
                let statistics = try await redis.askAll("INFO errorstats").split(separator: "\r\n")
                let count = statistics.first { $0.hasPrefix("errorstat_NOPERM:count=") }?.dropFirst(23)
                return count.flatMap { Int($0) } ?? 0 >= 2
            }
            #expect(!broadcaster.isReady)
            try await redis.ask(rights + " &starling:c:plain")
            try await nodes[0].wait("readiness") { $0.broadcaster.isReady }
            for topic: Topic in ["plain", "other"] {
                try await broadcaster.publish("x", to: topic)
                try await nodes[0].wait("\(topic)") { $0.arrived(topic).count == 1 }
            }
        }
    }

    @Test("Names are bytes: a topic may begin with a mark, and two ways to write one word are two topics")
    func bytes() async throws {
        let redis = try await RedisProcess()
        let topics: [Topic] = [
            "\u{301}x", "\u{200D}x", "\u{FE0F}x", "history:caf\u{E9}", "history:cafe\u{301}", "caf\u{E9}",
            "cafe\u{301}",
        ]
        let broadcaster = try makeBroadcaster(redis)
        try await withNodes([broadcaster]) { nodes in
            try await broadcaster.subscribe(to: Set(topics))
            for topic in topics { try await broadcaster.publish(.text("\(topic)"), to: topic) }
            for topic in topics {
                try await nodes[0].wait("\(topic)") { !$0.arrived(topic).isEmpty }
                let texts = nodes[0].arrived(topic).compactMap(\.message.text)
                #expect(texts.count == 1)
                #expect(texts.first?.utf8.elementsEqual(topic.name.utf8) == true)
            }
            // Of two who look alike one goes, and the other one stays.
            let members = ["caf\u{E9}", "cafe\u{301}"].map { PresenceMember(id: $0) }
            for member in members { try await broadcaster.enter(member, "room") }
            #expect(try await broadcaster.memberCount(of: "room") == 2)
            for member in members { try await broadcaster.leave(member.id, from: "room") }
            #expect(try await broadcaster.memberCount(of: "room") == 0)
        }
    }

    @Test("An idempotency key belongs to one topic, wherever the colons are")
    func idempotencyKeys() async throws {
        let redis = try await RedisProcess()
        let broadcaster = try makeBroadcaster(redis)
        try await withNodes([broadcaster]) { _ in
            let one = try await broadcaster.publish("1", to: "history:a", idempotencyKey: "b:c")
            let other = try await broadcaster.publish("2", to: "history:a:b", idempotencyKey: "c")
            #expect(one.isNew && other.isNew)
            let again = try await broadcaster.publish("2", to: "history:a:b", idempotencyKey: "c")
            #expect(!again.isNew)
        }
    }

    @Test("Durations that are for ever are no reason to crash")
    func longDurations() async throws {
        let redis = try await RedisProcess()
        let broadcaster = try makeBroadcaster(redis) {
            $0.positionAgeMax = .seconds(Int64.max)
            $0.idempotencyKeyAgeMax = .seconds(1 << 55)
            $0.history = { _ in HistoryLimits(ageMax: .seconds(Int64.max)) }
        }
        try await withNodes([broadcaster]) { _ in
            let made = try await broadcaster.publish("1", to: "history:a", idempotencyKey: "b")
            #expect(made.isNew)
        }
    }
}
