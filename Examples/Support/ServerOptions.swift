public import ArgumentParser
internal import Logging
internal import ServiceLifecycle
public import Starling
internal import StarlingCore
internal import StarlingNative
internal import UnixSignals

#if NIO
internal import NIOPosix
internal import NIOSSL
internal import StarlingNIO
#endif

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

    @Option(help: "Roots in PEM that must vouch for each client's certificate. Needs --tls-cert.")
    var tlsClientCa: String?

    @Option(
        help: "Take over from the process that waits at this Unix socket, and wait there for the next one."
    )
    var handoff: String?

    @Option(help: "Event loops; one per core if not given.")
    var loops: Int?

    @Option(help: "Bytes that a message may have; 1048576 if not given, the chat's 32768.")
    var maxMessage: Int?

    @Option(help: "Fragments that a message may have.")
    var maxFragments = 1024

    @Option(help: "Connections in all.")
    var maxConnections = 1_000_000

    @Option(help: "Connections from one address.")
    var maxConnectionsPerAddress: Int?

    @Option(help: "Upgrades per second in all.")
    var maxUpgradeRate: Int?

    @Option(help: "Seconds that an upgrade over that rate may wait for its turn.")
    var maxUpgradeWait = 3

    @Option(help: "Bytes that may wait for a peer that reads slowly.")
    var maxOutbound = 1 << 20

    @Option(help: "What happens when more would wait: disconnect, recover, skip or conflate.")
    var slowConsumer = "disconnect"

    @Option(help: "Messages per second and connection.")
    var maxMessageRate: Int?

    @Option(help: "Bytes per second and connection.")
    var maxByteRate: Int?

    @Flag(help: "Do not read a peer that sends faster than that, instead of closing it.")
    var slowDown = false

    @Option(help: "Seconds in which a request's head must arrive.")
    var handshakeTimeout = 5

    @Option(help: "Seconds between pings on a quiet connection.")
    var pingInterval = 25

    @Option(help: "Seconds that a ping may go unanswered.")
    var pongTimeout = 10

    @Option(help: "Seconds that a close frame may go unanswered.")
    var closeTimeout = 5

    @Option(help: "Seconds in which a peer must take some of what waits for it.")
    var writeTimeout = 10

    @Option(help: "Seconds without a message after which a connection is closed.")
    var idleTimeout: Int?

    @Option(help: "Seconds after which any connection is closed.")
    var maxLifetime: Int?

    @Option(help: "Seconds that a shutdown may take.")
    var drainTimeout = 10

    @Option(
        help: "An address, or a range such as 10.0.0.0/8, whose X-Forwarded-For is believed; may be repeated."
    )
    var trustProxy: [String] = []

    @Flag(help: "Expect the PROXY protocol on each connection. Needs --trust-proxy.")
    var proxyProtocol = false

    @Option(help: "This node's name in the affinity cookie. Needs --affinity-key.")
    var node: String?

    @Option(help: "Signs the affinity cookie: 16 characters or more, the same on all nodes. Needs --node.")
    var affinityKey: String?

    @Flag(help: "Let browsers send the affinity cookie over TLS only.")
    var secureCookie = false

    @Flag(help: "Let pages of any origin connect.")
    var anyOrigin = false

    @Flag(help: "Decline permessage-deflate.")
    var noDeflate = false

    @Option(help: "Show the server's status at /debug/starling, with this password and any name.")
    var debugToken: String?

    @Option(help: "trace, debug, info, notice, warning, error or critical.")
    var logLevel = "info"

    #if NIO
    @Option(help: "native or nio.")
    var transport = "native"
    #endif

    /// The defaults.
    public init() {}

    /// Checks what the types of the flags do not.
    public func validate() throws {
        guard (0...65535).contains(port) else { throw ValidationError("--port is a number from 0 to 65535") }
        guard (tlsCert == nil) == (tlsKey == nil) else {
            throw ValidationError("--tls-cert and --tls-key go together")
        }
        #if NIO
        guard ["native", "nio"].contains(transport) else {
            throw ValidationError("--transport is native or nio")
        }
        #endif
        guard tlsClientCa == nil || tlsCert != nil else {
            throw ValidationError("--tls-client-ca needs --tls-cert")
        }
        let limits = [
            maxMessage, maxFragments, maxOutbound, maxConnections, maxConnectionsPerAddress, maxUpgradeRate,
            maxMessageRate, maxByteRate, handshakeTimeout, pingInterval, pongTimeout, closeTimeout,
            writeTimeout,
            idleTimeout, maxLifetime,
        ]
        guard limits.allSatisfy({ $0 ?? 1 > 0 }), drainTimeout >= 0, maxUpgradeWait >= 0 else {
            throw ValidationError("a limit must be greater than 0")
        }
        guard !proxyProtocol || !trustProxy.isEmpty else {
            throw ValidationError("--proxy-protocol needs --trust-proxy")
        }
        guard (node == nil) == (affinityKey == nil), affinityKey?.utf8.count ?? 16 >= 16 else {
            throw ValidationError(
                "--node and --affinity-key go together, and the key has 16 characters or more"
            )
        }
        guard debugToken?.utf8.count ?? 16 >= 16 else {
            throw ValidationError("--debug-token has 16 characters or more")
        }
        guard node.map(SessionAffinity.isValidName) ?? true else {
            throw ValidationError("--node has letters, digits and hyphens")
        }
        do {
            _ = try TrustedProxies(trustProxy)
        } catch {
            throw ValidationError("--trust-proxy: \(error)")
        }
        guard Self.slowConsumerPolicies[slowConsumer] != nil else {
            throw ValidationError("--slow-consumer is disconnect, recover, skip or conflate")
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
        configuration.outbound.slowConsumerPolicy = Self.slowConsumerPolicies[slowConsumer] ?? .disconnect
        configuration.rates.messagesPerSecondMax = maxMessageRate
        configuration.rates.bytesPerSecondMax = maxByteRate
        configuration.rates.policy = slowDown ? .delay : .close
        configuration.timeouts.pingInterval = .seconds(pingInterval)
        configuration.timeouts.pongTimeout = .seconds(pongTimeout)
        configuration.timeouts.closeTimeout = .seconds(closeTimeout)
        configuration.timeouts.writeTimeout = .seconds(writeTimeout)
        configuration.timeouts.idleTimeout = idleTimeout.map { .seconds($0) }
        configuration.timeouts.lifetimeMax = maxLifetime.map { .seconds($0) }
        if anyOrigin { configuration.origins = .any }
        if noDeflate { configuration.deflate = nil }
        return configuration
    }

    /// Serves the routes until SIGINT or SIGTERM, and then drains.
    public func serve(@RouteBuilder routes: () -> [Route]) async throws {
        var configuration = ServerConfiguration()
        configuration.logger.logLevel = Logger.Level(rawValue: logLevel) ?? .info
        configuration.connectionsMax = maxConnections
        configuration.connectionsPerAddressMax = maxConnectionsPerAddress
        configuration.upgradesPerSecondMax = maxUpgradeRate
        configuration.upgradeQueueTimeout = .seconds(maxUpgradeWait)
        configuration.handshakeTimeout = .seconds(handshakeTimeout)
        configuration.trustedProxies = try TrustedProxies(
            trustProxy,
            source: proxyProtocol ? .proxyProtocol : .xForwardedFor
        )
        if let node, let affinityKey {
            var affinity = SessionAffinity(node: node, key: Array(affinityKey.utf8))
            affinity.isSecure = secureCookie
            configuration.affinity = affinity
        }
        configuration.drainTimeout = .seconds(drainTimeout)
        configuration.drainSpread = .seconds(drainTimeout) / 2
        #if NIO
        if transport == "nio" {
            return try await run(makeNIOTransport(), configuration, routes())
        }
        #endif
        let native = NativeTransport(
            target,
            eventLoops: loops,
            tls: try makeTLS(),
            handoff: handoff.map { Handoff(path: $0) },
            onListening: { Output.line("listening on \($0)") }
        )
        try await run(native, configuration, routes())
    }

    private func run(
        _ transport: some Transport,
        _ configuration: ServerConfiguration,
        _ routes: [Route]
    ) async throws {
        let server = WebSocketServer(transport: transport, configuration: configuration) {
            // First, because the echo examples take every path.
            MetricsRoute("/metrics")
            if let debugToken {
                DebugRoute("/debug/starling") { DebugToken(debugToken).isShown(by: $0) }
            }
            routes
        }
        let group = ServiceGroup(
            configuration: ServiceGroupConfiguration(
                // A server that has handed off ends by itself, and well.
                services: [.init(service: server, successTerminationBehavior: .gracefullyShutdownGroup)],
                gracefulShutdownSignals: [.sigint, .sigterm],
                logger: configuration.logger
            )
        )
        try await group.run()
    }

    private var target: ListenTarget {
        unix.map { .unix(path: $0) } ?? .tcp(host: host, port: port)
    }

    #if NIO
    private func makeNIOTransport() throws -> NIOTransport {
        NIOTransport(
            target,
            group: loops.map { MultiThreadedEventLoopGroup(numberOfThreads: $0) } ?? .singleton,
            tls: try makeNIOTLS(),
            onListening: { Output.line("listening on \($0)") }
        )
    }

    private func makeNIOTLS() throws -> NIOSSLContext? {
        guard let tlsCert, let tlsKey else { return nil }
        var configuration = NIOSSL.TLSConfiguration.makeServerConfiguration(
            certificateChain: try NIOSSLCertificate.fromPEMFile(tlsCert).map { .certificate($0) },
            privateKey: .privateKey(try NIOSSLPrivateKey(file: tlsKey, format: .pem))
        )
        if let tlsClientCa {
            configuration.trustRoots = .file(tlsClientCa)
            configuration.certificateVerification = .noHostnameVerification
        }
        return try NIOSSLContext(configuration: configuration)
    }
    #endif

    private func makeTLS() throws -> TLSContext? {
        guard let tlsCert, let tlsKey else { return nil }
        var configuration = StarlingNative.TLSConfiguration.server(
            TLSIdentity(certificateChain: .file(tlsCert), privateKey: .file(tlsKey))
        )
        if let tlsClientCa {
            configuration.clientCertificates = .required(trustRoots: .file(tlsClientCa))
        }
        return try TLSContext(configuration)
    }

    private static let slowConsumerPolicies: [String: SlowConsumerPolicy] = [
        "disconnect": .disconnect, "recover": .recover, "skip": .skip, "conflate": .conflate,
    ]
}
