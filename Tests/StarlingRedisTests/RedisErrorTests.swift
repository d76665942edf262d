import Foundation
import Starling
import StarlingNative
import StarlingRedis
import StarlingTesting
import TestSupport
import Testing

@Suite struct RedisErrorTests {
    /// The error of Redis below a failure to publish.
    private func failure(
        _ redis: RedisProcess,
        url: String? = nil,
        topic: Topic = "history:x",
        _ change: (inout RedisConfiguration) -> Void = { _ in }
    ) async throws -> RedisError? {
        var failure: RedisError?
        try await withNodes([
            makeBroadcaster(redis) { configuration in
                // Long enough for a link to stand on a busy machine; some of the tests wait all of it.
                configuration.waitTimeout = .seconds(3)
                if let url, let server = try? RedisServer(url: url) { configuration.servers = [server] }
                change(&configuration)
            }
        ]) { nodes in
            do throws(BroadcastError) {
                try await nodes[0].broadcaster.publish("x", to: topic)
            } catch {
                failure = error.underlying as? RedisError
            }
        }
        return failure
    }

    @Test("A wrong password is named, and neither it nor the right one is shown")
    func password() async throws {
        let redis = try await RedisProcess(["--requirepass", "sesame"], awaiting: "-NOAUTH")
        let wrong = "redis://:open@127.0.0.1:\(redis.port)"
        let failure = try await self.failure(redis, url: wrong)
        #expect(failure?.description.contains("WRONGPASS") == true)
        #expect(failure?.description.contains("sesame") == false)
        let none = try await self.failure(redis)
        #expect(none?.description.contains("NOAUTH") == true)
        #expect(try await self.failure(redis, url: "redis://:sesame@127.0.0.1:\(redis.port)") == nil)
    }

    @Test("A missing right is named, on a key and on a channel")
    func rights() async throws {
        let redis = try await RedisProcess()
        let rule = "ACL SETUSER chat on >pw +@all ~starling:* resetchannels &starling:c:plain*"
        try await redis.ask(rule)
        let url = "redis://chat:pw@127.0.0.1:\(redis.port)"
        #expect(try await self.failure(redis, url: url, topic: "plain") == nil)
        #expect(try await self.failure(redis, url: url, topic: "other")?.code == .permission)
        let elsewhere = try await self.failure(redis, url: url) { $0.namespace = "elsewhere" }
        #expect(elsewhere?.code == .permission)
    }

    @Test("The rights that the documentation lists are enough")
    func documentedRights() async throws {
        let redis = try await RedisProcess()
        let rule = try self.documentedRule()
        #expect(try await redis.ask(rule.replacingOccurrences(of: "PASSWORD", with: "pw")) == "+OK")
        try await redis.ask("ACL SETUSER default off")
        try await BroadcasterConformance {
            try makeBroadcaster(redis) {
                $0.servers = [try RedisServer(url: "redis://starling:pw@127.0.0.1:\(redis.port)")]
            }
        }.run()
    }

    @Test("They are enough in a Cluster, too")
    func documentedRightsInACluster() async throws {
        let redis = try await RedisProcess([
            "--cluster-enabled", "yes", "--cluster-port", "\(RedisProcess.freePort())",
        ])
        try await redis.expectOK("CLUSTER ADDSLOTSRANGE 0 16383")
        let rule = try self.documentedRule()
        let further = "+cluster|slots +asking +spublish +ssubscribe +sunsubscribe"
        try await redis.expectOK(rule.replacingOccurrences(of: "PASSWORD", with: "pw") + " " + further)
        try await redis.ask("ACL SETUSER default off")
        try await BroadcasterConformance {
            try makeBroadcaster(redis) {
                $0.servers = [try RedisServer(url: "redis+cluster://starling:pw@127.0.0.1:\(redis.port)")]
            }
        }.run()
    }

    private func documentedRule() throws -> String {
        let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent()
        let text = try String(contentsOf: root.appending(path: "Documentation/Redis.md"), encoding: .utf8)
        return String(try #require(text.split(separator: "\n").first { $0.hasPrefix("ACL SETUSER") }))
    }

    @Test("A cluster without its slots is told apart, and one that was not said to be one is named")
    func clusterErrors() async throws {
        let redis = try await RedisProcess([
            "--cluster-enabled", "yes", "--cluster-port", "\(RedisProcess.freePort())",
        ])
        let alone = try await self.failure(redis)
        #expect(alone?.code == .clusterDown)
        let cluster = try await self.failure(redis, url: "redis+cluster://127.0.0.1:\(redis.port)")
        #expect(cluster?.code == .unreachable, "no master has slots")

        // Another master has all slots.
        let other = try await RedisProcess([
            "--cluster-enabled", "yes", "--cluster-port", "\(RedisProcess.freePort())",
        ])
        try await other.expectOK("CLUSTER ADDSLOTSRANGE 0 16383")
        let busPort = try await other.ask("CONFIG GET cluster-port", line: 4)
        try await redis.expectOK("CLUSTER MEET 127.0.0.1 \(other.port) \(busPort)")
        for node in [redis, other] {
            try await eventually("a cluster that serves") {
                try await node.askAll("CLUSTER INFO").contains("cluster_state:ok")
            }
        }
        let moved = try await self.failure(redis)
        #expect(moved?.code == .moved)
        #expect(moved?.description.contains("use redis+cluster://") == true)
        let followed = try await self.failure(redis, url: "redis+cluster://127.0.0.1:\(redis.port)")
        #expect(followed == nil, "\(followed as Any)")
    }

    @Test("A key that holds something else is told apart")
    func wrongType() async throws {
        let redis = try await RedisProcess()
        for key in ["starling:s:history:x", "starling:m:history:x"] {
            try await redis.ask("SET \(key) text")
            #expect(try await self.failure(redis)?.code == .wrongType)
            #expect(try await redis.ask("STRLEN \(key)") == ":4")
            try await redis.ask("DEL \(key)")
        }
    }

    @Test("A full Redis refuses, and says that it is full")
    func outOfMemory() async throws {
        let redis = try await RedisProcess(["--maxmemory", "500kb"])
        let failure = try await self.failure(redis)
        #expect(failure?.code == .outOfMemory, "\(String(describing: failure))")
    }

    @Test("A replica refuses until it is a master, and a publication waits for that")
    func readOnly() async throws {
        let redis = try await RedisProcess()
        try await redis.ask("REPLICAOF 127.0.0.1 1")
        let failure = try await self.failure(redis)
        #expect(failure?.code == .readOnly, "\(String(describing: failure))")
        async let later = self.failure(redis) { $0.waitTimeout = .seconds(10) }
        try await redis.ask("REPLICAOF NO ONE")
        #expect(try await later == nil)
    }

    @Test("Publications that a replica refuses together all wait for the master")
    func manyReadOnly() async throws {
        let redis = try await RedisProcess()
        try await withNodes([makeBroadcaster(redis) { $0.waitTimeout = .seconds(20) }]) { nodes in
            let broadcaster = nodes[0].broadcaster
            try await broadcaster.subscribe(to: ["history:x"])
            try await broadcaster.publish("first", to: "history:x")
            try await redis.ask("REPLICAOF 127.0.0.1 1")
            try await withThrowingTaskGroup(of: Void.self) { group in
                for number in 0..<100 {
                    group.addTask { try await broadcaster.publish(.text("\(number)"), to: "history:x") }
                }
                try await eventually("a refusal") {
                    try await redis.askAll("INFO errorstats").contains("READONLY")
                }
                try await redis.ask("REPLICAOF NO ONE")
                try await group.waitForAll()
            }
            try await nodes[0].wait("all, once") { $0.arrived("history:x").count == 101 }
            #expect(Set(nodes[0].arrived("history:x").map(\.message)).count == 101)
        }
    }

    @Test("A Redis that reads its data in is waited for")
    func loading() async throws {
        let redis = try await RedisProcess()
        try await redis.ask(#"EVAL "for i = 1, 6000 do redis.call('SET', i, i) end" 0"#)
        try await redis.ask("SAVE")
        redis.kill()
        // A millisecond for each key, and a look at the clients every kibibyte.
        try await redis.start(
            with: ["--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024"],
            awaiting: "-LOADING"
        )
        #expect(try await self.failure(redis) { $0.waitTimeout = .seconds(3) }?.code == .loading)
        #expect(try await self.failure(redis) { $0.waitTimeout = .seconds(30) } == nil)
    }

    @Test("A Redis that is not there is said to be unreachable, with its address")
    func unreachable() async throws {
        let redis = try await RedisProcess()
        redis.kill()
        let failure = try await self.failure(redis)
        #expect(failure?.code == .unreachable)
        #expect(failure?.description.contains("127.0.0.1:\(redis.port)") == true)
        #expect(failure?.description.contains("Connection refused") == true)
    }

    @Test("What waits for a Redis that is not there holds up no shutdown", .timeLimit(.minutes(1)))
    func shutdown() async throws {
        let redis = try await RedisProcess()
        redis.kill()
        let broadcaster = try makeBroadcaster(redis) { $0.waitTimeout = .seconds(3600) }
        let running = Task { try await broadcaster.run() }
        let publishing = Task { try await broadcaster.publish("x", to: "plain") }
        let entering = Task { try await broadcaster.enter(PresenceMember(id: "ada"), "room") }
        try await eventually("a failed link") {
            broadcaster.status.links.contains { $0.lastError != nil }
        }
        running.cancel()
        try await running.value
        for task in [publishing.cancel, entering.cancel] { task() }
        let error = await #expect(throws: BroadcastError.self) { try await publishing.value }
        #expect(error?.code == .unavailable)
        // It is entered when there is a Redis; nobody waits for that.
        try await entering.value
    }

    @Test("Too many waiting bytes are refused at once")
    func queueFull() async throws {
        let redis = try await RedisProcess()
        redis.kill()
        let broadcaster = try makeBroadcaster(redis) { $0.queuedByteCountMax = 100_000 }
        try await withNodes([broadcaster]) { nodes in
            let message = Message.binary([UInt8](repeating: 0, count: 30_000))
            let results = (0..<5).map { _ in nodes[0].broadcaster.tryPublish(message, to: "plain") }
            #expect(results == [true, true, true, false, false])
            let error = await #expect(throws: BroadcastError.self) {
                try await nodes[0].broadcaster.publish(message, to: "plain")
            }
            #expect(error?.code == .queueFull)
        }
    }

    @Test("Emptied scripts are loaded again")
    func flushedScripts() async throws {
        let redis = try await RedisProcess()
        try await withNodes([makeBroadcaster(redis)]) { nodes in
            try await nodes[0].broadcaster.publish("1", to: "history:x")
            try await redis.ask("SCRIPT FLUSH")
            let position = try await nodes[0].broadcaster.publish("2", to: "history:x")
            #expect(position?.offset == 2)
        }
    }
}

@Suite struct RedisURLTests {
    @Test("URLs say server, user, password, database and TLS")
    func valid() throws {
        let plain = try RedisServer(url: "redis://redis.example")
        #expect(plain.target == .tcp(host: "redis.example", port: 6379))
        #expect(plain.user == nil && plain.password == nil && plain.database == 0 && plain.tls == nil)
        let full = try RedisServer(url: "rediss://us%65r:p%40ss:word@[::1]:7000/3")
        #expect(full.target == .tcp(host: "::1", port: 7000))
        #expect(full.user == "user" && full.password == "p@ss:word" && full.database == 3)
        #expect(full.tls != nil)
        let unix = try RedisServer(url: "unix://:secret@/run/redis.sock?db=2")
        #expect(unix.target == .unix(path: "/run/redis.sock"))
        #expect(unix.user == nil && unix.password == "secret" && unix.database == 2)
        let sentinel = try RedisServer(url: "redis+sentinel://:pw@a,[::1]:5000/main/2")
        #expect(sentinel.target == .tcp(host: "a", port: 26379))
        #expect(sentinel.otherTargets == [.tcp(host: "::1", port: 5000)])
        #expect(sentinel.discovery == .sentinel(master: "main"))
        #expect(sentinel.password == "pw" && sentinel.database == 2 && sentinel.tls == nil)
        let cluster = try RedisServer(url: "rediss+cluster://a:7000,b/")
        #expect(cluster.target == .tcp(host: "a", port: 7000))
        #expect(cluster.otherTargets == [.tcp(host: "b", port: 6379)])
        #expect(cluster.discovery == .cluster && cluster.tls != nil)
    }

    @Test(
        "Others are refused with a reason that does not show the password",
        arguments: [
            "", "localhost", "http://localhost", "redis://", "redis://:pass@", "redis://host:0",
            "redis://host:x",
            "redis://host:70000", "redis://host/x", "redis://[::1", "redis://us%zzer@host", "unix://relative",
            "unix:///path?database=1", "redis://u:%@host",
            "redis+sentinel://host", "redis+sentinel://host/", "redis+sentinel://a,,b/main",
            "redis+sentinel://host/main/x", "redis+cluster://host/3", "redis+cluster://a:1,b:x",
        ]
    )
    func invalid(_ url: String) {
        let error = #expect(throws: RedisError.self) { try RedisServer(url: url) }
        #expect(error?.code == .invalidConfiguration)
        #expect(error?.description.contains("pass@") == false)
    }
}
