public import StarlingCore

/// The synchronous form of an endpoint, for the hot path: calls on the event loop's thread, and no task.
///
/// Each event loop has a copy of its own and calls it only on its thread, so that a handler may keep what it likes
/// without a lock; what all loops share belongs elsewhere. A call must not block: it holds up every connection of the
/// loop. The calls for one connection are `opened`, then any number of `received` and `drained`, then `closed`.
public protocol ConnectionHandler: Sendable {
    /// What each connection keeps between calls, in the loop's memory.
    associatedtype State = Void
    /// What `authenticate` accepts a connection with.
    associatedtype UserData: Sendable = Void

    /// The upgrade is done; messages will follow. Returns the connection's state.
    mutating func opened(_ connection: inout Connection<Self>, userData: UserData) -> State
    /// A message arrived. The view is lent: what must outlive the call is copied.
    mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>)
    /// The outbound buffer is below its low watermark again, after ``SendResult/buffered``.
    mutating func drained(_ connection: inout Connection<Self>)
    /// The connection is over, for whatever reason; sends go nowhere.
    mutating func closed(_ connection: inout Connection<Self>, code: CloseCode)
}

extension ConnectionHandler {
    /// Does nothing.
    @inlinable
    public mutating func drained(_ connection: inout Connection<Self>) {}
    /// Does nothing.
    @inlinable
    public mutating func closed(_ connection: inout Connection<Self>, code: CloseCode) {}
}

extension ConnectionHandler where State == Void {
    /// Does nothing.
    @inlinable
    public mutating func opened(_ connection: inout Connection<Self>, userData: UserData) {}
}

/// A connection as its handler sees it, for the time of one call.
public struct Connection<Handler: ConnectionHandler>: ~Copyable, ~Escapable {
    @usableFromInline let context: ConnectionContext

    @inlinable
    @_lifetime(immortal)
    init(_ context: ConnectionContext) {
        self.context = context
    }

    /// The connection's state, made by `opened`.
    ///
    /// Changed in place, as in `connection.state.count += 1`. With `--sanitize=thread` Swift 6.3 refuses that ("escapes its scope");
    /// a whole new state may be assigned in both cases.
    ///
    /// - Precondition: `opened` has returned.
    public var state: Handler.State {
        @inlinable
        unsafeAddress {
            unsafe UnsafePointer(self.context.state(as: Handler.State.self))
        }
        @inlinable
        nonmutating unsafeMutableAddress {
            unsafe self.context.state(as: Handler.State.self)
        }
    }

    /// The connection's name within this process.
    public var id: ConnectionID { self.context.id }
    /// The path of the request, without the query.
    public var path: String { self.context.path }
    /// The subprotocol that was agreed on.
    public var subprotocol: String? { self.context.subprotocol }
    /// The user that `authenticate` accepted the connection for.
    public var user: String? { self.context.user }
    /// Where the connection comes from.
    public var remoteAddress: RemoteAddress { self.context.remoteAddress }
    /// Bytes that wait to be written.
    public var bufferedByteCount: Int { self.context.bufferedByteCount }

    /// Sends a copy of a received message.
    @inlinable
    @discardableResult
    public mutating func send(_ message: borrowing MessageView) -> SendResult {
        self.context.send(message.kind, message.bytes)
    }

    /// Sends a message.
    @inlinable
    @discardableResult
    public mutating func send(_ message: Message) -> SendResult {
        self.context.send(message.kind, message.bytes)
    }

    /// Sends a text.
    @inlinable
    @discardableResult
    public mutating func send(_ text: String) -> SendResult {
        unsafe self.context.send(.text, text.utf8.span.bytes)
    }

    /// Sends borrowed bytes.
    @inlinable
    @discardableResult
    public mutating func send(_ kind: MessageView.Kind, _ bytes: RawSpan) -> SendResult {
        self.context.send(kind, bytes)
    }

    /// Starts the closing handshake; nothing can be sent after it.
    ///
    /// `closed` follows when it is over.
    public mutating func close(_ code: CloseCode = .normalClosure, reason: String = "") {
        self.context.close(code, reason: reason)
    }

    /// Subscribes to a topic; from now on its publications go to this connection.
    ///
    /// With a broadcaster that spans nodes, publications of other nodes arrive once the broker knows of the interest.
    ///
    /// - Parameters:
    ///   - topic: The topic.
    ///   - slowConsumerPolicy: What happens when the client is so slow that the topic's ring passes it; nil for the
    ///     endpoint's ``OutboundConfiguration/slowConsumerPolicy``.
    /// - Returns: False at the limit ``EndpointConfiguration/subscriptionsMax``, and for a name that is reserved.
    @discardableResult
    public mutating func subscribe(to topic: Topic, slowConsumerPolicy: SlowConsumerPolicy? = nil) -> Bool {
        self.context.subscribe(to: topic, slowConsumerPolicy)
    }

    /// Ends a subscription, if there is one.
    public mutating func unsubscribe(from topic: Topic) {
        self.context.unsubscribe(from: topic)
    }

    /// Publishes a copy of a received message to a topic's subscribers on every node, this connection included if it is
    /// one of them.
    ///
    /// - Returns: ``SendResult/dropped`` if the broadcaster's queue is full, or the topic's name reserved.
    @discardableResult
    public mutating func publish(_ message: borrowing MessageView, to topic: Topic) -> SendResult {
        self.context.publish(Message(copying: message), to: topic)
    }

    /// Publishes a message to a topic's subscribers on every node.
    ///
    /// - Returns: ``SendResult/dropped`` if the broadcaster's queue is full, or the topic's name reserved.
    @discardableResult
    public mutating func publish(_ message: Message, to topic: Topic) -> SendResult {
        self.context.publish(message, to: topic)
    }
}

@available(*, unavailable) extension Connection: Sendable {}

/// A driver and one of its slots: what a ``Connection`` is made of, without the handler's type.
@usableFromInline
@safe struct ConnectionContext {
    /// Not retained: it exists for the time of a call that the driver itself makes.
    private let driver: Unmanaged<ConnectionDriver>
    private let index: Int
    /// The slot at `index`, which does not move.
    private let slot: UnsafeMutablePointer<ConnectionSlot>

    init(_ driver: ConnectionDriver, _ index: Int) {
        unsafe self.driver = unsafe .passUnretained(driver)
        self.index = index
        unsafe self.slot = unsafe driver.slots.pointer(index)
    }

    @usableFromInline
    func state<State>(as type: State.Type) -> UnsafeMutablePointer<State> {
        guard MemoryLayout<State>.size > 0 else {
            // A type without bytes has nothing to load or store.
            return unsafe UnsafeMutablePointer(bitPattern: MemoryLayout<State>.alignment)!
        }
        guard unsafe self.slot.pointee.flags.contains(.hasState) else {
            preconditionFailure("the connection's state is not there before opened has returned it")
        }
        return unsafe self.memory(for: State.self)
    }

    /// Where the state is, or is to be: in the slot, which does not move while the connection lives, if it fits there.
    private func memory<State>(for type: State.Type) -> UnsafeMutablePointer<State> {
        guard Self.fitsInSlot(type) else {
            // Allocated by `initializeState`.
            return unsafe self.slot.pointee.state!.assumingMemoryBound(to: State.self)
        }
        // A field of a slot stays where it is, so that its address is good for longer than this call.
        return unsafe withUnsafeMutablePointer(to: &self.slot.pointee.state) {
            unsafe UnsafeMutableRawPointer($0).assumingMemoryBound(to: State.self)
        }
    }

    private static func fitsInSlot<State>(_ type: State.Type) -> Bool {
        // An Int is as big as an address.
        MemoryLayout<State>.size <= MemoryLayout<Int>.size
            && MemoryLayout<State>.alignment <= MemoryLayout<Int>.alignment
    }

    /// Keeps the state that `opened` returned.
    @usableFromInline
    func initializeState<State>(_ state: consuming State) {
        guard MemoryLayout<State>.size > 0 else { return }
        if !Self.fitsInSlot(State.self) {
            unsafe self.slot.pointee.state = UnsafeMutableRawPointer(
                UnsafeMutablePointer<State>.allocate(capacity: 1)
            )
        }
        let memory = unsafe self.memory(for: State.self)
        unsafe memory.initialize(to: state)
        unsafe self.slot.pointee.flags.insert(.hasState)
    }

    /// Destroys the state, after `closed`.
    @usableFromInline
    func deinitializeState<State>(as type: State.Type) {
        guard MemoryLayout<State>.size > 0, unsafe self.slot.pointee.flags.contains(.hasState) else { return }
        unsafe self.slot.pointee.flags.remove(.hasState)
        let memory = unsafe self.memory(for: State.self)
        unsafe memory.deinitialize(count: 1)
        if !Self.fitsInSlot(State.self) { unsafe memory.deallocate() }
        unsafe self.slot.pointee.state = nil
    }

    @usableFromInline
    func takeUserData() -> (any Sendable)? {
        defer { unsafe self.slot.pointee.details?.userData = nil }
        return unsafe self.slot.pointee.details?.userData
    }

    @usableFromInline
    func send(_ kind: MessageView.Kind, _ bytes: RawSpan) -> SendResult {
        let hot = unsafe self.driver._withUnsafeGuaranteedRef { unsafe $0.hot }
        if unsafe hot.pointee.sendBehind(kind, bytes, to: self.slot) { return .sent }
        return unsafe self.driver._withUnsafeGuaranteedRef { $0.sendFirst(kind, bytes, to: self.index) }
    }

    /// An async handler does not take its messages, of which `byteCount` bytes wait.
    func pauseReading(for connection: AsyncConnection, holding byteCount: Int) {
        unsafe self.driver._withUnsafeGuaranteedRef {
            $0.inboxIsFull(self.index, connection, byteCount: byteCount)
        }
    }

    /// A connection that is being made from another process' record is not to be read at first: the application has yet to take
    /// messages of `byteCount` bytes.
    func pauseReadingFromTheStart(for connection: AsyncConnection, holding byteCount: Int) {
        unsafe self.slot.pointee.readingPauses.insert(.application)
        let details = unsafe self.driver._withUnsafeGuaranteedRef { $0.details(of: self.index) }
        details.inboxByteCount = byteCount
        details.fullInbox = connection
    }

    /// A copy of a received message that outlives the call.
    func copy(_ message: borrowing MessageView) -> Message {
        unsafe self.driver._withUnsafeGuaranteedRef { $0.messages.copy(message) }
    }

    func start(_ async: AsyncConnection, _ body: @escaping @Sendable (WebSocket) async throws -> Void) {
        unsafe self.driver._withUnsafeGuaranteedRef { $0.start(async, body) }
    }

    func close(_ code: CloseCode, reason: String) {
        unsafe self.driver._withUnsafeGuaranteedRef {
            $0.close(self.index, code, reason: reason, cause: .applicationClosed)
        }
    }

    func subscribe(to topic: Topic, _ policy: SlowConsumerPolicy?) -> Bool {
        guard !topic.isReserved else { return false }
        return unsafe self.driver._withUnsafeGuaranteedRef { $0.subscribe(self.index, to: topic, policy) }
    }

    func unsubscribe(from topic: Topic) {
        unsafe self.driver._withUnsafeGuaranteedRef { $0.unsubscribe(self.index, from: topic) }
    }

    func publish(_ message: Message, to topic: Topic) -> SendResult {
        guard !topic.isReserved, let endpoint = unsafe self.slot.pointee.endpoint else { return .dropped }
        return endpoint.hub.tryPublish(message, to: topic) ? .sent : .dropped
    }

    var id: ConnectionID { unsafe self.driver._withUnsafeGuaranteedRef { $0.id(of: self.index) } }
    var loop: EventLoop { unsafe self.driver._withUnsafeGuaranteedRef { $0.loop } }
    var path: String {
        // Kept only for endpoints that serve more than one.
        if let path = unsafe self.slot.pointee.details?.path, !path.isEmpty { return path }
        return unsafe self.slot.pointee.endpoint?.path ?? "/"
    }
    var subprotocol: String? { unsafe self.slot.pointee.details?.subprotocol }
    var bufferedByteCount: Int { unsafe self.slot.pointee.outbound.byteCount }
    var remoteAddress: RemoteAddress { unsafe self.slot.pointee.address }
    var user: String? { unsafe self.slot.pointee.details?.user }
    /// What the handshake has told.
    var facts: ConnectionFacts {
        let details = unsafe self.slot.pointee.details
        guard let endpoint = unsafe self.slot.pointee.endpoint else {
            preconditionFailure("an open connection without an endpoint")
        }
        return endpoint.facts(path: details?.path ?? "", details?.subprotocol, details?.user)
    }

    func closure(_ code: CloseCode) -> WebSocketClosure {
        unsafe WebSocketClosure(
            code: code,
            reason: self.slot.pointee.details?.closeReason ?? "",
            cause: self.slot.pointee.cause
        )
    }
}
