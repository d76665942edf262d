internal import HTTPTypes
internal import StarlingCore
internal import StarlingDeflate

/// Connects to WebSocket servers.
///
/// ```swift
/// let client = WebSocketClient(connector: NativeConnector())
/// try await client.connect(to: "wss://example.com/chat") { socket in
///     try await socket.send("Hello")
///     for try await message in socket { print(message) }
/// }
/// ```
///
/// One connection per call, with the same ``WebSocket`` type as a server's, and the same framing, limits and compression.
/// `ReconnectingClient` of `StarlingTopics` is for connections that are to come back.
public struct WebSocketClient: Sendable {
    private let connector: any Connector

    /// Makes a client.
    ///
    /// - Parameter connector: Opens the streams: `NativeConnector` on Linux, `NIOConnector` everywhere.
    public init(connector: any Connector) {
        self.connector = connector
    }

    /// Connects, and closes the connection when `body` is done.
    ///
    /// `body` runs on the connection's own event loop, unless the caller is isolated to an actor: then it stays there, and
    /// what it sends and receives is handed over. When it returns, the connection is closed with 1000; when it throws, with
    /// 1001. This call returns after the closing handshake, which ``ConnectionTimeouts/closeTimeout`` bounds. Cancelling the
    /// task ends an attempt to connect, and the iteration over the messages.
    ///
    /// - Parameters:
    ///   - url: `ws://host:port/path?query`, `wss://…`, or `ws+unix:/path/of/socket:/path?query`.
    ///   - configuration: Header fields, subprotocols, TLS, deadlines, limits.
    ///   - body: What to do with the connection.
    /// - Returns: What `body` returns.
    /// - Throws: ``ConnectError`` if there is no connection, with the response if the server refused; then what `body` throws.
    public func connect<Result>(
        to url: String,
        configuration: ClientConfiguration = ClientConfiguration(),
        _ body: (WebSocket) async throws -> Result
    ) async throws -> Result {
        let connection = try await self.open(url, configuration)
        let socket = WebSocket(connection: connection)
        do {
            let result = try await withTaskExecutorPreference(connection.loop) {
                await connection.begin()
                return try await body(socket)
            }
            connection.close(.normalClosure, reason: "")
            await connection.waitUntilClosed()
            return result
        } catch {
            connection.close(.goingAway, reason: "")
            await connection.waitUntilClosed()
            throw error
        }
    }

    /// Connects, with as many redirects as the configuration allows.
    ///
    /// The connection lives until it is closed.
    func open(
        _ url: String,
        _ configuration: ClientConfiguration
    ) async throws(ConnectError) -> AsyncConnection {
        var url = try WebSocketURL(url)
        var configuration = configuration
        var redirects = 0
        while true {
            do throws(ConnectError) {
                return try await self.attempt(url, configuration)
            } catch {
                guard let location = error.redirectLocation, configuration.redirectsMax > 0 else {
                    throw error
                }
                redirects += 1
                let next = try url.redirected(to: location)
                guard redirects <= configuration.redirectsMax, url.mayLead(to: next) else {
                    throw ConnectError(.tooManyRedirects, "to '\(location)'", response: error.response)
                }
                if next.authority != url.authority || (next.scheme == .unix) != (url.scheme == .unix) {
                    configuration.headerFields[.authorization] = nil
                    configuration.headerFields[.cookie] = nil
                }
                url = next
            }
        }
    }

    private func attempt(
        _ url: WebSocketURL,
        _ configuration: ClientConfiguration
    ) async throws(ConnectError) -> AsyncConnection {
        let handshake = try url.handshake(configuration)
        var options = ConnectOptions(timeout: configuration.connectTimeout)
        if url.scheme == .wss { options.tls = configuration.tls }
        if url.scheme != .unix { options.proxy = configuration.proxy }
        let stream: any ByteStream
        do throws(TransportError) {
            stream = try await self.connector.connect(to: url.connectTarget, options: options)
        } catch {
            throw Task.isCancelled
                ? ConnectError(.cancelled) : ConnectError(.unreachable, underlying: error)
        }
        let promise = ConnectPromise()
        let loop = ClientLoop(stream, ServerContext(client: configuration))
        let outcome = await withTaskCancellationHandler {
            loop.connect(handshake, to: RemoteAddress(url), promise)
            return await promise.value()
        } onCancel: {
            promise(.failure(ConnectError(.cancelled)))
            loop.abandon()
        }
        return try outcome.get()
    }
}

extension WebSocketURL {
    fileprivate func handshake(_ configuration: ClientConfiguration) throws(ConnectError) -> ClientHandshake {
        var generator = SystemRandomNumberGenerator()
        do {
            return try ClientHandshake(
                authority: self.authority,
                path: self.requestTarget,
                key: (0..<16).map { _ in .random(in: .min ... .max, using: &generator) },
                subprotocols: configuration.subprotocols,
                extensions: configuration.deflate.map {
                    PermessageDeflate.offer(preferences: $0.preferences)
                },
                headerFields: configuration.headerFields
            )
        } catch {
            throw ConnectError(.invalidURL, "in the configuration", underlying: error)
        }
    }

    /// Whether a server may send a client from here to there: not to where nothing is encrypted any more, and not to a Unix
    /// socket, which only the client's own machine has, unless it is the same one.
    fileprivate func mayLead(to next: WebSocketURL) -> Bool {
        switch next.scheme {
        case .ws: self.scheme != .wss
        case .wss: true
        case .unix: self.scheme == .unix && next.host == self.host
        }
    }

    /// Where a redirect leads: a URL, or a path on the same server.
    fileprivate func redirected(to location: String) throws(ConnectError) -> WebSocketURL {
        guard location.hasPrefix("/"), !location.hasPrefix("//") else {
            let absolute = location.hasPrefix("//") ? "\(self.scheme.rawValue):\(location)" : location
            return try WebSocketURL(absolute)
        }
        switch self.scheme {
        case .ws, .wss: return try WebSocketURL("\(self.scheme.rawValue)://\(self.authority)\(location)")
        case .unix: return try WebSocketURL("\(self.scheme.rawValue):\(self.host):\(location)")
        }
    }
}

extension ConnectError {
    fileprivate var redirectLocation: String? {
        guard let response = self.response, [301, 302, 303, 307, 308].contains(response.status.code) else {
            return nil
        }
        return response.headerFields[.location]
    }
}

extension RemoteAddress {
    fileprivate init(_ url: WebSocketURL) {
        self.init(host: url.scheme == .unix ? "" : url.host, port: UInt16(url.port))
    }
}

extension ServerContext {
    /// What a client's connection has of a server: limits, deadlines, a logger, and one endpoint.
    convenience init(client configuration: ClientConfiguration) {
        var server = ServerConfiguration()
        server.handshakeTimeout = configuration.handshakeTimeout
        server.healthPath = nil
        server.readyPath = nil
        server.headLimits = configuration.limits
        server.logger = configuration.logger
        var endpoint = EndpointConfiguration()
        endpoint.limits = configuration.limits
        endpoint.timeouts = configuration.timeouts
        endpoint.outbound = configuration.outbound
        endpoint.inboundByteCountMax = configuration.inboundByteCountMax
        endpoint.deflate = configuration.deflate
        endpoint.rates.controlFramesPerSecondMax = nil
        self.init(
            configuration: server,
            routes: [
                WebSocketRoute(
                    "*",
                    WebSocketEndpoint(
                        broadcaster: InMemoryBroadcaster(),
                        configuration: endpoint,
                        erasedAuthenticate: nil,
                        makeCallbacks: { HandlerCallbacks(ClientHandler()) }
                    )
                )
            ],
            role: .client
        )
    }
}
