import Starling
import StarlingTesting

/// How the cluster's clients talk to the chat.
struct ChatDialect: ClusterDialect {
    func makeEndpoint(
        broadcaster: SimulatedBroadcaster,
        configuration: EndpointConfiguration
    ) -> WebSocketEndpoint {
        ChatRoom.endpoint(broadcaster, configuration)
    }

    func path(for client: String) -> String { "/chat?name=\(client)" }

    func message(for request: ClientRequest) -> Message {
        switch request {
        case .subscribe(let room, nil): .text("join \(room)")
        case .subscribe(let room, let position?): .text("join \(room) \(position.epoch) \(position.offset)")
        case .publish(let text, let room, let key): .text("say \(room) \(key) \(text)")
        case .enter(let room, _): .text("enter \(room)")
        case .leave(let room): .text("leave \(room)")
        }
    }

    func event(in message: Message) -> ClientEvent? {
        let words = (message.text ?? "").split(separator: " ").map(String.init)
        func position() -> StreamPosition {
            StreamPosition(epoch: UInt64(words[2]) ?? 0, offset: UInt64(words[3]) ?? 0)
        }
        switch words[0] {
        case "welcome":
            return .subscribed(
                Topic(words[1]),
                position: position(),
                isRecovered: words[4] == "true",
                members: Array(words[5...])
            )
        case "said": return .publication(Topic(words[1]), position(), text: words[4])
        case "missed": return .gap(Topic(words[1]), newest: position())
        case "came": return .joined(Topic(words[1]), member: words[2])
        case "went": return .left(Topic(words[1]), member: words[2])
        case "heard": return .acknowledged(key: words[1], position())
        case "again": return .failed(key: words[1])
        default: return nil
        }
    }
}
