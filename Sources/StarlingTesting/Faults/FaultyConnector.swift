public import Starling

/// A connector whose connections suffer what a plan says; it works on every other one: in memory, native, of your own.
///
/// ```swift
/// let broken = FaultyConnector(NativeConnector()) { connection in
///     var plan = FaultPlan(seed: UInt64(connection))
///     plan.received.breakage = .halfOpen(.afterBytes(500))
///     return plan
/// }
/// ```
public struct FaultyConnector: Connector {
    private let base: any Connector
    private let plan: @Sendable (Int) -> FaultPlan
    private let count = Lock(0)

    /// Decorates a connector.
    ///
    /// - Parameters:
    ///   - base: Makes the connections.
    ///   - plan: Says what a connection suffers, by its number: 0 for the first.
    public init(_ base: any Connector, plan: @escaping @Sendable (_ connection: Int) -> FaultPlan) {
        self.base = base
        self.plan = plan
    }

    /// Decorates a connector with one plan for all connections.
    public init(_ base: any Connector, plan: FaultPlan) {
        self.init(base) { _ in plan }
    }

    /// Opens a connection; its time begins now.
    public func connect(to target: ConnectTarget, options: ConnectOptions) async throws(TransportError)
        -> any ByteStream
    {
        let stream = try await self.base.connect(to: target, options: options)
        let number = self.count.withLock { count in
            defer { count += 1 }
            return count
        }
        return FaultyStream(stream, self.plan(number))
    }
}

/// A stream between its reader and writer and another stream.
///
/// Bytes wait here, within the calls of their reader and writer: no task carries them.
final class FaultyStream: ByteStream {
    private struct State {
        var sent: FaultLine
        var received: FaultLine
        var isClosed = false
        var isReset = false
        /// The other stream has ended, so that there is nothing to read from it.
        var hasBaseEnded = false
        var waiters: [CheckedContinuation<Void, Never>] = []
        /// Ends the stream for those that wait for the other one, and see nothing of the time.
        var timer: (due: UInt64, task: Task<Void, Never>)?
    }

    private let base: any ByteStream
    private let state: Lock<State>
    private let start = ContinuousClock.now

    init(_ base: any ByteStream, _ plan: FaultPlan) {
        var random = SeededGenerator(seed: plan.seed)
        self.base = base
        self.state = Lock(
            State(
                sent: FaultLine(plan.sent, random.split()),
                received: FaultLine(plan.received, random.split())
            )
        )
        self.state.withLock { self.setTimer(&$0) }
    }

    deinit {
        self.close()
    }

    func read() async throws(TransportError) -> [UInt8]? {
        while true {
            let (arrival, next, mayRead) = self.state.withLock { state in
                (
                    state.isReset || state.isClosed ? .reset : state.received.receive(at: self.now),
                    state.received.nextArrival,
                    state.received.room > 0 && state.received.isEmpty && !state.hasBaseEnded
                        && state.received.breaksAt ?? .max > self.now
                )
            }
            switch arrival {
            case .bytes(let bytes): return bytes
            case .end: return nil
            case .reset:
                self.reset()
                throw self.failure
            case nil: break
            }
            if mayRead {
                try await self.readBase()
            } else if let next {
                try await self.sleep(until: next)
            } else {
                try await self.waitForClose()
            }
        }
    }

    private func readBase() async throws(TransportError) {
        let bytes: [UInt8]?
        do throws(TransportError) {
            bytes = try await self.base.read()
        } catch {
            let isHidden = self.state.withLock { state in
                state.hasBaseEnded = true
                return state.received.isSilent && !state.isReset && !state.isClosed
            }
            if isHidden { return }
            if self.state.withLock({ $0.isReset || $0.isClosed }) { throw self.failure }
            throw error
        }
        self.state.withLock { state in
            defer { self.setTimer(&state) }
            if let bytes {
                state.received.send(bytes, at: self.now)
            } else {
                state.hasBaseEnded = true
                state.received.end(at: self.now)
            }
        }
    }

    func write(_ bytes: [UInt8]) async throws(TransportError) {
        var rest = bytes[...]
        while true {
            let (arrival, next, isTaken) = self.state.withLock {
                state -> (FaultLine.Arrival?, UInt64?, Bool) in
                let count = min(rest.count, state.sent.room)
                if count > 0 {
                    state.sent.send(Array(rest.prefix(count)), at: self.now)
                    rest = rest.dropFirst(count)
                    self.setTimer(&state)
                }
                return (
                    state.isReset || state.isClosed ? .reset : state.sent.receive(at: self.now),
                    state.sent.isEmpty ? nil : state.sent.nextArrival, rest.isEmpty && state.sent.isEmpty
                )
            }
            switch arrival {
            case .bytes(let bytes):
                try await self.writeBase(bytes)
                continue
            case .reset:
                self.reset()
                throw self.failure
            case .end, nil: break
            }
            if isTaken { return }
            if let next {
                try await self.sleep(until: next)
            } else if !rest.isEmpty {
                try await self.waitForClose()
            }
        }
    }

    private func writeBase(_ bytes: [UInt8]) async throws(TransportError) {
        do throws(TransportError) {
            try await self.base.write(bytes)
        } catch {
            // A link that has fallen silent does not tell that the other end has gone.
            let isHidden = self.state.withLock { $0.received.isSilent && !$0.isReset && !$0.isClosed }
            if !isHidden { throw error }
        }
    }

    func close() {
        let (waiters, isSilent) = self.state.withLock { state in
            state.isClosed = true
            state.timer?.task.cancel()
            defer { state.waiters = [] }
            return (state.waiters, state.sent.isSilent && !state.isReset)
        }
        // A silent link does not carry the end either.
        if isSilent, let stream = self.base as? InMemoryStream { stream.vanish() } else { self.base.close() }
        for waiter in waiters { waiter.resume() }
    }

    // MARK: - Time

    private var now: UInt64 { (ContinuousClock.now - self.start).wholeNanoseconds }

    private func setTimer(_ state: inout State) {
        guard !state.isClosed,
            let due = [state.sent.breaksAt, state.received.breaksAt].compactMap(\.self).min(),
            state.timer?.due != due
        else { return }
        state.timer?.task.cancel()
        let wakeup = self.start + .nanoseconds(Int64(due))
        let task = Task { [weak self] in
            guard (try? await Task.sleep(until: wakeup, clock: .continuous)) != nil else { return }
            self?.timeHasCome()
        }
        state.timer = (due, task)
    }

    private func timeHasCome() {
        let isBroken = self.state.withLock { state in
            let (sent, received) = (state.sent.isBroken(at: self.now), state.received.isBroken(at: self.now))
            return sent || received
        }
        if isBroken { self.reset() }
    }

    private func reset() {
        let isFirst = self.state.withLock { state in
            defer { state.isReset = true }
            return !state.isReset
        }
        guard isFirst else { return }
        if let resettable = self.base as? InMemoryStream {
            resettable.reset()
        }
        self.close()
    }

    private var failure: TransportError {
        TransportError(
            self.state.withLock { $0.isReset }
                ? "the connection was reset, as planned" : "the stream is closed"
        )
    }

    /// Waits for a time, or for the end of the task, which closes the stream.
    private func sleep(until time: UInt64) async throws(TransportError) {
        do {
            try await Task.sleep(until: self.start + .nanoseconds(Int64(time)), clock: .continuous)
        } catch {
            self.close()
            throw self.failure
        }
    }

    /// Nothing will come any more, and nobody is told.
    private func waitForClose() async throws(TransportError) {
        await withTaskCancellationHandler {
            await withCheckedContinuation { waiter in
                let isClosed = self.state.withLock { state in
                    if !state.isClosed { state.waiters.append(waiter) }
                    return state.isClosed
                }
                if isClosed { waiter.resume() }
            }
        } onCancel: {
            self.close()
        }
        throw self.failure
    }
}
