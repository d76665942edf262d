internal import Logging
internal import Starling

/// The command link of one server: what is to be sent outlives each single connection.
///
/// While there is none, commands wait, within a bound and for a while.
final class RedisCommands: Sendable {
    private struct Waiting: Sendable {
        let make: @Sendable (RedisLink) -> RedisCommand
        let what: String
        let byteCount: Int
        let deadline: ContinuousClock.Instant
        let completion: RedisLink.Completion
    }

    private struct State {
        var link: RedisLink?
        var waiting = Deque<Waiting>()
        /// Bytes that wait here or have been sent and not been answered.
        var byteCount = 0
        /// Why there is no link.
        var failure: RedisError?
    }

    private let server: RedisServer
    private let configuration: RedisConfiguration
    private let connector: any Connector
    private let state = Lock(State())

    init(_ server: RedisServer, _ configuration: RedisConfiguration, _ connector: any Connector) {
        self.server = server
        self.configuration = configuration
        self.connector = connector
    }

    /// Sends a command now, or as soon as there is a link; never suspends.
    ///
    /// `byteCount` is about how long the command is, which `make` makes for the link that it goes out on. `completion` is
    /// called once, on any thread. If too many bytes wait it is not, and false is returned.
    func trySend(
        _ what: String,
        byteCount: Int,
        deadline: ContinuousClock.Instant,
        make: @escaping @Sendable (RedisLink) -> RedisCommand,
        _ completion: @escaping RedisLink.Completion
    ) -> Bool {
        let release: RedisLink.Completion = { result in
            self.state.withLock { $0.byteCount -= byteCount }
            if case .failure(let error) = result { self.heal(error) }
            completion(result)
        }
        enum Next { case full, queued(isFirst: Bool), send(RedisLink) }
        let next: Next = self.state.withLock { state in
            guard state.byteCount + byteCount <= self.configuration.queuedByteCountMax else { return .full }
            state.byteCount += byteCount
            // Sent with the lock held, so that what waits goes out first and the order is that of the calls.
            if let link = state.link, state.waiting.isEmpty {
                return .send(link)
            }
            state.waiting.append(
                Waiting(
                    make: make,
                    what: what,
                    byteCount: byteCount,
                    deadline: deadline,
                    completion: release
                )
            )
            return .queued(isFirst: state.waiting.count == 1)
        }
        switch next {
        case .full: return false
        case .queued(let isFirst):
            // By a task of its own, for the broadcaster may not run yet, or not any more.
            if isFirst { Task { await self.expire() } }
            return true
        case .send(let link):
            if let failure = link.send(make(link), what, release) { release(.failure(failure)) }
            return true
        }
    }

    /// Sends a command and waits for its reply; tries again as long as that is safe and there is time.
    ///
    /// `isRepeatable` says whether doing the command twice is the same as doing it once.
    func call(
        _ what: String,
        byteCount: Int = 128,
        isRepeatable: Bool,
        make: @escaping @Sendable (RedisLink) -> RedisCommand
    ) async throws(RedisError) -> RedisValue {
        let deadline = ContinuousClock.now + self.configuration.waitTimeout
        var pause = self.configuration.reconnectDelayMin
        var refusal: RedisError?
        while true {
            let result: Result<RedisValue, RedisError> = await withCheckedContinuation { continuation in
                let isTaken = self.trySend(what, byteCount: byteCount, deadline: deadline, make: make) {
                    continuation.resume(returning: $0)
                }
                if !isTaken { continuation.resume(returning: .failure(self.queueFull)) }
            }
            switch result {
            case .success(let value): return value
            case .failure(let error):
                let isSafe =
                    error.isTemporary
                    || isRepeatable && (error.code == .connectionLost || error.code == .timedOut)
                guard isSafe, .now + pause < deadline else {
                    // Why it was refused before says more than that it was not sent again.
                    throw error.code == .unreachable ? refusal ?? error : error
                }
                refusal = error
                do { try await Task.sleep(for: pause) } catch { throw self.cancelled }
                pause = min(pause * 2, self.configuration.reconnectDelayMax)
            }
        }
    }

    /// Sends a command and waits for its reply; never tries again.
    func callOnce(
        _ what: String,
        make: @escaping @Sendable (RedisLink) -> RedisCommand
    ) async throws(RedisError) -> RedisValue {
        let deadline = ContinuousClock.now + self.configuration.waitTimeout
        return try await withCheckedContinuation { continuation in
            let isTaken = self.trySend(what, byteCount: 128, deadline: deadline, make: make) {
                continuation.resume(returning: $0)
            }
            if !isTaken { continuation.resume(returning: .failure(self.queueFull)) }
        }.get()
    }

    /// Keeps a link until the task is cancelled.
    func run() async {
        await RedisReconnection(self.configuration).run { () async -> RedisError in
            let link: RedisLink
            do throws(RedisError) {
                link = try await RedisLink.open(
                    self.server,
                    self.configuration,
                    self.connector,
                    isForCommands: true
                )
            } catch {
                self.state.withLock { $0.failure = error }
                return error
            }
            self.linkIsUp(link)
            let failure = await link.run(pushes: nil)
            self.state.withLock { state in
                state.link = nil
                state.failure = failure
            }
            return failure
        }
    }

    private var queueFull: RedisError {
        RedisError(
            .queueFull,
            "more than \(self.configuration.queuedByteCountMax) bytes wait for Redis at \(self.server.target)"
        )
    }

    private var cancelled: RedisError {
        RedisError(.connectionLost, "the broadcaster has ended")
    }

    /// Makes the link anew where that helps: a replica may have a master by now, and emptied scripts are loaded again.
    private func heal(_ error: RedisError) {
        guard error.code == .readOnly || error.code == .noScript else { return }
        self.state.withLock(\.link)?.close()
    }

    private func linkIsUp(_ link: RedisLink) {
        // With the lock held, so that nothing overtakes what waits.
        let unsent: [(Waiting, RedisError)] = self.state.withLock { state in
            var unsent: [(Waiting, RedisError)] = []
            state.link = link
            state.failure = nil
            while !state.waiting.isEmpty {
                let waiting = state.waiting.removeFirst()
                let failure = link.send(waiting.make(link), waiting.what, waiting.completion)
                if let failure { unsent.append((waiting, failure)) }
            }
            return unsent
        }
        for (waiting, failure) in unsent { waiting.completion(.failure(failure)) }
    }

    /// What has only waited was certainly not done, however the link before has ended.
    private static func code(ofWaitingFor failure: RedisError?) -> RedisError.Code {
        guard let failure, failure.code != .connectionLost, failure.code != .timedOut else {
            return .unreachable
        }
        return failure.code
    }

    /// Fails what has waited too long, as long as something waits.
    private func expire() async {
        var isDone = false
        while !isDone {
            try? await Task.sleep(for: .milliseconds(100))
            let (late, failure): ([Waiting], RedisError?) = self.state.withLock { state in
                var late: [Waiting] = []
                while let first = state.waiting.first, first.deadline < .now {
                    late.append(state.waiting.removeFirst())
                }
                isDone = state.waiting.isEmpty
                return (late, state.failure)
            }
            for waiting in late {
                waiting.completion(
                    .failure(
                        RedisError(
                            Self.code(ofWaitingFor: failure),
                            "\(waiting.what) has waited too long for Redis at \(self.server.target): "
                                + "\(failure?.description ?? "no link yet")"
                        )
                    )
                )
            }
        }
    }
}

/// Does something again and again, with growing pauses of which a random part is taken, so that nodes that lost the same
/// server do not come back at the same moment.
struct RedisReconnection {
    private let configuration: RedisConfiguration

    init(_ configuration: RedisConfiguration) {
        self.configuration = configuration
    }

    /// Runs `attempt`, which returns when its link has ended, until the task is cancelled.
    func run(_ attempt: () async -> RedisError) async {
        var delayMax = self.configuration.reconnectDelayMin
        while !Task.isCancelled {
            let start = ContinuousClock.now
            let failure = await attempt()
            if Task.isCancelled { return }
            // A link that has held is no sign of a server in trouble.
            if start.duration(to: .now) > self.configuration.reconnectDelayMax {
                delayMax = self.configuration.reconnectDelayMin
            }
            let milliseconds = Int(delayMax / .milliseconds(1))
            let delay = Duration.milliseconds(Int.random(in: 0...max(1, milliseconds)))
            self.configuration.logger.warning(
                "a link to Redis has ended",
                metadata: [LoggingKeys.error: "\(failure)", LoggingKeys.delay: "\(delay)"]
            )
            try? await Task.sleep(for: delay)
            delayMax = min(delayMax * 2, self.configuration.reconnectDelayMax)
        }
    }
}
