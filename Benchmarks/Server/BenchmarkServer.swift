import ArgumentParser
import Glibc
import Starling
import StarlingCore
import StarlingNative

/// The servers that the benchmarks measure: one event loop, nothing but the endpoint.
@main
struct BenchmarkServer: AsyncParsableCommand {
    enum Mode: String, ExpressibleByArgument {
        case echoSync = "echo-sync"
        case echoAsync = "echo-async"
        case fanout
        case idleSync = "idle-sync"
        case idleAsync = "idle-async"
    }

    @Option var mode: Mode
    @Option var port = 0

    func run() async throws {
        var endpoint = EndpointConfiguration()
        // The generator compares streams byte by byte, and idle memory is measured without traffic.
        endpoint.timeouts.pingInterval = nil
        endpoint.deflate = nil
        let broadcaster = InMemoryBroadcaster()
        let transport = NativeTransport(host: "127.0.0.1", port: port, eventLoops: 1) { address in
            print("listening on \(address.split(separator: ":").last ?? "")")
            fflush(nil)
        }
        let mode = mode
        let server = WebSocketServer(transport: transport) {
            switch mode {
            case .echoSync:
                WebSocketRoute("/echo", WebSocketEndpoint(configuration: endpoint, handler: Echo()))
            case .idleSync:
                WebSocketRoute("/idle", WebSocketEndpoint(configuration: endpoint, handler: Echo()))
            case .echoAsync: WebSocketRoute("/echo", Self.asyncEcho(endpoint))
            case .idleAsync: WebSocketRoute("/idle", Self.asyncEcho(endpoint))
            case .fanout:
                WebSocketRoute(
                    "/*",
                    WebSocketEndpoint(broadcaster: broadcaster, configuration: endpoint, handler: FanOut())
                )
            }
        }
        try await server.run()
    }

    static func asyncEcho(_ configuration: EndpointConfiguration) -> WebSocketEndpoint {
        WebSocketEndpoint(configuration: configuration) { socket in
            for try await message in socket {
                try await socket.send(message)
            }
        }
    }
}

struct Echo: ConnectionHandler {
    mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {
        connection.send(message)
    }
}

/// Every connection to `/subscribe` receives what a connection to `/publish` sends.
struct FanOut: ConnectionHandler {
    mutating func opened(_ connection: inout Connection<Self>, userData: Void) {
        if connection.path == "/subscribe" { connection.subscribe(to: "all") }
    }

    mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {
        connection.publish(message, to: "all")
    }
}
