import ArgumentParser
import ChatTopics
import ExampleSupport
import HTTPTypes
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

        let endpoint = WebSocketEndpoint.resumable(
            broadcaster: broadcaster,
            configuration: configuration,
            authenticate: { request in try await Self.admit(request, to: rooms) },
            service: Self.service(of: rooms)
        )
        try await options.serve {
            WebSocketRoute("/chat", endpoint)
            TopicScriptRoute()
            Page.routes
        }
    }

    /// A client may say in its address where it wants to be, instead of asking to join.
    private static func admit(
        _ request: UpgradeRequest,
        to rooms: Rooms
    ) async throws -> UpgradeDecision<Visitor> {
        let visitor = Visitor(id: rooms.makeID())
        guard let room = request[query: "room"] else { return .accept(visitor) }
        do {
            let wish = JoinWish(room: room, nickname: request[query: "nickname"] ?? "")
            _ = try await visitor.join(wish, in: rooms)
        } catch let refusal as TopicRefusal {
            return .refuse(.forbidden, body: refusal.description)
        }
        return .accept(visitor)
    }

    private static func service(of rooms: Rooms) -> TopicService<Visitor> {
        var service = TopicService<Visitor> { client, topic in
            try await client.userData.access(to: topic)
        } publish: { client, publication in
            try await client.userData.check(publication, in: rooms)
        }
        service.answer(ChatTopics.join) { client, wish in try await client.userData.join(wish, in: rooms) }
        return service
    }

    private func makeBroadcaster() throws -> any ChatBroadcaster {
        guard let redis else { return InMemoryBroadcaster(history: Rooms.historyLimits) }
        return try RedisBroadcaster(url: redis, connector: NativeConnector(), history: Rooms.historyLimits)
    }
}
