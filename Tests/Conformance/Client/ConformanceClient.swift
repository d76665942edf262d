import ArgumentParser
import Starling
import StarlingNative

#if NIO
import StarlingNIO
#endif

/// Runs the cases of Autobahn's fuzzing server: echoes every message, as each case asks.
@main
struct ConformanceClient: AsyncParsableCommand {
    @Option(help: "The fuzzing server, ws://127.0.0.1:9001 for example.")
    var server: String

    @Option(help: "The name that the report is to have.")
    var agent: String

    @Option(help: "Certificates to trust, in PEM.")
    var trust: String?

    #if NIO
    @Flag(help: "Connect with NIOConnector.")
    var nio = false
    #endif

    private var connector: any Connector {
        #if NIO
        if nio { return NIOConnector() }
        #endif
        return NativeConnector()
    }

    func run() async throws {
        let client = WebSocketClient(connector: connector)
        var configuration = ClientConfiguration()
        // What the cases ask for: 16 MiB in 64-byte fragments, and pauses longer than the usual deadlines.
        configuration.limits.messageBytesMax = 16 << 20
        configuration.limits.frameBytesMax = 16 << 20
        configuration.limits.fragmentsPerMessageMax = 262_144
        configuration.outbound.byteCountMax = 64 << 20
        // The suite's server is slow, and on a busy machine slower.
        configuration.connectTimeout = .seconds(60)
        configuration.handshakeTimeout = .seconds(60)
        configuration.tls.trustRootsFile = trust
        let count = try await client.connect(to: "\(server)/getCaseCount", configuration: configuration) {
            socket in
            for try await message in socket { return Int(message.text ?? "") ?? 0 }
            return 0
        }
        print("\(count) cases")
        for number in stride(from: 1, through: count, by: 1) {
            do {
                try await client.connect(
                    to: "\(server)/runCase?case=\(number)&agent=\(agent)",
                    configuration: configuration
                ) { socket in
                    for try await message in socket { try await socket.send(message) }
                }
            } catch let error as WebSocketError {
                // Most cases end in a way that is an error: the report says whether it was the right one.
                print("case \(number): \(error)")
            }
        }
        try await client.connect(to: "\(server)/updateReports?agent=\(agent)", configuration: configuration) {
            for try await _ in $0 {}
        }
    }
}
