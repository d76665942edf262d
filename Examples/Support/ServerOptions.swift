public import ArgumentParser
internal import Logging
internal import ServiceLifecycle
public import Starling
internal import StarlingCore
internal import StarlingNative
internal import UnixSignals

/// The flags that all examples share.
public struct ServerOptions: ParsableArguments {
    @Option(help: "The port to listen on; 0 takes a free one.")
    var port = 8080

    @Option(help: "The address to listen on.")
    var host = "127.0.0.1"

    @Option(help: "Listen on this Unix socket instead.")
    var unix: String?

    @Option(help: "A certificate chain in PEM; the server then speaks TLS. Needs --tls-key.")
    var tlsCert: String?

    @Option(help: "The certificate's key in PEM.")
    var tlsKey: String?

    @Option(help: "Event loops; one per core if not given.")
    var loops: Int?

    @Option(help: "Bytes that a message may have; 1048576 if not given, the chat's 32768.")
    var maxMessage: Int?

    @Option(help: "Fragments that a message may have.")
    var maxFragments = 1024

    @Option(help: "Connections in all.")
    var maxConnections = 1_000_000

    @Option(help: "Bytes that may wait for a peer that reads slowly.")
    var maxOutbound = 1 << 20

    @Option(help: "Messages per second and connection.")
    var maxMessageRate: Int?

    @Option(help: "Seconds between pings on a quiet connection.")
    var pingInterval = 25

    @Option(help: "Seconds that a shutdown may take.")
    var drainTimeout = 10

    @Flag(help: "Let pages of any origin connect.")
    var anyOrigin = false

    @Flag(help: "Decline permessage-deflate.")
    var noDeflate = false

    @Option(help: "trace, debug, info, notice, warning, error or critical.")
    var logLevel = "info"

    /// The defaults.
    public init() {}

    /// Checks what the types of the flags do not.
    public func validate() throws {
        guard (0...65535).contains(port) else { throw ValidationError("--port is a number from 0 to 65535") }
        guard (tlsCert == nil) == (tlsKey == nil) else {
            throw ValidationError("--tls-cert and --tls-key go together")
        }
        guard maxMessage ?? 1 > 0, maxFragments > 0, maxOutbound > 0, maxConnections > 0, pingInterval > 0,
            drainTimeout >= 0
        else {
            throw ValidationError("a limit must be greater than 0")
        }
        guard Logger.Level(rawValue: logLevel) != nil else {
            throw ValidationError("--log-level is trace, debug, info, notice, warning, error or critical")
        }
    }

    /// What the flags say about each connection.
    ///
    /// - Parameter messageBytesMax: Holds if `--max-message` is not given.
    /// - Returns: The configuration.
    public func endpointConfiguration(messageBytesMax: Int = 1 << 20) -> EndpointConfiguration {
        var configuration = EndpointConfiguration()
        let maxMessage = maxMessage ?? messageBytesMax
        configuration.limits.messageBytesMax = maxMessage
        configuration.limits.fragmentsPerMessageMax = maxFragments
        configuration.outbound.byteCountMax = max(maxOutbound, maxMessage)
        configuration.rates.messagesPerSecondMax = maxMessageRate
        configuration.timeouts.pingInterval = .seconds(pingInterval)
        if anyOrigin { configuration.origins = .any }
        if noDeflate { configuration.deflate = nil }
        return configuration
    }

    /// Serves the routes until SIGINT or SIGTERM, and then drains.
    public func serve(@RouteBuilder routes: () -> [Route]) async throws {
        var configuration = ServerConfiguration()
        configuration.logger.logLevel = Logger.Level(rawValue: logLevel) ?? .info
        configuration.connectionsMax = maxConnections
        configuration.drainTimeout = .seconds(drainTimeout)
        configuration.drainSpread = .seconds(drainTimeout) / 2
        let transport = NativeTransport(
            unix.map { .unix(path: $0) } ?? .tcp(host: host, port: port),
            eventLoops: loops,
            tls: try makeTLS(),
            onListening: { Output.line("listening on \($0)") }
        )
        let server = WebSocketServer(transport: transport, configuration: configuration) {
            // First, because the echo examples take every path.
            MetricsRoute("/metrics")
            routes()
        }
        let group = ServiceGroup(
            services: [server],
            gracefulShutdownSignals: [.sigint, .sigterm],
            logger: configuration.logger
        )
        try await group.run()
    }

    private func makeTLS() throws -> TLSContext? {
        guard let tlsCert, let tlsKey else { return nil }
        return try TLSContext(
            .server(TLSIdentity(certificateChain: .file(tlsCert), privateKey: .file(tlsKey)))
        )
    }
}
