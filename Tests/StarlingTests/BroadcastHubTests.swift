import StarlingCore
import StarlingTesting
import TestSupport
import Testing

@testable import Starling

/// Keeps a record of what it is told, is silent about some topics until it is let go on, and refuses others.
private final class FussyBroadcaster: Broadcaster {
    struct State {
        var events: [String] = []
        var subscribed: Set<Topic> = []
        var refused: Set<Topic> = []
        var underWay: [Topic: Int] = [:]
        var callsUnderWay = 0
        var mostCallsUnderWay = 0
        /// Whether two changes of a topic were under way at once.
        var hasOverlapped = false
    }

    let silence = Gate()
    private let state: Lock<State>

    init(refusing refused: Set<Topic> = []) {
        self.state = Lock(State(refused: refused))
    }

    var seen: State { self.state.withLock { $0 } }

    func allowAll() {
        self.state.withLock { $0.refused = [] }
    }

    func subscribe(to topics: Set<Topic>) async throws(BroadcastError) {
        let isRefused = await self.change(topics, "+") { state in
            if topics.isDisjoint(with: state.refused) { state.subscribed.formUnion(topics) }
        }
        if isRefused { throw BroadcastError(.refused, message: "\(topics.map(\.name).sorted())") }
    }

    func unsubscribe(from topics: Set<Topic>) async throws(BroadcastError) {
        _ = await self.change(topics, "-") { $0.subscribed.subtract(topics) }
    }

    /// Makes a change once no topic in it is to be silent about; whether one of them is refused.
    private func change(_ topics: Set<Topic>, _ sign: String, _ change: (inout State) -> Void) async -> Bool {
        self.state.withLock { state in
            for topic in topics { state.underWay[topic, default: 0] += 1 }
            if topics.contains(where: { state.underWay[$0] != 1 }) { state.hasOverlapped = true }
            state.callsUnderWay += 1
            state.mostCallsUnderWay = max(state.mostCallsUnderWay, state.callsUnderWay)
        }
        await Task.yield()
        if topics.contains(where: { $0.name.hasPrefix("silent") }) { await self.silence.wait() }
        return self.state.withLock { state in
            for topic in topics { state.underWay[topic, default: 0] -= 1 }
            state.callsUnderWay -= 1
            state.events += topics.map { sign + $0.name }.sorted()
            change(&state)
            return !topics.isDisjoint(with: state.refused)
        }
    }

    func publish(_ message: Message, to topic: Topic) async throws(BroadcastError) -> StreamPosition? {
        if topic.name.hasPrefix("unheard") { await self.silence.wait() }
        self.state.withLock { $0.events.append("\(topic): \(message.text ?? "")") }
        return nil
    }

    func attach(_ sink: BroadcastSink) {}
    func run() async throws(BroadcastError) {}
}

@Suite(.timeLimit(.minutes(1))) struct BroadcastHubTests {
    private let loop = EventLoop(index: 0) {}

    private func hub(_ broadcaster: some Broadcaster) -> BroadcastHub {
        // Whoever waits for a second sees to it that others have their turn.
        BroadcastHub(broadcaster, endpoint: 0, Surroundings(sleep: { _ in await Task.yield() }))
    }

    /// Runs hubs as long as `body` takes.
    private func withRunning(_ hubs: [BroadcastHub], _ body: () async throws -> Void) async throws {
        try await withThrowingTaskGroup(of: Void.self) { group in
            for hub in hubs { group.addTask { await hub.run() } }
            defer { group.cancelAll() }
            try await body()
        }
    }

    /// Somebody who waits for a topic; ends with the error's code, if there is one.
    private func waiter(for topic: Topic, _ hub: BroadcastHub) -> Task<BroadcastError.Code?, Never> {
        Task {
            do throws(BroadcastError) {
                try await hub.waitUntilSubscribed(to: topic)
                return nil
            } catch {
                return error.code
            }
        }
    }

    @Test("Whose topic has no subscriber any more waits for it no longer")
    func abandoned() async throws {
        let hub = self.hub(FussyBroadcaster())
        hub.addInterest(in: "t", of: self.loop)
        let waiting = self.waiter(for: "t", hub)
        try await eventually("somebody to wait") { hub.waitingCount == 1 }
        hub.removeInterest(in: "t", of: self.loop)
        // Nor does one that begins to wait too late.
        await #expect(throws: BroadcastError.self) { try await hub.waitUntilSubscribed(to: "t") }
        // Nobody has to bring that to the broadcaster first.
        #expect(await waiting.value == .unavailable)
    }

    @Test("Who waits for a topic that the broker is silent about can give up, and is released at the end")
    func givesUp() async throws {
        let broadcaster = FussyBroadcaster()
        let hub = self.hub(broadcaster)
        try await self.withRunning([hub]) {
            hub.addInterest(in: "silent", of: self.loop)
            let waiters = (0..<2).map { _ in self.waiter(for: "silent", hub) }
            try await eventually("both to wait") { hub.waitingCount == 2 }
            try await eventually("the broker to be asked") { broadcaster.seen.callsUnderWay == 1 }
            waiters[0].cancel()
            #expect(await waiters[0].value == .unavailable)
            #expect(hub.waitingCount == 1)
            hub.removeInterest(in: "silent", of: self.loop)
            #expect(await waiters[1].value == .unavailable)
            await broadcaster.silence.open()
        }
        await #expect(throws: BroadcastError.self) { try await hub.waitUntilSubscribed(to: "late") }
    }

    @Test("Who waits for the last publications has them all with the broadcaster, or gives up")
    func lastPublications() async throws {
        let broadcaster = FussyBroadcaster()
        let hub = self.hub(broadcaster)
        try await self.withRunning([hub]) {
            #expect(hub.tryPublish("one", to: "unheard"))
            #expect(hub.tryPublish("two", to: "t"))
            let waiting = Task { await hub.waitUntilPublished() }
            let impatient = Task { await hub.waitUntilPublished() }
            impatient.cancel()
            await impatient.value
            #expect(broadcaster.seen.events == [])
            await broadcaster.silence.open()
            await waiting.value
            #expect(broadcaster.seen.events == ["unheard: one", "t: two"])
            #expect(hub.unpublishedCount == 0)
        }
    }

    @Test("A topic that the broker is silent about delays no other topic, and no publication")
    func silentTopic() async throws {
        let broadcaster = FussyBroadcaster()
        let hub = self.hub(broadcaster)
        try await self.withRunning([hub]) {
            hub.addInterest(in: "silent", of: self.loop)
            try await eventually("the call") { broadcaster.seen.underWay["silent"] == 1 }
            hub.addInterest(in: "good", of: self.loop)
            try await hub.waitUntilSubscribed(to: "good")
            #expect(hub.tryPublish("heard", to: "good"))
            try await eventually("the publication") { broadcaster.seen.events.contains("good: heard") }
            hub.removeInterest(in: "good", of: self.loop)
            try await eventually("good to be left") { broadcaster.seen.events.last == "-good" }
            // A publication that takes its time holds up no interest.
            #expect(hub.tryPublish("x", to: "unheard"))
            hub.addInterest(in: "better", of: self.loop)
            try await hub.waitUntilSubscribed(to: "better")
            #expect(broadcaster.seen.underWay["silent"] == 1)
            await broadcaster.silence.open()
        }
    }

    @Test("Of topics that fail together each is tried alone before anybody is told")
    func failureOfOne() async throws {
        let broadcaster = FussyBroadcaster(refusing: ["bad"])
        let hub = self.hub(broadcaster)
        // Before there is a task that would take them one by one.
        for topic in ["bad", "good", "better"] as [Topic] { hub.addInterest(in: topic, of: self.loop) }
        try await self.withRunning([hub]) {
            async let good: Void = hub.waitUntilSubscribed(to: "good")
            async let better: Void = hub.waitUntilSubscribed(to: "better")
            let error = await #expect(throws: BroadcastError.self) {
                try await hub.waitUntilSubscribed(to: "bad")
            }
            #expect(error?.message == #"["bad"]"#)
            try await good
            try await better
            #expect(broadcaster.seen.subscribed == ["good", "better"])
            // It is tried again as long as it has subscribers.
            broadcaster.allowAll()
            try await eventually("bad to be good") { broadcaster.seen.subscribed.contains("bad") }
            try await hub.waitUntilSubscribed(to: "bad")
        }
    }

    @Test(
        "Many that fail are tried in so many batches at a time, and those among them that work get their turn"
    )
    func manyFailures() async throws {
        let bad = Set((0..<200).map { Topic("bad \($0)") })
        let broadcaster = FussyBroadcaster(refusing: bad)
        let hub = self.hub(broadcaster)
        for topic in bad.union(["good"]) { hub.addInterest(in: topic, of: self.loop) }
        try await self.withRunning([hub]) {
            try await eventually("good among bad") { broadcaster.seen.subscribed.contains("good") }
            #expect(broadcaster.seen.mostCallsUnderWay <= BroadcastHub.retryBatchesMax)
            broadcaster.allowAll()
            try await eventually("all") { broadcaster.seen.subscribed == bad.union(["good"]) }
            #expect(!broadcaster.seen.hasOverlapped)
        }
    }

    @Test("Of a topic that is left and joined while it is being subscribed, one change is made at a time")
    func order() async throws {
        let broadcaster = FussyBroadcaster()
        let hub = self.hub(broadcaster)
        try await self.withRunning([hub]) {
            hub.addInterest(in: "silent", of: self.loop)
            try await eventually("the call") { broadcaster.seen.underWay["silent"] == 1 }
            hub.removeInterest(in: "silent", of: self.loop)
            // Published behind the subscription, so it is not to overtake it.
            #expect(hub.tryPublish("x", to: "silent"))
            hub.addInterest(in: "good", of: self.loop)
            try await hub.waitUntilSubscribed(to: "good")
            await broadcaster.silence.open()
            try await eventually("silent to be left") { broadcaster.seen.events.contains("-silent") }
            try await eventually("the publication") { broadcaster.seen.events.contains("silent: x") }
            let events = broadcaster.seen.events
            let (joined, published) = (events.firstIndex(of: "+silent"), events.firstIndex(of: "silent: x"))
            #expect(try #require(joined) < #require(published))
            for _ in 0..<100 {
                hub.addInterest(in: "room", of: self.loop)
                await Task.yield()
                hub.removeInterest(in: "room", of: self.loop)
                await Task.yield()
            }
            hub.addInterest(in: "room", of: self.loop)
            try await hub.waitUntilSubscribed(to: "room")
            #expect(broadcaster.seen.subscribed == ["good", "room"])
            #expect(!broadcaster.seen.hasOverlapped)
        }
    }

    @Test("Hubs of one broadcaster do not wait for each other, but for a topic that is being left")
    func sharedBroadcaster() async throws {
        let broadcaster = FussyBroadcaster()
        let (one, two) = (self.hub(broadcaster), self.hub(broadcaster))
        try await self.withRunning([one, two]) {
            one.addInterest(in: "silent stays", of: self.loop)
            try await eventually("the call") { broadcaster.seen.underWay["silent stays"] == 1 }
            two.addInterest(in: "good", of: self.loop)
            try await two.waitUntilSubscribed(to: "good")
            await broadcaster.silence.open()
        }
        let another = FussyBroadcaster()
        let (three, four) = (self.hub(another), self.hub(another))
        // Left before it was subscribed: the broadcaster is told to leave it none the less, and is slow.
        three.addInterest(in: "silent", of: self.loop)
        three.removeInterest(in: "silent", of: self.loop)
        try await self.withRunning([three, four]) {
            try await eventually("the call") { another.seen.underWay["silent"] == 1 }
            four.addInterest(in: "silent", of: self.loop)
            four.addInterest(in: "good", of: self.loop)
            await another.silence.open()
            try await four.waitUntilSubscribed(to: "silent")
            #expect(another.seen.subscribed.contains("silent"))
            #expect(!another.seen.hasOverlapped)
        }
    }
}
