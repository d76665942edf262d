import Starling
import StarlingNative
import StarlingRedis
import Testing

/// Publishes to topics with a history through one node to another while `fault` happens, and checks what arrived.
///
/// - Returns: How many gaps were reported.
func publishingTo(
    _ server: RedisServer,
    topicCount: Int = 1,
    through fault: () async throws -> Void
) async throws -> Int {
    let run = UInt32.random(in: 0 ... .max)
    let topics = (0..<topicCount).map { Topic("history:fault \(run) \($0)") }
    func makeBroadcaster() -> RedisBroadcaster {
        var configuration = RedisConfiguration(server)
        configuration.history = { _ in HistoryLimits(countMax: 100_000) }
        configuration.deafAfter = .seconds(2)
        configuration.probeInterval = .milliseconds(250)
        configuration.replyTimeout = .seconds(2)
        configuration.waitTimeout = .seconds(2)
        configuration.reconnectDelayMax = .milliseconds(500)
        return RedisBroadcaster(configuration, connector: NativeConnector())
    }
    var gapCount = 0
    try await withNodes([makeBroadcaster(), makeBroadcaster()]) { nodes in
        for node in nodes { try await node.wait("readiness") { $0.broadcaster.isReady } }
        try await nodes[1].broadcaster.subscribe(to: Set(topics))
        // Many topics are published to in turn, so that a machine of two cores does something else too.
        let pause = Duration.milliseconds(topicCount - 1)
        let publishers = topics.map { Publisher(nodes[0].broadcaster, $0, pause) }
        let publishing = publishers.map { publisher in Task { await publisher.run() } }
        for topic in topics {
            try await nodes[1].wait("the first publications") { $0.arrived(topic).count > 100 / topicCount }
        }
        try await fault()
        for topic in topics {
            let count = nodes[1].arrived(topic).count
            try await nodes[1].wait("publications after the fault", upTo: .seconds(30)) {
                $0.arrived(topic).count > count + 100 / topicCount
            }
        }
        for publisher in publishers { await publisher.stop() }
        for task in publishing { await task.value }
        for (topic, publisher) in zip(topics, publishers) {
            let last = try await nodes[0].broadcaster.publish("0", to: topic)
            try await nodes[1].wait("the last publication") { $0.arrived(topic).last?.position == last }
            check(nodes[1], topic, await publisher.accepted)
            gapCount += nodes[1].gaps(topic).count
        }
        try await nodes[1].wait("readiness") { $0.broadcaster.isReady }
    }
    return gapCount
}

/// Publishes numbers until it is told to stop; counts what was accepted.
private actor Publisher {
    private let broadcaster: RedisBroadcaster
    private let topic: Topic
    private let pause: Duration
    private(set) var accepted: [Int] = []
    private var isStopped = false

    init(_ broadcaster: RedisBroadcaster, _ topic: Topic, _ pause: Duration) {
        self.pause = pause
        self.broadcaster = broadcaster
        self.topic = topic
    }

    func stop() {
        self.isStopped = true
    }

    func run() async {
        var number = 0
        while !self.isStopped {
            number += 1
            do {
                // With a key: whatever happens to a link, a number is published once or the error says not at all.
                try await self.broadcaster.publish(
                    .text("\(number)"),
                    to: self.topic,
                    idempotencyKey: "\(self.topic) \(number)"
                )
                self.accepted.append(number)
                if self.pause > .zero { try? await Task.sleep(for: self.pause) }
            } catch {
                await Task.yield()
            }
        }
    }
}

/// What a subscriber of a topic with a history must see: offsets that grow by one, but where it was told of a gap.
func check(_ node: Node, _ topic: Topic, _ accepted: [Int]) {
    let publications = node.arrived(topic)
    let gaps = node.gaps(topic)
    var expected: StreamPosition?
    var jumps = 0
    for publication in publications {
        guard let position = publication.position else {
            Issue.record("a publication without a position")
            return
        }
        if let expected, position != expected {
            jumps += 1
            #expect(position.epoch == expected.epoch || position.offset == 1, "a new epoch has lost nothing")
        }
        expected = StreamPosition(epoch: position.epoch, offset: position.offset + 1)
    }
    #expect(jumps <= gaps.count, "\(jumps) jumps, but only \(gaps.count) gaps were reported")
    let positions = publications.compactMap(\.position)
    #expect(Set(positions).count == positions.count, "a publication was delivered twice")
    if gaps.isEmpty {
        let numbers = Set(publications.compactMap { $0.message.text.flatMap(Int.init) })
        #expect(numbers.isSuperset(of: accepted), "accepted publications are missing")
    }
    print("\(topic): \(accepted.count) accepted, \(publications.count) delivered, \(gaps.count) gaps")
}
