import Starling
import StarlingNative
import TestSupport
import Testing

@testable import StarlingRedis

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

    @Test("Who comes and goes while a link is deaf is told when there is another one")
    func missedEvents() async throws {
        let redis = try await RedisProcess()
        let proxy = try TCPProxy(to: redis.port)
        defer { proxy.stop() }
        let entering = try self.broadcaster(redis, lease: .seconds(60))
        let watching = try makeBroadcaster(redis) {
            $0.servers = [try RedisServer(url: "redis://127.0.0.1:\(proxy.port)")]
            $0.deafAfter = .milliseconds(500)
            $0.probeInterval = .milliseconds(50)
            $0.reconnectDelayMax = .milliseconds(100)
        }
        try await withNodes([watching, entering]) { nodes in
            // Of these nobody hears: the page tells of them.
            for id in ["a", "b"] { try await entering.enter(PresenceMember(id: id), self.room) }
            try await watching.subscribe(to: [self.room])
            #expect(try await watching.members(of: self.room, from: nil, countMax: 10).members.count == 2)
            for id in ["c", "d"] { try await entering.enter(PresenceMember(id: id), self.room) }
            try await nodes[0].wait("both") { $0.members(who: .joined) == ["c", "d"] }
            proxy.mute()
            for id in ["a", "c"] { try await entering.leave(id, from: self.room) }
            try await entering.enter(PresenceMember(id: "e", info: "late"), self.room)
            try await nodes[0].wait("the node to notice") { !$0.broadcaster.isReady }
            #expect(nodes[0].members(who: .left).isEmpty)
            proxy.unmute()
            try await nodes[0].wait("who is gone") { $0.members(who: .left).sorted() == ["a", "c"] }
            try await nodes[0].wait("who is new") { $0.members(who: .joined) == ["c", "d", "e"] }
            #expect(nodes[0].events.last { $0.kind == .joined }?.member.info == "late")
            // What is told from now on is told once.
            try await entering.leave("e", from: self.room)
            try await nodes[0].wait("the last one") { $0.members(who: .left).last == "e" }
            #expect(nodes[0].members(who: .left).count == 3)
            #expect(nodes[0].members(who: .joined).count == 3)
        }
    }

    @Test("Who leaves while there is no Redis has left when there is an empty one, and nobody else has")
    func leftDuringRestart() async throws {
        let redis = try await RedisProcess()
        func make() throws -> RedisBroadcaster {
            try makeBroadcaster(redis) {
                $0.presenceLease = .seconds(2)
                $0.waitTimeout = .seconds(3)
                $0.reconnectDelayMax = .milliseconds(100)
            }
        }
        let (watching, entering) = try (make(), make())
        try await withNodes([watching, entering]) { nodes in
            try await watching.subscribe(to: [self.room])
            for number in 0..<50 { try await entering.enter(PresenceMember(id: "\(number)"), self.room) }
            try await nodes[0].wait("all") { $0.members(who: .joined).count == 50 }
            redis.kill()
            try await entering.leave("7", from: self.room)
            try await redis.start()
            try await nodes[0].wait("who is gone") { $0.members(who: .left) == ["7"] }
            try await eventually("all others") { try await watching.memberCount(of: self.room) == 49 }
            #expect(nodes[0].members(who: .left) == ["7"])
        }
    }

    @Test("Who comes or goes while members are read is left to the events")
    func comparison() {
        func member(_ id: String) -> PresenceMember { PresenceMember(id: id, info: "i") }
        func present(_ ids: String...) -> [UTF8Name: PresenceMember] {
            Dictionary(uniqueKeysWithValues: ids.map { (UTF8Name($0), member($0)) })
        }
        var roster = RedisRoster()
        for id in ["a", "b", "c"] { roster.tell(member(id)) }
        roster.beginComparison()
        roster.note(PresenceEvent(.left, member("a"), self.room))
        roster.note(PresenceEvent(.joined, member("d"), self.room))
        // Read before the one went and the other came.
        let early = roster.compare(with: present("a", "b"), areComplete: false, self.room)
        #expect(early.isEmpty)
        roster.beginComparison()
        let events = roster.compare(with: present("b", "d", "e"), areComplete: true, self.room)
        #expect(
            events == [
                PresenceEvent(.left, member("c"), self.room), PresenceEvent(.joined, member("e"), self.room),
            ]
        )
        roster.beginComparison()
        #expect(roster.compare(with: [:], areComplete: true, self.room).count == 3)
        #expect(roster.byteCount == 0)
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
