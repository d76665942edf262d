import ArgumentParser
import ExampleSupport
import Starling
import StarlingCore
import StarlingNative
import StarlingRedis
import StarlingTopics

/// Rooms in which people chat: the page at `/`, and the topics at `/chat` that PROTOCOL.md describes.
@main
struct Chat: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "A chat: open http://127.0.0.1:8080 in two windows."
    )

    @OptionGroup var options: ServerOptions

    @Option(help: "Members that a room may have.")
    var roomMembers = 1000

    @Option(
        help: "A Redis, redis://127.0.0.1 for example, that joins this chat with all others that name it."
    )
    var redis: String?

    func validate() throws {
        guard roomMembers > 0 else { throw ValidationError("--room-members must be greater than 0") }
    }

    func run() async throws {
        let broadcaster = try makeBroadcaster()
        let rooms = Rooms(broadcaster: broadcaster, membersMax: roomMembers)
        var configuration = options.endpointConfiguration(messageBytesMax: 32 << 10)
        configuration.rates.messagesPerSecondMax = configuration.rates.messagesPerSecondMax ?? 500

        let endpoint = WebSocketEndpoint(
            broadcaster: broadcaster,
            configuration: configuration,
            authenticate: { _ in .accept(Visitor(rooms)) },
            service: Self.service
        )
        try await options.serve {
            WebSocketRoute("/chat", endpoint)
            TopicScriptRoute()
            Page.routes
        }
    }

    private static var service: TopicService<Visitor> {
        var service = TopicService<Visitor> { client, topic in
            try await client.userData.access(to: topic)
        } publish: { client, publication in
            try await client.userData.check(publication)
        }
        service.answer(ChatTopics.join) { client, wish in try await client.userData.join(wish) }
        return service
    }

    private func makeBroadcaster() throws -> any ChatBroadcaster {
        guard let redis else { return InMemoryBroadcaster(history: Rooms.historyLimits) }
        return try RedisBroadcaster(url: redis, connector: NativeConnector(), history: Rooms.historyLimits)
    }
}
