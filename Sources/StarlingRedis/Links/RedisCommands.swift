internal import Logging
internal import Starling

/// The command link of one shard: what is to be sent outlives each single connection.
///
/// While there is none, commands wait, within a bound and for a while.
final class RedisCommands: Sendable {
    private struct Request: Sendable {
        let make: @Sendable (RedisLink) -> RedisCommand
        let what: String
        let byteCount: Int
        let budget: RedisByteBudget
        let deadline: ContinuousClock.Instant
        let completion: RedisLink.Completion
        /// Whether a task waits for it.
        let isAwaited: Bool
        /// Its place among all: what Redis sends elsewhere one by one is to go out there in the order it was first sent.
        var number: UInt64 = 0
        /// How often Redis has sent it elsewhere.
        var redirectionCount = 0
    }

    private struct State {
        var link: RedisLink?
        var waiting = Deque<Request>()
        var lastNumber: UInt64 = 0
        /// Why there is no link.
        var failure: RedisError?
        /// Whether ``RedisCommands/run()`` has ended, and was not called again.
        var hasEnded = false

        /// All that waits, in its order.
        mutating func takeWaiting() -> [Request] {
            var requests: [Request] = []
            while !self.waiting.isEmpty { requests.append(self.waiting.removeFirst()) }
            let isInOrder = zip(requests, requests.dropFirst()).allSatisfy { $0.number < $1.number }
            return isInOrder ? requests : requests.sorted { $0.number < $1.number }
        }
    }

    /// How often a command may be sent elsewhere before it fails.
    private static let redirectionsMax = 5

    private let name: String
    private let configuration: RedisConfiguration
    private let source: any RedisLinkSource
    private let budgets: RedisBudgets
    private let status: RedisStatus
    private let state = Lock(State())

    init(
        _ name: String,
        _ configuration: RedisConfiguration,
        _ source: any RedisLinkSource,
        _ budgets: RedisBudgets,
        _ status: RedisStatus
    ) {
        self.name = name
        self.configuration = configuration
        self.source = source
        self.budgets = budgets
        self.status = status
    }

    private var linkName: String {
        RedisStatus.names(ofShard: self.name).commands
    }

    /// Commands that wait for a link.
    var waitingCount: Int {
        self.state.withLock { $0.waiting.count }
    }

    /// Sends a command now, or as soon as there is a link; never suspends.
    ///
    /// `byteCount` is about how long the command is, which `make` makes for the link that it goes out on. `completion` is
    /// called once, on any thread. If too many bytes wait it is not, and false is returned.
    func trySend(
        _ what: String,
        byteCount: Int,
        isPresence: Bool = false,
        deadline: ContinuousClock.Instant,
        isAwaited: Bool = false,
        make: @escaping @Sendable (RedisLink) -> RedisCommand,
        _ completion: @escaping RedisLink.Completion
    ) -> Bool {
        let budget = isPresence ? self.budgets.presence : self.budgets.others
        guard budget.take(byteCount) else { return false }
        self.send(
            Request(
                make: make,
                what: what,
                byteCount: byteCount,
                budget: budget,
                deadline: deadline,
                completion: completion,
                isAwaited: isAwaited
            )
        )
        return true
    }

    private func send(_ request: Request) {
        enum Next { case send(RedisLink), wait(isFirst: Bool), fail }
        var request = request
        let next: Next = self.state.withLock { state in
            if request.number == 0 {
                state.lastNumber += 1
                request.number = state.lastNumber
            }
            if let link = state.link, state.waiting.isEmpty { return .send(link) }
            if state.hasEnded, request.isAwaited { return .fail }
            state.waiting.append(request)
            return .wait(isFirst: state.waiting.count == 1)
        }
        let numbered = request
        switch next {
        case .fail: self.settle(numbered, .failure(self.ended), from: nil)
        case .send(let link):
            let isSent = link.send(numbered.make(link), numbered.what) {
                self.settle(numbered, $0, from: link)
            }
            if !isSent { self.send(numbered, insteadOfOn: link) }
        case .wait(let isFirst):
            guard isFirst else { return }
            // By a task of its own, for the broadcaster may not run yet, or not any more.
            Task { await self.expire() }
        }
    }

    /// Sends what a link has not taken: it waits for the next one.
    private func send(_ request: Request, insteadOfOn link: RedisLink) {
        self.forget(link)
        self.send(request)
    }

    /// Sends nothing more on a link.
    private func forget(_ link: RedisLink) {
        self.state.withLock { state in
            if state.link === link { state.link = nil }
        }
    }

    /// Ends a request, or sends it where Redis says that it belongs.
    private func settle(_ request: Request, _ result: Result<RedisValue, RedisError>, from link: RedisLink?) {
        if case .failure(let error) = result {
            if let link, let redirection = error.redirection,
                self.redirect(request, redirection, error.code, from: link)
            {
                return
            }
            if let link { self.heal(link, after: error) }
        }
        request.budget.give(request.byteCount)
        request.completion(result)
    }

    private func redirect(
        _ request: Request,
        _ redirection: RedisRedirection,
        _ code: RedisError.Code,
        from link: RedisLink
    ) -> Bool {
        var request = request
        request.redirectionCount += 1
        guard self.source.followsRedirections, request.redirectionCount <= Self.redirectionsMax else {
            return false
        }
        if code == .ask {
            guard let other = self.source.link(asked: redirection) else { return false }
            let again = request
            return other.sendAsking(request.make(other), request.what) {
                self.settle(again, $0, from: other)
            }
        }
        guard redirection.target != nil else {
            self.source.moved(to: nil)
            return false
        }
        // It waits for the link to the server that has the slot now.
        self.send(request, insteadOfOn: link)
        self.source.moved(to: redirection)
        return true
    }

    /// Sends a command and waits for its reply; tries again as long as that is safe and there is time.
    ///
    /// `isRepeatable` says whether doing the command twice is the same as doing it once.
    func call(
        _ what: String,
        byteCount: Int = 128,
        isPresence: Bool = false,
        isRepeatable: Bool,
        make: @escaping @Sendable (RedisLink) -> RedisCommand
    ) async throws(RedisError) -> RedisValue {
        let deadline = ContinuousClock.now + self.configuration.waitTimeout
        var pause = self.configuration.reconnectDelayMin
        var refusal: RedisError?
        while true {
            let result: Result<RedisValue, RedisError> = await withCheckedContinuation { continuation in
                let isTaken = self.trySend(
                    what,
                    byteCount: byteCount,
                    isPresence: isPresence,
                    deadline: deadline,
                    isAwaited: true,
                    make: make
                ) { continuation.resume(returning: $0) }
                if !isTaken { continuation.resume(returning: .failure(self.queueFull)) }
            }
            switch result {
            case .success(let value): return value
            case .failure(let error):
                let isSafe =
                    error.isTemporary
                    || self.source.followsRedirections && error.redirection != nil
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
        isPresence: Bool,
        make: @escaping @Sendable (RedisLink) -> RedisCommand
    ) async throws(RedisError) -> RedisValue {
        let deadline = ContinuousClock.now + self.configuration.waitTimeout
        return try await withCheckedContinuation { continuation in
            let isTaken = self.trySend(
                what,
                byteCount: 128,
                isPresence: isPresence,
                deadline: deadline,
                isAwaited: true,
                make: make
            ) { continuation.resume(returning: $0) }
            if !isTaken { continuation.resume(returning: .failure(self.queueFull)) }
        }.get()
    }

    /// Keeps a link until the task is cancelled.
    func run() async {
        self.state.withLock { $0.hasEnded = false }
        defer { self.end() }
        await RedisReconnection(self.configuration).run { () async -> RedisError in
            let failure = await self.source.withLink(pushes: nil) { self.linkIsUp($0) }
            self.state.withLock { state in
                state.link = nil
                state.failure = failure
            }
            self.status.set(.down, of: self.linkName, failure)
            return failure
        }
    }

    /// Nobody is to wait any longer; what nobody waits for may still go out, if somebody else keeps the links from now on.
    private func end() {
        let awaited = self.state.withLock { state in
            state.hasEnded = true
            let requests = state.takeWaiting()
            for request in requests where !request.isAwaited { state.waiting.append(request) }
            return requests.filter(\.isAwaited)
        }
        for request in awaited { self.settle(request, .failure(self.ended), from: nil) }
    }

    /// Of a command that was not sent.
    private var ended: RedisError {
        RedisError(.unreachable, "the broadcaster has ended")
    }

    private var queueFull: RedisError {
        RedisError(
            .queueFull,
            "more than \(self.configuration.queuedByteCountMax) bytes wait for Redis at \(self.name)"
        )
    }

    private var cancelled: RedisError {
        RedisError(.connectionLost, "the broadcaster has ended")
    }

    /// Makes the link anew where that helps: a replica may have a master by now, and emptied scripts are loaded again.
    private func heal(_ link: RedisLink, after error: RedisError) {
        guard error.code == .readOnly || error.code == .noScript else { return }
        self.replace(link)
    }

    /// Makes the present link anew, if there is one.
    func replace() {
        if let link = self.state.withLock(\.link) { self.replace(link) }
    }

    /// Makes a link anew; what is under way on it is still answered.
    func replace(_ link: RedisLink) {
        self.forget(link)
        link.retire()
    }

    private func linkIsUp(_ link: RedisLink) {
        // With the lock held, so that nothing overtakes what waits.
        let unsent: [Request] = self.state.withLock { state in
            var unsent: [Request] = []
            state.link = link
            state.failure = nil
            for request in state.takeWaiting() {
                let isSent = link.send(request.make(link), request.what) {
                    self.settle(request, $0, from: link)
                }
                if !isSent { unsent.append(request) }
            }
            return unsent
        }
        self.status.set(.up, of: self.linkName)
        for request in unsent { self.send(request, insteadOfOn: link) }
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
            let (late, failure): ([Request], RedisError?) = self.state.withLock { state in
                var late: [Request] = []
                while let first = state.waiting.first, first.deadline < .now {
                    late.append(state.waiting.removeFirst())
                }
                isDone = state.waiting.isEmpty
                return (late, state.failure)
            }
            for request in late {
                let error = RedisError(
                    Self.code(ofWaitingFor: failure),
                    "\(request.what) has waited too long for Redis at \(self.name): "
                        + "\(failure?.description ?? "no link yet")"
                )
                self.settle(request, .failure(error), from: nil)
            }
        }
    }
}

/// What may wait for a server, or for its answers: publications do not keep out who comes and goes, and who stays.
struct RedisBudgets: Sendable {
    let others: RedisByteBudget
    let presence: RedisByteBudget
    /// Publications that are held back until histories have been read; more are read from those.
    let held = RedisByteBudget(32 << 20)
    /// Members that somebody here was told of.
    let rosters = RedisByteBudget(32 << 20)

    init(_ byteCount: Int) {
        self.others = RedisByteBudget(byteCount)
        self.presence = RedisByteBudget(byteCount)
    }
}

/// Bytes that may wait.
final class RedisByteBudget: Sendable {
    private let rest: Lock<Int>

    init(_ byteCount: Int) {
        self.rest = Lock(byteCount)
    }

    /// False if there are not so many left.
    func take(_ byteCount: Int) -> Bool {
        self.rest.withLock { rest in
            guard rest >= byteCount else { return false }
            rest -= byteCount
            return true
        }
    }

    func give(_ byteCount: Int) {
        self.rest.withLock { $0 += byteCount }
    }
}

/// Does something again and again, with growing pauses of which a random part is taken, so that nodes that lost the same
/// server do not come back at the same moment.
struct RedisReconnection {
    private let configuration: RedisConfiguration

    init(_ configuration: RedisConfiguration) {
        self.configuration = configuration
    }

    /// Runs `attempt`, which returns when its link has ended, until the task is cancelled or it is not wanted any more.
    func run(while isWanted: () -> Bool = { true }, _ attempt: () async -> RedisError) async {
        var delayMax = self.configuration.reconnectDelayMin
        while !Task.isCancelled, isWanted() {
            let start = ContinuousClock.now
            let failure = await attempt()
            if Task.isCancelled { return }
            // A link that has held is no sign of a server in trouble.
            if start.duration(to: .now) > self.configuration.reconnectDelayMax {
                delayMax = self.configuration.reconnectDelayMin
            }
            let milliseconds = Int(delayMax / .milliseconds(1))
            let delay = Duration.milliseconds(Int.random(in: 0...max(1, milliseconds)))
            self.configuration.logger.log(
                level: failure.code == .movedAway ? .debug : .warning,
                "a link to Redis has ended",
                metadata: [LoggingKeys.error: "\(failure)", LoggingKeys.delay: "\(delay)"]
            )
            try? await Task.sleep(for: delay)
            delayMax = min(delayMax * 2, self.configuration.reconnectDelayMax)
        }
    }
}
