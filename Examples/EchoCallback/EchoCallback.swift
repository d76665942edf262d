import ArgumentParser
import ExampleSupport
import Starling
import StarlingCore

/// Sends every message back, on every path: the synchronous form, without a task per connection.
@main
struct EchoCallback: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "A WebSocket server that sends every message back, from callbacks."
    )

    @OptionGroup var options: ServerOptions

    func run() async throws {
        let echo = WebSocketEndpoint(configuration: options.endpointConfiguration(), handler: EchoHandler())
        try await options.serve { WebSocketRoute("*", echo) }
    }
}

struct EchoHandler: HandoffConnectionHandler {
    mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {
        connection.send(message)
    }
}
