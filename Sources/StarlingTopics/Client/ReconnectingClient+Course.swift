internal import HTTPTypes
internal import Logging
internal import Starling
internal import StarlingCore

extension ReconnectingClient {
    /// Everything that changes.
    ///
    /// Iterations are told of updates under its lock, so that they come in order; a feed's own lock nests in it.
    struct Contents {
        var core: TopicClientCore
        var state = State.connecting
        var stateContinuations: [Int: AsyncStream<State>.Continuation] = [:]
        var stateContinuationCount = 0

        var promises: [UInt64: Promise<TopicClientCore.Answer>] = [:]
        var feeds: [Topic: [TopicFeed]] = [:]
        /// Messages for the connection that stands.
        var outbox: [Message] = []
        var writer: CheckedContinuation<Void, Never>?

        var hasRun = false
        var isClosed = false
        /// One connection after the other.
        var course: Task<CloseReason, Never>?
        /// The wait between two.
        var sleeper: Task<Void, Never>?
        /// How long the server wants this client to stay away.
        var hint: Duration?
    }

    /// Changes what changes, and does what follows from it.
    @discardableResult
    func change<Result: Sendable>(
        _ body: (inout Contents) -> (Result, [TopicClientCore.Effect])
    ) -> Result {
        let (result, writer, mustRetry) = self.contents.withLock { contents in
            let (result, effects) = body(&contents)
            let mustRetry = contents.carryOut(effects)
            guard !contents.outbox.isEmpty else {
                return (result, nil as CheckedContinuation<Void, Never>?, mustRetry)
            }
            defer { contents.writer = nil }
            return (result, contents.writer, mustRetry)
        }
        writer?.resume()
        if mustRetry { self.retryLater() }
        return result
    }

    private func retryLater() {
        var generator = SystemRandomNumberGenerator()
        let delay = self.configuration.backoff.delay(beforeAttempt: 1, using: &generator)
        Task { [weak self] in
            try await Task.sleep(for: delay)
            self?.change { ((), $0.core.retry()) }
        }
    }

    // MARK: - Connections

    /// Connects until there is a reason not to.
    func connectAgainAndAgain() async -> CloseReason {
        var attempt = 0
        var generator = SystemRandomNumberGenerator()
        while true {
            self.set(.connecting)
            let begin = ContinuousClock.now
            let outcome = await self.connectOnce()
            self.change { contents in
                contents.outbox = []
                return ((), contents.core.disconnected())
            }
            if self.contents.withLock({ $0.isClosed }) || Task.isCancelled {
                self.finish(.byApplication)
                return .byApplication
            }
            if let reason = outcome.reason(self.configuration) {
                self.finish(reason)
                return reason
            }
            if outcome.wasConnected, ContinuousClock.now - begin >= self.configuration.backoff.resetsAfter {
                attempt = 0
            }
            let hint = self.contents.withLock { contents in
                defer { contents.hint = nil }
                return contents.hint
            }
            let delay = self.configuration.backoff.delay(
                beforeAttempt: attempt,
                hint: hint.map { .ownTime($0) } ?? outcome.hint,
                using: &generator
            )
            attempt += 1
            self.configuration.connection.logger.debug(
                "a client comes back",
                metadata: [LoggingKeys.cause: "\(outcome)", LoggingKeys.delay: "\(delay)"]
            )
            await self.wait(delay)
        }
    }

    private func connectOnce() async -> ConnectionOutcome {
        var configuration = self.configuration.connection
        configuration.subprotocols = [TopicProtocol.name]
        do {
            if let fields = try await self.configuration.headerFields?() {
                configuration.headerFields.append(contentsOf: fields)
            }
            let socket = try await self.client.connect(to: self.url, configuration: configuration) { socket in
                if socket.subprotocol == TopicProtocol.name { await self.serve(socket) }
                return socket
            }
            guard socket.subprotocol == TopicProtocol.name else { return .otherProtocol }
            guard let closure = socket.closure else {
                preconditionFailure("connect has returned before its connection ended")
            }
            return .ended(closure)
        } catch let error as ConnectError {
            return .failed(error)
        } catch {
            return .unprepared("\(error)")
        }
    }

    /// Serves a connection until it ends.
    private func serve(_ socket: WebSocket) async {
        self.change { contents in
            contents.outbox = []
            return ((), contents.core.connected())
        }
        self.set(.connected)
        await withDiscardingTaskGroup { group in
            group.addTask { await self.write(to: socket) }
            do {
                for try await message in socket { try self.received(message) }
            } catch is InvalidMessage {
                await socket.close(.protocolError, reason: "not a message of \(TopicProtocol.name)")
            } catch {
                // How the connection ended is asked when it has.
            }
            group.cancelAll()
        }
    }

    private func received(_ message: Message) throws(InvalidMessage) {
        let message = try ServerMessage(parsing: message)
        if case .error(nil, let refusal) = message {
            self.configuration.connection.logger.debug(
                "the server refused a message",
                metadata: [LoggingKeys.error: "\(refusal)"]
            )
        }
        self.change { contents in ((), contents.core.received(message)) }
    }

    private func write(to socket: WebSocket) async {
        while !Task.isCancelled {
            let messages = self.contents.withLock { contents in
                defer { contents.outbox = [] }
                return contents.outbox
            }
            for message in messages {
                // What was not taken is sent on the next connection, which must come then.
                guard (try? await socket.send(message)) != nil else {
                    return await socket.close(.goingAway, reason: "a message could not be sent")
                }
            }
            if messages.isEmpty { await self.waitForMessages() }
        }
    }

    private func waitForMessages() async {
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let mustWait = self.contents.withLock { contents in
                    guard contents.outbox.isEmpty, !Task.isCancelled else { return false }
                    contents.writer = continuation
                    return true
                }
                if !mustWait { continuation.resume() }
            }
        } onCancel: {
            let writer = self.contents.withLock { contents in
                defer { contents.writer = nil }
                return contents.writer
            }
            writer?.resume()
        }
    }

    private func wait(_ delay: Duration) async {
        let end = ContinuousClock.now + delay
        let sleeper = self.contents.withLock { contents in
            let sleeper = Task { _ = try? await Task.sleep(until: end) }
            if contents.isClosed { sleeper.cancel() }
            contents.sleeper = sleeper
            return sleeper
        }
        self.set(.waiting(until: end))
        await sleeper.value
    }

    // MARK: - States

    func set(_ state: State) {
        self.contents.withLock { contents in
            contents.state = state
            for continuation in contents.stateContinuations.values { continuation.yield(state) }
        }
    }

    /// Ends everything that waits.
    func finish(_ reason: CloseReason) {
        let continuations = self.change { contents in
            contents.state = .closed(reason: reason)
            for feed in contents.feeds.values.joined() { feed.finish(reason.error) }
            defer { contents.stateContinuations = [:] }
            return (Array(contents.stateContinuations.values), contents.core.close())
        }
        // Not under the lock, which the end of an iteration takes.
        for continuation in continuations {
            continuation.yield(.closed(reason: reason))
            continuation.finish()
        }
    }
}

extension ReconnectingClient.CloseReason {
    /// What iterations end with; nil if they just end.
    var error: TopicError? {
        switch self {
        case .byApplication: nil
        case .refused(let error): TopicError(.closed, underlying: error)
        case .ended, .otherProtocol: TopicError(.closed, underlying: ReconnectingClientError(self))
        }
    }
}

extension ReconnectingClient.Contents {
    /// Does what the core wants done; whether it is to be asked again later.
    fileprivate mutating func carryOut(_ effects: [TopicClientCore.Effect]) -> Bool {
        var mustRetry = false
        var effects = effects[...]
        while let effect = effects.popFirst() {
            switch effect {
            case .send(let message): self.outbox.append(message)
            case .answer(let id, let answer): self.promises.removeValue(forKey: id)?.fulfil(answer)
            case .retryLater: mustRetry = true
            case .comeBack(let delay): self.hint = min(delay, RetryHint.delayMax)
            case .fail(let topic, let refusal):
                for feed in self.feeds.removeValue(forKey: topic) ?? [] {
                    feed.finish(TopicError(.refused, refusal: refusal))
                }
            case .update(let topic, let update):
                var isBehind = false
                for feed in self.feeds[topic] ?? [] where !feed.append(update) { isBehind = true }
                if isBehind { effects += self.core.pause(topic) }
            }
        }
        return mustRetry
    }
}

/// How one attempt went.
private enum ConnectionOutcome: CustomStringConvertible {
    case ended(WebSocketClosure)
    case failed(ConnectError)
    /// The application could not say what to send along.
    case unprepared(String)
    case otherProtocol

    /// Why there shall be no other one; nil if there shall.
    func reason(_ configuration: ReconnectingConfiguration) -> ReconnectingClient.CloseReason? {
        switch self {
        case .ended(let closure): configuration.comesBack(closure) ? nil : .ended(closure)
        case .failed(let error): error.isFinal ? .refused(error) : nil
        case .unprepared: nil
        case .otherProtocol: .otherProtocol
        }
    }

    /// How long the server wants the client to stay away.
    var hint: Backoff.Hint? {
        switch self {
        case .ended(let closure): RetryHint(in: closure.reason).map { .ownTime($0.delay) }
        case .failed(let error): error.response?.headerFields.retryDelay(now: .now).map { .leastTime($0) }
        case .unprepared, .otherProtocol: nil
        }
    }

    var wasConnected: Bool {
        switch self {
        case .ended: true
        case .failed, .unprepared, .otherProtocol: false
        }
    }

    var description: String {
        switch self {
        case .ended(let closure): "\(closure)"
        case .failed(let error): "\(error)"
        case .unprepared(let error): error
        case .otherProtocol: "the server does not speak \(TopicProtocol.name)"
        }
    }
}

extension ConnectError {
    /// Whether the same attempt would fail again: an unusable URL, or a refusal that is no matter of time (RFC 9110 §15.5).
    fileprivate var isFinal: Bool {
        switch self.code {
        case .invalidURL, .tooManyRedirects: true
        case .refused:
            switch self.response?.status.code ?? 0 {
            case 408, 425, 429: false
            case 400...499: true
            default: false
            }
        default: false
        }
    }
}
