import Starling
import StarlingNative
import TestSupport
import Testing

@testable import StarlingRedis

/// Presence when Redis refuses, forgets, or answers late.
@Suite(.timeLimit(.minutes(2))) struct PresenceFaultTests {
    private let room: Topic = "room"

    private func broadcaster(_ redis: RedisProcess, lease: Duration = .seconds(1)) throws -> RedisBroadcaster
    {
        try makeBroadcaster(redis) {
            $0.presenceLease = lease
            $0.reconnectDelayMax = .milliseconds(100)
            $0.waitTimeout = .seconds(2)
        }
    }

    @Test(
        "A full Redis refuses who comes, and keeps who is there; who came meanwhile is entered when there is room"
    )
    func outOfMemory() async throws {
        let redis = try await RedisProcess()
        let (watching, entering) = try (self.broadcaster(redis), self.broadcaster(redis))
        try await withNodes([watching, entering]) { nodes in
            try await watching.subscribe(to: [self.room])
            for number in 0..<50 { try await entering.enter(PresenceMember(id: "\(number)"), self.room) }
            try await redis.ask("CONFIG SET maxmemory 1")
            let error = await #expect(throws: BroadcastError.self) {
                try await entering.enter(PresenceMember(id: "late"), self.room)
            }
            #expect((error?.underlying as? RedisError)?.code == .outOfMemory)
            // A link breaks as well, so that all are entered anew, as far as Redis lets them.
            try await redis.ask("CLIENT KILL TYPE normal")
            try? await entering.enter(PresenceMember(id: "later"), self.room)
            // Several leases' worth of renewals.
            try await redis.ask("CONFIG RESETSTAT")
            try await eventually("leases to pass") { try await redis.calls(of: "zadd") > 25 }
            try await entering.leave("0", from: self.room)
            try await nodes[0].wait("who leaves to leave") { $0.members(who: .left).contains("0") }
            #expect(nodes[0].members(who: .left) == ["0"])
            #expect(try await watching.memberCount(of: self.room) == 49)
            try await redis.ask("CONFIG SET maxmemory 0")
            try await eventually("the late ones") { try await watching.memberCount(of: self.room) == 51 }
            // The incarnations of before are given up, and nobody leaves with them.
            try await eventually("one incarnation each") {
                try await redis.ask("ZCARD starling:nodes") == ":2"
            }
            #expect(nodes[0].members(who: .left) == ["0"])
            #expect(try await watching.memberCount(of: self.room) == 51)
        }
    }

    @Test("A topic that Redis will not have takes nobody away from another one")
    func wrongType() async throws {
        let redis = try await RedisProcess()
        try await redis.ask("SET starling:p:foreign text")
        let (watching, entering) = try (self.broadcaster(redis), self.broadcaster(redis))
        try await withNodes([watching, entering]) { nodes in
            try await watching.subscribe(to: [self.room])
            for number in 0..<50 { try await entering.enter(PresenceMember(id: "\(number)"), self.room) }
            await #expect(throws: BroadcastError.self) {
                try await entering.enter(PresenceMember(id: "x"), "foreign")
            }
            try await redis.ask("CLIENT KILL TYPE normal")
            try await entering.enter(PresenceMember(id: "50"), self.room)
            try await redis.ask("CONFIG RESETSTAT")
            try await eventually("leases to pass") { try await redis.calls(of: "zadd") > 25 }
            #expect(try await watching.memberCount(of: self.room) == 51)
            #expect(nodes[0].members(who: .left).isEmpty)
            try await redis.ask("DEL starling:p:foreign")
            try await eventually("the other topic's member") {
                try await watching.memberCount(of: "foreign") == 1
            }
            try await eventually("one incarnation each") {
                try await redis.ask("ZCARD starling:nodes") == ":2"
            }
        }
    }

    @Test(
        "Nothing is entered for an incarnation without a lease, and a lease that has ended has ended for whoever asks again"
    )
    func lateCommands() async throws {
        let redis = try await RedisProcess()
        let scripts = RedisScripts(isSharded: false)
        let enter = [
            "EVAL", scripts.enter, "4", "starling:p:room", "starling:i:room", "starling:n:gone",
            "starling:nodes",
            "entry", "ada", "", "starling:c:room", "event", "gone",
        ]
        #expect(try await redis.ask(enter) == ":-1\r\n")
        #expect(try await redis.ask("EXISTS starling:p:room starling:i:room starling:n:gone") == ":0")
        func refresh(mustBeKnown: Bool) async throws -> String {
            try await self.refresh("gone", at: redis, mustBeKnown: mustBeKnown, countMax: 100)
        }
        // The first answer may be lost.
        for _ in 1...2 { #expect(try await refresh(mustBeKnown: true) == "0 0") }
        #expect(try await redis.ask("EXISTS starling:nodes") == ":0")
        #expect(try await refresh(mustBeKnown: false) == "0 0")
        #expect(try await refresh(mustBeKnown: true) == "1 0")
        #expect(try await redis.ask(enter) == ":1\r\n")
    }

    /// Renews a lease of 100 s, and returns whether it held and how much was taken away.
    private func refresh(
        _ incarnation: String,
        at redis: RedisProcess,
        mustBeKnown: Bool,
        countMax: Int
    ) async throws -> String {
        let reply = try await redis.ask([
            "EVAL", RedisScripts(isSharded: false).refresh, "1", "starling:nodes", incarnation, "100000",
            "starling:",
            "header", "\(countMax)", mustBeKnown ? "1" : "0",
        ])
        let lines = reply.split(separator: "\r\n")
        return lines.count < 3 ? reply : lines[1...2].map { $0.dropFirst() }.joined(separator: " ")
    }

    @Test("When Redis was away for longer than all leases nobody leaves, whoever comes back first")
    func endedLeases() async throws {
        let redis = try await RedisProcess()
        let (first, second) = try (
            self.broadcaster(redis, lease: .seconds(3)), self.broadcaster(redis, lease: .seconds(3))
        )
        try await withNodes([first]) { nodes in
            try await first.subscribe(to: [self.room])
            let life = Task { try await second.run() }
            for number in 0..<20 {
                try await first.enter(PresenceMember(id: "\(number)"), self.room)
                try await second.enter(PresenceMember(id: "\(100 + number)"), self.room)
            }
            try await nodes[0].wait("all to join") { $0.members(who: .joined).count == 40 }
            life.cancel()
            try await life.value
            let names = try await redis.askAll("ZRANGE starling:nodes 0 -1").split(separator: "\r\n")
                .filter { !"*$".contains($0.prefix(1)) }
            #expect(names.count == 2)
            try await redis.ask("ZADD starling:nodes " + names.map { "1 \($0)" }.joined(separator: " "))
            try await redis.ask("CONFIG RESETSTAT")
            try await eventually("the first to renew twice") { try await redis.calls(of: "zadd") >= 4 }
            #expect(nodes[0].members(who: .left).isEmpty)
            let back = Task { try await second.run() }
            try await eventually("both to renew several times") { try await redis.calls(of: "zadd") >= 14 }
            back.cancel()
            #expect(nodes[0].members(who: .left).isEmpty)
            #expect(try await first.memberCount(of: self.room) == 40)
        }
    }

    @Test("Leases begin anew if nobody has renewed one for half of one, but not what is being taken away")
    func leasesBeginAnew() async throws {
        let redis = try await RedisProcess()
        func refresh(_ incarnation: String) async throws -> String {
            try await self.refresh(incarnation, at: redis, mustBeKnown: true, countMax: 1)
        }
        func standing() async throws -> Int {
            let now = try await redis.askAll("TIME").split(separator: "\r\n")[2] + "000"
            return Int(try await redis.ask("ZCOUNT starling:nodes \(now) +inf").dropFirst()) ?? -1
        }
        // The first lease is about to end, the second has ended, the third was given up.
        let now = try await redis.askAll("TIME").split(separator: "\r\n")[2] + "000"
        let soon = (Int(now) ?? 0) + 20_000
        for member in ["A", "B"] {
            _ = try await redis.ask(["SADD", "starling:n:ended", "\0\0\0\u{1}a\(member)"])
        }
        try await redis.ask("ZADD starling:nodes \(soon) soon 1000 ended 0 abandoned")
        #expect(try await refresh("soon") == "1 0")
        #expect(try await standing() == 2)
        #expect(try await redis.ask("SCARD starling:n:ended") == ":2")
        // A node that has been renewing lets the next one end.
        try await redis.ask("ZADD starling:nodes 1000 ended")
        try await redis.ask("ZREM starling:nodes abandoned")
        #expect(try await refresh("soon") == "1 1")
        #expect(try await redis.ask("SCARD starling:n:ended") == ":1")
        try await redis.ask("ZADD starling:nodes 1000 soon")
        #expect(try await refresh("ended") == "0 0")
        #expect(try await refresh("soon") == "1 1")
        #expect(try await redis.ask("EXISTS starling:n:ended") == ":0")
    }

    @Test("Publications that wait keep nobody from leaving")
    func fullQueue() async throws {
        let redis = try await RedisProcess()
        let broadcaster = try makeBroadcaster(redis) {
            $0.queuedByteCountMax = 10_000
            $0.waitTimeout = .seconds(20)
            $0.replyTimeout = .seconds(20)
        }
        try await withNodes([broadcaster]) { _ in
            for number in 0..<20 { try await broadcaster.enter(PresenceMember(id: "\(number)"), self.room) }
            let incarnations = try await redis.askAll("ZRANGE starling:nodes 0 -1")
            redis.freeze()
            while broadcaster.tryPublish("x", to: "other") {}
            let leaving = Task { try await broadcaster.leave("0", from: self.room) }
            let entering = Task { try await broadcaster.enter(PresenceMember(id: "20"), self.room) }
            redis.thaw()
            try await leaving.value
            try await entering.value
            #expect(try await broadcaster.memberCount(of: self.room) == 20)
            #expect(try await redis.askAll("ZRANGE starling:nodes 0 -1") == incarnations)
        }
    }

    // MARK: - With a Redis that is slow, or another one

    @Test("A leave that was certainly not done is tried again by itself, unless its member is back")
    func refusedLeave() async throws {
        let (redis, broadcaster) = self.scripted()
        let calls = Lock<[String]>([])
        let renewals = Lock(0)
        let mayLeave = Lock(false)
        redis.answer { call in
            if call.script == "refresh" {
                renewals.withLock { $0 += 1 }
                return Self.all(call)
            }
            calls.withLock { $0.append("\(call.script) \(call.text(1)) \(call.keys[2])") }
            return call.script == "leave" && !mayLeave.withLock({ $0 })
                ? ScriptedRedis.refusal : Self.all(call)
        }
        try await withNodes([broadcaster]) { _ in
            for id in ["a", "b"] { try await broadcaster.enter(PresenceMember(id: id), self.room) }
            let key = try #require(calls.withLock { $0.first?.split(separator: " ").last })
            for id in ["a", "b"] { try? await broadcaster.leave(id, from: self.room) }
            try await broadcaster.enter(PresenceMember(id: "b"), self.room)
            calls.withLock { $0 = [] }
            try await eventually("another try") { calls.withLock { $0.count } >= 2 }
            #expect(calls.withLock { Set($0) } == ["leave a \(key)"])
            mayLeave.withLock { $0 = true }
            let count = calls.withLock { $0.count }
            try await eventually("the last try") { calls.withLock { $0.count } > count }
            let (last, lease) = (calls.withLock { $0.count }, renewals.withLock { $0 })
            try await eventually("some more leases") { renewals.withLock { $0 } > lease + 3 }
            #expect(calls.withLock { $0.count } == last)
            #expect(calls.withLock { Set($0) } == ["leave a \(key)"])
        }
    }

    private func scripted() -> (ScriptedRedis, RedisBroadcaster) {
        let redis = ScriptedRedis()
        var configuration = RedisConfiguration(RedisServer(.tcp(host: "scripted", port: 1)))
        configuration.reconnectDelayMin = .milliseconds(1)
        configuration.reconnectDelayMax = .milliseconds(10)
        configuration.presenceLease = .milliseconds(600)
        configuration.waitTimeout = .seconds(60)
        configuration.replyTimeout = .seconds(60)
        redis.answer(Self.all)
        return (redis, RedisBroadcaster(configuration, connector: redis))
    }

    private static func all(_ call: ScriptedRedis.Call) -> [UInt8]? {
        call.script == "refresh" ? call.renewal : ScriptedRedis.integer(1)
    }

    @Test("A Redis that has taken over from another one is told of everybody, though it knows the lease")
    func failover() async throws {
        let (redis, broadcaster) = self.scripted()
        try await withNodes([broadcaster]) { _ in
            for number in 0..<10 { try await broadcaster.enter(PresenceMember(id: "\(number)"), self.room) }
            let entered = Lock<[String: Int]>([:])
            redis.answer { call in
                if call.script == "enter" {
                    entered.withLock { $0[call.run + " " + call.text(1), default: 0] += 1 }
                }
                return Self.all(call)
            }
            redis.start(run: "2")
            redis.breakLinks(areSubscribed: false)
            try await eventually("all to be entered") { entered.withLock { $0.count } == 10 }
            #expect(entered.withLock { Set($0.keys) } == Set((0..<10).map { "2 \($0)" }))
        }
    }

    @Test("While many are entered anew the leases are renewed, the one of before included")
    func slowEntering() async throws {
        let (redis, broadcaster) = self.scripted()
        try await withNodes([broadcaster]) { _ in
            for number in 0..<300 { try await broadcaster.enter(PresenceMember(id: "\(number)"), self.room) }
            let renewed = Lock<[String: Int]>([:])
            let givenUp = Lock<Set<String>>([])
            let mayEnter = Lock(false)
            redis.answer { call in
                if call.script == "refresh" {
                    renewed.withLock { $0[call.text(0), default: 0] += 1 }
                    givenUp.withLock { names in
                        for index in call.arguments.indices.dropFirst(6) { names.insert(call.text(index)) }
                    }
                }
                // Nobody can be entered for many leases.
                if call.script == "enter", !mayEnter.withLock({ $0 }) { return ScriptedRedis.refusal }
                return Self.all(call)
            }
            let former = try await self.incarnation(renewed)
            redis.start(run: "2")
            redis.breakLinks(areSubscribed: false)
            try await eventually("two incarnations to be kept alive") {
                renewed.withLock { $0.count == 2 && $0.values.allSatisfy { $0 > 10 } }
            }
            #expect(givenUp.withLock { $0 }.isEmpty)
            mayEnter.withLock { $0 = true }
            try await eventually("the former one to be given up") { givenUp.withLock { $0 } == [former] }
        }
    }

    private func incarnation(_ renewed: Lock<[String: Int]>) async throws -> String {
        try await eventually("a lease") { renewed.withLock { !$0.isEmpty } }
        return try #require(renewed.withLock { $0.keys.first })
    }
}
