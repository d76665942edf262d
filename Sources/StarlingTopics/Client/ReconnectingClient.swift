public import ServiceLifecycle
public import Starling

/// A client that stays connected: it comes back after a lost connection, takes its subscriptions up where they were, and sends
/// again what was not acknowledged.
///
/// ```swift
/// let client = ReconnectingClient(to: "wss://example.com/chat", connector: NativeConnector())
/// async let running: Void = client.run()
/// for try await event in client.topic(Chat.room("swift")) { show(event) }
/// ```
///
/// Speaks ``TopicProtocol``, and may be used from any task. A `Service` of swift-service-lifecycle.
public final class ReconnectingClient: Service {
    /// Where the client is.
    public enum State: Sendable {
        /// It connects.
        case connecting
        /// A connection stands.
        case connected
        /// It waits before the next attempt.
        case waiting(until: ContinuousClock.Instant)
        /// It does not come back: ``ReconnectingClient/run()`` returns, or throws the reason.
        case closed(reason: CloseReason)
    }

    /// Why a client does not come back.
    public enum CloseReason: Sendable {
        /// The application closed it, or its task was cancelled.
        case byApplication
        /// The connection ended in a way after which ``ReconnectingConfiguration/comesBack`` says that it is over.
        case ended(WebSocketClosure)
        /// The server, or the URL, cannot be used.
        case refused(ConnectError)
        /// The server does not speak ``TopicProtocol``.
        case otherProtocol
    }

    let url: String
    let configuration: ReconnectingConfiguration
    let client: WebSocketClient
    let contents: Lock<Contents>

    /// Makes a client; ``run()`` connects it.
    ///
    /// - Parameters:
    ///   - url: As for `WebSocketClient`.
    ///   - connector: Opens the streams: `NativeConnector` on Linux, `NIOConnector` everywhere.
    ///   - configuration: Deadlines, limits, backoff.
    public init(
        to url: String,
        connector: any Connector,
        configuration: ReconnectingConfiguration = ReconnectingConfiguration()
    ) {
        self.url = url
        self.configuration = configuration
        self.client = WebSocketClient(connector: connector)
        self.contents = Lock(Contents(core: TopicClientCore(configuration)))
    }

    /// Connects, and comes back until it is closed, its task is cancelled, a graceful shutdown begins, or it cannot come back.
    ///
    /// May be called once.
    ///
    /// - Throws: ``ReconnectingClientError`` if it is over for another reason than the application's word or a normal closure.
    public func run() async throws {
        let course = self.contents.withLock { contents in
            precondition(!contents.hasRun, "a ReconnectingClient runs once")
            contents.hasRun = true
            let course = Task { await self.connectAgainAndAgain() }
            contents.course = course
            if contents.isClosed { course.cancel() }
            return course
        }
        let reason = await withTaskCancellationHandler {
            await withGracefulShutdownHandler {
                await course.value
            } onGracefulShutdown: {
                self.close()
            }
        } onCancel: {
            self.close()
        }
        switch reason {
        case .byApplication: return
        case .ended(let closure) where closure.code == .normalClosure: return
        case .ended, .refused, .otherProtocol: throw ReconnectingClientError(reason)
        }
    }

    /// Ends the client: the connection is closed with 1000, iterations end, and what waits for an answer fails with
    /// ``TopicError/Code/closed``.
    ///
    /// Returns at once; ``run()`` returns after the closing handshake.
    public func close() {
        let (course, sleeper) = self.contents.withLock { contents in
            contents.isClosed = true
            return (contents.course, contents.sleeper)
        }
        course?.cancel()
        sleeper?.cancel()
        if course == nil { self.finish(.byApplication) }
    }

    /// Ends a wait between two connections: an application calls it when it learns that the network is back.
    public func retryNow() {
        self.contents.withLock { $0.sleeper }?.cancel()
    }

    // MARK: - Where it is

    /// Where the client is now.
    public var state: State {
        self.contents.withLock { $0.state }
    }

    /// Where the client is, from now on; a slow iteration gets the newest state alone.
    public var states: AsyncStream<State> {
        AsyncStream(bufferingPolicy: .bufferingNewest(1)) { continuation in
            let number: Int? = self.contents.withLock { contents in
                continuation.yield(contents.state)
                if case .closed = contents.state { return nil }
                contents.stateContinuationCount += 1
                contents.stateContinuations[contents.stateContinuationCount] = continuation
                return contents.stateContinuationCount
            }
            guard let number else { return continuation.finish() }
            continuation.onTermination = { [weak self] _ in
                self?.contents.withLock { _ = $0.stateContinuations.removeValue(forKey: number) }
            }
        }
    }

    // MARK: - Topics

    /// The events of a topic.
    ///
    /// Does nothing until it is iterated over. Several iterations share one subscription, and one that comes later begins with what
    /// comes next.
    ///
    /// - Parameters:
    ///   - topic: The topic.
    ///   - position: Where to begin, if nobody iterates over the topic yet: behind this position, which an earlier run has kept;
    ///     nil for what is published from now on.
    /// - Returns: The events; ``TopicEvents/updates`` has their positions, and more.
    public func topic<Event>(
        _ topic: TypedTopic<Event>,
        from position: TopicPosition? = nil
    ) -> TopicEvents<Event> {
        TopicEvents(updates: TopicUpdates(client: self, topic: topic.topic, position: position))
    }

    /// Publishes an event, and returns when the server's broadcaster has accepted it.
    ///
    /// With a history each subscriber then gets it, once; without one, those that are connected do, at most once.
    /// Without a connection it waits for one; after a lost connection it is sent again, with the same key, so that a topic with a
    /// history has it once. Publications of one task arrive in their order.
    ///
    /// - Returns: Its position in a topic with a history.
    /// - Throws: ``TopicError``; and what the event's own encoding throws.
    @discardableResult
    public func publish<Event>(
        _ event: Event,
        to topic: TypedTopic<Event>
    ) async throws -> TopicPosition? {
        let data = try JSONText(encoding: event)
        let key = (0..<2).map { _ in String(UInt64.random(in: .min ... .max), radix: 16) }.joined(
            separator: "-"
        )
        let answer = try await self.ask(within: self.configuration.publicationTimeout) {
            $0.publish(data, to: topic.topic, key: key)
        }
        switch answer {
        case .published(let position): return position
        case .refused(let refusal): throw TopicError(.refused, refusal: refusal)
        case .failed(let code): throw TopicError(code)
        case .reply, .members: throw TopicError(.refused, refusal: Self.strangeAnswer)
        }
    }

    /// Asks the server's application.
    ///
    /// Without a connection it waits for one. A request that was sent is not sent again.
    ///
    /// - Parameters:
    ///   - request: What to ask.
    ///   - question: The data.
    ///   - timeout: How long it may take, if it is not ``ReconnectingConfiguration/requestTimeout``.
    /// - Returns: The answer.
    /// - Throws: ``TopicError``; and `DecodingError` if the answer is not what the request promises.
    public func request<Question, Reply>(
        _ request: TypedRequest<Question, Reply>,
        _ question: Question,
        timeout: Duration? = nil
    ) async throws -> Reply {
        let timeout = timeout ?? self.configuration.requestTimeout
        let data = try JSONText(encoding: question)
        let answer = try await self.ask(within: timeout) { $0.request(request.name, data, timeout: timeout) }
        switch answer {
        case .reply(let data): return try data.decode(Reply.self)
        case .refused(let refusal): throw TopicError(.refused, refusal: refusal)
        case .failed(let code): throw TopicError(code)
        case .published, .members: throw TopicError(.refused, refusal: Self.strangeAnswer)
        }
    }

    /// Who is present in a topic, in no order.
    ///
    /// - Parameters:
    ///   - topic: The topic.
    ///   - countMax: No more than so many, and up to a page; there may be more.
    /// - Returns: The members.
    /// - Throws: ``TopicError``.
    public func members<Event>(
        of topic: TypedTopic<Event>,
        countMax: Int = 10_000
    ) async throws(TopicError) -> [PresenceMember] {
        var members: [PresenceMember] = []
        var cursor: String?
        repeat {
            let from = cursor
            let answer = try await self.ask(within: self.configuration.requestTimeout) {
                $0.members(of: topic.topic, from: from)
            }
            switch answer {
            case .members(let page, let next):
                members += page
                cursor = next
            case .refused(let refusal): throw TopicError(.refused, refusal: refusal)
            case .failed(let code): throw TopicError(code)
            case .published, .reply: throw TopicError(.refused, refusal: Self.strangeAnswer)
            }
        } while cursor != nil && members.count < countMax
        return members
    }

    private static let strangeAnswer = TopicRefusal(.invalidMessage, "the answer is not one to the question")

    // MARK: - Iterations

    func iterate(over topic: Topic, from position: TopicPosition?) -> TopicIteration {
        let feed = TopicFeed(topic, countMax: self.configuration.bufferedUpdatesMax) { [weak self] feed in
            self?.hasCaughtUp(feed)
        }
        self.change { contents in
            if case .closed(let reason) = contents.state {
                feed.finish(reason.error)
                return ((), [])
            }
            contents.feeds[topic, default: []].append(feed)
            return ((), contents.core.subscribe(to: topic, from: position))
        }
        return TopicIteration(feed, self)
    }

    func end(_ feed: TopicFeed) {
        self.change { contents in
            contents.feeds[feed.topic]?.removeAll { $0 === feed }
            guard let feeds = contents.feeds[feed.topic] else { return ((), []) }
            guard feeds.isEmpty else {
                // It may have been the one that the others waited for.
                let mayGoOn = !feeds.contains(where: \.isOverfull)
                return ((), mayGoOn ? contents.core.resume(feed.topic) : [])
            }
            contents.feeds[feed.topic] = nil
            return ((), contents.core.unsubscribe(from: feed.topic))
        }
    }

    private func hasCaughtUp(_ feed: TopicFeed) {
        self.change { contents in
            let mayGoOn = contents.feeds[feed.topic]?.contains(where: \.isOverfull) == false
            return ((), mayGoOn ? contents.core.resume(feed.topic) : [])
        }
    }

    // MARK: - Questions

    private func ask(
        within timeout: Duration,
        _ question: (inout TopicClientCore) -> (id: UInt64, effects: [TopicClientCore.Effect])?
    ) async throws(TopicError) -> TopicClientCore.Answer {
        let promise = Promise<TopicClientCore.Answer>()
        let outcome: Asking = self.change { contents in
            if case .closed(let reason) = contents.state { return (.closed(reason), []) }
            guard let asked = question(&contents.core) else { return (.tooMany, []) }
            contents.promises[asked.id] = promise
            return (.asked(asked.id), asked.effects)
        }
        switch outcome {
        case .closed(let reason): throw reason.error ?? TopicError(.closed)
        case .tooMany: throw TopicError(.queueFull)
        case .asked(let id):
            let timer = Task {
                try await Task.sleep(for: timeout)
                promise.fulfil(.failed(.timeout))
            }
            let answer = await promise.value()
            timer.cancel()
            self.contents.withLock { contents in
                contents.core.withdraw(id)
                contents.promises[id] = nil
            }
            return answer ?? .failed(.cancelled)
        }
    }

    private enum Asking {
        case asked(UInt64)
        case tooMany
        case closed(CloseReason)
    }
}

/// Why a ``ReconnectingClient`` is over.
public struct ReconnectingClientError: Error, Sendable, CustomStringConvertible {
    /// Why.
    public let reason: ReconnectingClient.CloseReason

    init(_ reason: ReconnectingClient.CloseReason) {
        self.reason = reason
    }

    /// Why, and what is known beside it.
    public var description: String {
        switch self.reason {
        case .byApplication: "the application closed the client"
        case .ended(let closure): "the connection ended for good: \(closure)"
        case .refused(let error): "\(error)"
        case .otherProtocol: "the server does not speak \(TopicProtocol.name)"
        }
    }
}
