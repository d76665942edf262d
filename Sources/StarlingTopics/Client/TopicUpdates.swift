public import Starling

/// The events of a topic, as they are published: what `for try await event in client.topic(…)` iterates over.
///
/// The topic is subscribed to as long as somebody iterates over it, and goes on over lost connections: with a history nothing
/// is missing and nothing comes twice. If publications are lost all the same, iteration throws ``TopicError/Code/gap``;
/// an event of another type throws ``TopicError/Code/undecodable``. Both leave the subscription as it is, and the same iterator
/// may go on.
///
/// For positions, presence and the begin of subscriptions there is ``updates``.
public struct TopicEvents<Event: Codable & Sendable>: AsyncSequence, Sendable {
    /// An event.
    public typealias Element = Event

    /// The same with positions, presence, gaps and the begin of each subscription.
    public let updates: TopicUpdates<Event>

    /// Iterates over the events.
    public struct AsyncIterator: AsyncIteratorProtocol {
        fileprivate var updates: TopicUpdates<Event>.AsyncIterator

        /// The next event; nil when the client is closed by the application, or the task is cancelled.
        ///
        /// Suspends until there is one.
        public mutating func next() async throws -> Event? {
            while let update = try await self.updates.next() {
                switch update {
                case .event(let event, _): return event
                case .gap: throw TopicError(.gap)
                // Without a history nobody has promised anything.
                case .subscribed(let isRecovered, .some) where !isRecovered: throw TopicError(.gap)
                case .subscribed, .joined, .left: continue
                }
            }
            return nil
        }
    }

    /// Subscribes, unless others iterate over the topic, and starts iterating.
    public func makeAsyncIterator() -> AsyncIterator {
        AsyncIterator(updates: self.updates.makeAsyncIterator())
    }
}

/// Something that has happened in a topic.
public enum TopicUpdate<Event: Codable & Sendable>: Sendable {
    /// A publication, and its position in a topic with a history.
    case event(Event, position: TopicPosition?)
    /// Publications behind `after`, the last that came, and up to `position` are lost.
    ///
    /// `after` is nil if all subscribers are told of the same gap, as when a broker has lost its histories, and with older servers.
    case gap(after: TopicPosition?, position: TopicPosition)
    /// The subscription stands, for the first time or anew. If it is not recovered, publications since the last update are lost, or
    /// may be in a topic without a history.
    case subscribed(isRecovered: Bool, position: TopicPosition?)
    /// Somebody has come.
    case joined(PresenceMember)
    /// Somebody has gone.
    case left(PresenceMember)
}

/// Everything that happens in a topic.
public struct TopicUpdates<Event: Codable & Sendable>: AsyncSequence, Sendable {
    /// Something that has happened.
    public typealias Element = TopicUpdate<Event>

    let client: ReconnectingClient
    let topic: Topic
    let position: TopicPosition?

    /// Iterates over the updates.
    public struct AsyncIterator: AsyncIteratorProtocol {
        fileprivate let iteration: TopicIteration

        /// The next update; nil when the client is closed by the application, or the task is cancelled.
        ///
        /// Suspends until there is one.
        ///
        /// - Throws: ``TopicError``: the server refused the subscription, an event could not be decoded, or the client is closed.
        public mutating func next() async throws -> TopicUpdate<Event>? {
            guard let update = try await self.iteration.feed.next() else { return nil }
            switch update {
            case .subscribed(let position, let isRecovered):
                return .subscribed(isRecovered: isRecovered, position: position)
            case .gap(let after, let position): return .gap(after: after, position: position)
            case .joined(let member): return .joined(member)
            case .left(let member): return .left(member)
            case .publication(let position, let content):
                do {
                    return .event(try content.decode(Event.self), position: position)
                } catch {
                    throw TopicError(.undecodable, underlying: error)
                }
            }
        }
    }

    /// Subscribes, unless others iterate over the topic, and starts iterating.
    public func makeAsyncIterator() -> AsyncIterator {
        AsyncIterator(iteration: self.client.iterate(over: self.topic, from: self.position))
    }
}

extension PublicationContent {
    /// The event: a JSON value, or what is no JSON as a string, or bytes as an array of numbers.
    fileprivate func decode<Event: Decodable>(_ type: Event.Type) throws -> Event {
        switch self {
        case .data(let data): try data.decode(type)
        case .text(let text): try JSONText(encoding: text).decode(type)
        case .bytes(let bytes): try JSONText(encoding: bytes).decode(type)
        }
    }
}

/// One iteration; the subscription ends with the last one of its topic.
final class TopicIteration: Sendable {
    let feed: TopicFeed
    private let client: ReconnectingClient

    init(_ feed: TopicFeed, _ client: ReconnectingClient) {
        self.feed = feed
        self.client = client
    }

    deinit {
        self.client.end(self.feed)
    }
}

/// What waits for one iteration.
final class TopicFeed: Sendable {
    private struct State {
        var updates: ArraySlice<RawUpdate> = []
        /// Whether the topic was left because too many wait.
        var isOverfull = false
        var end: End?
        var waiter: CheckedContinuation<Void, Never>?
    }

    private enum End {
        case finished
        case failed(TopicError)
    }

    let topic: Topic
    private let countMax: Int
    private let hasCaughtUp: @Sendable (TopicFeed) -> Void
    private let state = Lock(State())

    /// Makes a feed; `hasCaughtUp` is called on the iterating task when it has seen all there is after ``append(_:)`` was false.
    init(_ topic: Topic, countMax: Int, hasCaughtUp: @escaping @Sendable (TopicFeed) -> Void) {
        self.topic = topic
        // The news that it is subscribed is one of them, and is followed by an event.
        self.countMax = max(2, countMax)
        self.hasCaughtUp = hasCaughtUp
    }

    /// Adds an update; false if as many wait now as may.
    func append(_ update: RawUpdate) -> Bool {
        let (hasRoom, waiter) = self.state.withLock { state in
            state.updates.append(update)
            if state.updates.count >= self.countMax { state.isOverfull = true }
            defer { state.waiter = nil }
            return (!state.isOverfull, state.waiter)
        }
        waiter?.resume()
        return hasRoom
    }

    /// Whether the topic was left on behalf of this iteration.
    var isOverfull: Bool {
        self.state.withLock { $0.isOverfull }
    }

    /// Ends the iteration behind what waits.
    func finish(_ error: TopicError?) {
        let waiter = self.state.withLock { state in
            if state.end == nil { state.end = error.map(End.failed) ?? .finished }
            defer { state.waiter = nil }
            return state.waiter
        }
        waiter?.resume()
    }

    func next() async throws(TopicError) -> RawUpdate? {
        while true {
            let (update, end, hasCaughtUp) = self.state.withLock { state in
                let update = state.updates.popFirst()
                let hasCaughtUp = state.isOverfull && state.updates.isEmpty
                if hasCaughtUp { state.isOverfull = false }
                return (update, state.end, hasCaughtUp)
            }
            if hasCaughtUp { self.hasCaughtUp(self) }
            if let update { return update }
            switch end {
            case .finished: return nil
            case .failed(let error): throw error
            case nil: break
            }
            if Task.isCancelled { return nil }
            await self.wait()
        }
    }

    private func wait() async {
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let isReady = self.state.withLock { state in
                    if !state.updates.isEmpty || state.end != nil || Task.isCancelled { return true }
                    precondition(state.waiter == nil, "a topic's iterator is used by two tasks at once")
                    state.waiter = continuation
                    return false
                }
                if isReady { continuation.resume() }
            }
        } onCancel: {
            let waiter = self.state.withLock { state in
                defer { state.waiter = nil }
                return state.waiter
            }
            waiter?.resume()
        }
    }
}
