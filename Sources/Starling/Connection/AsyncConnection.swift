internal import Logging
internal import StarlingCore
internal import Synchronization

/// What an async connection has beside its slot: messages that wait for the task, and the task where it waits.
///
/// Sendable because all of it but the constants and the atomics lies in `state`, which is touched only on the loop's
/// thread, inside a tick, and by the connection's own tasks when the loop has ended; `preconditionOnLoop` checks it in debug
/// builds. Other threads go through the loop's mailbox. It is also what every `unsafe self.state.pointee` rests on.
@usableFromInline
@safe final class AsyncConnection: @unchecked Sendable {
    let id: ConnectionID
    let loop: EventLoop
    let facts: ConnectionFacts
    let remoteAddress: RemoteAddress

    /// Whether senders must wait; written by the loop.
    private let isAboveHighWatermark = Atomic<Bool>(false)
    private let isFinished = Atomic<Bool>(false)
    /// Whether another process has all that was asked of the connection, and takes no more from here; written by the loop.
    let hasDeparted = Atomic<Bool>(false)
    /// What other threads have handed over and the loop has not taken yet, each with ``Inbox/messageByteCount``.
    private let postedByteCount = Atomic<Int>(0)
    /// In memory of its own, which lives as long as the object: a class's stored properties would be checked for
    /// exclusive access at every message.
    let state: UnsafeMutablePointer<LoopState>

    /// The loop's alone.
    @safe struct LoopState: ~Copyable {
        var inbox = Inbox()
        var reader: UnsafeContinuation<Void, Never>?
        /// The endpoint's body, while it is at work or about to be.
        var body: (@Sendable (WebSocket) async throws -> Void)?
        /// The task that it runs in.
        var task: Task<Void, Never>?
        var rare: Rare?
        var isReadingPaused = false
        /// Whether the body is to return, and is given no further message; see ``AsyncHandoff``.
        var mustReturn = false
        /// Whether the slot of `id` is this connection's, as it is between its handler's `opened` and `closed`.
        var ownsSlot: Bool
    }

    /// What most connections do not have most of the time.
    @safe final class Rare {
        var end: End?
        var drainWaiters: [UnsafeContinuation<Void, Never>] = unsafe []
        var pings: [Ping] = []
        var lastPing: UInt32 = 0
        var closure: WebSocketClosure?
        var closeWaiters: [CheckedContinuation<Void, Never>] = []
        var handoff = AsyncHandoff()
        /// For messages that wait though their connection is gone, as long as there is a task that may take them.
        var inboxCharge: MemoryCharge?
    }

    enum End {
        case clean
        case failed(WebSocketError)

        init(_ closure: WebSocketClosure) {
            let code: WebSocketError.Code
            switch closure.cause.base {
            case .peerClosed, .applicationClosed, .serverDraining, .idleTimeout, .lifetimeReached,
                .handlerFailed:
                self = .clean
                return
            case .protocolViolation, .limitExceeded: code = .protocolViolation
            case .slowConsumer: code = .slowConsumer
            case .publicationsLost: code = .publicationsLost
            case .memoryExhausted: code = .memoryExhausted
            case .pingTimeout, .closeTimeout, .writeTimeout, .handshakeTimeout, .authenticationTimeout:
                code = .timedOut
            // Those behind the first end a connection before it is open.
            case .connectionLost, .none, .refused, .responded, .tlsFailed: code = .connectionLost
            }
            self = .failed(WebSocketError(code, closeCode: closure.code))
        }
    }

    struct Ping {
        let number: UInt32
        let sentAt: ContinuousClock.Instant
        let caller: PingCaller
        let waiter: CheckedContinuation<Duration?, Never>
    }

    /// Who waits for a pong, and may be cancelled before the loop knows of it.
    final class PingCaller: Sendable {
        let isCancelled = Atomic<Bool>(false)
    }

    /// `ownsSlot` is false for one that a connection has beside its handler's.
    init(_ context: ConnectionContext, ownsSlot: Bool = true) {
        self.id = context.id
        self.loop = context.loop
        self.facts = context.facts
        self.remoteAddress = context.remoteAddress
        unsafe self.state = .allocate(capacity: 1)
        unsafe self.state.initialize(to: LoopState(ownsSlot: ownsSlot))
    }

    deinit {
        unsafe self.state.deinitialize(count: 1)
        unsafe self.state.deallocate()
    }

    var rare: Rare {
        if let rare = unsafe self.state.pointee.rare { return rare }
        let rare = Rare()
        unsafe self.state.pointee.rare = rare
        return rare
    }

    private var end: End? {
        unsafe self.state.pointee.rare?.end
    }

    // MARK: - The loop's side

    func received(_ message: borrowing MessageView, _ context: ConnectionContext) {
        self.preconditionOnLoop()
        unsafe self.state.pointee.inbox.append(context.copy(message))
        let byteCount = unsafe self.state.pointee.inbox.byteCount
        if byteCount >= self.facts.inboundByteCountMax {
            unsafe self.state.pointee.isReadingPaused = true
            context.pauseReading(for: self, holding: byteCount)
        }
        self.resumeReader()
    }

    func receivedPong(_ payload: RawSpan) {
        guard payload.byteCount == 4 else { return }
        let number = unsafe payload.unsafeLoadUnaligned(as: UInt32.self)
        guard let index = self.rare.pings.firstIndex(where: { $0.number == number }) else { return }
        let ping = self.rare.pings.remove(at: index)
        ping.waiter.resume(returning: ContinuousClock.now - ping.sentAt)
    }

    func passedHighWatermark() {
        self.isAboveHighWatermark.store(true, ordering: .relaxed)
    }

    func drained() {
        self.isAboveHighWatermark.store(false, ordering: .relaxed)
        self.releaseDrainWaiters()
    }

    func closed(_ closure: WebSocketClosure, driver: ConnectionDriver) {
        self.preconditionOnLoop()
        unsafe self.state.pointee.ownsSlot = false
        let rare = self.rare
        if closure.cause == .memoryExhausted { self.letGoOfInbox() }
        if unsafe self.state.pointee.task != nil {
            driver.stragglers[self.id] = self
            let byteCount = unsafe self.state.pointee.inbox.byteCount
            if byteCount > 0 { rare.inboxCharge = MemoryCharge(byteCount, to: driver.server.memory) }
        }
        rare.closure = closure
        rare.end = End(closure)
        // A body that has begun to return goes on to: another one comes, with what this one leaves for it.
        if !rare.handoff.isHeeded { unsafe self.state.pointee.mustReturn = false }
        self.isFinished.store(true, ordering: .releasing)
        self.drained()
        self.resumeReader()
        let pings = rare.pings
        rare.pings = []
        for ping in pings { ping.waiter.resume(returning: nil) }
        let waiters = rare.closeWaiters
        rare.closeWaiters = []
        for waiter in waiters { waiter.resume() }
    }

    /// Gives up what the application has not taken, for want of memory; it is told by the end of its iteration.
    func letGoOfInbox() {
        self.preconditionOnLoop()
        while unsafe self.state.pointee.inbox.popFirst() != nil {}
        unsafe self.state.pointee.isReadingPaused = false
    }

    /// What the budget is charged for messages of a connection that has ended, until its body has done with them; on the loop.
    var leftByteCount: Int {
        unsafe self.state.pointee.rare?.inboxCharge?.byteCount ?? 0
    }

    /// Gives up those that the body has not taken, for want of memory.
    func giveUpWhatIsLeft() {
        self.rare.inboxCharge = nil
        guard unsafe self.state.pointee.inbox.byteCount > 0 else { return }
        self.letGoOfInbox()
        self.rare.end = .failed(WebSocketError(.memoryExhausted, closeCode: self.rare.closure?.code))
    }

    /// A client's application is there.
    func begin() async {
        await self.onLoop(orElse: ()) { $0.begin(self.id) }
    }

    /// How the connection ended; nil while it has not.
    var closure: WebSocketClosure? {
        // Written once, before the flag, and not changed any more.
        unsafe self.isOver ? self.state.pointee.rare?.closure : nil
    }

    /// Suspends until the connection is over, which the deadlines for closing bound once a close is decided.
    func waitUntilClosed() async {
        await withCheckedContinuation { (waiter: CheckedContinuation<Void, Never>) in
            self.perform { driver in
                guard driver != nil, self.end == nil else { return waiter.resume() }
                self.rare.closeWaiters.append(waiter)
            }
        }
    }

    /// Runs the endpoint's body in a task that prefers the loop.
    func start(_ body: @escaping @Sendable (WebSocket) async throws -> Void) {
        unsafe self.state.pointee.body = body
        // Captures `self` alone, which takes no memory of its own.
        unsafe self.state.pointee.task = Task(executorPreference: self.loop) {
            var failure: (any Error)?
            do {
                try await self.takeBody()?(WebSocket(connection: self, resumption: self.resumption))
            } catch {
                failure = error
            }
            self.bodyReturned(failure)
        }
    }

    /// The body, for its task: on the loop, or wherever the task is when the loop has ended.
    private func takeBody() -> (@Sendable (WebSocket) async throws -> Void)? {
        let body = unsafe self.state.pointee.body
        unsafe self.state.pointee.body = nil
        return body
    }

    /// Cancels the body's task; on the loop.
    func cancel() {
        self.preconditionOnLoop()
        unsafe self.state.pointee.task?.cancel()
        self.wake()
    }

    /// Lets the body look again at what it waits for.
    func wake() {
        self.resumeReader()
        self.releaseDrainWaiters()
    }

    /// The endpoint's body is done; on whatever thread it ended.
    private func bodyReturned(_ failure: (any Error)?) {
        self.perform { self.finish($0, failure) }
    }

    private func finish(_ driver: ConnectionDriver?, _ failure: (any Error)?) {
        unsafe self.state.pointee.task = nil
        // One that was told to return may throw whatever its task's cancellation has become on the way.
        if let driver, self.takeSuspension(driver) || self.takeLastBody(driver) { return }
        unsafe self.state.pointee.rare?.inboxCharge = nil
        // That the connection ended is told by the connection's own log message.
        if let failure, !(failure is CancellationError), !(failure is WebSocketError) {
            self.facts.logger.error(
                "a connection's handler failed",
                metadata: [LoggingKeys.connection: "\(self.id)", LoggingKeys.error: "\(failure)"]
            )
        }
        driver?.taskReturned(self, failed: failure != nil)
    }

    /// A message that another thread has handed over.
    ///
    /// Its sender believes it to be on its way. If what others have sent meanwhile leaves no room for it, it is not lost in
    /// silence: the connection is closed with 1013, whatever the policy.
    func deliverPosted(_ message: Message, driver: ConnectionDriver) {
        self.took(message.byteCount)
        switch driver.send(message.kind, message.bytes, to: self.id) {
        case .sent: break
        case .buffered: self.passedHighWatermark()
        case .dropped:
            if let index = driver.index(of: self.id) { driver.disconnectSlowConsumer(index) }
        }
    }

    private func resumeReader() {
        guard let reader = unsafe self.state.pointee.reader else { return }
        unsafe self.state.pointee.reader = nil
        unsafe reader.resume()
    }

    func preconditionOnLoop() {
        assert(
            self.loop.isCurrent || self.loop.hasEnded,
            "a connection's state was touched outside its event loop"
        )
    }

    // MARK: - The task's side

    /// The next message if one waits and the caller is on the loop.
    @usableFromInline
    func takeMessage() -> Message? {
        guard self.loop.isCurrent else { return nil }
        return self.takeMessageOnLoop()
    }

    private func takeMessageOnLoop() -> Message? {
        self.preconditionOnLoop()
        if unsafe self.state.pointee.mustReturn { return nil }
        guard let message = unsafe self.state.pointee.inbox.popFirst() else { return nil }
        if unsafe self.state.pointee.isReadingPaused,
            unsafe self.state.pointee.inbox.byteCount <= self.facts.inboundByteCountMax / 2
        {
            unsafe self.state.pointee.isReadingPaused = false
            self.loop.currentDriver?.inboxHasRoom(self.id)
        }
        return message
    }

    /// Waits for the next message.
    @usableFromInline
    func nextSlowly() async throws(WebSocketError) -> Message? {
        guard self.loop.isCurrent, self.comesBackToLoop(#isolation) else {
            return try await self.nextFromElsewhere()
        }
        return try await self.nextOnLoop()
    }

    /// Whether the current task, which is on the loop, is there again when it has waited.
    ///
    /// An actor's is where the actor is: on this thread only by chance. The same is true of a task that runs here for its first step
    /// alone.
    private func comesBackToLoop(_ isolation: (any Actor)?) -> Bool {
        guard isolation == nil else { return false }
        if self.bodyThatRuns != nil { return true }
        let preferred = unsafe withUnsafeCurrentTask { unsafe $0?.unownedTaskExecutor }
        return unsafe preferred == self.loop.asUnownedTaskExecutor()
    }

    /// On the loop, in a task that prefers it, or wherever the task is when the loop has ended.
    @inline(__always)
    private func nextOnLoop() async throws(WebSocketError) -> Message? {
        while true {
            if let message = self.takeMessageOnLoop() { return message }
            if let end = self.end {
                unsafe self.state.pointee.rare?.inboxCharge = nil
                switch end {
                case .clean: return nil
                case .failed(let error): throw error
                }
            }
            if self.mustReturn {
                self.rare.handoff.isHeeded = true
                return nil
            }
            // Only `cancel()` cancels the body's own task while it waits, and resumes the reader: no handler is needed there.
            if let body = self.bodyThatRuns {
                if body.isCancelled { return nil }
                await self.waitForMessage()
            } else {
                if Task.isCancelled { return nil }
                await self.waitForMessageCancellably()
            }
        }
    }

    /// The body's task, if that is who asks.
    ///
    /// Compares addresses, which a copy of the current task's reference would count up and down for.
    private var bodyThatRuns: Task<Void, Never>? {
        // Both are an optional reference to the same kind of object: an address, and 0 for nil.
        let current = unsafe withUnsafeCurrentTask { unsafe unsafeBitCast($0, to: UInt.self) }
        let body = unsafe self.state.pointee.task
        return unsafe current == unsafeBitCast(body, to: UInt.self) ? body : nil
    }

    private func waitForMessage(mayBeCancelledMeanwhile: Bool = false) async {
        unsafe await withUnsafeContinuation { continuation in
            // Nothing can have come in between: this runs on the loop, without a suspension since the look.
            self.preconditionOnLoop()
            unsafe precondition(
                self.state.pointee.reader == nil,
                "a WebSocket is iterated by two tasks at once"
            )
            unsafe self.state.pointee.reader = unsafe continuation
            if mayBeCancelledMeanwhile, Task.isCancelled { self.resumeReader() }
        }
    }

    private func waitForMessageCancellably() async {
        await withTaskCancellationHandler {
            await self.waitForMessage(mayBeCancelledMeanwhile: true)
        } onCancel: {
            self.loop.post(.perform { _ in self.resumeReader() })
        }
    }

    private func nextFromElsewhere() async throws(WebSocketError) -> Message? {
        let result: Result<Message?, WebSocketError> = await withTaskExecutorPreference(self.loop) {
            do throws(WebSocketError) { return .success(try await self.nextOnLoop()) } catch {
                return .failure(error)
            }
        }
        return try result.get()
    }

    /// Sends through the loop's driver; nil if the caller is not on the loop, or is ahead of what it has sent from elsewhere.
    @usableFromInline
    func sendOnLoop(_ message: Message) -> SendResult? {
        guard self.hasTakenAll, let driver = unsafe self.loop.currentDriverReference else { return nil }
        let result = unsafe driver._withUnsafeGuaranteedRef {
            unsafe self.state.pointee.ownsSlot
                ? $0.send(message.kind, message.bytes, to: self.id.slot)
                : $0.send(message.kind, message.bytes, to: self.id)
        }
        if result == .buffered { self.passedHighWatermark() }
        return result
    }

    /// The same for a sender that waits first while the buffer is above its high watermark; nil then too.
    @usableFromInline
    func sendIfDrained(_ message: Message) -> SendResult? {
        self.isAboveHighWatermark.load(ordering: .relaxed) ? nil : self.sendOnLoop(message)
    }

    /// Waits until the buffer is below its low watermark, or the connection has ended.
    ///
    /// - Parameter staysBehind: Whether it waits on although the body is to return, whose task may be cancelled then: the
    ///   connection does not go to the other process.
    /// - Returns: False if it has given up, because the task is cancelled, or the body is told to return.
    @usableFromInline
    @discardableResult
    func waitUntilDrained(staysBehind: Bool = false) async -> Bool {
        guard self.loop.isCurrent, self.comesBackToLoop(#isolation) else {
            return await withTaskExecutorPreference(self.loop) {
                await self.waitOnLoopUntilDrained(staysBehind)
            }
        }
        return await self.waitOnLoopUntilDrained(staysBehind)
    }

    private func waitOnLoopUntilDrained(_ staysBehind: Bool) async -> Bool {
        while self.end == nil, self.isAboveHighWatermark.load(ordering: .relaxed) {
            if self.mustReturn {
                guard staysBehind else {
                    if self.bodyThatRuns != nil { self.rare.handoff.isHeeded = true }
                    return false
                }
                await self.waitForDrain()
            } else {
                if Task.isCancelled { return false }
                await withTaskCancellationHandler {
                    await self.waitForDrain(mayBeCancelledMeanwhile: true)
                } onCancel: {
                    self.loop.post(.perform { _ in self.releaseDrainWaiters() })
                }
            }
        }
        return true
    }

    private func waitForDrain(mayBeCancelledMeanwhile: Bool = false) async {
        unsafe await withUnsafeContinuation { continuation in
            self.preconditionOnLoop()
            unsafe self.rare.drainWaiters.append(continuation)
            if mayBeCancelledMeanwhile, Task.isCancelled { self.releaseDrainWaiters() }
        }
    }

    /// Lets waiting senders look again.
    private func releaseDrainWaiters() {
        guard let rare = unsafe self.state.pointee.rare, unsafe !rare.drainWaiters.isEmpty else { return }
        let waiters = unsafe rare.drainWaiters
        unsafe rare.drainWaiters = unsafe []
        unsafe waiters.forEach { unsafe $0.resume() }
    }

    /// A send from another thread, or one that the driver did not take.
    @usableFromInline
    func sendSlowly(_ message: Message) async throws(WebSocketError) {
        if self.isOver { throw WebSocketError(.closed) }
        guard message.byteCount <= self.facts.outboundByteCountMax else {
            throw WebSocketError(.messageTooBig)
        }
        // Wherever the caller is after it has waited, and whatever others have sent meanwhile.
        while !self.isOver {
            let driver = self.driverInOrder
            if let driver, !driver.takesMessages(self.id) { throw WebSocketError(.closed) }
            if self.isAboveHighWatermark.load(ordering: .relaxed) {
                guard await self.waitUntilDrained() else { throw WebSocketError(.cancelled) }
            } else if let driver {
                switch driver.send(message.kind, message.bytes, to: self.id) {
                case .sent: return
                case .buffered: return self.passedHighWatermark()
                case .dropped:
                    throw WebSocketError(driver.takesMessages(self.id) ? .slowConsumer : .closed)
                }
            } else if self.postedByteCount.load(ordering: .relaxed) > self.facts.inboundByteCountMax {
                await self.waitUntilTaken()
            } else {
                guard self.post(message) else { throw WebSocketError(.closed) }
                return
            }
        }
        throw WebSocketError(.closed)
    }

    func trySend(_ message: Message) -> SendResult {
        if self.isOver { return .dropped }
        if let result = self.sendOnLoop(message) { return result }
        if let driver = self.loop.currentDriver {
            // Behind what others have handed over, for which there must be room as well.
            let posted = self.postedByteCount.load(ordering: .relaxed)
            guard driver.hasRoom(for: message.byteCount, behind: posted, self.id), self.post(message) else {
                return .dropped
            }
            return self.isAboveHighWatermark.load(ordering: .relaxed) ? .buffered : .sent
        }
        guard message.byteCount <= self.facts.outboundByteCountMax,
            !self.isAboveHighWatermark.load(ordering: .relaxed),
            self.postedByteCount.load(ordering: .relaxed) <= self.facts.inboundByteCountMax
        else { return .dropped }
        return self.post(message) ? .sent : .dropped
    }

    /// Hands a message over to the loop; false if the connection is not the loop's any more.
    private func post(_ message: Message) -> Bool {
        self.handOver(message.byteCount)
        return self.loop.post(.send(message, to: self))
    }

    /// A message that was handed over too late: the loop has ended, or another process has the connection.
    func cameTooLate(_ message: Message) {
        self.took(message.byteCount)
    }

    private func handOver(_ byteCount: Int) {
        self.postedByteCount.add(Inbox.messageByteCount + byteCount, ordering: .relaxed)
    }

    private func took(_ byteCount: Int) {
        self.postedByteCount.subtract(Inbox.messageByteCount + byteCount, ordering: .relaxed)
    }

    /// Whether nothing is under way to the loop that was handed over on another thread.
    ///
    /// A task may come to the loop before what it has sent from elsewhere: whatever it does there now would be ahead of it.
    private var hasTakenAll: Bool {
        self.postedByteCount.load(ordering: .relaxed) == 0
    }

    /// The loop's driver, if the caller is on the loop and behind all that it has sent.
    private var driverInOrder: ConnectionDriver? {
        self.hasTakenAll ? self.loop.currentDriver : nil
    }

    /// Waits until the loop has taken what is under way to it.
    private func waitUntilTaken() async {
        await withCheckedContinuation { continuation in
            self.loop.post(.perform { _ in continuation.resume() })
        }
    }

    func subscribe(to topic: Topic, _ policy: SlowConsumerPolicy?) async throws(WebSocketError) {
        guard !self.facts.isClient else { throw WebSocketError(.noTopics) }
        guard !topic.isReserved else { throw WebSocketError(.reservedTopic) }
        let outcome: SubscriptionOutcome = await self.onLoop(orElse: .closed) {
            $0.beginSubscription(self.id, to: topic, policy)
        }
        switch outcome {
        case .closed: throw WebSocketError(.closed)
        case .tooMany: throw WebSocketError(.tooManySubscriptions)
        case .subscribed(let hub):
            do {
                try await hub.waitUntilSubscribed(to: topic)
            } catch {
                throw await self.failure(of: error)
            }
        }
    }

    /// Whether the connection has ended; any thread.
    var isOver: Bool { self.isFinished.load(ordering: .acquiring) }

    /// What a broadcaster's failure is for whoever has asked: nothing of its own, if the connection has ended, or the caller's task is
    /// cancelled.
    func failure(of error: BroadcastError) async -> WebSocketError {
        // Asked on the loop: topics are left before a connection's end is known elsewhere.
        let id = self.id
        guard await self.onLoop(orElse: false, { $0.takesMessages(id) }) else {
            return WebSocketError(.closed)
        }
        return Task.isCancelled
            ? WebSocketError(.cancelled) : WebSocketError(.broadcasting, underlying: error)
    }

    func unsubscribe(from topic: Topic) async {
        await self.onLoop(orElse: ()) { $0.unsubscribe(self.id, from: topic) }
    }

    func close(_ code: CloseCode, reason: String) {
        self.perform { $0?.close(self.id, code, reason: reason, cause: .applicationClosed) }
    }

    func ping() async throws(WebSocketError) -> Duration {
        let caller = PingCaller()
        let roundTrip: Duration? = await withTaskCancellationHandler {
            await withCheckedContinuation { waiter in self.perform { self.sendPing($0, caller, waiter) } }
        } onCancel: {
            caller.isCancelled.store(true, ordering: .relaxed)
            self.loop.post(.perform { if $0 != nil { self.endPings(of: caller) } })
        }
        guard let roundTrip else { throw WebSocketError(Task.isCancelled ? .cancelled : .closed) }
        return roundTrip
    }

    private func sendPing(
        _ driver: ConnectionDriver?,
        _ caller: PingCaller,
        _ waiter: CheckedContinuation<Duration?, Never>
    ) {
        guard let driver, self.end == nil, !caller.isCancelled.load(ordering: .relaxed) else {
            return waiter.resume(returning: nil)
        }
        self.rare.lastPing &+= 1
        let number = self.rare.lastPing
        self.rare.pings.append(Ping(number: number, sentAt: .now, caller: caller, waiter: waiter))
        driver.sendPing(self, number: number)
    }

    /// A pong that comes later is for nobody.
    private func endPings(of caller: PingCaller) {
        guard let index = self.rare.pings.firstIndex(where: { $0.caller === caller }) else { return }
        self.rare.pings.remove(at: index).waiter.resume(returning: nil)
    }

    /// Runs a piece of work in the loop's tick: now, if this is one; nil stands for a loop that has ended.
    func perform(_ work: @escaping @Sendable (ConnectionDriver?) -> Void) {
        if let driver = self.driverInOrder { return work(driver) }
        self.handOver(0)
        self.loop.post(
            .perform { driver in
                self.took(0)
                work(driver)
            }
        )
    }

    /// Runs a piece of work in the loop's tick and returns its result.
    func onLoop<Value: Sendable>(
        orElse missing: Value,
        _ work: @escaping @Sendable (ConnectionDriver) -> Value
    ) async -> Value {
        if let driver = self.driverInOrder { return work(driver) }
        return await withCheckedContinuation { continuation in
            self.loop.post(.perform { driver in continuation.resume(returning: driver.map(work) ?? missing) })
        }
    }
}

/// What is known of a connection from its handshake: one object for all connections of an endpoint that agree in it.
@usableFromInline
final class ConnectionFacts: Sendable {
    let path: String
    let subprotocol: String?
    let user: String?
    let isClient: Bool
    let inboundByteCountMax: Int
    let outboundByteCountMax: Int
    let logger: Logger

    init(
        path: String,
        subprotocol: String? = nil,
        user: String? = nil,
        isClient: Bool,
        inboundByteCountMax: Int,
        outboundByteCountMax: Int,
        logger: Logger
    ) {
        self.path = path
        self.subprotocol = subprotocol
        self.user = user
        self.isClient = isClient
        self.inboundByteCountMax = inboundByteCountMax
        self.outboundByteCountMax = outboundByteCountMax
        self.logger = logger
    }
}

/// What became of a subscription on the loop.
enum SubscriptionOutcome: Sendable {
    case subscribed(BroadcastHub)
    case tooMany
    case closed
}

/// What became of the begin of a subscription from a position on.
enum RecoveryOutcome: Sendable {
    case began(BroadcastHub, recovery: UInt64)
    case tooMany
    case closed
}

/// How far a recovery is.
enum RecoveryProgress: Sendable {
    case readOn
    case finished
    /// The connection is gone, or the subscription, since there was no room for what waited.
    case ended
    /// The subscription has been ended, or begun anew, by somebody else.
    case replaced
}
