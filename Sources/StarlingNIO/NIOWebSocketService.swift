#if NIO
public import NIOCore
public import NIOHTTP1
public import ServiceLifecycle
public import Starling

/// WebSocket endpoints for a server that runs on SwiftNIO already: on its port, its event loops and its connections.
///
/// The other server goes on serving HTTP. Requests that ask for a WebSocket at a path of a route go to Starling: from then on
/// origin, `authenticate`, limits, refusals, framing and deadlines are those of every Starling server. All other requests, and
/// upgrades at other paths, stay with the other server.
///
/// ```swift
/// let sockets = NIOWebSocketService(group: group) { WebSocketRoute("/chat", chat) }
/// let bootstrap = ServerBootstrap(group: group).childChannelInitializer { channel in
///     channel.eventLoop.makeCompletedFuture {
///         try sockets.configureHTTPServerPipeline(of: channel)
///         try channel.pipeline.syncOperations.addHandler(MyHTTPHandler())
///     }
/// }
/// ```
///
/// A `Service`: put it into the other server's `ServiceGroup`. At a graceful shutdown it says 1001 to its connections, and so it
/// does when the other server closes their channels, or asks them to go by NIO's `ServerQuiescingHelper`. A time limit of the
/// other server's for idle channels must not hold for them: NIO's `IdleStateHandler` is taken out, others are not known.
///
/// There are no health and readiness pages, and ``/Starling/HTTPRoute(_:_:)`` has no effect: HTTP is the other server's.
public struct NIOWebSocketService: Service {
    /// Looks up, counts, sends to and closes the connections.
    public let registry: ConnectionRegistry

    private let server: WebSocketServer<ForeignServer>
    private let foreign: ForeignServer

    /// Makes the service.
    ///
    /// - Parameters:
    ///   - group: The event loops of the other server, 64 at most. They are not shut down.
    ///   - configuration: Limits, deadlines, logger.
    ///   - routes: The endpoints; the first match counts.
    public init(
        group: any EventLoopGroup,
        configuration: ServerConfiguration = ServerConfiguration(),
        @RouteBuilder routes: () -> [Route]
    ) {
        var configuration = configuration
        configuration.healthPath = nil
        configuration.readyPath = nil
        self.foreign = ForeignServer(group)
        self.server = WebSocketServer(transport: self.foreign, configuration: configuration, routes: routes)
        self.registry = self.server.registry
        self.foreign.attach(to: self.server.context)
    }

    /// Runs broadcasters and metrics until a graceful shutdown, or the task's cancellation, and then drains the connections.
    ///
    /// Connections may come before it is called; publications go round once it is.
    public func run() async throws {
        try await self.server.run()
    }

    /// Begins a graceful shutdown, as a signal in a `ServiceGroup` would.
    public func beginShutdown() {
        self.server.beginShutdown()
    }

    // MARK: - For pipelines

    /// Sets a channel up for HTTP/1 and upgrades, on any request of a connection.
    ///
    /// In the place of NIO's `configureHTTPServerPipeline`; on the channel's event loop. Handlers that are added behind it see
    /// requests and write responses, and see nothing more of a connection that is a WebSocket but its end.
    public func configureHTTPServerPipeline(
        of channel: any Channel,
        withPipeliningAssistance pipelining: Bool = true,
        withErrorHandling errorHandling: Bool = true
    ) throws {
        // With upgraders, though there are none: then the decoder gives back what it has read behind an upgrade.
        try channel.pipeline.syncOperations.configureHTTPServerPipeline(
            withPipeliningAssistance: pipelining,
            withServerUpgrade: (upgraders: [], completionHandler: { _ in }),
            withErrorHandling: errorHandling
        )
        try channel.pipeline.syncOperations.addHandler(self.makeUpgradeHandler())
    }

    /// A handler that takes upgrades out of the requests that pass it; behind NIO's handlers for HTTP/1, and before the other
    /// server's.
    ///
    /// NIO's own upgrade handlers look at a connection's first request alone: put it behind them as well, so that upgrades
    /// after other requests work. The pipeline must have been made with upgrades (NIO's `withServerUpgrade`, or the typed
    /// pipelines): otherwise NIO's decoder drops what has come together with an upgrade request.
    public func makeUpgradeHandler() -> some ChannelDuplexHandler & RemovableChannelHandler {
        NIOUpgradeHandler(self.foreign)
    }

    /// For pipelines that have NIO's `HTTPServerUpgradeHandler`.
    public var upgrader: some HTTPServerProtocolUpgrader & Sendable {
        NIOUpgrader(self.foreign)
    }

    /// For pipelines that have NIO's typed upgrade handler.
    ///
    /// It takes every request for a WebSocket that is a connection's first, and answers 404 where there is no endpoint: NIO's
    /// handler does not give the other server a request that an upgrader has declined.
    ///
    /// In their `notUpgradingCompletionHandler`, add ``makeUpgradeHandler()`` first, for upgrades after other requests.
    ///
    /// - Parameter result: The pipeline's result for a connection that Starling has taken over; nothing is left to be done
    ///   with it.
    /// - Returns: The upgrader.
    public func typedUpgrader<UpgradeResult: Sendable>(
        _ result: @escaping @Sendable (any Channel) -> UpgradeResult
    ) -> some NIOTypedHTTPServerProtocolUpgrader<UpgradeResult> {
        NIOTypedUpgrader(self.foreign, result)
    }
}

/// The transport of a server whose connections come from somebody else.
///
/// Sendable: the context is set once, before anybody else has the object; the loops are made once, under the lock.
final class ForeignServer: Transport {
    private struct State {
        var context: ServerContext?
        var loops: NIOLoops?
    }

    private let group: any EventLoopGroup
    private let state = Lock(State())

    init(_ group: any EventLoopGroup) {
        self.group = group
    }

    func attach(to context: ServerContext) {
        self.state.withLock { $0.context = context }
    }

    func serve(_ server: ServerContext) async throws {
        try NIOTransport.checkCount(of: self.group)
        let loops = self.loops(server)
        server.startedListening()
        await loops.finish()
    }

    private func loops(_ context: ServerContext) -> NIOLoops {
        self.state.withLock { state in
            if let loops = state.loops { return loops }
            let loops = NIOLoops(self.group, context)
            state.loops = loops
            return loops
        }
    }

    /// Whether a request is for one of our endpoints.
    func takes(_ head: NIOHTTP1.HTTPRequestHead) -> Bool {
        guard let context = self.state.withLock(\.context) else { return false }
        return head.asksForWebSocket && context.hasEndpoint(at: head.uri)
    }

    /// Makes the handler that carries a connection from its upgrade request on; on the channel's event loop.
    func connection(
        _ channel: any Channel,
        _ head: NIOHTTP1.HTTPRequestHead
    ) throws(TransportError) -> NIOConnection {
        guard let context = self.state.withLock(\.context) else {
            preconditionFailure("a request was taken before there was a server")
        }
        let loop = try self.loops(context).loop(of: channel)
        return NIOConnection(loop, request: ForeignRequest(head, context.headLimits))
    }
}
#endif
