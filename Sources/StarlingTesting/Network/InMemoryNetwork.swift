public import Starling

/// A network within the process: servers listen on names, and clients connect to them, without a socket.
///
/// ```swift
/// let network = InMemoryNetwork()
/// let server = WebSocketServer(transport: network.transport(at: "chat")) { WebSocketRoute("/room", room) }
/// async let serving: Void = server.run()
///
/// let client = WebSocketClient(connector: network.connector)
/// try await client.connect(to: "ws://chat/room") { socket in
///     try await socket.send("Hello")
/// }
/// ```
///
/// Streams are bounded in both directions, may be half closed, and break; ``FaultyConnector`` makes them slow, late, or silent. Time
/// is real, as it is on a socket: ``EmbeddedTransport`` is for tests that move the clock.
public final class InMemoryNetwork: Sendable {
    private enum Listener {
        /// A transport that has not begun to serve; clients wait for it.
        case expected
        case starting
        case listening([InMemoryLoop])
    }

    private struct Waiter {
        let name: String
        let continuation: CheckedContinuation<Bool, Never>
    }

    private struct State {
        var listeners: [String: Listener] = [:]
        var waiters: [UInt64: Waiter] = [:]
        var lastWaiter: UInt64 = 0
        var lastPort: UInt16 = 49151
        var lastLoop = 0

        mutating func set(_ listener: Listener?, at name: String) -> [CheckedContinuation<Bool, Never>] {
            self.listeners[name] = listener
            let ready = self.waiters.filter { $0.value.name == name }
            for id in ready.keys { self.waiters[id] = nil }
            return ready.values.map(\.continuation)
        }
    }

    private let state = Lock(State())
    private let bufferedByteCountMax: Int

    /// Makes a network.
    ///
    /// - Parameter bufferedByteCountMax: Bytes that may be on their way in each direction of a connection; more wait with their
    ///   sender.
    public init(bufferedByteCountMax: Int = 64 << 10) {
        precondition(bufferedByteCountMax > 0, "a connection without a buffer carries nothing")
        self.bufferedByteCountMax = bufferedByteCountMax
    }

    /// A transport that listens on a name.
    ///
    /// From now on clients that connect to the name wait until a server serves it, as long as their timeout allows; when the server
    /// has ended they are refused.
    ///
    /// - Parameters:
    ///   - name: What clients find it by: a host, for every port; a host and a port as in `chat:8080`; or the path of a Unix socket.
    ///   - eventLoops: How many event loops share the connections, 64 at most.
    ///   - onListening: Called once, with the name, when the server listens.
    /// - Returns: The transport, for one server.
    public func transport(
        at name: String,
        eventLoops: Int = 1,
        onListening: (@Sendable (String) -> Void)? = nil
    ) -> InMemoryTransport {
        self.state.withLock { state in
            if state.listeners[name] == nil { state.listeners[name] = .expected }
        }
        return InMemoryTransport(
            network: self,
            name: name,
            eventLoops: min(64, max(1, eventLoops)),
            onListening: onListening
        )
    }

    /// Connects to the names that servers listen on, from 127.0.0.1.
    public var connector: InMemoryConnector { self.connector(from: "127.0.0.1") }

    /// Connects from an address of one's choice, as the server sees it.
    public func connector(from address: String) -> InMemoryConnector {
        InMemoryConnector(network: self, address: address)
    }

    // MARK: - For the transport

    /// Takes the name, before there are event loops.
    func prepareToListen(_ name: String) throws(TransportError) {
        let isFree = self.state.withLock { state in
            switch state.listeners[name] {
            case .starting?, .listening?: return false
            case .expected?, nil:
                state.listeners[name] = .starting
                return true
            }
        }
        guard isFree else {
            throw TransportError("cannot listen on '\(name)': another server of this network does already")
        }
    }

    func listen(_ name: String, _ loops: [InMemoryLoop]) {
        let waiters = self.state.withLock { $0.set(.listening(loops), at: name) }
        for waiter in waiters { waiter.resume(returning: true) }
    }

    func stopListening(_ name: String) {
        let waiters = self.state.withLock { $0.set(nil, at: name) }
        for waiter in waiters { waiter.resume(returning: true) }
    }

    // MARK: - For the connector

    private enum Outcome {
        case stream(InMemoryStream)
        /// A server is to listen on this name.
        case wait(name: String)
        case refused
    }

    func connect(
        to target: ConnectTarget,
        from address: String,
        _ options: ConnectOptions
    ) async throws(TransportError) -> InMemoryStream {
        guard options.tls == nil else {
            throw TransportError("cannot connect to \(target): an in-memory network has no TLS; use ws://")
        }
        guard options.proxy == nil else {
            throw TransportError("cannot connect to \(target): an in-memory network has no proxies")
        }
        let end = ContinuousClock.now + options.timeout
        while !Task.isCancelled {
            switch self.tryConnect(to: target, from: address) {
            case .stream(let stream): return stream
            case .refused: throw TransportError("cannot connect to \(target): nobody listens there")
            case .wait(let name):
                guard await self.wait(for: name, until: end) else {
                    throw TransportError(
                        "cannot connect to \(target): its server did not begin to serve in time"
                    )
                }
            }
        }
        throw TransportError("cannot connect to \(target): the task was cancelled")
    }

    private func tryConnect(to target: ConnectTarget, from address: String) -> Outcome {
        let outcome: (loop: InMemoryLoop, port: UInt16)?
        var expected: String?
        (outcome, expected) = self.state.withLock { state in
            for name in [target.description, target.host].compactMap(\.self) {
                switch state.listeners[name] {
                case .listening(let loops)?:
                    state.lastLoop &+= 1
                    state.lastPort = state.lastPort == .max ? 49152 : state.lastPort + 1
                    return ((loops[state.lastLoop % loops.count], state.lastPort), nil)
                case .expected?, .starting?: return (nil, name)
                case nil: continue
                }
            }
            return (nil, nil)
        }
        if let expected { return .wait(name: expected) }
        guard let (loop, port) = outcome else { return .refused }
        let link = InMemoryLink(
            capacity: self.bufferedByteCountMax,
            from: RemoteAddress(host: address, port: port),
            notify: { loop.notify($0) }
        )
        // An endpoint may greet its clients: the server must know of them before they say anything.
        loop.notify(link)
        return .stream(InMemoryStream(link))
    }

    /// Waits for a server to begin or end; false if the time is over, or the task cancelled.
    private func wait(for name: String, until end: ContinuousClock.Instant) async -> Bool {
        await withTaskGroup(of: Bool.self) { group in
            group.addTask { await self.waitForChange(of: name) }
            group.addTask {
                try? await Task.sleep(until: end, clock: .continuous)
                return false
            }
            defer { group.cancelAll() }
            return await group.next() ?? false
        }
    }

    private func waitForChange(of name: String) async -> Bool {
        let id = self.state.withLock { state in
            state.lastWaiter += 1
            return state.lastWaiter
        }
        return await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let answer: Bool? = self.state.withLock { state in
                    if Task.isCancelled { return false }
                    switch state.listeners[name] {
                    case .expected?, .starting?:
                        state.waiters[id] = Waiter(name: name, continuation: continuation)
                        return nil
                    case .listening?, nil: return true
                    }
                }
                if let answer { continuation.resume(returning: answer) }
            }
        } onCancel: {
            let waiter = self.state.withLock { $0.waiters.removeValue(forKey: id) }
            waiter?.continuation.resume(returning: false)
        }
    }
}

/// Carries a server's connections on an ``InMemoryNetwork``.
public struct InMemoryTransport: Transport {
    let network: InMemoryNetwork
    let name: String
    let eventLoops: Int
    let onListening: (@Sendable (String) -> Void)?

    /// Listens on the name, and serves until the server has drained.
    ///
    /// - Throws: ``/Starling/TransportError`` if another server listens there.
    public func serve(_ server: ServerContext) async throws {
        try self.network.prepareToListen(self.name)
        let loops = (0..<self.eventLoops).map { index in
            InMemoryLoop(index: index, server: server) { [network, name] in network.stopListening(name) }
        }
        self.network.listen(self.name, loops)
        server.startedListening()
        self.onListening?(self.name)
        await withDiscardingTaskGroup { group in
            for loop in loops { group.addTask { await loop.run() } }
        }
    }
}

/// Connects to the servers of an ``InMemoryNetwork``.
public struct InMemoryConnector: Connector {
    let network: InMemoryNetwork
    let address: String

    /// Opens a connection.
    ///
    /// Suspends until a server serves the name, at most ``/Starling/ConnectOptions/timeout``.
    ///
    /// - Throws: ``/Starling/TransportError`` if nobody listens there; and always for TLS and proxies, which this network does
    ///   not have.
    public func connect(to target: ConnectTarget, options: ConnectOptions) async throws(TransportError)
        -> any ByteStream
    {
        try await self.open(target, options: options)
    }

    /// The same, with a stream that can also be half closed and reset.
    public func open(
        _ target: ConnectTarget,
        options: ConnectOptions = ConnectOptions()
    ) async throws(TransportError) -> InMemoryStream {
        try await self.network.connect(to: target, from: self.address, options)
    }
}
