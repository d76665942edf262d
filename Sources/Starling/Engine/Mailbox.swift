internal import Synchronization

/// The one door into an event loop for other threads.
///
/// The loop takes all messages at once, once or twice per tick. It is woken only when it sleeps.
final class Mailbox: Sendable {
    private struct Contents {
        var messages: [LoopMessage] = []
        var isLoopSleeping = false
        var isClosed = false
    }

    enum PostResult {
        /// The loop will find it by itself.
        case posted
        /// The loop sleeps and must be woken.
        case postedToSleeper
        /// The loop has ended and will not look again.
        case closed
        /// It is for a connection that another process has.
        case departed
    }

    private let contents = Lock(Contents())

    /// Adds a message, unless the loop has ended.
    func post(_ message: LoopMessage) -> PostResult {
        self.contents.withLock { contents in
            guard !contents.isClosed else { return .closed }
            // Asked under the lock, which the loop takes once more after it has said so: what was posted before is found then.
            if case .send(_, let connection) = message, connection.hasDeparted.load(ordering: .relaxed) {
                return .departed
            }
            contents.messages.append(message)
            defer { contents.isLoopSleeping = false }
            return contents.isLoopSleeping ? .postedToSleeper : .posted
        }
    }

    /// Ends the mailbox and returns what was still in it.
    func close() -> [LoopMessage] {
        self.contents.withLock { contents in
            contents.isClosed = true
            defer { contents.messages = [] }
            return contents.messages
        }
    }

    /// Swaps the messages into `batch`, which must be empty.
    func take(into batch: inout [LoopMessage]) {
        let empty = batch
        batch = self.contents.withLock { contents in
            guard !contents.messages.isEmpty else { return [] }
            let messages = contents.messages
            contents.messages = empty
            return messages
        }
    }

    /// Says that the loop is about to sleep; false if there are messages, so that it must not.
    func prepareToSleep() -> Bool {
        self.contents.withLock { contents in
            contents.isLoopSleeping = contents.messages.isEmpty
            return contents.isLoopSleeping
        }
    }

    /// Says that the loop is awake, for whatever reason.
    func wakeUp() {
        self.contents.withLock { $0.isLoopSleeping = false }
    }
}

/// What other threads ask of a loop.
enum LoopMessage: Sendable {
    /// Run a part of a task that prefers this loop.
    case job(UnownedJob)
    /// Deliver a publication to this loop's subscribers.
    case publication(Publication, endpoint: Int)
    /// Send a message to a connection.
    case send(Message, to: AsyncConnection)
    /// Anything rarer; called with nil, on any thread, if the loop has ended.
    case perform(@Sendable (ConnectionDriver?) -> Void)
}
