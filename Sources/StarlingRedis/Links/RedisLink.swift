internal import Starling

/// One connection to Redis.
///
/// Commands are pipelined: what is sent while a write is under way goes out together with the next one. Replies come
/// back in order. A reply that is late ends the link, for whatever comes after it could not be told apart.
final class RedisLink: Sendable {
    typealias Completion = @Sendable (Result<RedisValue, RedisError>) -> Void
    typealias PushHandler = @Sendable ([RedisValue]) async -> Void

    private struct Pending: Sendable {
        let what: String
        let deadline: ContinuousClock.Instant
        let completion: Completion
    }

    private struct State {
        var output: [UInt8] = []
        var pending = Deque<Pending>()
        var writer: CheckedContinuation<Void, Never>?
        var failure: RedisError?
        /// Whether it takes no more, and ends with the last reply.
        var isRetired = false
    }

    /// The server's address, for messages.
    let server: String
    /// Which run of the server this is: it changes when Redis restarts or fails over.
    let run: String
    /// What the server's data was called when the link was made; zeros if it was a replica.
    ///
    /// It changes when a replica becomes a master, and so when a master is one again.
    let data: String
    /// The scripts that it has loaded.
    let scripts: RedisScripts.Hashes
    private let stream: any ByteStream
    private let parser: RedisParserBox
    private let replyTimeout: Duration
    private let state = Lock(State())

    /// Opens a link: connects, authenticates, chooses the database, and loads the scripts if it is for commands.
    static func open(
        _ server: RedisServer,
        _ configuration: RedisConfiguration,
        _ connector: any Connector,
        isForCommands: Bool
    ) async throws(RedisError) -> RedisLink {
        let stream = try await self.connect(server, configuration, connector)
        do throws(RedisError) {
            return try await RedisLinkHandshake(stream, server, configuration).run(
                isForCommands: isForCommands
            )
        } catch {
            stream.close()
            throw error
        }
    }

    /// Opens a link for one question, and closes it.
    static func ask(
        _ question: [String],
        _ server: RedisServer,
        _ configuration: RedisConfiguration,
        _ connector: any Connector
    ) async throws(RedisError) -> RedisValue {
        let stream = try await self.connect(server, configuration, connector)
        defer { stream.close() }
        return try await RedisLinkHandshake(stream, server, configuration).answer(to: question)
    }

    private static func connect(
        _ server: RedisServer,
        _ configuration: RedisConfiguration,
        _ connector: any Connector
    ) async throws(RedisError) -> any ByteStream {
        do {
            return try await connector.connect(
                to: server.target,
                options: ConnectOptions(tls: server.tls, timeout: configuration.connectTimeout)
            )
        } catch {
            throw RedisError(.unreachable, "Redis is not there: \(error)")
        }
    }

    init(
        server: String,
        run: String,
        data: String,
        scripts: RedisScripts.Hashes,
        stream: any ByteStream,
        parser: RedisParserBox,
        replyTimeout: Duration
    ) {
        self.server = server
        self.run = run
        self.data = data
        self.scripts = scripts
        self.stream = stream
        self.parser = parser
        self.replyTimeout = replyTimeout
    }

    /// Sends a command; any thread, never suspends.
    ///
    /// `completion` is called once, with the reply or with why there will be none. If the link takes no more it is not, and
    /// false is returned: Redis has not seen the command.
    func send(_ command: RedisCommand, _ what: String, _ completion: @escaping Completion) -> Bool {
        let pending = Pending(
            what: what,
            deadline: .now + self.replyTimeout,
            completion: completion
        )
        return self.enqueue(command) { $0.pending.append(pending) }
    }

    /// Sends a command to a server that its slot is on its way to; otherwise as ``send(_:_:_:)``.
    func sendAsking(_ command: RedisCommand, _ what: String, _ completion: @escaping Completion) -> Bool {
        let deadline = ContinuousClock.now + self.replyTimeout
        let asking = Pending(what: "ASKING", deadline: deadline, completion: { _ in })
        let pending = Pending(what: what, deadline: deadline, completion: completion)
        return self.enqueue(RedisCommand(joined: [RedisCommand("ASKING"), command])) { state in
            state.pending.append(asking)
            state.pending.append(pending)
        }
    }

    /// Sends a command whose answer comes as a push, such as SUBSCRIBE.
    func post(_ command: RedisCommand) {
        _ = self.enqueue(command) { _ in }
    }

    private func enqueue(_ command: RedisCommand, _ note: (inout State) -> Void) -> Bool {
        let (isTaken, writer): (Bool, CheckedContinuation<Void, Never>?) = self.state.withLock { state in
            if state.failure != nil || state.isRetired { return (false, nil) }
            state.output += command.bytes
            note(&state)
            defer { state.writer = nil }
            return (true, state.writer)
        }
        writer?.resume()
        return isTaken
    }

    /// Ends the link; ``run(pushes:)`` returns, and what waits for replies fails.
    func close() {
        self.stream.close()
    }

    /// Takes no more commands, and ends once those that are under way have their replies.
    func retire() {
        let isIdle = self.state.withLock { state in
            state.isRetired = true
            return state.pending.isEmpty
        }
        if isIdle { self.close() }
    }

    /// Reads, writes and watches the clock until the link breaks or the task is cancelled; returns why it ended.
    ///
    /// `pushes` takes all that arrives on a link that is subscribed; it is nil for one with replies.
    func run(pushes: PushHandler?) async -> RedisError {
        let failure = await withTaskGroup(of: RedisError?.self) { group in
            group.addTask { await self.read(pushes) }
            group.addTask { await self.write() }
            group.addTask { await self.watch() }
            var failure: RedisError?
            for await result in group {
                guard failure == nil else { continue }
                failure =
                    result ?? RedisError(.connectionLost, "the link to Redis at \(self.server) was ended")
                group.cancelAll()
                self.stream.close()
                self.wakeWriter()
            }
            return failure ?? RedisError(.connectionLost, "the link to Redis at \(self.server) was ended")
        }
        self.fail(failure)
        return failure
    }

    private func read(_ pushes: PushHandler?) async -> RedisError? {
        while true {
            let replies: [RedisValue]
            do throws(RedisError) {
                replies = try await self.parser.read(self.stream, self.server)
            } catch {
                return error
            }
            if let pushes {
                await pushes(replies)
            } else {
                for reply in replies {
                    let (pending, isLast): (Pending?, Bool) = self.state.withLock { state in
                        let pending = state.pending.isEmpty ? nil : state.pending.removeFirst()
                        return (pending, state.isRetired && state.pending.isEmpty)
                    }
                    guard let pending else {
                        return RedisError(
                            .protocolViolation,
                            "Redis at \(self.server) answers without a question"
                        )
                    }
                    if case .error(let text) = reply {
                        pending.completion(
                            .failure(RedisError(reply: text, to: pending.what, at: self.server))
                        )
                    } else {
                        pending.completion(.success(reply))
                    }
                    if isLast { return nil }
                }
            }
        }
    }

    private func write() async -> RedisError? {
        while !Task.isCancelled {
            await self.waitForOutput()
            let output = self.state.withLock { state in
                defer { state.output = [] }
                return state.output
            }
            if output.isEmpty { continue }
            do throws(TransportError) {
                try await self.stream.write(output)
            } catch {
                return RedisError(.connectionLost, "the link to Redis at \(self.server) broke: \(error)")
            }
        }
        return nil
    }

    private func waitForOutput() async {
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let isReady = self.state.withLock { state in
                    if !state.output.isEmpty || Task.isCancelled { return true }
                    state.writer = continuation
                    return false
                }
                if isReady { continuation.resume() }
            }
        } onCancel: {
            self.wakeWriter()
        }
    }

    private func wakeWriter() {
        let writer = self.state.withLock { state in
            defer { state.writer = nil }
            return state.writer
        }
        writer?.resume()
    }

    /// Looks for late replies.
    private func watch() async -> RedisError? {
        while (try? await Task.sleep(for: min(self.replyTimeout / 4, .milliseconds(250)))) != nil {
            let oldest = self.state.withLock { $0.pending.first }
            if let oldest, oldest.deadline < .now {
                return RedisError(
                    .timedOut,
                    "Redis at \(self.server) has not answered \(oldest.what) within \(self.replyTimeout)"
                )
            }
        }
        return nil
    }

    private func fail(_ failure: RedisError) {
        let pending = self.state.withLock { state in
            state.failure = failure
            var pending: [Pending] = []
            while !state.pending.isEmpty { pending.append(state.pending.removeFirst()) }
            return pending
        }
        for pending in pending { pending.completion(.failure(failure)) }
    }
}

/// The parser with what it has read; one task at a time reads through it.
actor RedisParserBox {
    private let parser = RedisParser()

    /// The next replies; at least one.
    func read(_ stream: any ByteStream, _ server: String) async throws(RedisError) -> [RedisValue] {
        while true {
            let bytes: [UInt8]?
            do {
                bytes = try await stream.read()
            } catch {
                throw RedisError(.connectionLost, "the link to Redis at \(server) broke: \(error)")
            }
            guard let bytes else {
                throw RedisError(.connectionLost, "Redis at \(server) has ended the link")
            }
            let replies = try self.parser.parse(bytes)
            if !replies.isEmpty { return replies }
        }
    }
}

/// What a link says before it is used.
private struct RedisLinkHandshake {
    private let stream: any ByteStream
    private let server: RedisServer
    private let configuration: RedisConfiguration
    private let parser = RedisParserBox()

    init(_ stream: any ByteStream, _ server: RedisServer, _ configuration: RedisConfiguration) {
        self.stream = stream
        self.server = server
        self.configuration = configuration
    }

    func run(isForCommands: Bool) async throws(RedisError) -> RedisLink {
        let watchdog = self.watchdog()
        defer { watchdog.cancel() }
        try await self.authenticate()
        if self.server.database != 0 {
            _ = try await self.ask(["SELECT", String(self.server.database)], as: "SELECT")
        }
        let information = try await self.information()
        let run = information["run_id"]
        // What a replica has is called after its master, and may be something else when it is one.
        let data = information["role"] == "slave" ? nil : information["master_replid"]
        var scripts = RedisScripts.Hashes()
        if isForCommands {
            let texts = RedisScripts(isSharded: self.server.isCluster)
            scripts.publish = try await self.load(texts.publish)
            scripts.history = try await self.load(texts.history)
            scripts.enter = try await self.load(texts.enter)
            scripts.leave = try await self.load(texts.leave)
            scripts.refresh = try await self.load(texts.refresh)
        }
        guard let run else {
            throw RedisError(.protocolViolation, "Redis at \(self.server.target) does not say its run_id")
        }
        return RedisLink(
            server: "\(self.server.target)",
            run: run,
            data: data ?? String(repeating: "0", count: run.utf8.count),
            scripts: scripts,
            stream: self.stream,
            parser: self.parser,
            replyTimeout: self.configuration.replyTimeout
        )
    }

    /// Authenticates, and asks one question.
    func answer(to question: [String]) async throws(RedisError) -> RedisValue {
        let watchdog = self.watchdog()
        defer { watchdog.cancel() }
        try await self.authenticate()
        return try await self.ask(question, as: question.prefix(2).joined(separator: " "))
    }

    /// Ends the stream of a server that accepts and never answers.
    private func watchdog() -> Task<Void, Never> {
        let stream = self.stream
        let timeout = self.configuration.replyTimeout
        return Task {
            guard (try? await Task.sleep(for: timeout)) != nil else { return }
            stream.close()
        }
    }

    private func authenticate() async throws(RedisError) {
        guard let password = self.server.password else { return }
        let user = self.server.user.map { [$0] } ?? []
        _ = try await self.ask(["AUTH"] + user + [password], as: "AUTH")
    }

    /// What the server says of itself.
    private func information() async throws(RedisError) -> [String: String] {
        let text = try await self.ask(["INFO", "server", "replication"], as: "INFO").text ?? ""
        return text.split(whereSeparator: \.isNewline).reduce(into: [:]) { fields, line in
            let parts = line.split(separator: ":", maxSplits: 1)
            if parts.count == 2 { fields[String(parts[0])] = String(parts[1]) }
        }
    }

    private func load(_ script: String) async throws(RedisError) -> String {
        try await self.ask(["SCRIPT", "LOAD", script], as: "SCRIPT LOAD").text ?? ""
    }

    private func ask(_ arguments: [String], as what: String) async throws(RedisError) -> RedisValue {
        do {
            try await self.stream.write(RedisCommand(arguments.map { Array($0.utf8) }).bytes)
        } catch {
            throw RedisError(.connectionLost, "the link to Redis at \(self.server.target) broke: \(error)")
        }
        let reply = try await self.parser.read(self.stream, "\(self.server.target)").first ?? .null
        if case .error(let text) = reply {
            throw RedisError(reply: text, to: what, at: "\(self.server.target)")
        }
        return reply
    }
}
