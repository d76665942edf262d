internal import HTTPTypes
internal import Logging
internal import StarlingCore
internal import StarlingDeflate

/// All the connections of one event loop, without I/O: bytes in, events and bytes out, the time passed in.
///
/// Every transport drives the same one. It is bound to its thread and has no lock inside. A transport calls
/// ``beginTick(at:)``, reports what happened (``accept(from:handshakeByteCount:)``, ``received(_:on:)``, ``writable(_:)``,
/// ``readingEnded(_:)``, ``failed(_:_:reason:)``), calls ``endTick()`` — which runs handlers' tasks, delivers publications and
/// writes, each connection once — and may sleep as long as ``prepareToSleep()`` says.
///
/// Slots are reached by pointer. What every `unsafe slot.pointee` in these files rests on: a slot never moves, it is freed
/// only at the end of a tick (`endConnections`), and no other thread touches it. `unsafe` before the bytes of an array's
/// span says no more than that the array outlives the call that they are passed to.
///
/// Read it in this order: the tick here; `+Handshake`, how a connection begins; `+Receiving` and `+Sending`, what it
/// does; `+Closing`, how it ends; `+Deadlines` and `+Topics`. Then what a bad day needs: `+Backlog`, slow subscribers; `+Memory` and
/// `+Pausing`; `+Admission`; `+Drain`; `+Handoff` and `+Takeover`. `+Connecting` is a client's, `+Foreign` for connections that another
/// server has accepted.
@safe public final class ConnectionDriver {
    /// The loop as other threads see it.
    public let loop: EventLoop

    let server: ServerContext
    let io: any ConnectionIO
    /// The same, if it can write to several connections at once.
    private let batchingIO: (any BatchingIO)?
    let endpoints: [LoopEndpoint]
    let hot: UnsafeMutablePointer<HotState>

    private var jobBatch: [UnownedJob] = []
    private var mailBatch: [LoopMessage] = []
    /// How many messages were taken out of the mailbox the last time that there were some.
    private(set) var mailCount = 0
    private var dirtyBatch: [UInt32] = []
    /// Connections whose end must be told to their handlers.
    var ending: [UInt32] = []
    /// Connections whose handlers must be told that the outbound buffer is low again.
    var drained: [UInt32] = []
    /// Connections that take bytes again and have missed publications.
    var catchingUp: [UInt32] = []
    /// Pages of histories that are asked for on behalf of such connections, and those to be asked for after them.
    var backlogReadings = 0
    var waitingReadings = Deque<BacklogReading>()
    var recoveryCount: UInt64 = 0
    /// Connections whose last bytes are to be decoded now; see ``postponeDecoding(_:of:)``.
    var undecoded: [ConnectionID] = []
    /// What the messages of one connection have inflated to, since it had its turn.
    var inflatedByteCount = 0
    /// What of the budget is charged for this loop's connections.
    var chargedByteCount = 0
    let publicationCharges: PublicationCharges
    /// Connections that are not read because memory is scarce, and the one that is read all the same.
    var waitingForMemory = Deque<ConnectionID>()
    /// The same, to know who is among them.
    var waitersForMemory: Set<ConnectionID> = []
    var memoryTurn: MemoryTurn?
    /// What connections have come to hold since it was last looked for the largest.
    var growthSinceShedding = 0
    /// Whether memory is being freed: what is said to those who go takes some, and must not begin it again.
    var isShedding = false
    var isMemoryScarce = false
    var nextMemorySweep = LoopInstant(hundredths: 0)
    private var expired: [Int] = []
    /// Peers that closed or broke the protocol in this tick, until the tasks have seen the messages before it.
    var inputEnds: [(connection: ConnectionID, end: InputEnd)] = []
    var publications: [(publication: Publication, endpoint: Int)] = []

    let scratch = UnsafeMutableRawBufferPointer.allocate(byteCount: 64 << 10, alignment: 16)
    var compressors = Compressors()
    var agreements = SharedAgreements()

    var users: [String: [UInt32]] = [:]
    /// Tasks whose connection is over and that have not returned.
    var stragglers: [ConnectionID: AsyncConnection] = [:]
    var taskCount = 0
    /// The tasks in which the application decides about requests.
    var decisions: [ConnectionID: Task<Void, Never>] = [:]
    var drain: Drain?
    /// Upgrades that wait for their turn, in order.
    var waitingUpgrades = WaitingUpgrades()
    /// Set while connections are handed to another process.
    var handoff: HandoffInProgress?
    /// Connections that another process has, until it has let go of them.
    var restored: Set<Int> = []
    /// What connections that came from another process have to be brought up to date with.
    var resumedSubscriptions: [Int: [ResumedSubscription]] = [:]
    /// Those that are being brought up to date.
    var recoveries: [ConnectionID: AsyncConnection] = [:]
    let statistics: LoopStatistics

    /// Jobs that one tick runs before it looks at the sockets again.
    private static let jobsPerTickMax = 4096
    /// Bytes that a tick receives before tasks run and answers are written; about what a core's cache holds.
    static let unansweredByteCountMax = 256 << 10

    /// Makes a driver for a loop of a server; on the loop's thread.
    public init(loop: EventLoop, server: ServerContext, io: any ConnectionIO) {
        self.loop = loop
        self.server = server
        self.io = io
        let batchingIO = io as? any BatchingIO
        self.batchingIO = batchingIO.flatMap { $0.batchedWritesMax > 1 ? $0 : nil }
        self.statistics = LoopStatistics()
        let charges = PublicationCharges(server.memory)
        self.publicationCharges = charges
        unsafe self.hot = .allocate(capacity: 1)
        unsafe self.hot.initialize(to: HotState(role: server.role, charges))
        self.endpoints = server.makeLoopEndpoints(for: loop)
        loop.attach(self)
        server.register(loop, self.statistics)
    }

    deinit {
        unsafe self.scratch.deallocate()
        unsafe self.hot.deinitialize(count: 1)
        unsafe self.hot.deallocate()
    }

    // MARK: - The tick

    /// Begins a tick.
    ///
    /// `nanoseconds` is the time since the loop began, from a clock that never goes back.
    public func beginTick(at nanoseconds: UInt64) {
        self.now = LoopInstant(nanoseconds: nanoseconds)
        self.noteDeafness()
        self.loop.mailbox.wakeUp()
    }

    /// Does a piece of a tick's work with this driver as the thread's current one, as tasks on the loop expect.
    public func withCurrent<Result>(_ body: () -> Result) -> Result {
        EventLoop.withCurrent(self, body)
    }

    /// Lets tasks run and writes within a tick that has received much.
    ///
    /// Otherwise all the messages of a tick would be in memory together: with 200 connections that echo 64 KiB, 26 MB
    /// that are new to the cache, and on their way back to the kernel, at every tick.
    func answerEarly() {
        self.unansweredByteCount = 0
        self.runTasksEarly()
        EventLoop.withCurrent(self) { self.flushDirty() }
    }

    /// Lets tasks run within a tick that has handed them many messages, so that the next ones go into the memory of these.
    ///
    /// With 200 connections and 16 messages in flight for each, that is 2 % of an echo server's CPU time.
    func runTasksEarly() {
        EventLoop.withCurrent(self) {
            var jobsLeft = Self.jobsPerTickMax
            self.runJobs(&jobsLeft)
        }
    }

    /// Ends a tick: mailbox, tasks, fan-out, writes, deadlines, ends of connections.
    ///
    /// - Returns: Whether work is left that must not wait for a socket.
    public func endTick() -> Bool {
        EventLoop.withCurrent(self) {
            self.unansweredByteCount = 0
            var jobsLeft = Self.jobsPerTickMax
            self.takeMail()
            if !self.waitingUpgrades.isEmpty { self.serveWaitingUpgrades() }
            self.runJobs(&jobsLeft)
            self.decodePostponed()
            self.fanOut()
            self.continueCatchingUp()
            self.answerInputEnds()
            self.flushDirty()
            self.serveDeadlines()
            self.serveMemory()
            if self.handoff == nil, self.restored.isEmpty { self.continueDrain() }
            // Ends, and buffers that are low again, wake tasks; those may send, and those sends go out in this tick.
            var rounds = 0
            while rounds < 4,
                !self.ending.isEmpty || !self.drained.isEmpty || !self.jobs.isEmpty || !self.dirty.isEmpty
                    || !self.inputEnds.isEmpty
            {
                rounds += 1
                self.endConnections()
                self.tellDrained()
                self.runJobs(&jobsLeft)
                self.fanOut()
                self.answerInputEnds()
                self.flushDirty()
            }
            self.endConnections()
            self.direct.reuse()
            self.published.reuse()
            self.counts.ticks &+= 1
            self.statistics.publish(self.counts, self.gauges)
            return !self.jobs.isEmpty || !self.dirty.isEmpty || !self.drained.isEmpty
                || !self.publications.isEmpty || !self.catchingUp.isEmpty || !self.inputEnds.isEmpty
                || !self.undecoded.isEmpty
        }
    }

    /// Says how long the tick took, from the end of the wait to its own: so late may have been what came meanwhile.
    public func tickTook(nanoseconds: UInt64) {
        self.statistics.tickTook(nanoseconds: nanoseconds)
        if nanoseconds >= Self.deafTickNanoseconds { self.wasDeaf = true }
    }

    /// Says that the loop is about to sleep, and how many milliseconds at most: -1 for as long as nothing
    /// happens, 0 if it must not.
    ///
    /// Whoever hands it work from now on wakes it.
    public func prepareToSleep() -> Int32 {
        guard self.loop.mailbox.prepareToSleep() else { return 0 }
        if !self.waitingUpgrades.isEmpty { return Self.turnIntervalMilliseconds }
        // One that holds something looks whether others need the memory.
        let holdsMemory = self.chargedByteCount > 0 || !self.stragglers.isEmpty
        return self.wheel.count > 0 || self.drain != nil || holdsMemory
            ? Int32(TimerWheel.intervalMilliseconds) : -1
    }

    /// Whether the server ends and nothing is left to do for it here.
    public var isFinished: Bool {
        self.drain != nil && self.slots.count == 0 && self.taskCount == 0
    }

    /// Whether the server's planned end has reached this loop.
    package var isDraining: Bool {
        self.drain != nil
    }

    /// Whether no connection, and no task of one, is left.
    var isEmpty: Bool {
        self.slots.count == 0 && self.taskCount == 0
    }

    /// Ends the loop.
    ///
    /// Tasks that still prefer it go on elsewhere.
    public func finish() {
        self.loop.detach()
        for message in self.loop.mailbox.close() { EventLoop.handleAfterEnd(message) }
        for job in self.jobs { EventLoop.handleAfterEnd(.job(job)) }
        self.jobs = []
        self.statistics.publish(self.counts, LoopStatistics.Gauges())
    }

    func takeMail() {
        self.loop.mailbox.take(into: &self.mailBatch)
        guard !self.mailBatch.isEmpty else { return }
        self.mailCount = self.mailBatch.count
        for message in self.mailBatch {
            switch message {
            case .job(let job): self.jobs.append(job)
            case .publication(let publication, let endpoint):
                self.publications.append((publication, endpoint))
            case .send(let message, let connection): connection.deliverPosted(message, driver: self)
            case .perform(let work): work(self)
            }
        }
        self.mailBatch.removeAll(keepingCapacity: self.mailBatch.count <= 4096)
    }

    /// Runs tasks until none is ready: what one of them wakes runs too, up to the bound of a tick.
    private func runJobs(_ left: inout Int) {
        self.messages.startCountingCopies()
        while !self.jobs.isEmpty, left > 0 {
            swap(&self.jobs, &self.jobBatch)
            left -= self.jobBatch.count
            for job in self.jobBatch {
                unsafe job.runSynchronously(on: self.loop.asUnownedTaskExecutor())
            }
            self.jobBatch.removeAll(keepingCapacity: self.jobBatch.count <= 4096)
            // Publications and resumed tasks of this very loop come through the mailbox too.
            self.takeMail()
        }
        self.takeMail()
    }

    private func flushDirty() {
        while !self.dirty.isEmpty {
            swap(&self.dirty, &self.dirtyBatch)
            if let io = self.batchingIO, self.dirtyBatch.count > 1 {
                self.flush(self.dirtyBatch, together: io)
            } else {
                for index in self.dirtyBatch { self.flush(Int(index)) }
            }
            self.dirtyBatch.removeAll(keepingCapacity: self.dirtyBatch.count <= 65536)
        }
    }

    private func tellDrained() {
        guard !self.drained.isEmpty else { return }
        let indices = self.drained
        self.drained = []
        for index in indices {
            let slot = unsafe self.slots.pointer(Int(index))
            guard unsafe slot.pointee.flags.contains(.drainedOwed) else { continue }
            unsafe slot.pointee.flags.remove(.drainedOwed)
            guard unsafe slot.pointee.flags.contains(.opened), let endpoint = unsafe slot.pointee.endpoint
            else { continue }
            endpoint.callbacks.drained(ConnectionContext(self, Int(index)))
            if !self.recoveries.isEmpty { self.recoveries[self.id(of: Int(index))]?.drained() }
        }
    }

    private func serveDeadlines() {
        // Nobody can keep one meanwhile.
        guard self.handoff == nil, self.restored.isEmpty else { return }
        self.wheel.advance(to: self.now, in: self.slots, expired: &self.expired)
        for index in self.expired { self.deadlineReached(index) }
        self.expired.removeAll(keepingCapacity: true)
    }

    private var gauges: LoopStatistics.Gauges {
        var gauges = LoopStatistics.Gauges(
            connections: self.slots.count,
            tasks: self.taskCount,
            waitingUpgrades: self.waitingUpgrades.count
        )
        for endpoint in self.endpoints {
            gauges.topics += endpoint.topics.count
            gauges.subscriptions += endpoint.topics.subscriptionCount
        }
        return gauges
    }

    // MARK: - The hot path's state

    /// What is touched for every message, in memory of its own: the stored properties of a class are checked for
    /// exclusive access each time, which took 4 % of an echo server's CPU time.
    struct HotState: ~Copyable {
        var slots = Slots()
        var wheel = TimerWheel()
        var now = LoopInstant(hundredths: 0)
        var counts = LoopCounts()
        /// Whether the last tick was too long to hear what came meanwhile, and when the last such tick was over.
        var wasDeaf = false
        var deafUntil: LoopInstant?
        /// Bytes received since tasks last ran.
        var unansweredByteCount = 0
        /// Parts of tasks that are ready to run.
        var jobs: [UnownedJob] = []
        /// Where messages for tasks are.
        var messages = MessagePool()
        /// The connection whose frames are being decoded, whose codec holds the message that its handler is looking at.
        var decoding: Int?
        /// Whether that connection's codec is to let go of what it holds as soon as nobody looks at it.
        var mustResetDecoding = false
        /// Connections with something to write.
        var dirty: [UInt32] = []
        /// Connections whose writes are made together.
        var batch: [BatchedWrite] = []
        /// Where this tick's frames are encoded: those for one connection, and those for a topic's subscribers.
        var direct: OutboundWriter
        var published: OutboundWriter

        init(role: Role, _ charges: PublicationCharges) {
            self.direct = OutboundWriter(role: role)
            self.published = OutboundWriter(role: role, chargedTo: charges)
        }
    }

    // The memory lives as long as the driver, and only the driver's thread touches it. None of these is held across a
    // call that could touch the same one again: that is what the check would find, and what the tests of the driver
    // run with it on: `EmbeddedTransport` under the address sanitizer.

    var slots: Slots {
        _read { yield unsafe self.hot.pointee.slots }
        _modify { yield unsafe &self.hot.pointee.slots }
    }
    var messages: MessagePool {
        _read { yield unsafe self.hot.pointee.messages }
        _modify { yield unsafe &self.hot.pointee.messages }
    }
    var wheel: TimerWheel {
        _read { yield unsafe self.hot.pointee.wheel }
        _modify { yield unsafe &self.hot.pointee.wheel }
    }
    var now: LoopInstant {
        get { unsafe self.hot.pointee.now }
        set { unsafe self.hot.pointee.now = newValue }
    }
    var counts: LoopCounts {
        _read { yield unsafe self.hot.pointee.counts }
        _modify { yield unsafe &self.hot.pointee.counts }
    }
    var wasDeaf: Bool {
        get { unsafe self.hot.pointee.wasDeaf }
        set { unsafe self.hot.pointee.wasDeaf = newValue }
    }
    var deafUntil: LoopInstant? {
        get { unsafe self.hot.pointee.deafUntil }
        set { unsafe self.hot.pointee.deafUntil = newValue }
    }
    var unansweredByteCount: Int {
        get { unsafe self.hot.pointee.unansweredByteCount }
        set { unsafe self.hot.pointee.unansweredByteCount = newValue }
    }
    var jobs: [UnownedJob] {
        _read { yield unsafe self.hot.pointee.jobs }
        _modify { yield unsafe &self.hot.pointee.jobs }
    }
    var decoding: Int? {
        get { unsafe self.hot.pointee.decoding }
        set { unsafe self.hot.pointee.decoding = newValue }
    }
    var mustResetDecoding: Bool {
        get { unsafe self.hot.pointee.mustResetDecoding }
        set { unsafe self.hot.pointee.mustResetDecoding = newValue }
    }
    var dirty: [UInt32] {
        _read { yield unsafe self.hot.pointee.dirty }
        _modify { yield unsafe &self.hot.pointee.dirty }
    }
    var batch: [BatchedWrite] {
        _read { yield unsafe self.hot.pointee.batch }
        _modify { yield unsafe &self.hot.pointee.batch }
    }
    var direct: OutboundWriter {
        _read { yield unsafe self.hot.pointee.direct }
        _modify { yield unsafe &self.hot.pointee.direct }
    }
    var published: OutboundWriter {
        _read { yield unsafe self.hot.pointee.published }
        _modify { yield unsafe &self.hot.pointee.published }
    }

    // MARK: - Names

    func id(of index: Int) -> ConnectionID {
        unsafe ConnectionID(
            loop: self.loop.index,
            slot: index,
            generation: self.slots.pointer(index).pointee.generation
        )
    }

    /// The slot that an identifier names, or nil if its connection is gone.
    func index(of id: ConnectionID) -> Int? {
        guard id.loop == self.loop.index, id.slot < self.slots.usedCapacity else { return nil }
        let slot = unsafe self.slots.pointer(id.slot)
        return unsafe slot.pointee.generation == id.generation && slot.pointee.phase != .free ? id.slot : nil
    }

    /// Whether a connection is open, and its endpoint's.
    func isServed(_ index: Int) -> Bool {
        let slot = unsafe self.slots.pointer(index)
        return unsafe slot.pointee.phase == .open && slot.pointee.closing.isOpen
    }

    /// Whether there is room for a message behind others that are on their way to a connection.
    func hasRoom(for byteCount: Int, behind postedByteCount: Int, _ id: ConnectionID) -> Bool {
        guard self.takesMessages(id), let index = self.index(of: id),
            let outbound = unsafe self.slots.pointer(index).pointee.endpoint?.outbound
        else { return false }
        let waiting = unsafe self.slots.pointer(index).pointee.outbound.byteCount
        return outbound.hasRoom(for: byteCount, behind: waiting + postedByteCount)
    }

    /// Whether messages for a connection, and a close, are taken: it is open, or on its way to another process, which gets them.
    func takesMessages(_ id: ConnectionID) -> Bool {
        guard let index = self.index(of: id) else { return false }
        if unsafe self.slots.pointer(index).pointee.phase == .leaving { return self.takesLateOrders(index) }
        return self.isServed(index)
    }

    /// The connection's cold part, made if there is none.
    func details(of index: Int) -> ConnectionDetails {
        let slot = unsafe self.slots.pointer(index)
        if let details = unsafe slot.pointee.details { return details }
        let details = ConnectionDetails(headReader: HTTPHeadReader())
        unsafe slot.pointee.details = details
        return details
    }
}

@available(*, unavailable) extension ConnectionDriver: Sendable {}
