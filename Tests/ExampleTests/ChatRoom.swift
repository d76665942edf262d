import HTTPTypes
import Starling

/// The chat that Documentation/Testing.md tests: rooms with a history, and a list of who is there.
///
/// On the wire are words: `join swift`, or `join swift 3 17` for a client that has everything up to there; `say swift key
/// text`; `enter swift` and `leave swift` for the list.
enum ChatRoom {
    static func endpoint(
        _ broadcaster: some HistoryBroadcaster & PresenceBroadcaster,
        _ configuration: EndpointConfiguration = EndpointConfiguration()
    ) -> WebSocketEndpoint {
        var configuration = configuration
        configuration.publicationFormat.publication = { publication in
            .text("said \(publication.topic) \(words(publication.position)) \(publication.message)")
        }
        configuration.publicationFormat.gap = { .text("missed \($0.topic) \(words($0.newest))") }
        configuration.publicationFormat.presence = { event in
            switch event.kind {
            case .joined: .text("came \(event.topic) \(event.member.id)")
            case .left: .text("went \(event.topic) \(event.member.id)")
            }
        }
        return WebSocketEndpoint(
            broadcaster: broadcaster,
            configuration: configuration,
            authenticate: { request -> UpgradeDecision<String> in
                guard let name = request[query: "name"], !name.isEmpty else { return .refuse(.forbidden) }
                return .accept(name, user: name)
            },
            { socket, name in
                var entered: Set<Topic> = []
                var failure: (any Error)?
                do {
                    for try await message in socket {
                        try await self.serve(message, of: socket, name, broadcaster, &entered)
                    }
                } catch {
                    failure = error
                }
                for room in entered.sorted(by: { $0.name < $1.name }) {
                    try? await broadcaster.leave(name, from: room)
                }
                if let failure { throw failure }
            }
        )
    }

    private static func serve(
        _ message: Message,
        of socket: WebSocket,
        _ name: String,
        _ broadcaster: some HistoryBroadcaster & PresenceBroadcaster,
        _ entered: inout Set<Topic>
    ) async throws {
        let request = (message.text ?? "").split(separator: " ", maxSplits: 3).map(String.init)
        guard request.count >= 2 else { return }
        let room = Topic(request[1])
        switch request[0] {
        case "join":
            var position: StreamPosition?
            if request.count == 4, let epoch = UInt64(request[2]), let offset = UInt64(request[3]) {
                position = StreamPosition(epoch: epoch, offset: offset)
            }
            try await socket.subscribe(to: room, from: position) {
                subscription async throws(BroadcastError) in
                let page = try await broadcaster.members(of: room, from: nil, countMax: 100)
                let names = page.members.map { " \($0.id)" }.joined()
                return .text(
                    "welcome \(room) \(words(subscription.position)) \(subscription.isRecovered)\(names)"
                )
            }
        case "say" where request.count == 4:
            let answer: String
            do throws(BroadcastError) {
                let said = try await broadcaster.publish(
                    .text(request[3]),
                    to: room,
                    idempotencyKey: request[2]
                )
                answer = "heard \(request[2]) \(words(said.position))"
            } catch {
                answer = "again \(request[2])"
            }
            try await socket.send(answer)
        case "enter":
            guard entered.insert(room).inserted else { return }
            try await broadcaster.enter(PresenceMember(id: name), room)
        case "leave":
            guard entered.remove(room) != nil else { return }
            try await broadcaster.leave(name, from: room)
        default: await socket.close(.policyViolation, reason: "join, say, enter or leave")
        }
    }

    private static func words(_ position: StreamPosition?) -> String {
        position.map { "\($0.epoch) \($0.offset)" } ?? "0 0"
    }
}
