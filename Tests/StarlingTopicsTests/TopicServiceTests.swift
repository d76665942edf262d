#if os(Linux)
import Logging
import Starling
import StarlingCore
import StarlingNative
import StarlingTopics
import TestSupport
import Testing

/// The server's end, with its messages as they stand on the wire.
@Suite struct TopicServiceTests {
    private let client = WebSocketClient(connector: NativeConnector())

    private func connect<Result>(
        _ server: TopicServer,
        as user: String = "ada",
        _ body: (WebSocket, inout WebSocket.AsyncIterator) async throws -> Result
    ) async throws -> Result {
        var configuration = ClientConfiguration()
        configuration.subprotocols = ["other", TopicProtocol.name]
        return try await self.client.connect(to: server.url(user), configuration: configuration) { socket in
            #expect(socket.subprotocol == TopicProtocol.name)
            var messages = socket.makeAsyncIterator()
            return try await body(socket, &messages)
        }
    }

    @Test("Subscribing, publishing, presence and leaving, word for word")
    func conversation() async throws {
        try await TopicServer.run { server in
            try await self.connect(server) { socket, messages in
                try await socket.send(#"{"type":"subscribe","id":1,"topic":"room:a"}"#)
                let subscribed = try await messages.next()?.text ?? ""
                #expect(subscribed.hasPrefix(#"{"type":"subscribed","id":1,"topic":"room:a","position":""#))
                #expect(subscribed.hasSuffix(#".0","recovered":true}"#))
                #expect(
                    try await messages.next()?.text
                        == #"{"type":"joined","topic":"room:a","member":{"id":"ada","info":"ADA"}}"#
                )
                try await socket.send(
                    #"{"type":"publish","id":2,"topic":"room:a","data":{"text":"hi"},"key":"k"}"#
                )
                var both: Set<String> = []
                for _ in 0..<2 { both.insert(try await messages.next()?.text ?? "") }
                let epoch = subscribed.split(separator: "\"")[13].prefix { $0 != "." }
                #expect(
                    both == [
                        #"{"type":"publication","topic":"room:a","position":"\#(epoch).1","data":{"by":"ada","text":"hi"}}"#,
                        #"{"type":"published","id":2,"position":"\#(epoch).1"}"#,
                    ]
                )
                // The same key again: acknowledged, and not published.
                try await socket.send(
                    #"{"type":"publish","id":3,"topic":"room:a","data":{"text":"hi"},"key":"k"}"#
                )
                #expect(
                    try await messages.next()?.text
                        == #"{"type":"published","id":3,"position":"\#(epoch).1"}"#
                )
                try await socket.send(#"{"type":"members","id":4,"topic":"room:a"}"#)
                #expect(
                    try await messages.next()?.text
                        == #"{"type":"members","id":4,"topic":"room:a","members":[{"id":"ada","info":"ADA"}]}"#
                )
                try await socket.send(#"{"type":"unsubscribe","id":5,"topic":"room:a"}"#)
                #expect(
                    try await messages.next()?.text == #"{"type":"unsubscribed","id":5,"topic":"room:a"}"#
                )
                #expect(try await server.broadcaster.memberCount(of: "room:a") == 0)
            }
        }
    }

    @Test("A subscriber gets what was published since its position, then what is live")
    func recovery() async throws {
        try await TopicServer.run { server in
            var epoch: UInt64 = 0
            for number in 1...5 {
                let event = Chat.Event(text: "\(number)", by: nil)
                epoch = try await server.broadcaster.publish(event, to: Chat.room("a"))?.epoch ?? 0
            }
            let start = String(epoch, radix: 16)
            try await self.connect(server) { socket, messages in
                try await socket.send(
                    #"{"type":"subscribe","id":1,"topic":"room:a","position":"\#(start).3"}"#
                )
                var texts: [String] = []
                for _ in 0..<3 { texts.append(try await messages.next()?.text ?? "") }
                #expect(texts[0].contains(#""position":"\#(start).3","recovered":true"#))
                #expect(texts[1].contains(#"{"text":"4"}"#) && texts[2].contains(#"{"text":"5"}"#))
                try await socket.send(#"{"type":"subscribe","id":2,"topic":"room:a","position":"1.3"}"#)
                // The join of the first subscription may come before.
                var answer = ""
                while !answer.contains(#""id":2"#) {
                    answer = try await messages.next()?.text ?? "closed \"id\":2"
                }
                #expect(answer.contains(#""position":"\#(start).5","recovered":false"#))
            }
        }
    }

    @Test("A request begins before what follows it: one may log in and subscribe in one breath")
    func order() async throws {
        let known = Lock<Set<ConnectionID>>([])
        var service = TopicService<String> { client, _ in
            guard known.withLock({ $0.contains(client.socket.id) }) else {
                throw TopicRefusal(.forbidden, "log in first")
            }
            return .allowed
        }
        service.answer(TypedRequest<String, Bool>("log-in")) { client, _ in
            known.withLock { _ = $0.insert(client.socket.id) }
            return true
        }
        try await TopicServer.run(service: service) { server in
            for _ in 0..<10 {
                try await self.connect(server) { socket, messages in
                    try await socket.send(#"{"type":"request","id":1,"name":"log-in","data":""}"#)
                    try await socket.send(#"{"type":"subscribe","id":2,"topic":"x"}"#)
                    var answers: Set<String> = []
                    for _ in 0..<2 { answers.insert(try await messages.next()?.text ?? "") }
                    #expect(
                        answers == [
                            #"{"type":"reply","id":1,"data":true}"#,
                            #"{"type":"subscribed","id":2,"topic":"x","recovered":true}"#,
                        ]
                    )
                }
            }
        }
    }

    @Test("What breaks the protocol is answered, and the sixteenth time too many closes with 1008")
    func invalidMessages() async throws {
        try await TopicServer.run { server in
            try await self.connect(server) { socket, messages in
                for text in [
                    "", "hello", "[]", "{}", #"{"type":"dance","id":3}"#, #"{"type":"subscribe","id":4}"#,
                ] {
                    try await socket.send(text)
                    let answer = try await messages.next()?.text ?? ""
                    #expect(answer.contains(#""code":"invalid-message""#), "\(text): \(answer)")
                }
                try await socket.send(#"{"type":"dance","id":3}"#)
                #expect(
                    try await messages.next()?.text
                        == #"{"type":"error","id":3,"code":"invalid-message","text":"there is no type 'dance'"}"#
                )
                for _ in 7..<17 { try await socket.send("x") }
                while try await messages.next() != nil {}
                #expect(socket.closure?.code == .policyViolation)
                #expect(socket.closure?.reason.hasPrefix("too many invalid messages") == true)
            }
            try await self.connect(server) { socket, messages in
                try await socket.send(.binary([1, 2, 3]))
                while try await messages.next() != nil {}
                #expect(socket.closure?.code == .unsupportedData)
            }
            // The next client is served as before.
            try await self.connect(server) { socket, messages in
                try await socket.send(#"{"type":"request","id":1,"name":"greet","data":{"name":"Eve"}}"#)
                #expect(
                    try await messages.next()?.text
                        == #"{"type":"reply","id":1,"data":"Hello Eve, from ada"}"#
                )
            }
        }
    }

    @Test("Each thing that is not done is answered with its code")
    func refusals() async throws {
        try await TopicServer.run { server in
            try await self.connect(server) { socket, messages in
                for (message, code) in [
                    (#"{"type":"subscribe","id":1,"topic":"room:closed"}"#, "forbidden"),
                    (#"{"type":"subscribe","id":1,"topic":"$starling:nodes"}"#, "forbidden"),
                    (
                        #"{"type":"publish","id":1,"topic":"$starling:nodes","data":{"text":"x"}}"#,
                        "forbidden"
                    ),
                    (#"{"type":"publish","id":1,"topic":"room:a","data":{"text":"forbidden"}}"#, "bad-words"),
                    (#"{"type":"publish","id":1,"topic":"room:a","data":{"text":7}}"#, "invalid-data"),
                    (#"{"type":"publish","id":1,"topic":"room:a"}"#, "invalid-data"),
                    (#"{"type":"members","id":1,"topic":"room:closed"}"#, "forbidden"),
                    (#"{"type":"request","id":1,"name":"nothing"}"#, "unknown-request"),
                    (#"{"type":"request","id":1,"name":"greet","data":{"nom":"Eve"}}"#, "invalid-data"),
                    (#"{"type":"request","id":1,"name":"fail","data":1}"#, "internal"),
                    (#"{"type":"request","id":1,"name":"sleep","data":60000,"timeout":20}"#, "timeout"),
                ] {
                    try await socket.send(.text(message))
                    let answer = try await messages.next()?.text ?? ""
                    #expect(
                        answer.hasPrefix(#"{"type":"error","id":1,"code":"\#(code)""#),
                        "\(message): \(answer)"
                    )
                    #expect(!answer.contains("Mistake"), "a failure's text is no client's business")
                }
            }
        }
    }

    @Test("Requests run beside each other up to their bound, and an id in use is refused")
    func concurrency() async throws {
        try await TopicServer.run { server in
            try await self.connect(server) { socket, messages in
                // Longer than the test: they end with the connection.
                for id in 1...4 {
                    try await socket.send(
                        .text(#"{"type":"request","id":\#(id),"name":"sleep","data":4000}"#)
                    )
                }
                try await socket.send(#"{"type":"request","id":4,"name":"greet","data":{"name":"Eve"}}"#)
                #expect(
                    try await messages.next()?.text?.contains(#""id":4,"code":"invalid-message""#) == true
                )
                try await socket.send(#"{"type":"request","id":5,"name":"greet","data":{"name":"Eve"}}"#)
                #expect(
                    try await messages.next()?.text?.contains(#""id":5,"code":"too-many-requests""#) == true
                )
                // Other messages are not held up.
                try await socket.send(#"{"type":"unsubscribe","id":6,"topic":"x"}"#)
                #expect(try await messages.next()?.text == #"{"type":"unsubscribed","id":6,"topic":"x"}"#)
            }
        }
    }

    @Test("Plain clients of the same endpoint get and publish what they always did")
    func plainClients() async throws {
        try await TopicServer.run { server in
            try await self.client.connect(to: server.url("plain")) { plain in
                #expect(plain.subprotocol == nil)
                var plainMessages = plain.makeAsyncIterator()
                try await self.connect(server) { socket, messages in
                    try await socket.send(#"{"type":"subscribe","id":1,"topic":"room:plain"}"#)
                    for _ in 0..<2 { _ = try await messages.next() }
                    try await eventually("the plain client is subscribed") {
                        await server.server.registry.count(subscribedTo: "room:plain") == 2
                    }
                    for (message, field) in [
                        (Message.text(#"{"n": 1}"#), #""data":{"n": 1}}"#),
                        ("no JSON", #""text":"no JSON"}"#),
                        (.binary([1, 2, 3]), #""base64":"AQID"}"#),
                    ] {
                        try await plain.send(message)
                        #expect(try await plainMessages.next() == message)
                        let publication = try await messages.next()?.text ?? ""
                        #expect(
                            publication.hasPrefix(#"{"type":"publication","topic":"room:plain","position":"#)
                        )
                        #expect(publication.hasSuffix(field), "\(publication)")
                    }
                    // Presence of the others is not for plain clients.
                    try await socket.send(
                        #"{"type":"publish","id":2,"topic":"room:plain","data":{"text":"hi"}}"#
                    )
                    #expect(try await plainMessages.next()?.text == #"{"by":"ada","text":"hi"}"#)
                }
            }
        }
    }

    @Test("An endpoint without a plain form sends other clients away")
    func noPlainForm() async throws {
        let endpoint = WebSocketEndpoint(service: TopicService { _, _ in .allowed })
        let (addresses, listening) = AsyncStream.makeStream(of: String.self)
        let server = WebSocketServer(
            transport: NativeTransport(host: "127.0.0.1", port: 0, eventLoops: 1) { listening.yield($0) }
        ) { WebSocketRoute("/", endpoint) }
        async let serving: Void = server.run()
        let address = await addresses.first { _ in true }
        let closure = try await self.client.connect(to: "ws://\(try #require(address))/") { socket in
            for try await _ in socket {}
            return socket.closure
        }
        #expect(closure?.code == .policyViolation)
        #expect(closure?.reason == "this endpoint speaks starling.v1.json")
        server.beginShutdown()
        try await serving
    }

    @Test("A member is present once for all connections, and leaves with the last, however that ends")
    func presence() async throws {
        try await TopicServer.run { server in
            let broadcaster = server.broadcaster
            try await self.connect(server, as: "watcher") { socket, messages in
                try await socket.send(#"{"type":"subscribe","id":1,"topic":"room:a"}"#)
                for _ in 0..<2 { _ = try await messages.next() }
                try await self.connect(server) { first, firstMessages in
                    try await first.send(#"{"type":"subscribe","id":1,"topic":"room:a"}"#)
                    #expect(
                        try await messages.next()?.text
                            == #"{"type":"joined","topic":"room:a","member":{"id":"ada","info":"ADA"}}"#
                    )
                    try await self.connect(server) { second, secondMessages in
                        try await second.send(#"{"type":"subscribe","id":1,"topic":"room:a"}"#)
                        _ = try await secondMessages.next()
                        // Subscribing again does not count twice.
                        try await second.send(#"{"type":"subscribe","id":2,"topic":"room:a"}"#)
                        _ = try await secondMessages.next()
                        #expect(try await broadcaster.memberCount(of: "room:a") == 2)
                    }
                    #expect(try await broadcaster.memberCount(of: "room:a") == 2)
                    // Cut by the server, with no word of the client's.
                    _ = await server.server.registry.close(user: "ada", .goingAway)
                }
                #expect(
                    try await messages.next()?.text
                        == #"{"type":"left","topic":"room:a","member":{"id":"ada","info":"ADA"}}"#
                )
            }
            try await eventually("nobody is left") { try await broadcaster.memberCount(of: "room:a") == 0 }
        }
    }

    @Test("A shutdown tells clients when to come back, in both ways")
    func drain() async throws {
        let (texts, closure) = try await TopicServer.run { server in
            try await self.connect(server) { socket, messages in
                server.server.beginShutdown()
                var texts: [String] = []
                while let message = try await messages.next() { texts.append(message.text ?? "") }
                return (texts, socket.closure)
            }
        }
        #expect(texts.count == 1)
        let digits = texts.first?.split(separator: ":").last?.prefix { $0.isNumber } ?? ""
        let delay = try #require(Int(digits))
        #expect(texts == [#"{"type":"drain","retry":\#(delay)}"#])
        #expect((0...50).contains(delay))
        #expect(closure?.code == .goingAway)
        #expect(closure?.reason == "the server shuts down; retry in \(delay) ms")
    }

    @Test(
        "A client that has gone when its subscription is allowed is nobody's failure, and nothing is logged"
    )
    func leavesMeanwhile() async throws {
        let log = ErrorLog()
        let decisions = Lock(0)
        var service = TopicService<String> { client, _ in
            try await eventually("the client has gone") { client.socket.closure != nil }
            decisions.withLock { $0 += 1 }
            return .allowed
        }
        service.configuration.logger = Logger(label: "test") { _ in log }
        try await TopicServer.run(service: service) { server in
            try await self.connect(server) { socket, _ in
                try await socket.send(#"{"type":"subscribe","id":1,"topic":"room:a"}"#)
            }
            try await eventually("it was decided") { decisions.withLock { $0 } == 1 }
        }
        #expect(log.messages.withLock { $0 } == [])
    }
}

/// Keeps what is logged as an error, or worse.
private final class ErrorLog: LogHandler {
    let messages = Lock<[String]>([])

    func log(event: LogEvent) {
        guard event.level >= .error else { return }
        self.messages.withLock { $0.append("\(event.message) \(event.metadata ?? [:])") }
    }

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { nil }
        set {}
    }
    var metadata: Logger.Metadata {
        get { [:] }
        set {}
    }
    var logLevel: Logger.Level {
        get { .trace }
        set {}
    }
}
#endif
