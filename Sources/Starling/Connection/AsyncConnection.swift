internal import Logging
internal import StarlingCore
internal import Synchronization

/// What an async connection has beside its slot: messages that wait for the task, and the task where it waits.
///
/// Sendable because all of it but the atomics is touched only on the loop's thread, inside a tick; `preconditionOnLoop`
/// checks it in debug builds. Other threads go through the loop's mailbox.
@safe final class AsyncConnection: @unchecked Sendable {
    let id: ConnectionID
    let loop: EventLoop
    let path: String
    let subprotocol: String?
    let user: String?
    let remoteAddress: RemoteAddress

    /// Bytes handed over from other threads that the loop has not taken yet.
    private let postedByteCount = Atomic<Int>(0)
    /// Whether senders must wait; written by the loop.
    private let isAboveHighWatermark = Atomic<Bool>(false)
    private let isFinished = Atomic<Bool>(false)

    private enum End {
        case clean
        case failed(WebSocketError)
    }

    // The loop's alone from here on.
    private var inbox = Inbox()
    private var end: End?
    private var reader: UnsafeContinuation<Void, Never>?
    private var drainWaiters: [UnsafeContinuation<Void, Never>] = unsafe []
    private var pings:
        [(number: UInt32, sentAt: ContinuousClock.Instant, waiter: CheckedContinuation<Duration?, Never>)] =
            []
    private var lastPing: UInt32 = 0
    /// The endpoint's body at work.
    var task: Task<Void, Never>?
    private let inboundByteCountMax: Int
    private var isReadingPaused = false

    init(_ context: ConnectionContext) {
        self.id = context.id
        self.loop = context.loop
        self.path = context.path
        self.subprotocol = context.subprotocol
        self.user = context.user
        self.remoteAddress = context.remoteAddress
        self.inboundByteCountMax = context.inboundByteCountMax
    }

    // MARK: - The loop's side

    func received(_ message: borrowing MessageView, driver: ConnectionDriver) {
        self.preconditionOnLoop()
        self.inbox.append(Message(copying: message))
        if self.inbox.byteCount >= self.inboundByteCountMax, !self.isReadingPaused {
            self.isReadingPaused = true
            driver.setReading(false, self.id.slot)
        }
        self.resumeReader()
    }

    func receivedPong(_ payload: RawSpan) {
        guard payload.byteCount == 4 else { return }
        let number = unsafe payload.unsafeLoadUnaligned(as: UInt32.self)
        guard let index = self.pings.firstIndex(where: { $0.number == number }) else { return }
        let ping = self.pings.remove(at: index)
        ping.waiter.resume(returning: ContinuousClock.now - ping.sentAt)
    }

    func passedHighWatermark() {
        self.isAboveHighWatermark.store(true, ordering: .relaxed)
    }

    func drained() {
        self.isAboveHighWatermark.store(false, ordering: .relaxed)
        let waiters = unsafe self.drainWaiters
        unsafe self.drainWaiters = unsafe []
        unsafe waiters.forEach { unsafe $0.resume() }
    }

    func closed(_ code: CloseCode, cause: CloseCause, driver: ConnectionDriver) {
        self.preconditionOnLoop()
        if self.task != nil { driver.stragglers[self.id] = self }
        switch cause {
        case .peerClosed, .applicationClosed, .serverDraining, .idleTimeout, .lifetimeReached, .handlerFailed:
            self.end = .clean
        case .connectionLost: self.end = .failed(WebSocketError(.connectionLost, closeCode: code))
        case .protocolViolation, .limitExceeded:
            self.end = .failed(WebSocketError(.protocolViolation, closeCode: code))
        case .slowConsumer: self.end = .failed(WebSocketError(.slowConsumer, closeCode: code))
        default: self.end = .failed(WebSocketError(.timedOut, closeCode: code))
        }
        self.isFinished.store(true, ordering: .releasing)
        self.drained()
        self.resumeReader()
        let pings = self.pings
        self.pings = []
        for ping in pings { ping.waiter.resume(returning: nil) }
    }

    /// The endpoint's body is done; on whatever thread it ended.
    func bodyReturned(_ failure: (any Error)?, _ logger: Logger) {
        // That the connection ended is told by the connection's own log message.
        if let failure, !(failure is CancellationError), !(failure is WebSocketError) {
            logger.error(
                "a connection's handler failed",
                metadata: [LoggingKeys.connection: "\(self.id)", LoggingKeys.error: "\(failure)"]
            )
        }
        let finish: @Sendable (ConnectionDriver?) -> Void = { driver in
            self.task = nil
            driver?.taskReturned(self, failed: failure != nil)
        }
        if let driver = EventLoop.currentDriver, driver.loop === self.loop {
            finish(driver)
        } else {
            self.loop.post(.perform(finish))
        }
    }

    /// A message that another thread has handed over.
    func deliverPosted(_ message: Message, driver: ConnectionDriver) {
        self.postedByteCount.subtract(message.byteCount, ordering: .relaxed)
        if driver.send(message.kind, message.bytes, to: self.id) == .buffered { self.passedHighWatermark() }
    }

    private func resumeReader() {
        guard let reader = unsafe self.reader else { return }
        unsafe self.reader = nil
        unsafe reader.resume()
    }

    private func preconditionOnLoop() {
        assert(self.loop.isCurrent, "a connection's state was touched outside its event loop")
    }

    // MARK: - The task's side

    /// The next message if one waits; on the loop.
    func takeMessage() -> Message? {
        guard let message = self.inbox.popFirst() else { return nil }
        if self.isReadingPaused, self.inbox.byteCount <= self.inboundByteCountMax / 2 {
            self.isReadingPaused = false
            EventLoop.currentDriver?.setReading(true, self.id)
        }
        return message
    }

    func nextSlowly() async throws(WebSocketError) -> Message? {
        guard self.loop.isCurrent else {
            let result: Result<Message?, WebSocketError> = await withTaskExecutorPreference(self.loop) {
                await self.nextOnLoop()
            }
            return try result.get()
        }
        return try await self.nextOnLoop().get()
    }

    private func nextOnLoop() async -> Result<Message?, WebSocketError> {
        while true {
            if let message = self.takeMessage() { return .success(message) }
            switch self.end {
            case .clean: return .success(nil)
            case .failed(let error): return .failure(error)
            case nil: break
            }
            if Task.isCancelled { return .success(nil) }
            await withTaskCancellationHandler {
                unsafe await withUnsafeContinuation { continuation in
                    // Nothing can have come in between: this runs on the loop, without a suspension since the look.
                    unsafe precondition(self.reader == nil, "a WebSocket is iterated by two tasks at once")
                    unsafe self.reader = unsafe continuation
                    if Task.isCancelled { self.resumeReader() }
                }
            } onCancel: {
                self.loop.post(.perform { _ in self.resumeReader() })
            }
        }
    }

    /// Whether a send can go to the driver directly.
    var isSendFast: Bool {
        self.loop.isCurrent
    }

    func sendOnLoop(_ message: Message) -> SendResult {
        guard let driver = EventLoop.currentDriver else { return .dropped }
        let result = driver.send(message.kind, message.bytes, to: self.id)
        if result == .buffered { self.passedHighWatermark() }
        return result
    }

    func waitUntilDrained() async {
        guard self.loop.isCurrent else {
            return await withTaskExecutorPreference(self.loop) { await self.waitOnLoopUntilDrained() }
        }
        await self.waitOnLoopUntilDrained()
    }

    private func waitOnLoopUntilDrained() async {
        guard self.end == nil, self.isAboveHighWatermark.load(ordering: .relaxed), !Task.isCancelled else {
            return
        }
        await withTaskCancellationHandler {
            unsafe await withUnsafeContinuation { continuation in
                unsafe self.drainWaiters.append(continuation)
                if Task.isCancelled { self.releaseDrainWaiters() }
            }
        } onCancel: {
            self.loop.post(.perform { _ in self.releaseDrainWaiters() })
        }
    }

    /// Lets waiting senders look again.
    private func releaseDrainWaiters() {
        let waiters = unsafe self.drainWaiters
        unsafe self.drainWaiters = unsafe []
        unsafe waiters.forEach { unsafe $0.resume() }
    }

    /// A send from another thread, or one that the driver did not take.
    func sendSlowly(_ message: Message) async throws(WebSocketError) {
        if self.isFinished.load(ordering: .acquiring) { throw WebSocketError(.closed) }
        if self.loop.isCurrent {
            guard let driver = EventLoop.currentDriver, driver.isOpen(self.id) else {
                throw WebSocketError(.closed)
            }
            guard message.byteCount <= driver.outboundByteCountMax(of: self.id) else {
                throw WebSocketError(.messageTooBig)
            }
            await self.waitOnLoopUntilDrained()
            if driver.send(message.kind, message.bytes, to: self.id) == .dropped {
                throw WebSocketError(.closed)
            }
            return
        }
        if self.mustWait { await self.waitUntilDrained() }
        if self.isFinished.load(ordering: .acquiring) { throw WebSocketError(.closed) }
        self.post(message)
    }

    func trySend(_ message: Message) -> SendResult {
        if self.isFinished.load(ordering: .acquiring) { return .dropped }
        if self.loop.isCurrent { return self.sendOnLoop(message) }
        if self.mustWait { return .dropped }
        self.post(message)
        return .sent
    }

    private var mustWait: Bool {
        self.isAboveHighWatermark.load(ordering: .relaxed)
            || self.postedByteCount.load(ordering: .relaxed) > self.inboundByteCountMax
    }

    private func post(_ message: Message) {
        self.postedByteCount.add(message.byteCount, ordering: .relaxed)
        self.loop.post(.send(message, to: self))
    }

    func subscribe(to topic: Topic) async throws(WebSocketError) {
        let outcome: SubscriptionOutcome = await self.onLoop(orElse: .closed) {
            $0.beginSubscription(self.id, to: topic)
        }
        switch outcome {
        case .closed: throw WebSocketError(.closed)
        case .tooMany: throw WebSocketError(.tooManySubscriptions)
        case .subscribed(let hub):
            do {
                try await hub.waitUntilSubscribed(to: topic)
            } catch {
                throw WebSocketError(.broadcasting, underlying: error)
            }
        }
    }

    func unsubscribe(from topic: Topic) async {
        await self.onLoop(orElse: ()) { $0.unsubscribe(self.id, from: topic) }
    }

    func close(_ code: CloseCode, reason: String) {
        if let driver = EventLoop.currentDriver, driver.loop === self.loop {
            driver.close(self.id, code, reason: reason, cause: .applicationClosed)
        } else {
            self.loop.post(.perform { $0?.close(self.id, code, reason: reason, cause: .applicationClosed) })
        }
    }

    func ping() async throws(WebSocketError) -> Duration {
        let roundTrip: Duration? = await withCheckedContinuation {
            (waiter: CheckedContinuation<Duration?, Never>) in
            let begin: @Sendable (ConnectionDriver?) -> Void = { driver in
                guard let driver, self.end == nil else { return waiter.resume(returning: Duration?.none) }
                self.lastPing &+= 1
                self.pings.append((self.lastPing, .now, waiter))
                driver.sendPing(self, number: self.lastPing)
            }
            if let driver = EventLoop.currentDriver, driver.loop === self.loop {
                begin(driver)
            } else {
                self.loop.post(.perform(begin))
            }
        }
        guard let roundTrip else { throw WebSocketError(.closed) }
        return roundTrip
    }

    /// Runs a piece of work in the loop's tick and returns its result.
    private func onLoop<Value: Sendable>(
        orElse missing: Value,
        _ work: @escaping @Sendable (ConnectionDriver) -> Value
    ) async -> Value {
        if let driver = EventLoop.currentDriver, driver.loop === self.loop { return work(driver) }
        return await withCheckedContinuation { continuation in
            self.loop.post(.perform { driver in continuation.resume(returning: driver.map(work) ?? missing) })
        }
    }
}

/// Messages that wait for a task: a queue that is mostly empty or holds one.
struct Inbox {
    private var first: Message?
    private var rest: [Message] = []
    private var restStart = 0
    private(set) var byteCount = 0

    mutating func append(_ message: Message) {
        self.byteCount += message.byteCount
        if self.first == nil { self.first = message } else { self.rest.append(message) }
    }

    mutating func popFirst() -> Message? {
        guard let message = self.first else { return nil }
        self.byteCount -= message.byteCount
        if self.restStart < self.rest.count {
            self.first = self.rest[self.restStart]
            self.restStart += 1
            if self.restStart == self.rest.count {
                self.rest.removeAll(keepingCapacity: self.rest.count <= 64)
                self.restStart = 0
            }
        } else {
            self.first = nil
        }
        return message
    }
}

/// What became of a subscription on the loop.
enum SubscriptionOutcome: Sendable {
    case subscribed(BroadcastHub)
    case tooMany
    case closed
}

/// The async form of an endpoint, built on the synchronous one: each connection has a task that prefers its loop.
struct TaskHandler<UserData: Sendable>: ConnectionHandler {
    let body: @Sendable (WebSocket, UserData) async throws -> Void

    mutating func opened(_ connection: inout Connection<Self>, userData: UserData) -> AsyncConnection {
        let async = AsyncConnection(connection.context)
        guard let driver = EventLoop.currentDriver else { preconditionFailure("opened outside a tick") }
        driver.start(self.body, with: async, userData)
        return async
    }

    mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {
        guard let driver = EventLoop.currentDriver else { preconditionFailure("received outside a tick") }
        connection.state.received(message, driver: driver)
    }

    mutating func drained(_ connection: inout Connection<Self>) {
        connection.state.drained()
    }

    mutating func closed(_ connection: inout Connection<Self>, code: CloseCode) {
        guard let driver = EventLoop.currentDriver else { preconditionFailure("closed outside a tick") }
        connection.state.closed(code, cause: connection.context.cause, driver: driver)
    }
}
