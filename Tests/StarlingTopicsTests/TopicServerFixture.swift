#if os(Linux)
import HTTPTypes
import Logging
import Starling
import StarlingCore
import StarlingNative
import StarlingTopics
import Testing

/// A chat's topics, as servers and clients share them.
enum Chat {
    struct Event: Codable, Sendable, Equatable {
        var text: String
        var by: String?
    }

    struct Name: Codable, Sendable { var name: String }

    static func room(_ name: String) -> TypedTopic<Event> { TypedTopic("room:\(name)") }
    static func typing(_ name: String) -> TypedTopic<Event> { TypedTopic("typing:\(name)") }
    static let greet = TypedRequest<Name, String>("greet")
    static let sleep = TypedRequest<Int, Bool>("sleep")
    static let fail = TypedRequest<Int, Bool>("fail")

    static func broadcaster(countMax: Int = 1000) -> InMemoryBroadcaster {
        InMemoryBroadcaster { $0.name.hasPrefix("room:") ? HistoryLimits(countMax: countMax) : nil }
    }

    /// Rooms for everybody but `room:closed`; what is published gets its sender's name, and `forbidden` is not published.
    static func service() -> TopicService<String> {
        var service = TopicService<String> { client, topic in
            guard topic.name != "room:closed" else { throw TopicRefusal(.forbidden, "the room is closed") }
            return topic.name.hasPrefix("room:")
                ? .present(as: PresenceMember(id: client.userData, info: client.userData.uppercased()))
                : .allowed
        } publish: { client, publication in
            var event = try publication.data.decode(Event.self)
            guard event.text != "forbidden" else { throw TopicRefusal("bad-words", "mind your words") }
            event.by = client.userData
            return try JSONText(encoding: event)
        }
        service.answer(Self.greet) { client, name in "Hello \(name.name), from \(client.userData)" }
        service.answer(Self.sleep) { _, milliseconds in
            try await Task.sleep(for: .milliseconds(milliseconds))
            return true
        }
        service.answer(Self.fail) { _, _ in throw Mistake() }
        service.configuration.logger.logLevel = .critical
        service.configuration.requestsMax = 4
        service.configuration.requestTimeout = .seconds(5)
        return service
    }

    struct Mistake: Error {}
}

/// A server with the chat's endpoint at `/chat`.
struct TopicServer: Sendable {
    let server: WebSocketServer<NativeTransport>
    let broadcaster: InMemoryBroadcaster
    let port: UInt16

    /// A client's URL.
    func url(_ user: String) -> String { "ws://127.0.0.1:\(self.port)/chat?user=\(user)" }

    /// Serves during `body`, then shuts down.
    static func run<Result: Sendable>(
        port: Int = 0,
        broadcaster: InMemoryBroadcaster = Chat.broadcaster(),
        service: TopicService<String> = Chat.service(),
        outbound: OutboundConfiguration = OutboundConfiguration(),
        _ body: (TopicServer) async throws -> Result
    ) async throws -> Result {
        var configuration = EndpointConfiguration()
        configuration.outbound = outbound
        let endpoint = WebSocketEndpoint(
            broadcaster: broadcaster,
            configuration: configuration,
            authenticate: { request in
                guard let user = request[query: "user"] else { return .refuse(.unauthorized) }
                return .accept(user, user: user)
            },
            service: service
        ) { socket, user in
            try await socket.subscribe(to: Chat.room("plain").topic)
            for try await message in socket {
                try await broadcaster.publish(message, to: Chat.room("plain").topic)
            }
        }
        var server = ServerConfiguration()
        server.drainSpread = .zero
        server.drainTimeout = .seconds(5)
        server.drainRetryDelayMax = .milliseconds(50)
        server.logger.logLevel = .critical
        let (addresses, listening) = AsyncStream.makeStream(of: String.self)
        let transport = NativeTransport(host: "127.0.0.1", port: port, eventLoops: 2) {
            listening.yield($0)
            listening.finish()
        }
        let running = WebSocketServer(transport: transport, configuration: server) {
            WebSocketRoute("/chat", endpoint)
        }
        return try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask {
                defer { listening.finish() }
                try await running.run()
            }
            var address: String?
            for await known in addresses { address = known }
            guard let port = address.flatMap({ UInt16($0.split(separator: ":").last ?? "") }) else {
                try await group.waitForAll()
                throw Chat.Mistake()
            }
            do {
                let result = try await body(
                    TopicServer(server: running, broadcaster: broadcaster, port: port)
                )
                running.beginShutdown()
                try await group.waitForAll()
                return result
            } catch {
                running.beginShutdown()
                try? await group.waitForAll()
                throw error
            }
        }
    }
}

/// The error that something throws; nil if it throws none of this type.
func thrown<Failure: Error>(_ type: Failure.Type, _ body: () async throws -> Void) async -> Failure? {
    do {
        try await body()
        return nil
    } catch {
        return error as? Failure
    }
}
#endif
