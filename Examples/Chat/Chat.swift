import ArgumentParser
import ExampleSupport
import Starling
import StarlingCore

/// Rooms in which people chat: the page at `/`, and the WebSocket at `/chat` that PROTOCOL.md describes.
@main
struct Chat: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "A chat: open http://127.0.0.1:8080 in two windows."
    )

    @OptionGroup var options: ServerOptions

    @Option(help: "Members that a room may have.")
    var roomMembers = 1000

    func validate() throws {
        guard roomMembers > 0 else { throw ValidationError("--room-members must be greater than 0") }
    }

    func run() async throws {
        let broadcaster = InMemoryBroadcaster()
        let rooms = Rooms(broadcaster: broadcaster, membersMax: roomMembers)
        var configuration = options.endpointConfiguration(messageBytesMax: 32 << 10)
        configuration.rates.messagesPerSecondMax = configuration.rates.messagesPerSecondMax ?? 500

        let endpoint = WebSocketEndpoint(broadcaster: broadcaster, configuration: configuration) { socket in
            var visitor = Visitor(socket, rooms)
            try await visitor.chat()
        }
        try await options.serve {
            WebSocketRoute("/chat", endpoint)
            Page.routes
        }
    }
}
