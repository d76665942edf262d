import Starling
import StarlingNative
import StarlingRedis
import StarlingTesting
import TestSupport
import Testing

/// A real Redis Cluster of three masters, and replicas if wanted.
private final class RedisClusterProcesses: Sendable {
    let masters: [RedisProcess]
    let replicas: [RedisProcess]
    private static let slotCount = 16_384

    init(withReplicas: Bool = false) async throws {
        var masters: [RedisProcess] = []
        for _ in 0..<3 { masters.append(try await Self.start()) }
        self.masters = masters
        for (index, master) in masters.enumerated() {
            let first = index * Self.slotCount / 3
            let last = (index + 1) * Self.slotCount / 3 - 1
            try await master.expectOK("CLUSTER ADDSLOTSRANGE \(first) \(last)")
        }
        var replicas: [RedisProcess] = []
        if withReplicas {
            for _ in 0..<3 { replicas.append(try await Self.start()) }
        }
        self.replicas = replicas
        for other in (masters + self.replicas).dropFirst() {
            let busPort = try await other.ask("CONFIG GET cluster-port", line: 4)
            try await masters[0].expectOK("CLUSTER MEET 127.0.0.1 \(other.port) \(busPort)")
        }
        try await eventually("the cluster's agreement") { try await self.state() == "ok" }
        for (replica, master) in zip(self.replicas, masters) {
            let id = try await master.ask("CLUSTER MYID", line: 1)
            try await eventually("the replica to know its master") {
                try await replica.ask("CLUSTER REPLICATE \(id)") == "+OK"
            }
        }
        for replica in self.replicas {
            try await eventually("a replica in step") {
                try await replica.askAll("INFO replication").contains("master_link_status:up")
            }
        }
    }

    var url: String {
        "redis+cluster://" + self.masters.map { "127.0.0.1:\($0.port)" }.joined(separator: ",")
    }

    private static func start() async throws -> RedisProcess {
        let busPort = try RedisProcess.freePort()
        return try await RedisProcess([
            "--cluster-enabled", "yes", "--cluster-port", "\(busPort)", "--cluster-node-timeout", "1000",
        ])
    }

    private func state() async throws -> String {
        for node in self.masters + self.replicas {
            let info = try await node.askAll("CLUSTER INFO")
            let count = self.masters.count + self.replicas.count
            guard info.contains("cluster_state:ok"), info.contains("cluster_known_nodes:\(count)") else {
                return info
            }
        }
        return "ok"
    }

    /// Moves the slots of one master that have keys to another, key by key, as an operator's tools do.
    ///
    /// - Returns: How many slots.
    func moveSlots(from source: RedisProcess, to target: RedisProcess) async throws -> Int {
        let sourceID = try await source.ask("CLUSTER MYID", line: 1)
        let targetID = try await target.ask("CLUSTER MYID", line: 1)
        var moved = 0
        let index = self.masters.firstIndex { $0 === source } ?? 0
        for slot in index * Self.slotCount / 3..<(index + 1) * Self.slotCount / 3 {
            guard try await source.ask("CLUSTER COUNTKEYSINSLOT \(slot)") != ":0" else { continue }
            moved += 1
            try await target.expectOK("CLUSTER SETSLOT \(slot) IMPORTING \(sourceID)")
            try await source.expectOK("CLUSTER SETSLOT \(slot) MIGRATING \(targetID)")
            while true {
                let reply = try await source.askAll("CLUSTER GETKEYSINSLOT \(slot) 100")
                let keys = reply.split(separator: "\r\n").filter {
                    $0.first.map { !"*$".contains($0) } ?? false
                }
                if keys.isEmpty { break }
                let names = keys.map { "\"\($0)\"" }.joined(separator: " ")
                let outcome = try await source.ask(
                    "MIGRATE 127.0.0.1 \(target.port) \"\" 0 5000 KEYS \(names)"
                )
                guard outcome == "+OK" || outcome == "+NOKEY" else { throw RedisProcessError(outcome) }
            }
            for node in [target, source] {
                try await node.expectOK("CLUSTER SETSLOT \(slot) NODE \(targetID)")
            }
        }
        return moved
    }
}

extension RedisProcess {
    func expectOK(_ command: String) async throws {
        let reply = try await self.ask(command)
        guard reply == "+OK" else { throw RedisProcessError("\(command): \(reply)") }
    }

    /// A line of the reply.
    func ask(_ command: String, line: Int) async throws -> String {
        let lines = try await self.askAll(command).split(separator: "\r\n", omittingEmptySubsequences: false)
        guard lines.indices.contains(line) else { throw RedisProcessError("\(command): \(lines)") }
        return String(lines[line])
    }
}

@Suite(.serialized) struct RedisClusterTests {
    @Test("On a Cluster RedisBroadcaster does what every broadcaster must")
    func conformance() async throws {
        let cluster = try await RedisClusterProcesses()
        let names = try await BroadcasterConformance {
            var configuration = RedisConfiguration(try RedisServer(url: cluster.url))
            configuration.history = {
                $0.name.hasPrefix("history:") ? HistoryLimits(countMax: 1000) : nil
            }
            return RedisBroadcaster(configuration, connector: NativeConnector())
        }.run()
        #expect(names.count == 13)
        for master in cluster.masters {
            #expect(try await master.ask("DBSIZE") != ":0", "a master without a share")
        }
    }

    @Test("Two servers share a broadcaster: when the first has ended the other one goes on")
    func shared() async throws {
        let cluster = try await RedisClusterProcesses()
        var configuration = RedisConfiguration(try RedisServer(url: cluster.url))
        configuration.reconnectDelayMax = .milliseconds(500)
        let node = Node(RedisBroadcaster(configuration, connector: NativeConnector()))
        var running = Task { try await node.broadcaster.run() }
        try await node.broadcaster.subscribe(to: ["plain"])
        for number in 1...3 {
            try await node.wait("readiness") { $0.broadcaster.isReady }
            try await node.broadcaster.publish(.text("\(number)"), to: "plain")
            try await node.wait("number \(number)") { $0.arrived("plain").count == number }
            let next = Task { try await node.broadcaster.run() }
            running.cancel()
            try await running.value
            running = next
        }
        running.cancel()
        try await running.value
    }

    @Test("A subscription that the rights do not allow only delays those that were asked for with it")
    func forbiddenTopic() async throws {
        let cluster = try await RedisClusterProcesses()
        for master in cluster.masters {
            try await master.expectOK("ACL SETUSER chat on >pw +@all ~* resetchannels &*p:* &*c:plain*")
        }
        let url = cluster.url.replacing("://", with: "://chat:pw@")
        var configuration = RedisConfiguration(try RedisServer(url: url))
        configuration.probeInterval = .milliseconds(50)
        configuration.deafAfter = .milliseconds(500)
        configuration.waitTimeout = .seconds(20)
        let broadcaster = RedisBroadcaster(configuration, connector: NativeConnector())
        // Several in each of the 64 partitions.
        let good = Set((0..<300).map { Topic("plain \($0)") })
        let forbidden = Set((0..<200).map { Topic("forbidden \($0)") })
        try await withNodes([broadcaster]) { nodes in
            try await nodes[0].wait("readiness") { $0.broadcaster.isReady }
            let confirmed = Lock<Set<Topic>>([])
            let asking = Task {
                try? await broadcaster.subscribe(to: good.union(forbidden)) { topic in
                    confirmed.withLock { _ = $0.insert(topic) }
                }
            }
            try await eventually("all others") { confirmed.withLock { $0 } == good }
            asking.cancel()
        }
    }

    @Test("Slots that move while everybody publishes lose nothing, and nobody is told of a gap")
    func slotMigration() async throws {
        let cluster = try await RedisClusterProcesses()
        var moved = 0
        let gaps = try await publishingTo(RedisServer(url: cluster.url), topicCount: 20) {
            moved = try await cluster.moveSlots(from: cluster.masters[0], to: cluster.masters[1])
        }
        #expect(moved > 0)
        #expect(gaps == 0)
        print("\(moved) slots moved, \(gaps) gaps")
    }

    @Test("A master's death: its replica takes over, and subscribers have everything or are told")
    func deadMaster() async throws {
        let cluster = try await RedisClusterProcesses(withReplicas: true)
        let gaps = try await publishingTo(RedisServer(url: cluster.url), topicCount: 20) {
            cluster.masters[0].kill()
        }
        print("a master died: \(gaps) of 20 topics were told of a gap")
        #expect((1..<20).contains(gaps), "the topics of the other masters have no gap")
    }
}

@Suite(.serialized) struct RedisSentinelTests {
    @Test("Sentinels make a replica the master: publishing goes on there")
    func failover() async throws {
        let master = try await RedisProcess()
        let replica = try await RedisProcess(["--replicaof", "127.0.0.1 \(master.port)"])
        var sentinels: [RedisProcess] = []
        for _ in 0..<3 { sentinels.append(try await RedisProcess(sentinelOf: master)) }
        for sentinel in sentinels {
            try await eventually("the Sentinels to know each other and the replica", within: .seconds(30)) {
                let reply = try await sentinel.askAll("SENTINEL MASTER mymaster")
                return reply.contains("num-other-sentinels\r\n$1\r\n2")
                    && reply.contains("num-slaves\r\n$1\r\n1")
            }
        }
        let hosts = sentinels.map { "127.0.0.1:\($0.port)" }.joined(separator: ",")
        let gaps = try await publishingTo(RedisServer(url: "redis+sentinel://\(hosts)/mymaster")) {
            // The first one that is asked is gone too.
            sentinels[0].kill()
            master.kill()
        }
        #expect(gaps == 1)
        #expect(try await replica.askAll("ROLE").contains("master"))
    }

    @Test("A master that the Sentinels do not know is a clear error")
    func unknownMaster() async throws {
        let master = try await RedisProcess()
        let sentinel = try await RedisProcess(sentinelOf: master)
        var configuration = RedisConfiguration(
            try RedisServer(url: "redis+sentinel://127.0.0.1:\(sentinel.port)/other")
        )
        configuration.waitTimeout = .milliseconds(500)
        let broadcaster = RedisBroadcaster(configuration, connector: NativeConnector())
        try await withNodes([broadcaster]) { nodes in
            let error = await #expect(throws: BroadcastError.self) {
                try await nodes[0].broadcaster.publish("x", to: "plain")
            }
            #expect(
                error.map { "\($0)".contains("know no master of the name 'other'") } == true,
                "\(error as Any)"
            )
        }
    }
}
