import ArgumentParser
import ExampleSupport
import Starling

/// Sends every message back, on every path: the async form.
@main
struct Echo: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "A WebSocket server that sends every message back."
    )

    @OptionGroup var options: ServerOptions

    func run() async throws {
        let echo = WebSocketEndpoint(configuration: options.endpointConfiguration()) { socket in
            for try await message in socket {
                try await socket.send(message)
            }
        }
        try await options.serve { WebSocketRoute("*", echo) }
    }
}
