public import Starling
internal import StarlingCore

/// What every transport must do, as checks that a test runs against one's own.
///
/// ```swift
/// try await TransportConformance(connector: NativeConnector()) { address in
///     .tcp(host: "127.0.0.1", port: Int(address.split(separator: ":").last ?? "") ?? 0)
/// } makeTransport: { onListening in
///     NativeTransport(host: "127.0.0.1", port: 0, onListening: onListening)
/// }.run()
/// ```
///
/// Each check serves on a transport of its own. Nothing in them needs sockets: whatever the connector reaches will do. Most
/// of the time goes into the checks of back-pressure, which move 20 MiB each.
public struct TransportConformance: Sendable {
    let connector: any Connector
    let options: ConnectOptions
    let timeout: Duration
    let target: @Sendable (String) -> ConnectTarget
    let makeTransport: @Sendable (@escaping @Sendable (String) -> Void) async throws -> any Transport

    /// Describes the transport to check.
    ///
    /// - Parameters:
    ///   - connector: Opens connections to it.
    ///   - options: For the connector: TLS, if the transport speaks TLS.
    ///   - timeout: How long one check may take.
    ///   - target: Where to connect to, from what the transport gave to `onListening`.
    ///   - makeTransport: Makes a transport that calls `onListening` once it accepts connections.
    public init(
        connector: any Connector,
        options: ConnectOptions = ConnectOptions(),
        timeout: Duration = .seconds(120),
        target: @escaping @Sendable (String) -> ConnectTarget,
        makeTransport:
            @escaping @Sendable (_ onListening: @escaping @Sendable (String) -> Void) async throws ->
            any Transport
    ) {
        self.connector = connector
        self.options = options
        self.timeout = timeout
        self.target = target
        self.makeTransport = makeTransport
    }

    /// Runs all checks, one after the other.
    ///
    /// One of them needs a connector whose streams are ``/Starling/HalfClosableStream``s. With others it is skipped, and a line on
    /// the standard output says so.
    ///
    /// - Returns: The names of the checks that were run.
    /// - Throws: ``ConformanceFailure`` at the first that fails, or the transport's own error.
    @discardableResult
    public func run() async throws -> [String] {
        let checks: [(String, @Sendable () async throws -> Void)] = [
            ("an upgrade opens, and messages come back", self.echoes),
            ("plain HTTP keeps the connection, and an upgrade after it works", self.keepsAlive),
            ("frames that come with the request are handled, in order", self.takesFramesWithRequest),
            ("bytes may be split anywhere", self.takesSplitBytes),
            ("messages of every size come back", self.carriesEverySize),
            ("a refused upgrade has its own status and ends", self.refuses),
            ("what is no request is refused and ends", self.refusesNonsense),
            ("a peer that stops reading stops its sender", self.limitsOutput),
            ("a server that stops reading stops the peer", self.limitsInput),
            ("a callback that closes ends the connection, with what it sent before", self.closesInCallbacks),
            ("the server ends its direction after the closing handshake", self.endsAfterClose),
            ("a peer that goes away is gone for the handler", self.noticesLoss),
            ("a peer that ends its direction is gone for the handler", self.noticesHalfClose),
            ("a shutdown says 1001 to everyone, and then nobody listens", self.shutsDown),
            ("a shutdown cuts who does not answer", self.cutsAtShutdown),
            ("connections over the limit are turned away, and there is room again", self.limitsConnections),
            ("deadlines pass on a loop on which nothing happens", self.keepsDeadlines),
            ("work of other threads wakes a loop", self.wakes),
            ("many connections at once", self.carriesMany),
            ("a publication reaches the subscribers of every loop, in order", self.fansOut),
        ]
        var names: [String] = []
        for (name, check) in checks {
            do {
                try await self.withTimeout(check)
                names.append(name)
            } catch let error as NotApplicable {
                print("TransportConformance skips '\(name)': \(error.reason)")
            } catch let failure as ConformanceFailure {
                throw ConformanceFailure("\(name): \(failure.description)")
            } catch let error as TransportError {
                throw ConformanceFailure("\(name): \(error.description)")
            }
        }
        return names
    }

    private func withTimeout(_ check: @escaping @Sendable () async throws -> Void) async throws {
        let timeout = self.timeout
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await check() }
            group.addTask {
                try await Task.sleep(for: timeout)
                throw ConformanceFailure("not done within \(timeout)")
            }
            defer { group.cancelAll() }
            try await group.next()
        }
    }

    // MARK: - A server for a check

    /// Serves an endpoint on every path but `/page`, which is plain HTTP, for as long as `body` runs.
    func withServer(
        _ endpoint: WebSocketEndpoint,
        _ configuration: ServerConfiguration = Self.patient,
        _ body: @Sendable (ConformanceServer) async throws -> Void
    ) async throws {
        let (addresses, listening) = AsyncStream.makeStream(of: String.self)
        let transport = try await self.makeTransport { listening.yield($0) }
        var configuration = configuration
        configuration.drainSpread = .zero
        let (run, registry, stop) = Self.server(transport, endpoint, configuration)
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask {
                // Also where it cannot listen, so that nobody waits for an address.
                defer { listening.finish() }
                try await run()
            }
            for await address in addresses {
                let server = ConformanceServer(
                    connector: self.connector,
                    target: self.target(address),
                    options: self.options,
                    registry: registry,
                    beginShutdown: stop
                )
                try await body(server)
                break
            }
            stop()
            try await group.waitForAll()
        }
    }

    /// For checks on a busy machine: only those of deadlines are to meet one.
    static var patient: ServerConfiguration {
        var configuration = ServerConfiguration()
        configuration.handshakeTimeout = .seconds(60)
        return configuration
    }

    /// Opens the existential.
    private static func server(
        _ transport: some Transport,
        _ endpoint: WebSocketEndpoint,
        _ configuration: ServerConfiguration
    ) -> (
        run: @Sendable () async throws -> Void, registry: ConnectionRegistry, stop: @Sendable () -> Void
    ) {
        let server = WebSocketServer(transport: transport, configuration: configuration) {
            HTTPRoute("/page") { _ in
                // Not at once, as a page from a database would be.
                await Task.yield()
                return .text("a page\n")
            }
            WebSocketRoute("*", endpoint)
        }
        return (server.run, server.registry, server.beginShutdown)
    }

    // MARK: - Endpoints

    /// Sends every message back.
    var echo: WebSocketEndpoint {
        var configuration = EndpointConfiguration()
        configuration.limits.messageBytesMax = 32 << 20
        configuration.outbound.byteCountMax = 64 << 20
        configuration.deflate = nil
        return WebSocketEndpoint(configuration: configuration) { socket in
            for try await message in socket { try await socket.send(message) }
        }
    }

    /// The same with callbacks.
    struct EchoHandler: ConnectionHandler {
        mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {
            connection.send(message)
        }
    }
}

/// A running server, for one check.
struct ConformanceServer: Sendable {
    let connector: any Connector
    let target: ConnectTarget
    let options: ConnectOptions
    let registry: ConnectionRegistry
    let beginShutdown: @Sendable () -> Void

    /// A connection on which nothing was said yet.
    func connect() async throws -> ConformancePeer {
        ConformancePeer(try await self.connector.connect(to: self.target, options: self.options))
    }

    /// An open WebSocket.
    func open(_ path: String = "/") async throws -> ConformancePeer {
        let peer = try await self.connect()
        try await peer.upgrade(path)
        return peer
    }

    /// Waits until so many WebSockets are open; a bounded look every few milliseconds.
    func waitForCount(_ count: Int) async throws {
        // The whole check has a timeout, which cancels the sleep.
        while self.registry.count != count { try await Task.sleep(for: .milliseconds(5)) }
    }
}
