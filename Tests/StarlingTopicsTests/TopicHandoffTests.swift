#if os(Linux)
import Glibc
import HTTPTypes
import Logging
import Starling
import StarlingCore
import StarlingNative
import StarlingTopics
import TestSupport
import Testing

/// Clients of a topic service go from one server to the next, in the same process.
@Suite struct TopicHandoffTests {
    private struct Running {
        let port: Int
        let server: WebSocketServer<NativeTransport>
        let broadcaster: InMemoryBroadcaster
        let task: Task<Void, any Error>
    }

    private static func start(_ path: String, port: Int = 0) async throws -> Running {
        let broadcaster = Chat.broadcaster()
        var service = Chat.service()
        service.configuration.tickets = ResumeTickets(keys: [Array("a key for tests, of 32 bytes....".utf8)])
        let endpoint = WebSocketEndpoint.resumable(
            broadcaster: broadcaster,
            authenticate: { request in
                guard let user = request[query: "user"] else { return .refuse(.unauthorized) }
                return .accept(user, user: user)
            },
            service: service
        ) { socket, user in
            for try await _ in socket { try await socket.send("\(user), \(socket.isResumed)") }
        }
        let (addresses, listening) = AsyncStream.makeStream(of: String.self)
        let transport = NativeTransport(
            host: "127.0.0.1",
            port: port,
            eventLoops: 2,
            handoff: Handoff(path: path, bodiesTimeout: .seconds(5))
        ) {
            listening.yield($0)
            listening.finish()
        }
        var configuration = ServerConfiguration()
        configuration.drainSpread = .zero
        configuration.logger.logLevel = .critical
        let server = WebSocketServer(transport: transport, configuration: configuration) {
            WebSocketRoute("/chat", endpoint)
        }
        let task = Task {
            defer { listening.finish() }
            try await server.run()
        }
        var address: String?
        for await known in addresses { address = known }
        let bound = try #require(address?.split(separator: ":").last.flatMap { Int($0) })
        return Running(port: bound, server: server, broadcaster: broadcaster, task: task)
    }

    private static func connect(
        to server: Running,
        as user: String,
        _ subprotocols: [String] = [TopicProtocol.name],
        _ body: (WebSocket, inout WebSocket.AsyncIterator) async throws -> Void
    ) async throws {
        var configuration = ClientConfiguration()
        configuration.subprotocols = subprotocols
        let client = WebSocketClient(connector: NativeConnector())
        let url = "ws://127.0.0.1:\(server.port)/chat?user=\(user)"
        try await client.connect(to: url, configuration: configuration) { socket in
            var messages = socket.makeAsyncIterator()
            try await body(socket, &messages)
        }
    }

    @Test(
        "Subscriptions and presence go along, and requests are answered or refused",
        .timeLimit(.minutes(1))
    )
    func takeover() async throws {
        let path = "/tmp/starling-topics-\(getpid()).sock"
        let first = try await Self.start(path)
        var last = first
        try await Self.connect(to: first, as: "ada") { socket, messages in
            /// The next messages, but for who comes: each of these brokers is told of it anew.
            func next(_ count: Int) async throws -> Set<String> {
                var texts: Set<String> = []
                while texts.count < count, let text = try await messages.next()?.text {
                    if !text.hasPrefix(#"{"type":"joined""#) { texts.insert(text) }
                }
                return texts
            }
            try await socket.send(#"{"type":"subscribe","id":1,"topic":"room:a"}"#)
            #expect(try await next(1).contains { $0.hasPrefix(#"{"type":"subscribed","id":1"#) })
            for round in 1...2 {
                try await socket.send(
                    #"{"type":"request","id":\#(round)2,"name":"sleep","data":20}"#
                )
                try await socket.send(
                    #"{"type":"request","id":\#(round)3,"name":"sleep","data":4000}"#
                )
                let successor = try await Self.start(path, port: first.port)
                try await last.task.value
                last = successor
                let requested = try await next(2)
                #expect(
                    requested == [
                        #"{"type":"reply","id":\#(round)2,"data":true}"#,
                        #"{"type":"error","id":\#(round)3,"code":"unavailable","text":"the server restarts: ask again"}"#,
                    ]
                )
                // It is present in the next process, and hears what is published there.
                let broadcaster = last.broadcaster
                try await eventually("ada is present") {
                    try await broadcaster.memberCount(of: "room:a") == 1
                }
                _ = try await last.broadcaster.publish(
                    .text(#"{"text":"round \#(round)"}"#),
                    to: "room:a"
                )
                let publication = try await next(1).first
                #expect(publication?.hasSuffix(#""data":{"text":"round \#(round)"}}"#) == true)
            }
            try await socket.send(
                #"{"type":"publish","id":4,"topic":"room:a","data":{"text":"still here"}}"#
            )
            let answers = try await next(2)
            #expect(answers.contains { $0.hasPrefix(#"{"type":"published","id":4"#) })
            #expect(answers.contains { $0.hasSuffix(#""data":{"by":"ada","text":"still here"}}"#) })

            // At the end there is a ticket for what it has been subscribed to all the time.
            last.server.beginShutdown()
            let farewell = try await next(1).first
            #expect(farewell?.contains(#""type":"drain""#) == true && farewell?.contains("ticket") == true)
        }
        try await last.task.value
        #expect(try await last.broadcaster.memberCount(of: "room:a") == 0)
    }

    @Test("A client without the subprotocol goes as with any body", .timeLimit(.minutes(1)))
    func plain() async throws {
        let path = "/tmp/starling-topics-plain-\(getpid()).sock"
        let first = try await Self.start(path)
        try await Self.connect(to: first, as: "bob", []) { socket, messages in
            try await socket.send("a")
            #expect(try await messages.next()?.text == "bob, false")
            let second = try await Self.start(path, port: first.port)
            try await first.task.value
            try await socket.send("b")
            #expect(try await messages.next()?.text == "bob, true")
            second.server.beginShutdown()
            #expect(try await messages.next() == nil)
            try await second.task.value
        }
    }
}
#endif
