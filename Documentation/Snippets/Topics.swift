import HTTPTypes
import Starling
import StarlingNative
import StarlingTopics

enum Chat {
    enum Event: Codable, Sendable { case said(String, by: String) }
    static func room(_ name: String) -> TypedTopic<Event> { TypedTopic("room:\(name)") }
}

extension Chat {
    struct NewName: Codable, Sendable { var to: String }
    static let rename = TypedRequest<NewName, Bool>("rename")
}

struct User: Sendable {
    let id: String
    let name: String
}

protocol Users: Sendable {
    func user(withToken token: String?) async throws -> User?
    func rename(_ user: User, to name: String) async throws -> Bool
}

func makeService(_ users: any Users) -> TopicService<User> {
    var chat = TopicService<User> { client, topic in
        guard topic.name.hasPrefix("room:") else { throw TopicRefusal(.forbidden, "there are rooms only") }
        return .present(as: PresenceMember(id: client.userData.id, info: client.userData.name))
    } publish: { client, publication in
        guard case .said(let text, _) = try publication.data.decode(Chat.Event.self) else {
            throw TopicRefusal(.invalidData, "clients say things")
        }
        return try JSONText(encoding: Chat.Event.said(text, by: client.userData.name))
    }
    chat.answer(Chat.rename) { client, name in
        try await users.rename(client.userData, to: name.to)
    }
    return chat
}

func makeEndpoint(_ users: any Users, _ broadcaster: InMemoryBroadcaster) -> WebSocketEndpoint {
    WebSocketEndpoint(
        broadcaster: broadcaster,
        authenticate: { request -> UpgradeDecision<User> in
            guard let user = try await users.user(withToken: request[query: "token"]) else {
                return .refuse(.unauthorized)
            }
            return .accept(user, user: user.id)
        },
        service: makeService(users)
    )
}

func announce(_ broadcaster: InMemoryBroadcaster) async throws {
    try await broadcaster.publish(.said("The server restarts at noon.", by: "admin"), to: Chat.room("lobby"))
}

func show(_ event: Chat.Event) {}

func follow() async throws {
    let client = ReconnectingClient(to: "wss://example.com/chat", connector: NativeConnector())
    async let running: Void = client.run()
    for try await event in client.topic(Chat.room("swift")) { show(event) }
    try await running
}

func speak(_ client: ReconnectingClient) async throws {
    try await client.publish(.said("Hello", by: "Ada"), to: Chat.room("swift"))
    let isRenamed = try await client.request(Chat.rename, Chat.NewName(to: "Ada"))
    let members = try await client.members(of: Chat.room("swift"))
    print(isRenamed, members.map(\.info))
}

func watch(_ client: ReconnectingClient) async {
    for await state in client.states {
        switch state {
        case .connecting: print("connecting")
        case .connected: print("connected")
        case .waiting(let until): print("again in \(until - .now)")
        case .closed(let reason): print("closed: \(reason)")
        }
    }
}

func followForDays(_ client: ReconnectingClient, from position: TopicPosition?) async throws {
    for try await update in client.topic(Chat.room("swift"), from: position).updates {
        switch update {
        case .event(let event, let position): print(event, position?.rawValue ?? "")
        case .subscribed(let isRecovered, _): if !isRecovered { print("read the room's state anew") }
        case .gap: print("read the room's state anew")
        case .joined(let member): print("\(member.info) is here")
        case .left(let member): print("\(member.info) has left")
        }
    }
}

func useTickets(_ service: inout TopicService<User>, secret: [UInt8]) {
    service.configuration.tickets = ResumeTickets(keys: [secret])
}
