import Starling
import StarlingNative
import TestSupport
import Testing

@testable import StarlingRedis

/// When a topic's epoch goes on, and when a new one begins.
@Suite(.timeLimit(.minutes(2))) struct RedisEpochTests {
    private let topic: Topic = "history:x"

    /// The server's word for something that it is told to say about its replication.
    private func said(_ name: String, by redis: RedisProcess) async throws -> String {
        let lines = try await redis.askAll("INFO").split(separator: "\r\n")
        return String(try #require(lines.first { $0.hasPrefix(name + ":") }).dropFirst(name.count + 1))
    }

    /// Makes one the replica of another, or a master.
    private func follow(_ replica: RedisProcess, _ master: RedisProcess?) async throws {
        guard let master else {
            try await replica.ask("REPLICAOF NO ONE")
            return
        }
        try await replica.ask("REPLICAOF 127.0.0.1 \(master.port)")
        try await eventually("the replica to be in step") {
            try await replica.askAll("INFO replication").contains("master_link_status:up")
        }
    }

    /// Publishes ten times, of which a replica has eight, makes that the master, and then the first one again.
    private func failBack(_ one: RedisProcess, _ other: RedisProcess, _ node: Node) async throws
        -> StreamPosition
    {
        var last: StreamPosition?
        for number in 1...10 {
            if number == 9 { try await self.follow(other, nil) }
            last = try await node.broadcaster.publish(.text("\(number)"), to: self.topic)
            if number == 8 { #expect(try await one.ask("WAIT 1 5000") == ":1") }
        }
        let links = try await self.links(one)
        try await self.follow(one, other)
        try await self.follow(one, nil)
        try await eventually("another link") {
            let now = try await self.links(one)
            return !now.isEmpty && now.isDisjoint(with: links)
        }
        return try #require(last)
    }

    /// The links for commands; those of the tests themselves have another number each time.
    private func links(_ redis: RedisProcess) async throws -> Set<Substring> {
        let clients = try await redis.askAll("CLIENT LIST TYPE normal").split(whereSeparator: \.isNewline)
        return Set(
            clients.filter { $0.hasPrefix("id=") && !$0.contains("cmd=client") }.compactMap {
                $0.split(separator: " ").first
            }
        )
    }

    @Test("A master that was a replica for a while, and lacks publications since, begins a new epoch")
    func failBack() async throws {
        let soon = ["--repl-diskless-sync-delay", "0"]
        let one = try await RedisProcess(soon)
        let other = try await RedisProcess(soon + ["--replicaof", "127.0.0.1 \(one.port)"])
        try await self.follow(other, one)
        let run = try await self.said("run_id", by: one)
        let broadcaster = try makeBroadcaster(one) {
            $0.presenceLease = .milliseconds(300)
            $0.reconnectDelayMax = .milliseconds(100)
        }
        try await withNodes([broadcaster]) { nodes in
            let last = try await self.failBack(one, other, nodes[0])
            #expect(last.offset == 10)
            #expect(try await self.said("run_id", by: one) == run)
            for number in 1...2 {
                let position = try await broadcaster.publish(.text("new \(number)"), to: self.topic)
                #expect(position?.epoch != last.epoch && position?.offset == UInt64(number))
            }
            let history = try await broadcaster.history(of: self.topic, after: last, countMax: 10)
            #expect(!history.isComplete)
        }
    }

    @Test("A link that was made before its server became the master does not end what has begun since")
    func staleLink() async throws {
        let redis = try await RedisProcess()
        let (run, data) = try await (self.said("run_id", by: redis), self.said("master_replid", by: redis))
        let stale = String(repeating: "a", count: 40)
        #expect(try await self.epoch("1", redis, run + data) == "1")
        #expect(try await self.epoch("2", redis, run + stale) == "1")
        #expect(try await self.epoch("3", redis, run + data) == "1")
    }

    @Test("What an earlier version of a node has begun goes on")
    func earlierVersion() async throws {
        let redis = try await RedisProcess()
        let (run, data) = try await (self.said("run_id", by: redis), self.said("master_replid", by: redis))
        try await redis.ask("HSET starling:m:x e 1 r \(run) o 7 b 0")
        #expect(try await self.epoch("2", redis, run + data) == "1")
        #expect(try await redis.askAll("HGET starling:m:x d").contains(data))
    }

    @Test("What was moved to a master goes on there, unless it was a replica before")
    func moved() async throws {
        let living = String(repeating: "a", count: 40)
        let moved = "e 1 r \(String(repeating: "b", count: 40)) d \(living) o 7 b 0"
        let redis = try await RedisProcess(["--repl-diskless-sync-delay", "0"])
        let (run, data) = try await (self.said("run_id", by: redis), self.said("master_replid", by: redis))
        try await redis.ask("HSET starling:m:x \(moved)")
        #expect(try await self.epoch("2", redis, run + data + living) == "1")
        let replica = try await RedisProcess()
        try await self.follow(replica, redis)
        try await self.follow(replica, nil)
        let promoted = try await (self.said("run_id", by: replica), self.said("master_replid", by: replica))
        try await replica.ask("HSET starling:m:x \(moved)")
        #expect(try await self.epoch("3", replica, promoted.0 + promoted.1 + living) == "3")
        #expect(try await self.epoch("4", replica, promoted.0 + promoted.1 + living) == "3")
    }

    /// A topic's epoch after somebody has looked, who would begin another one.
    private func epoch(_ new: String, _ redis: RedisProcess, _ runs: String) async throws -> String {
        let reply = try await redis.ask([
            "EVAL", RedisScripts(isSharded: false).history, "2", "starling:m:x", "starling:s:x", runs, new,
            "100000", "100000", "0",
        ])
        return String(try #require(reply.split(separator: "\r\n").dropFirst(2).first))
    }
}
