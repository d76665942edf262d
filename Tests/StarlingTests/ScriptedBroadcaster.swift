import Starling
import StarlingCore

/// Delivers, loses and remembers what a test says, in topics of epochs of its choice.
final class ScriptedBroadcaster: TestDrivenBroadcaster {
    typealias Answer = @Sendable (_ position: StreamPosition?) async throws(BroadcastError) -> TopicHistory

    private let sinks = Lock<[BroadcastSink]>([])
    private let askedPositions = Lock<[StreamPosition?]>([])
    private let answer: Answer

    init(
        answer: @escaping Answer = { _ throws(BroadcastError) in
            TopicHistory(publications: [], newest: nil, isComplete: false)
        }
    ) {
        self.answer = answer
    }

    /// The positions that the history was asked about, nil for the newest.
    var asked: [StreamPosition?] { self.askedPositions.withLock { $0 } }

    func deliver(_ text: String, to topic: Topic, _ epoch: UInt64, _ offset: UInt64) {
        let position = StreamPosition(epoch: epoch, offset: offset)
        let publication = Publication(.text(text), to: topic, position: position)
        for sink in self.sinks.withLock({ $0 }) { sink.deliver(publication) }
    }

    func lose(_ topic: Topic, upTo epoch: UInt64, _ offset: UInt64) {
        let newest = StreamPosition(epoch: epoch, offset: offset)
        for sink in self.sinks.withLock({ $0 }) { sink.reportGap(in: topic, newest: newest) }
    }

    func history(
        of topic: Topic,
        after position: StreamPosition,
        countMax: Int
    ) async throws(BroadcastError) -> TopicHistory {
        self.askedPositions.withLock { $0.append(position) }
        return try await self.answer(position)
    }

    func history(of topic: Topic, newest count: Int) async throws(BroadcastError) -> TopicHistory {
        self.askedPositions.withLock { $0.append(nil) }
        return try await self.answer(nil)
    }

    func attach(_ sink: BroadcastSink) { self.sinks.withLock { $0.append(sink) } }
}

/// A broadcaster with a history that nobody publishes to but the test, by ways of its own.
protocol TestDrivenBroadcaster: HistoryBroadcaster, ImmediateBroadcaster {}

extension TestDrivenBroadcaster {
    var deliversEverything: Bool { true }
    func tryPublish(_ message: Message, to topic: Topic) -> Bool { false }
    func subscribe(to topics: Set<Topic>) async throws(BroadcastError) {}
    func unsubscribe(from topics: Set<Topic>) async throws(BroadcastError) {}
    func publish(_ message: Message, to topic: Topic) async throws(BroadcastError) -> StreamPosition? {
        throw BroadcastError(.refused, message: "the test publishes")
    }
    func publish(
        _ message: Message,
        to topic: Topic,
        idempotencyKey: String
    ) async throws(BroadcastError) -> IdempotentPublication {
        throw BroadcastError(.refused, message: "the test publishes")
    }
    func run() async throws(BroadcastError) {}
}
