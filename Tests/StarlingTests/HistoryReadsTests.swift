import Starling
import StarlingCore
import StarlingTesting
import Testing

/// A history of a hundred publications, which answers when it is told to.
private final class GatedHistory: HistoryBroadcaster, ImmediateBroadcaster {
    private struct State {
        var asked: [StreamPosition?] = []
        var underWay = 0
        var mostUnderWay = 0
    }

    let gate = Gate()
    private let state = Lock(State())
    private static let newest = StreamPosition(epoch: 1, offset: 100)

    /// The positions that it was asked about.
    var asked: [StreamPosition?] { self.state.withLock { $0.asked } }
    var isBusy: Bool { self.state.withLock { $0.underWay > 0 } }
    var mostUnderWay: Int { self.state.withLock { $0.mostUnderWay } }

    func history(
        of topic: Topic,
        after position: StreamPosition,
        countMax: Int
    ) async throws(BroadcastError) -> TopicHistory {
        await self.answer(position)
        if Task.isCancelled { throw BroadcastError(.unavailable, message: "cancelled") }
        let publications = (position.offset + 1...100).map { offset in
            Publication(.text("p"), to: topic, position: StreamPosition(epoch: 1, offset: offset))
        }
        return TopicHistory(publications: publications, newest: Self.newest, isComplete: true)
    }

    func history(of topic: Topic, newest countMax: Int) async throws(BroadcastError) -> TopicHistory {
        await self.answer(nil)
        if Task.isCancelled { throw BroadcastError(.unavailable, message: "cancelled") }
        return TopicHistory(publications: [], newest: Self.newest, isComplete: true)
    }

    private func answer(_ position: StreamPosition?) async {
        self.state.withLock { state in
            state.asked.append(position)
            state.underWay += 1
            state.mostUnderWay = max(state.mostUnderWay, state.underWay)
        }
        await self.gate.wait()
        self.state.withLock { $0.underWay -= 1 }
    }

    var deliversEverything: Bool { true }
    func attach(_ sink: BroadcastSink) {}
    func tryPublish(_ message: Message, to topic: Topic) -> Bool { true }
    func subscribe(to topics: Set<Topic>) async throws(BroadcastError) {}
    func unsubscribe(from topics: Set<Topic>) async throws(BroadcastError) {}
    func publish(_ message: Message, to topic: Topic) async throws(BroadcastError) -> StreamPosition? { nil }
    func publish(
        _ message: Message,
        to topic: Topic,
        idempotencyKey: String
    ) async throws(BroadcastError) -> IdempotentPublication {
        throw BroadcastError(.refused, message: "for reading only")
    }
    func run() async throws(BroadcastError) {}
}

@Suite struct HistoryReadsTests {
    /// Clients that ask from positions 1 to `positionCount`, one after the other and again.
    private static func clients(
        _ count: Int,
        of positionCount: Int,
        _ server: EmbeddedTransport
    ) throws -> [Client] {
        try (0..<count).map { number in
            let client = try Client(server)
            #expect(client.takeStatus() == 101)
            client.send(.text, Array("1 \(number % positionCount + 1)".utf8))
            return client
        }
    }

    private static func expectAll(_ clients: some Collection<Client>, of positionCount: Int) {
        for (number, client) in zip(clients.indices, clients) {
            let position = ((number as? Int) ?? 0) % positionCount + 1
            let texts = client.takeFrames().map { String(decoding: $0.dropFirst(), as: UTF8.self) }
            #expect(texts.first == "from \(position) recovered true")
            #expect(texts.dropFirst().elementsEqual((position + 1..<101).map { "\($0)=p" }))
        }
    }

    @Test("Many who come back at once ask a broker so much at a time, and together what they can")
    func together() async throws {
        let history = GatedHistory()
        let server = EmbeddedTransport { WebSocketRoute("/", follower(history)) }
        // 64 are asked at once. The rest of the positions, and what is asked anew about the first ones, waits for all that come.
        let clients = try Self.clients(500, of: 90, server)
        #expect(history.asked.count == 64)
        await server.waiting { await history.gate.open() }
        while history.asked.count < 64 + 90 || history.isBusy { await server.waiting {} }
        server.advance(by: .milliseconds(1))
        Self.expectAll(clients, of: 90)
        #expect(history.mostUnderWay == 64)
        #expect(history.asked.count == 64 + 90)
    }

    @Test(
        "Who is cancelled while it asks for others as well leaves the question to them",
        .timeLimit(.minutes(1))
    )
    func cancelled() async throws {
        let reads = HistoryReads()
        let history = GatedHistory()
        let newest = HistoryReads.Question(topic: "t", position: nil)
        func ask(_ question: HistoryReads.Question) -> Task<TopicHistory, any Error> {
            Task {
                try await reads.answer(to: question) { () async throws(BroadcastError) in
                    if let position = question.position {
                        try await history.history(of: "t", after: position, countMax: 1)
                    } else {
                        try await history.history(of: "t", newest: 0)
                    }
                }
            }
        }
        var first: [Task<TopicHistory, any Error>] = []
        for offset in 1...UInt64(HistoryReads.countMax) {
            let position = StreamPosition(epoch: 1, offset: offset)
            first.append(ask(HistoryReads.Question(topic: "t", position: position)))
        }
        while history.asked.count < HistoryReads.countMax { await Task.yield() }
        let leader = ask(newest)
        while reads.waitingCount < 1 { await Task.yield() }
        let others = (0..<3).map { _ in ask(newest) }
        while reads.waitingCount < 4 { await Task.yield() }
        leader.cancel()
        await history.gate.open()
        for task in first { _ = try await task.value }
        await #expect(throws: BroadcastError.self) { try await leader.value }
        for task in others { #expect(try await task.value.newest?.offset == 100) }
        #expect(history.asked.count == HistoryReads.countMax + 2)
        #expect(reads.waitingCount == 0)
    }
}
