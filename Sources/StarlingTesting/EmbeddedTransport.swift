public import Starling
internal import Synchronization

/// A server without sockets, threads or time: the test hands in bytes, moves the clock, and looks at what comes out.
///
/// It drives the same ``/Starling/ConnectionDriver`` as the real transports. Everything, tasks of async handlers included, runs
/// on the test's own thread, inside the calls of this type; nothing happens between them.
///
/// ```swift
/// let server = EmbeddedTransport { WebSocketRoute("/echo", echo) }
/// let client = try #require(server.connect())
/// server.receive(request, on: client)
/// #expect(server.takeOutput(of: client) == response)
/// ```
public final class EmbeddedTransport {
    let io = EmbeddedIO()
    package let driver: ConnectionDriver
    private let context: ServerContext
    private let executor = QueuedExecutor()
    /// What stands between the endpoints and their broadcasters.
    private let hubs: Task<Void, Never>

    /// The server's time: it begins at 0, and only ``advance(by:)`` moves it.
    public private(set) var clock = ManualClock()

    /// Looks up, counts, sends to and closes the server's connections; its questions are asked within ``waiting(for:)``.
    public let registry: ConnectionRegistry

    /// Makes a server with one event loop.
    public init(
        configuration: ServerConfiguration = ServerConfiguration(),
        @RouteBuilder routes: () -> [Route]
    ) {
        let context = ServerContext(configuration: configuration, routes: routes())
        self.context = context
        self.registry = ConnectionRegistry(context)
        self.hubs = Task(executorPreference: self.executor) { await context.runHubs() }
        let loop = EventLoop(index: 0) {}
        self.driver = ConnectionDriver(loop: loop, server: self.context, io: self.io)
        self.context.startedListening()
    }

    deinit {
        // A task that waits for its connection would otherwise never end, and never free what it holds.
        self.hubs.cancel()
        for connection in self.io.openConnections { self.tick { self.driver.failed(connection) } }
        self.executor.close()
        self.driver.finish()
    }

    /// Opens a connection.
    ///
    /// - Parameter address: Where it is said to come from.
    /// - Returns: Its number, or nil if the server refuses it.
    public func connect(from address: RemoteAddress = .unknown) -> Int? {
        var connection: Int?
        self.tick { connection = self.driver.accept(from: address) }
        if let connection { self.io.open(connection) }
        return connection
    }

    /// Hands in bytes as one read from the network.
    public func receive(_ bytes: [UInt8], on connection: Int) {
        var buffer = bytes
        self.tick {
            var span = buffer.mutableSpan
            var bytes = unsafe span.mutableBytes
            self.driver.received(&bytes, on: connection)
        }
    }

    /// Ends the peer's direction of the stream.
    public func endInput(of connection: Int) {
        self.tick { self.driver.readingEnded(connection) }
    }

    /// Moves the clock, in steps that no deadline falls between.
    public func advance(by duration: Duration) {
        var left = duration
        while left > .zero {
            let step = min(left, .milliseconds(50))
            self.clock.advance(by: step)
            left -= step
            self.tick {}
        }
    }

    /// Lets a connection take only so many more bytes, as a peer does that stops reading; nil lifts the limit.
    public func limitOutput(of connection: Int, to byteCount: Int?) {
        self.io.setCapacity(byteCount, of: connection)
        if byteCount != 0 { self.tick { self.driver.writable(connection) } }
    }

    /// Runs ticks until an operation that waits for the event loop is done, such as a question to ``registry``, or that happens
    /// elsewhere, such as a publication by a broadcaster with threads of its own.
    ///
    /// Time does not move meanwhile.
    public func waiting<Value: Sendable>(for operation: @escaping @Sendable () async -> Value) async -> Value
    {
        let isDone = Completion()
        let task = Task {
            defer { isDone.flag.store(true, ordering: .releasing) }
            return await operation()
        }
        while !isDone.flag.load(ordering: .acquiring) {
            self.tick {}
            await Task.yield()
        }
        return await task.value
    }

    /// What the server has written since the last call.
    public func takeOutput(of connection: Int) -> [UInt8] {
        self.io.takeOutput(of: connection)
    }

    /// Whether the server has ended its direction of the stream.
    public func isOutputEnded(of connection: Int) -> Bool {
        self.io.isEnded(connection)
    }

    /// Whether the server has ended the connection.
    public func isClosed(_ connection: Int) -> Bool {
        self.io.isClosed(connection)
    }

    /// Whether the server reads from the connection.
    public func isReading(_ connection: Int) -> Bool {
        self.io.isReading(connection)
    }

    /// Begins a graceful shutdown.
    public func beginShutdown() {
        self.context.beginDrain()
        self.tick {}
    }

    /// Whether a graceful shutdown is done.
    public var isFinished: Bool {
        self.driver.isFinished
    }

    /// Runs ticks until nothing is left to do now.
    func tick(_ body: () -> Void) {
        self.driver.beginTick(at: self.clock.nanoseconds)
        self.driver.withCurrent(body)
        while self.driver.endTick() || self.executor.drain() {
            self.driver.beginTick(at: self.clock.nanoseconds)
        }
    }
}

@available(*, unavailable) extension EmbeddedTransport: Sendable {}

private final class Completion: Sendable {
    let flag = Atomic<Bool>(false)
}
