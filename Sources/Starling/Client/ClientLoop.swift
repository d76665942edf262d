internal import Dispatch
internal import StarlingCore

/// The event loop of one client connection: a driver over a byte stream, in ticks on a serial queue.
///
/// Reading and writing are tasks that prefer the loop, as the application's may: what arrives is decoded, handled and
/// answered within one tick. A connection has a loop of its own, so that what an application does on it holds up nobody else.
///
/// Sendable because everything mutable is touched only inside a tick, and ticks run on `queue`, one after the other.
final class ClientLoop: ConnectionIO, @unchecked Sendable {
    private let queue = DispatchQueue(label: "starling.client")
    private let stream: any ByteStream
    private let loop: EventLoop
    private let wakeup: Wakeup
    /// Until the connection is over.
    private var driver: ConnectionDriver?
    private let start = ContinuousClock.now
    private var timerDue: ContinuousClock.Instant?

    private var hasConnection = false
    private var isClosed = false
    private var isReading = true
    /// What the reader has read, until the next tick begins with it.
    private var arrival: Arrival?
    private var reader: CheckedContinuation<Void, Never>?
    private var unsent: [UInt8] = []
    private var isBlocked = false
    private var writer: CheckedContinuation<Void, Never>?

    /// Bytes that may wait for the stream; more wait in the connection's outbound buffer, which has its own limits.
    private static let unsentByteCountMax = 64 << 10
    /// Then others get the queue's thread.
    private static let ticksInARowMax = 16
    private static let sleepMax = LoopInterval(.seconds(60))
    /// How often it is looked whether there is memory again, or somebody's turn is over.
    private static let memoryInterval = LoopInterval(.milliseconds(80))
    /// Bytes that are handed to the stream at a time: a peer that takes so many within the deadline for writing is not silent.
    private static let pieceByteCount = 8 << 10

    private enum Arrival {
        case bytes([UInt8])
        case end
    }

    /// The way from the event loop to its owner, which is made after it.
    private final class Wakeup: Sendable {
        private let action = Lock<(@Sendable () -> Void)?>(nil)

        func set(_ action: @escaping @Sendable () -> Void) { self.action.withLock { $0 = action } }
        func call() { self.action.withLock { $0 }?() }
    }

    /// Begins to serve a stream.
    init(_ stream: any ByteStream, _ context: ServerContext) {
        let wakeup = Wakeup()
        self.stream = stream
        self.wakeup = wakeup
        self.loop = EventLoop(index: 0) { wakeup.call() }
        self.driver = ConnectionDriver(loop: self.loop, server: context, io: self)
        wakeup.set { [weak self] in self?.wake() }
    }

    /// Performs a handshake over the stream.
    func connect(_ handshake: ClientHandshake, to address: RemoteAddress, _ outcome: ConnectPromise) {
        self.loop.post(
            .perform { driver in
                guard let driver, !self.isClosed,
                    driver.connect(ConnectAttempt(handshake, outcome), to: address) != nil
                else { return outcome(.failure(ConnectError(.connectionLost))) }
                self.hasConnection = true
                self.startTasks()
            }
        )
        self.wake()
    }

    /// Ends the connection at once, or sees to it that there will be none.
    func abandon() {
        self.loop.post(
            .perform { driver in
                guard self.hasConnection else { return self.close(0) }
                driver?.failed(0)
            }
        )
        self.wake()
    }

    // MARK: - Ticks

    private func wake() {
        self.queue.async { self.tick() }
    }

    private func tick() {
        guard let driver = self.driver else { return }
        var mustContinue = true
        var rounds = 0
        while mustContinue, rounds < Self.ticksInARowMax {
            rounds += 1
            driver.beginTick(at: self.elapsedNanoseconds)
            driver.withCurrent { self.deliverArrival(to: driver) }
            mustContinue = driver.endTick() || self.arrival != nil
        }
        if self.isClosed, driver.isEmpty, !mustContinue {
            self.driver = nil
            driver.finish()
        } else if mustContinue || driver.prepareToSleep() == 0 {
            self.wake()
        } else {
            let isWaitingForMemory = !driver.waitingForMemory.isEmpty
            self.setTimer(
                driver.timeUntilNextDeadline(atMost: isWaitingForMemory ? Self.memoryInterval : Self.sleepMax)
            )
        }
    }

    private var elapsedNanoseconds: UInt64 {
        let elapsed = (ContinuousClock.now - self.start).components
        return UInt64(elapsed.seconds) * 1_000_000_000 + UInt64(elapsed.attoseconds / 1_000_000_000)
    }

    /// Wakes the loop after an interval, or before: a timer that is too early finds nothing to do and sets the next.
    private func setTimer(_ interval: LoopInterval) {
        // The clock of the loop counts in hundredths: a whole one more is surely behind the deadline.
        let milliseconds = Int(interval.hundredths) * 10 + 20
        let due = ContinuousClock.now + .milliseconds(milliseconds)
        if let timerDue = self.timerDue, timerDue <= due { return }
        self.timerDue = due
        self.queue.asyncAfter(deadline: .now() + .milliseconds(milliseconds)) { [weak self] in
            guard let self, self.timerDue == due else { return }
            self.timerDue = nil
            self.tick()
        }
    }

    // MARK: - The stream

    private func startTasks() {
        Task(executorPreference: self.loop) { await self.readAll() }
        Task(executorPreference: self.loop) { await self.writeAll() }
    }

    /// One read for each tick, so that what a close frame or a message is answered with goes out before the next is looked at.
    ///
    /// The driver is not told of it here: it would run tasks within a task.
    private func readAll() async {
        while !self.isClosed {
            if !self.mayRead { await withCheckedContinuation { self.reader = $0 } }
            guard !self.isClosed else { return }
            let bytes = try? await self.stream.read()
            self.arrival = bytes.map(Arrival.bytes) ?? .end
            if bytes == nil { return }
        }
    }

    private var mayRead: Bool {
        self.isClosed || self.isReading && self.arrival == nil
    }

    private func resumeReader() {
        guard self.mayRead else { return }
        self.reader?.resume()
        self.reader = nil
    }

    private func deliverArrival(to driver: ConnectionDriver) {
        guard let arrival = self.arrival, !self.isClosed else { return self.arrival = nil }
        self.arrival = nil
        switch arrival {
        case .bytes(var bytes):
            var span = bytes.mutableSpan
            var rest = unsafe span.mutableBytes
            driver.received(&rest, on: 0)
        case .end: driver.readingEnded(0)
        }
        self.resumeReader()
    }

    private func writeAll() async {
        while true {
            if self.unsent.isEmpty, !self.isClosed {
                await withCheckedContinuation { self.writer = $0 }
            }
            guard !self.isClosed else { return }
            let bytes = self.unsent
            self.unsent = []
            guard await self.write(bytes) else { return }
            guard let driver = self.loop.currentDriver, !self.isClosed else { return }
            if self.isBlocked {
                self.isBlocked = false
                driver.writable(0)
            }
        }
    }

    /// Writes all of the bytes; false if the connection has ended.
    private func write(_ bytes: [UInt8]) async -> Bool {
        var rest = bytes[...]
        while !rest.isEmpty {
            // Where nothing waits behind them, there is no deadline to be told of.
            let isWhole = bytes.count <= Self.pieceByteCount || !self.isBlocked
            let piece = isWhole ? Array(rest) : Array(rest.prefix(Self.pieceByteCount))
            rest = rest.dropFirst(piece.count)
            let isWritten = (try? await self.stream.write(piece)) != nil
            guard let driver = self.loop.currentDriver, !self.isClosed else { return false }
            guard isWritten else {
                driver.failed(0)
                return false
            }
            if !rest.isEmpty { driver.wrotePart(0) }
        }
        return true
    }

    // MARK: - What the driver asks

    func write(_ bytes: RawSpan, to connection: Int) -> WriteResult {
        guard !self.isClosed else { return .failed }
        let count = min(bytes.byteCount, Self.unsentByteCountMax - self.unsent.count)
        // Copied within the call that lends them.
        unsafe bytes.withUnsafeBytes { unsafe self.unsent.append(contentsOf: $0.prefix(count)) }
        self.isBlocked = count < bytes.byteCount
        self.writer?.resume()
        self.writer = nil
        return .wrote(count)
    }

    func setReading(_ isOn: Bool, on connection: Int) {
        self.isReading = isOn
        self.resumeReader()
    }

    /// Nothing: it is the server that ends the stream first (RFC 6455 §7.1.1), and a proxy may take half an end for a whole
    /// one.
    func shutdownWriting(_ connection: Int) {}

    func close(_ connection: Int) {
        self.isClosed = true
        self.stream.close()
        self.resumeReader()
        self.writer?.resume()
        self.writer = nil
    }

    func stopListening() {}
}

/// The promise of a connection to the task that waits for it; the first outcome counts.
final class ConnectPromise: Sendable {
    typealias Outcome = Result<AsyncConnection, ConnectError>

    private struct State {
        var outcome: Outcome?
        var waiter: CheckedContinuation<Outcome, Never>?
    }
    private let state = Lock(State())

    func callAsFunction(_ outcome: Outcome) {
        let waiter: CheckedContinuation<Outcome, Never>? = self.state.withLock { state in
            guard state.outcome == nil else { return nil }
            state.outcome = outcome
            defer { state.waiter = nil }
            return state.waiter
        }
        waiter?.resume(returning: outcome)
    }

    /// The outcome; for one caller.
    func value() async -> Outcome {
        await withCheckedContinuation { waiter in
            let outcome: Outcome? = self.state.withLock { state in
                if state.outcome == nil { state.waiter = waiter }
                return state.outcome
            }
            if let outcome { waiter.resume(returning: outcome) }
        }
    }
}

/// A client's connections, for their driver: each has a task of its own already, the one that connected.
struct ClientHandler: ConnectionHandler {
    @safe struct State {
        let reference: Unmanaged<AsyncConnection>
    }

    mutating func opened(_ connection: inout Connection<Self>, userData outcome: ConnectPromise) -> State {
        let async = AsyncConnection(connection.context)
        outcome(.success(async))
        return unsafe State(reference: .passRetained(async))
    }

    mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {
        let context = connection.context
        unsafe connection.state.reference._withUnsafeGuaranteedRef { $0.received(message, context) }
    }

    mutating func drained(_ connection: inout Connection<Self>) {
        unsafe connection.state.reference._withUnsafeGuaranteedRef { $0.drained() }
    }

    mutating func closed(_ connection: inout Connection<Self>, code: CloseCode) {
        guard let driver = EventLoop.currentDriver else { preconditionFailure("closed outside a tick") }
        let async = unsafe connection.state.reference.takeRetainedValue()
        async.closed(connection.context.closure(code), driver: driver)
    }
}
