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

    @Option(help: "Serve this path alone.")
    var path = "*"

    @Option(help: "Agree on this subprotocol with clients that offer it.")
    var subprotocol: String?

    func run() async throws {
        let configuration = options.endpointConfiguration()
        let body: @Sendable (WebSocket) async throws -> Void = { socket in
            for try await message in socket {
                try await socket.send(message)
            }
        }
        let echo =
            if let subprotocol {
                WebSocketEndpoint(
                    configuration: configuration,
                    authenticate: { .accept(subprotocol: $0.subprotocols.first { $0 == subprotocol }) }
                ) { socket, _ in try await body(socket) }
            } else {
                WebSocketEndpoint.resumable(configuration: configuration, body)
            }
        try await options.serve { WebSocketRoute(path, echo) }
    }
}
