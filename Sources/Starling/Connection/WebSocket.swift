public import StarlingCore

/// One open connection, and the sequence of its messages.
///
/// Copies refer to the same connection and may be used from any task. Inside the endpoint's body everything happens on
/// the connection's event loop, without a thread hop; elsewhere an operation is handed to the loop.
///
/// Iteration ends when the connection is closed by either side with a closing handshake, and throws when it ends in
/// another way. There may be one iteration at a time. Cancelling the task ends the iteration too.
public struct WebSocket: Sendable, AsyncSequence {
    /// A whole message.
    public typealias Element = Message
    /// Why the connection ended without a closing handshake.
    public typealias Failure = WebSocketError

    @usableFromInline let connection: AsyncConnection
    /// What another body has left; nil for the first one.
    @usableFromInline let resumption: Resumption?

    init(connection: AsyncConnection, resumption: Resumption? = nil) {
        self.connection = connection
        self.resumption = resumption
    }

    /// The connection's name within this process.
    public var id: ConnectionID { self.connection.id }
    /// The path of the request, without the query.
    public var path: String { self.connection.facts.path }
    /// The subprotocol that was agreed on.
    public var subprotocol: String? { self.connection.facts.subprotocol }
    /// The user that `authenticate` accepted the connection for.
    public var user: String? { self.connection.facts.user }
    /// Where the connection comes from.
    public var remoteAddress: RemoteAddress { self.connection.remoteAddress }
    /// The event loop that serves the connection.
    ///
    /// A child task that uses it as its executor preference stays there.
    public var eventLoop: EventLoop { self.connection.loop }

    /// Whether the connection had a body before, which has stopped for a restart of the process: this one goes on.
    ///
    /// Subscriptions are there already. False for endpoints that are not `resumable`.
    public var isResumed: Bool { self.resumption != nil }

    /// Whether the body is to return, because the connection is to go to another process; on the connection's event loop.
    package var mustReturn: Bool { self.connection.mustReturn }

    /// What the connection is subscribed to; nil if it has ended.
    package func subscribedTopics() async -> Set<Topic>? {
        await self.connection.onLoop(orElse: nil) { [id] driver in
            driver.index(of: id).map(driver.topics(of:))
        }
    }

    /// Keeps a value for the body that goes on after a restart of the process, instead of the value before.
    ///
    /// For endpoints that are resumable; elsewhere nobody sees it. Any task; does not suspend.
    ///
    /// - Throws: If the value cannot be encoded.
    public func carry(_ value: some Encodable) throws {
        self.connection.carry(try HandoffCoder.encode(value))
    }

    /// What ``carry(_:)`` was given last before the restart; nil for nothing.
    ///
    /// - Throws: If it is no such value.
    public func carried<Value: Decodable>(_ type: Value.Type = Value.self) throws -> Value? {
        try self.resumption?.carried.map { try HandoffCoder.decode(type, from: $0) }
    }

    /// Sends a message.
    ///
    /// Suspends only while the outbound buffer is above its high watermark, or while more than
    /// ``EndpointConfiguration/inboundByteCountMax`` is on its way to the loop from other threads. When it returns, the message is in order
    /// behind all earlier ones of this task; it is not yet received. Should others have filled the buffer before the message
    /// reaches the loop, the connection is closed with 1013 (try again later): a message that was accepted is not left out.
    ///
    /// - Throws: ``WebSocketError/Code/closed`` once the connection is closing,
    ///   ``WebSocketError/Code/messageTooBig`` for a message that alone passes ``OutboundConfiguration/byteCountMax``,
    ///   ``WebSocketError/Code/slowConsumer`` if what others have sent leaves no room for it and the endpoint's policy does not
    ///   disconnect for that, and ``WebSocketError/Code/cancelled`` where it would have to wait, but its task is cancelled, or the body is to return because
    ///   the connection goes to another process. The message is not sent then.
    @inlinable
    public func send(_ message: Message) async throws(WebSocketError) {
        switch self.connection.sendIfDrained(message) {
        case .sent: return
        case .buffered:
            await self.connection.waitUntilDrained()
            return
        case .dropped, nil: break
        }
        try await self.connection.sendSlowly(message)
    }

    /// Sends a text.
    public func send(_ text: String) async throws(WebSocketError) {
        try await self.send(.text(text))
    }

    /// Sends a message if the outbound buffer takes it now.
    ///
    /// Never suspends. On the connection's loop the result says what the buffer has made of the message, or will make of it behind
    /// those that other threads have handed over. On another thread it
    /// is never ``SendResult/buffered``: ``SendResult/sent`` says that the message is on its way to the loop, with the same end as
    /// `send` has for one that does not fit there; ``SendResult/dropped`` that the connection is closed, that the
    /// message is too big, that the buffer is above its high watermark, or that more than
    /// ``EndpointConfiguration/inboundByteCountMax`` is on its way already.
    @discardableResult
    public func trySend(_ message: Message) -> SendResult {
        self.connection.trySend(message)
    }

    /// Subscribes to a topic, and returns when every node's publications from now on will arrive.
    ///
    /// Publications go from the loop's topic table straight to the outbound buffer; this connection's task is not woken.
    ///
    /// - Parameters:
    ///   - topic: The topic.
    ///   - slowConsumerPolicy: What happens when the client is so slow that the topic's ring passes it; nil for the
    ///     endpoint's ``OutboundConfiguration/slowConsumerPolicy``.
    /// - Throws: ``WebSocketError/Code/closed``, ``WebSocketError/Code/tooManySubscriptions``,
    ///   ``WebSocketError/Code/reservedTopic``, ``WebSocketError/Code/broadcasting`` if the broadcaster fails,
    ///   ``WebSocketError/Code/cancelled`` if the task is cancelled while it waits for the broadcaster, and
    ///   ``WebSocketError/Code/noTopics`` for a client's connection. When the broadcaster has failed, or the wait was cancelled, the
    ///   subscription stays, and its publications come as soon as the broadcaster delivers them: unsubscribe if they are not wanted.
    public func subscribe(
        to topic: Topic,
        slowConsumerPolicy: SlowConsumerPolicy? = nil
    ) async throws(WebSocketError) {
        try await self.connection.subscribe(to: topic, slowConsumerPolicy)
    }

    /// Subscribes to a topic from a position on: what was published since is sent first, and live publications follow
    /// without a gap, a duplicate or a change of order.
    ///
    /// If the history does not reach back so far, or has begun anew, the subscription starts with what is published from
    /// now on, and says so. A subscription to the topic that there is begins anew.
    ///
    /// Suspends until the connection is up to date; a peer that reads slowly is not hurried.
    ///
    /// - Parameters:
    ///   - topic: The topic.
    ///   - position: The last publication that the client has; nil for those from now on.
    ///   - slowConsumerPolicy: As for ``subscribe(to:slowConsumerPolicy:)``.
    ///   - prologue: Makes a message that goes out before the first publication, to tell the client what it gets. What is
    ///     published while it suspends waits, presence events included.
    /// - Returns: Where the subscription begins.
    /// - Throws: As ``subscribe(to:slowConsumerPolicy:)``, and ``WebSocketError/Code/cancelled`` if the task is cancelled while the
    ///   peer reads slowly; there is no subscription then. The same if the topic is unsubscribed or subscribed anew meanwhile, which
    ///   counts. What fails behind the prologue closes the connection with 1013 (try again later), since the client believes to be
    ///   subscribed.
    @discardableResult
    public func subscribe(
        to topic: Topic,
        from position: StreamPosition?,
        slowConsumerPolicy: SlowConsumerPolicy? = nil,
        prologue: (@Sendable (TopicSubscription) async throws(BroadcastError) -> Message)? = nil
    ) async throws(WebSocketError) -> TopicSubscription {
        try await SubscriptionRecovery(self.connection, topic, slowConsumerPolicy, prologue).run(
            from: position
        )
    }

    /// Ends a subscription, if there is one.
    public func unsubscribe(from topic: Topic) async {
        await self.connection.unsubscribe(from: topic)
    }

    /// Starts the closing handshake.
    ///
    /// Never suspends; iteration ends when the handshake is done. The reason is cut to 123 bytes of UTF-8, and a code that may not
    /// stand in a frame (RFC 6455 §7.4.1), such as 1005 and 1006, becomes 1000.
    public func close(_ code: CloseCode = .normalClosure, reason: String = "") async {
        self.connection.close(code, reason: reason)
    }

    /// How the connection ended; nil while it has not.
    ///
    /// Any thread; does not suspend.
    public var closure: WebSocketClosure? { self.connection.closure }

    /// Sends a ping and returns the time until its pong.
    ///
    /// Suspends until then. It has no deadline of its own: for one, cancel the task.
    ///
    /// - Throws: ``WebSocketError/Code/closed`` if the connection ends first, ``WebSocketError/Code/cancelled`` if the task is
    ///   cancelled.
    public func ping() async throws(WebSocketError) -> Duration {
        try await self.connection.ping()
    }

    /// Iterates over the messages.
    public struct AsyncIterator: AsyncIteratorProtocol {
        @usableFromInline let connection: AsyncConnection

        @inlinable
        init(connection: AsyncConnection) {
            self.connection = connection
        }

        /// The next message; nil after a closing handshake.
        @inlinable
        public mutating func next() async throws(WebSocketError) -> Message? {
            if let message = self.connection.takeMessage() { return message }
            return try await self.connection.nextSlowly()
        }

        /// The next message; nil after a closing handshake.
        ///
        /// What `for try await` calls. The parameter is not `isolated`: the function stays on its caller's actor anyway, and
        /// an isolated parameter would cost two switches of the executor per message.
        @inlinable
        public mutating func next(isolation actor: (any Actor)?) async throws(WebSocketError) -> Message? {
            if let message = self.connection.takeMessage() { return message }
            return try await self.connection.nextSlowly()
        }
    }

    /// Starts iterating.
    @inlinable
    public func makeAsyncIterator() -> AsyncIterator {
        AsyncIterator(connection: self.connection)
    }
}
