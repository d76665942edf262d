/// A broadcaster for one process: publications reach every event loop of every server that it is attached to.
///
/// At most once, in one order per topic on all loops, without history. Needs nothing to run.
public final class InMemoryBroadcaster: ImmediateBroadcaster {
    private let sinks = Lock<[BroadcastSink]>([])

    /// Makes a broadcaster.
    public init() {}

    /// Takes a sink.
    public func attach(_ sink: BroadcastSink) {
        self.sinks.withLock { $0.append(sink) }
    }

    /// Hands the publication to every sink; always true.
    ///
    /// The lock is held meanwhile: it is what makes the order the same on all loops.
    public func tryPublish(_ message: Message, to topic: Topic) -> Bool {
        self.sinks.withLock { sinks in
            let publication = Publication(message, to: topic)
            for sink in sinks { sink.deliver(publication) }
            return true
        }
    }

    /// Hands the publication to every sink.
    ///
    /// Does not suspend.
    @discardableResult
    public func publish(_ message: Message, to topic: Topic) async throws(BroadcastError) -> StreamPosition? {
        _ = self.tryPublish(message, to: topic)
        return nil
    }

    /// True.
    ///
    /// all is in this process.
    public var deliversEverything: Bool { true }
    /// Does nothing.
    public func subscribe(to topics: Set<Topic>) async throws(BroadcastError) {}
    /// Does nothing.
    public func unsubscribe(from topics: Set<Topic>) async throws(BroadcastError) {}

    /// Waits for its cancellation.
    public func run() async throws(BroadcastError) {
        try? await Task.sleep(for: .seconds(1 << 40))
    }
}
