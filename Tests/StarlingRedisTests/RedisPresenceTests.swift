import Starling
import StarlingNative
import StarlingRedis
import TestSupport
import Testing

@Suite struct RedisPresenceTests {
    private let room: Topic = "room"

    private func broadcaster(_ redis: RedisProcess, lease: Duration = .seconds(1)) throws -> RedisBroadcaster
    {
        try makeBroadcaster(redis) {
            $0.presenceLease = lease
            $0.reconnectDelayMax = .milliseconds(100)
        }
    }

    @Test("The members of a dead node leave once, and those who are elsewhere too stay")
    func deadNode() async throws {
        let redis = try await RedisProcess()
        let (watching, staying, dying) = try (
            self.broadcaster(redis), self.broadcaster(redis), self.broadcaster(redis)
        )
        try await withNodes([watching, staying]) { nodes in
            try await watching.subscribe(to: [self.room])
            // Nothing tells Redis that this node ends: its task is gone from one moment to the next.
            let life = Task { try await dying.run() }
            for number in 0..<250 { try await dying.enter(PresenceMember(id: "\(number)"), self.room) }
            try await dying.enter(PresenceMember(id: "both"), self.room)
            try await staying.enter(PresenceMember(id: "both"), self.room)
            try await nodes[0].wait("all to join") { $0.members(who: .joined).count == 251 }
            life.cancel()
            try await nodes[0].wait("the dead to leave", upTo: .seconds(5)) {
                $0.members(who: .left).count >= 250
            }
            #expect(try await watching.memberCount(of: self.room) == 1)
            try await staying.leave("both", from: self.room)
            try await nodes[0].wait("the last one to leave") { $0.members(who: .left).last == "both" }
            #expect(Set(nodes[0].members(who: .left)).count == nodes[0].members(who: .left).count)
            #expect(nodes[0].members(who: .left).count == 251)
        }
    }

    @Test("Broken links are no reason to leave, and what changed meanwhile is made good")
    func brokenLinks() async throws {
        let redis = try await RedisProcess()
        let (watching, entering) = try (
            self.broadcaster(redis, lease: .seconds(5)), self.broadcaster(redis, lease: .seconds(5))
        )
        try await withNodes([watching, entering]) { nodes in
            try await watching.subscribe(to: [self.room])
            for round in 0..<20 {
                try await redis.ask("CLIENT KILL TYPE normal")
                for number in 0..<10 {
                    try await entering.enter(PresenceMember(id: "\(round) \(number)"), self.room)
                    if number % 2 == 0 { try await entering.leave("\(round) \(number)", from: self.room) }
                }
            }
            try await eventually("all changes to be made good", within: .seconds(15)) {
                try await watching.memberCount(of: self.room) == 100
            }
            #expect(try await watching.memberCount(of: self.room) == 100)
            #expect(
                nodes[0].members(who: .left).allSatisfy { $0.hasSuffix("0") || Int($0.suffix(1))! % 2 == 0 }
            )
        }
    }

    @Test("A node's first lease is no reason to enter anybody again", arguments: 1...10)
    func firstLease(_ round: Int) async throws {
        let redis = try await RedisProcess()
        let broadcaster = try self.broadcaster(redis, lease: .milliseconds(600))
        try await withNodes([broadcaster]) { nodes in
            for number in 0..<100 {
                try await broadcaster.enter(PresenceMember(id: "\(number)"), self.room)
                if number == 0 { #expect(try await redis.ask("ZCARD starling:nodes") == ":1") }
            }
            // An entry each, and the leases: the first one, and what renews it.
            try await eventually("the lease to be renewed") { try await redis.calls(of: "evalsha") >= 105 }
            // An incarnation that everybody had been entered anew for would stand beside the first.
            #expect(try await redis.ask("ZCARD starling:nodes") == ":1")
        }
    }

    @Test("A Redis that has forgotten everything is told again")
    func forgotten() async throws {
        let redis = try await RedisProcess()
        try await withNodes([self.broadcaster(redis)]) { nodes in
            let broadcaster = nodes[0].broadcaster
            for number in 0..<300 { try await broadcaster.enter(PresenceMember(id: "\(number)"), self.room) }
            redis.kill()
            try await redis.start()
            try await eventually("all to be told again", within: .seconds(15)) {
                (try? await broadcaster.memberCount(of: self.room)) == 300
            }
            #expect(try await broadcaster.memberCount(of: self.room) == 300)
        }
    }

    @Test("Keeping members present costs Redis commands per node, not per member")
    func cost() async throws {
        let redis = try await RedisProcess()
        let broadcasters = try (0..<3).map { _ in try self.broadcaster(redis, lease: .milliseconds(600)) }
        try await withNodes(broadcasters) { nodes in
            for (index, node) in nodes.enumerated() {
                for number in 0..<300 {
                    try await node.broadcaster.enter(PresenceMember(id: "\(index) \(number)"), self.room)
                }
            }
            try await redis.ask("CONFIG RESETSTAT")
            try await Task.sleep(for: .seconds(2))
            // Three nodes that renew every 200 ms for 2 s: 30, and some for a late clock.
            #expect((10...40).contains(try await redis.calls(of: "evalsha")))
            #expect(try await nodes[0].broadcaster.memberCount(of: self.room) == 900)
        }
    }
}
