internal import Logging
public import ServiceLifecycle

/// Serves endpoints and small HTTP routes on one port.
///
/// ```swift
/// try await WebSocketServer(transport: NativeTransport(port: 8080)) {
///     WebSocketRoute("/chat", chat)
/// }.run()
/// ```
///
/// A `Service` of swift-service-lifecycle: in a `ServiceGroup` with graceful shutdown signals it drains when the
/// signal comes. `/health` and `/ready` are there by default.
public struct WebSocketServer<ServerTransport: Transport>: Service {
    /// Looks up, counts, sends to and closes this server's connections.
    public let registry: ConnectionRegistry

    private let transport: ServerTransport
    package let context: ServerContext

    /// Makes a server; ``run()`` starts it.
    ///
    /// - Parameters:
    ///   - transport: Accepts the connections.
    ///   - configuration: Limits, deadlines, logger.
    ///   - routes: What to do with requests, the first match counts. Others get 404.
    public init(
        transport: ServerTransport,
        configuration: ServerConfiguration = ServerConfiguration(),
        @RouteBuilder routes: () -> [Route]
    ) {
        self.transport = transport
        self.context = ServerContext(configuration: configuration, routes: routes())
        self.registry = ConnectionRegistry(self.context)
        configuration.cluster?.attach(to: self.registry, configuration.logger)
    }

    /// Serves until the task is cancelled or a graceful shutdown begins, and then drains: `/ready` turns
    /// false, the listener closes, connections get 1001 over ``ServerConfiguration/drainSpread``, and what is
    /// left after ``ServerConfiguration/drainTimeout`` is cut.
    ///
    /// May be called once.
    ///
    /// - Throws: If the transport cannot listen.
    public func run() async throws {
        // What is cancelled is not the task that serves: connections, broadcasters and metrics are needed until all is drained.
        let serving = Task { try await self.serveUntilDrained() }
        try await withTaskCancellationHandler {
            try await withGracefulShutdownHandler {
                try await serving.value
            } onGracefulShutdown: {
                self.context.beginDrain()
            }
        } onCancel: {
            self.context.beginDrain()
        }
    }

    private func serveUntilDrained() async throws {
        let context = self.context
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { await context.runHubs() }
            for broadcaster in context.broadcasters {
                group.addTask {
                    do throws(BroadcastError) {
                        try await broadcaster.run()
                    } catch {
                        guard !Task.isCancelled else { return }
                        context.logger.error(
                            "a broadcaster failed",
                            metadata: [LoggingKeys.error: "\(error)"]
                        )
                    }
                }
            }
            group.addTask {
                var metrics = ServerMetrics(dimensions: context.configuration.metricDimensions)
                while !Task.isCancelled {
                    context.takeLongestTick()
                    metrics.report(context.metricReadings())
                    try? await Task.sleep(for: .seconds(1))
                }
                // What the loops counted last, the closes of the drain above all.
                context.takeLongestTick()
                metrics.report(context.metricReadings())
            }
            let cluster = context.configuration.cluster
            if let cluster { group.addTask { await cluster.run(context.logger) } }
            defer { group.cancelAll() }
            try await self.transport.serve(context)
            await cluster?.leave()
            await context.finishPublishing()
        }
    }

    /// Looks at the server: loops, topics, limits, memory, links to brokers, and connections if the options ask for some.
    ///
    /// No loop is blocked: each answers through its mailbox, with a bounded piece of work per tick. Returns when all have,
    /// or after ``ServerSnapshot/Options/timeout``.
    public func snapshot(
        _ options: ServerSnapshot.Options = ServerSnapshot.Options()
    ) async -> ServerSnapshot {
        await self.context.snapshot(options)
    }

    /// Begins a graceful shutdown, as a signal in a `ServiceGroup` would.
    ///
    /// ``run()`` returns when it is done.
    public func beginShutdown() {
        self.context.beginDrain()
    }
}
