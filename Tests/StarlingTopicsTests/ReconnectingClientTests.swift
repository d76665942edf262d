#if os(Linux)
import HTTPTypes
import Logging
import Starling
import StarlingCore
import StarlingNative
import StarlingTopics
import Synchronization
import TestSupport
import Testing

/// The client that comes back, against real servers that go away.
@Suite struct ReconnectingClientTests {
    /// A client that runs during `body`, and hurries.
    private func withClient<Result: Sendable>(
        _ url: String,
        _ change: (inout ReconnectingConfiguration) -> Void = { _ in },
        _ body: (ReconnectingClient) async throws -> Result
    ) async throws -> Result {
        var configuration = ReconnectingConfiguration()
        configuration.backoff = Backoff(first: .milliseconds(5), max: .milliseconds(50))
        configuration.publicationTimeout = .seconds(20)
        change(&configuration)
        let client = ReconnectingClient(to: url, connector: NativeConnector(), configuration: configuration)
        return try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await client.run() }
            do {
                let result = try await body(client)
                client.close()
                try await group.waitForAll()
                return result
            } catch {
                client.close()
                try? await group.waitForAll()
                throw error
            }
        }
    }

    private func greet(_ client: ReconnectingClient, as user: String = "ada") async throws {
        let greeting = try await client.request(Chat.greet, Chat.Name(name: "Eve"))
        #expect(greeting == "Hello Eve, from \(user)")
    }

    @Test("Events, acknowledgements with positions, requests and members, all typed")
    func typed() async throws {
        try await TopicServer.run { server in
            try await self.withClient(server.url("ada")) { client in
                var updates = client.topic(Chat.room("a")).updates.makeAsyncIterator()
                guard case .subscribed(true, .some) = try await updates.next() else {
                    Issue.record("no subscription")
                    return
                }
                guard case .joined(let member) = try await updates.next() else {
                    Issue.record("nobody has joined")
                    return
                }
                #expect(member == PresenceMember(id: "ada", info: "ADA"))
                let position = try await client.publish(Chat.Event(text: "hi"), to: Chat.room("a"))
                guard case .event(let event, position)? = try await updates.next() else {
                    Issue.record("no event at the position that was acknowledged")
                    return
                }
                #expect(event == Chat.Event(text: "hi", by: "ada"))
                try await self.greet(client)
                #expect(try await client.members(of: Chat.room("a")) == [member])
            }
        }
    }

    /// What a task has got so far.
    private final class Log: Sendable {
        private let contents = Lock<[String]>([])
        func add(_ text: String) { self.contents.withLock { $0.append(text) } }
        var texts: [String] { self.contents.withLock { $0 } }
    }

    @Test("A server that restarts costs no publication, neither of others nor of our own")
    func restart() async throws {
        // What a broker outside the process would be: it outlives the server.
        let broadcaster = Chat.broadcaster()
        let port = try await TopicServer.run(broadcaster: broadcaster) { $0.port }
        let got = Log()
        try await self.withClient("ws://127.0.0.1:\(port)/chat?user=ada") { client in
            try await withThrowingTaskGroup(of: Void.self) { group in
                group.addTask {
                    for try await event in client.topic(Chat.room("a")) { got.add(event.text) }
                }
                for round in 0..<4 {
                    try await TopicServer.run(port: Int(port), broadcaster: broadcaster) { server in
                        try await client.publish(Chat.Event(text: "mine \(round)"), to: Chat.room("a"))
                        try await eventually("the publication has arrived") {
                            got.texts.contains("mine \(round)")
                        }
                    }
                    // Nobody serves now.
                    try await broadcaster.publish(Chat.Event(text: "while away \(round)"), to: Chat.room("a"))
                }
                try await TopicServer.run(port: Int(port), broadcaster: broadcaster) { _ in
                    try await client.publish(Chat.Event(text: "last"), to: Chat.room("a"))
                    try await eventually("all has arrived") { got.texts.last == "last" }
                }
                client.close()
                try await group.waitForAll()
            }
        }
        let expected = (0..<4).flatMap { ["mine \($0)", "while away \($0)"] } + ["last"]
        #expect(got.texts == expected)
    }

    @Test("Publications made while away are sent in order, once, when there is a connection")
    func queue() async throws {
        let broadcaster = Chat.broadcaster()
        let port = try await TopicServer.run(broadcaster: broadcaster) { $0.port }
        try await self.withClient("ws://127.0.0.1:\(port)/chat?user=ada") { client in
            try await withThrowingTaskGroup(of: Void.self) { group in
                for number in 0..<20 {
                    group.addTask {
                        try await client.publish(Chat.Event(text: "\(number)"), to: Chat.room("a"))
                    }
                }
                try await TopicServer.run(port: Int(port), broadcaster: broadcaster) { _ in
                    try await group.waitForAll()
                }
            }
        }
        let history = try await broadcaster.history(of: Chat.room("a").topic, newest: 100)
        let texts = try history.publications.map {
            try JSONText(parsing: $0.message.text ?? "").decode(Chat.Event.self).text
        }
        #expect(Set(texts) == Set((0..<20).map(String.init)))
        #expect(texts.count == 20)
    }

    @Test("Cut again and again, a subscriber gets every publication once and in order")
    func cuts() async throws {
        try await TopicServer.run { server in
            let countMax = 300
            try await self.withClient(server.url("ada")) { client in
                try await withThrowingTaskGroup(of: Void.self) { group in
                    group.addTask {
                        for number in 0..<countMax {
                            try await server.broadcaster.publish(
                                Chat.Event(text: "\(number)"),
                                to: Chat.room("a")
                            )
                            if number % 20 == 19 {
                                _ = await server.server.registry.closeAll(.goingAway, reason: "retry in 1 ms")
                            }
                            try await Task.sleep(for: .milliseconds(1))
                        }
                    }
                    // From the very beginning: the epoch is not known before something was published.
                    var got: [String] = []
                    var events = client.topic(Chat.room("a")).makeAsyncIterator()
                    var first: Int?
                    while let event = try await events.next() {
                        got.append(event.text)
                        first = first ?? Int(event.text)
                        if event.text == "\(countMax - 1)" { break }
                    }
                    try await group.waitForAll()
                    #expect(got == ((first ?? 0)..<countMax).map(String.init))
                }
            }
        }
    }

    @Test("An iteration that is too slow leaves the topic, and misses nothing all the same")
    func slowIteration() async throws {
        try await TopicServer.run { server in
            try await self.withClient(server.url("ada"), { $0.bufferedUpdatesMax = 8 }) { client in
                var events = client.topic(Chat.room("a")).makeAsyncIterator()
                try await client.publish(Chat.Event(text: "0"), to: Chat.room("a"))
                #expect(try await events.next()?.text == "0")
                for number in 1...100 {
                    try await server.broadcaster.publish(Chat.Event(text: "\(number)"), to: Chat.room("a"))
                }
                try await eventually("the client has left the topic") {
                    await server.server.registry.count(subscribedTo: Chat.room("a").topic) == 0
                }
                // Requests are answered meanwhile.
                try await self.greet(client)
                for number in 1...100 { #expect(try await events.next()?.text == "\(number)") }
            }
        }
    }

    @Test("A window that has passed is told, and iteration goes on behind the gap")
    func gap() async throws {
        let broadcaster = Chat.broadcaster(countMax: 3)
        let port = try await TopicServer.run(broadcaster: broadcaster) { $0.port }
        try await self.withClient("ws://127.0.0.1:\(port)/chat?user=ada") { client in
            var events = client.topic(Chat.room("a")).makeAsyncIterator()
            try await TopicServer.run(port: Int(port), broadcaster: broadcaster) { _ in
                try await client.publish(Chat.Event(text: "0"), to: Chat.room("a"))
                #expect(try await events.next()?.text == "0")
            }
            for number in 1...9 {
                try await broadcaster.publish(Chat.Event(text: "\(number)"), to: Chat.room("a"))
            }
            try await TopicServer.run(port: Int(port), broadcaster: broadcaster) { _ in
                let error = await thrown(TopicError.self) { _ = try await events.next() }
                #expect(error?.code == .gap)
                try await client.publish(Chat.Event(text: "10"), to: Chat.room("a"))
                #expect(try await events.next()?.text == "10")
            }
        }
    }

    @Test("An event of another type is told, and the next one comes")
    func undecodable() async throws {
        try await TopicServer.run { server in
            try await self.withClient(server.url("ada")) { client in
                var events = client.topic(Chat.room("a")).makeAsyncIterator()
                try await client.publish(Chat.Event(text: "1"), to: Chat.room("a"))
                #expect(try await events.next()?.text == "1")
                try await server.broadcaster.publish("no JSON", to: Chat.room("a").topic)
                try await server.broadcaster.publish(Chat.Event(text: "2"), to: Chat.room("a"))
                let error = await thrown(TopicError.self) { _ = try await events.next() }
                #expect(error?.code == .undecodable)
                #expect(try await events.next()?.text == "2")
            }
        }
    }

    @Test("A refused subscription throws, and so does a refused publication; the client goes on")
    func refusals() async throws {
        try await TopicServer.run { server in
            try await self.withClient(server.url("ada")) { client in
                var events = client.topic(Chat.room("closed")).makeAsyncIterator()
                var error = await thrown(TopicError.self) { _ = try await events.next() }
                #expect(error?.refusal == TopicRefusal(.forbidden, "the room is closed"))
                error = await #expect(throws: TopicError.self) {
                    try await client.publish(Chat.Event(text: "forbidden"), to: Chat.room("a"))
                }
                #expect(error?.refusal?.code == "bad-words")
                error = await #expect(throws: TopicError.self) {
                    try await client.request(Chat.sleep, 60_000, timeout: .milliseconds(30))
                }
                #expect(error?.code == .timeout || error?.refusal?.code == .timeout)
                try await self.greet(client)
            }
        }
    }

    @Test("A request whose connection is lost fails, and is not made again")
    func lostRequest() async throws {
        try await TopicServer.run { server in
            try await self.withClient(server.url("ada")) { client in
                let asking = Task { try await client.request(Chat.sleep, 4000) }
                try await eventually("the request is on its way") {
                    await server.server.registry.connections(ofUser: "ada").count == 1
                }
                try await self.greet(client)
                _ = await server.server.registry.close(user: "ada", .goingAway)
                let error = await #expect(throws: TopicError.self) { _ = try await asking.value }
                #expect(error?.code == .connectionLost)
            }
        }
    }

    @Test("A cancelled task gets its answer at once, and an iteration ends")
    func cancellation() async throws {
        try await TopicServer.run { server in
            try await self.withClient(server.url("ada")) { client in
                let asking = Task { try await client.request(Chat.sleep, 4000) }
                let iterating = Task {
                    for try await _ in client.topic(Chat.room("a")) {}
                    return true
                }
                try await eventually("the topic is subscribed to") {
                    await server.server.registry.count(subscribedTo: Chat.room("a").topic) == 1
                }
                asking.cancel()
                iterating.cancel()
                let error = await #expect(throws: TopicError.self) { _ = try await asking.value }
                #expect(error?.code == .cancelled)
                #expect(try await iterating.value)
                try await eventually("the last iteration has left the topic") {
                    await server.server.registry.count(subscribedTo: Chat.room("a").topic) == 0
                }
            }
        }
    }

    @Test("States: connecting, connected, waiting, and closed with the reason")
    func states() async throws {
        let port = try await TopicServer.run { $0.port }
        try await self.withClient("ws://127.0.0.1:\(port)/chat?user=ada") { client in
            var states = client.states.makeAsyncIterator()
            await Self.wait(for: "waiting", in: &states)
            try await TopicServer.run(port: Int(port)) { _ in await Self.wait(for: "connected", in: &states) }
            await Self.wait(for: "waiting", in: &states)
            client.close()
            await Self.wait(
                for: "closed(reason: StarlingTopics.ReconnectingClient.CloseReason.byApplication",
                in: &states
            )
            #expect(await states.next() == nil)
            let error = await #expect(throws: TopicError.self) {
                try await client.request(Chat.greet, Chat.Name(name: "Eve"))
            }
            #expect(error?.code == .closed)
            for try await _ in client.topic(Chat.room("a")) { Issue.record("an event after the end") }
        }
    }

    @Test("After a wait it connects, and says so")
    func connectingAgain() async throws {
        let (attempts, attempted) = AsyncStream.makeStream(of: Void.self)
        var configuration = ReconnectingConfiguration()
        configuration.backoff = Backoff(first: .milliseconds(1), max: .milliseconds(1))
        let client = ReconnectingClient(
            to: "ws://localhost/chat",
            connector: SecondAttemptConnector(begun: attempted),
            configuration: configuration
        )
        let running = Task { try await client.run() }
        for await _ in attempts {
            let state = client.state
            if case .connecting = state {} else { Issue.record("it connects, and says \(state)") }
            break
        }
        client.close()
        try await running.value
    }

    private static func wait(
        for name: String,
        in states: inout AsyncStream<ReconnectingClient.State>.AsyncIterator
    ) async {
        while let state = await states.next(isolation: #isolation) {
            if "\(state)".hasPrefix(name) { return }
        }
        Issue.record("it was never \(name)")
    }

    @Test("A wait ends when the application says so")
    func retryNow() async throws {
        let port = try await TopicServer.run { $0.port }
        try await self.withClient(
            "ws://127.0.0.1:\(port)/chat?user=ada",
            { $0.backoff = Backoff(first: .seconds(1000), max: .seconds(1000)) }
        ) { client in
            try await eventually("it waits") {
                if case .waiting = client.state { true } else { false }
            }
            try await TopicServer.run(port: Int(port)) { _ in
                client.retryNow()
                try await self.greet(client)
            }
        }
    }

    @Test("What cannot get better ends the client: a refusal, a policy, another protocol, a bad URL")
    func finalFailures() async throws {
        try await TopicServer.run { server in
            for (url, expected) in [
                ("ws://127.0.0.1:\(server.port)/chat", "401"),
                ("ws://127.0.0.1:\(server.port)/nothing", "404"),
                ("ftp://127.0.0.1", "scheme"),
            ] {
                let client = ReconnectingClient(to: url, connector: NativeConnector())
                let error = await #expect(throws: ReconnectingClientError.self) { try await client.run() }
                #expect(error?.description.contains(expected) == true, "\(error?.description ?? "")")
                let topicError = await #expect(throws: TopicError.self) {
                    for try await _ in client.topic(Chat.room("a")) {}
                }
                #expect(topicError?.code == .closed)
            }
            for (code, isOver) in [(CloseCode.policyViolation, true), (.normalClosure, false)] {
                let client = ReconnectingClient(to: server.url("bob"), connector: NativeConnector())
                let running = Task { try await client.run() }
                try await self.greet(client, as: "bob")
                _ = await server.server.registry.close(user: "bob", code, reason: "enough")
                if isOver {
                    let error = await #expect(throws: ReconnectingClientError.self) {
                        try await running.value
                    }
                    #expect(error?.description.contains("enough") == true)
                } else {
                    try await running.value
                }
            }
        }
    }

    @Test("Header fields are asked for anew before each attempt")
    func headerFields() async throws {
        let asked = Atomic<Int>(0)
        try await TopicServer.run { server in
            try await self.withClient(
                server.url("ada"),
                { configuration in
                    configuration.headerFields = {
                        struct NoToken: Error {}
                        if asked.add(1, ordering: .relaxed).newValue == 1 { throw NoToken() }
                        return [.authorization: "Bearer x"]
                    }
                }
            ) { client in
                try await self.greet(client)
                #expect(asked.load(ordering: .relaxed) == 2)
            }
        }
    }

    @Test("A server's hint is kept to: the client stays away so long, and no longer")
    func hint() async throws {
        try await TopicServer.run { server in
            // The backoff alone would take minutes.
            try await self.withClient(
                server.url("ada"),
                { $0.backoff = Backoff(first: .seconds(600), max: .seconds(600)) }
            ) { client in
                try await self.greet(client)
                let closed = ContinuousClock.now
                _ = await server.server.registry.close(user: "ada", .goingAway, reason: "retry in 150 ms")
                try await eventually("the client has seen it") {
                    if case .waiting = client.state { true } else { false }
                }
                try await self.greet(client)
                #expect(ContinuousClock.now - closed >= .milliseconds(150))
            }
        }
    }

    @Test("A server that refuses with a date is kept to: far ahead, it is an hour")
    func hintAsDate() async throws {
        let (addresses, listening) = AsyncStream.makeStream(of: String.self)
        let transport = NativeTransport(host: "127.0.0.1", port: 0, eventLoops: 1) {
            listening.yield($0)
            listening.finish()
        }
        var configuration = ServerConfiguration()
        configuration.logger.logLevel = .critical
        let server = WebSocketServer(transport: transport, configuration: configuration) {
            HTTPRoute("/chat") { _ in
                HTTPReply(.serviceUnavailable, headerFields: [.retryAfter: "Friday, 31-Dec-49 23:59:59 GMT"])
            }
        }
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask {
                defer { listening.finish() }
                try await server.run()
            }
            var address = ""
            for await known in addresses { address = known }
            let backoff = Backoff(first: .zero, max: .zero)
            try await self.withClient("ws://\(address)/chat", { $0.backoff = backoff }) { client in
                let begin = ContinuousClock.now
                try await eventually("it waits for an hour") {
                    guard case .waiting(let end) = client.state else { return false }
                    return begin.duration(to: end) >= .seconds(3600)
                }
            }
            server.beginShutdown()
            try await group.waitForAll()
        }
    }
}

/// Reaches nothing at first, and then tries for as long as it may.
private final class SecondAttemptConnector: Connector {
    private let begun: AsyncStream<Void>.Continuation
    private let attempts = Atomic<Int>(0)

    /// - Parameter begun: Told when the second attempt begins.
    init(begun: AsyncStream<Void>.Continuation) {
        self.begun = begun
    }

    func connect(to target: ConnectTarget, options: ConnectOptions) async throws(TransportError)
        -> any ByteStream
    {
        if self.attempts.add(1, ordering: .relaxed).newValue > 1 {
            self.begun.yield()
            // Until the client is closed.
            try? await Task.sleep(for: .seconds(600))
        }
        throw TransportError("nothing is at \(target)")
    }
}
#endif
