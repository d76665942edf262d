public import StarlingCore

/// What an application does with its WebSocket connections, whatever transport carries them.
///
/// ```swift
/// let echo = WebSocketEndpoint { socket in
///     for try await message in socket {
///         try await socket.send(message)
///     }
/// }
/// ```
///
/// An endpoint knows no transport: a ``WebSocketServer`` serves it under a route, and a test drives it directly.
public struct WebSocketEndpoint: Sendable {
    /// Everything that has a default.
    public let configuration: EndpointConfiguration

    let broadcaster: any Broadcaster
    let authenticate: (@Sendable (UpgradeRequest) async throws -> UpgradeDecision<any Sendable>)?
    let makeCallbacks: @Sendable () -> HandlerCallbacks

    // MARK: The async form

    /// An endpoint that runs a task for each connection, on the connection's event loop.
    ///
    /// The connection is closed with 1000 when `body` returns and with 1011 when it throws; it is over for `body`, in
    /// turn, when iteration ends. Code in `body` runs on the event loop's thread between suspensions, and must not block.
    ///
    /// - Parameters:
    ///   - broadcaster: Carries publications between event loops and nodes.
    ///   - configuration: Limits, deadlines and the like.
    ///   - body: What to do with a connection.
    public init(
        broadcaster: any Broadcaster = InMemoryBroadcaster(),
        configuration: EndpointConfiguration = EndpointConfiguration(),
        _ body: @escaping @Sendable (WebSocket) async throws -> Void
    ) {
        self.init(
            broadcaster: broadcaster,
            configuration: configuration,
            handler: TaskHandler<Void>(body: .plain(body))
        )
    }

    /// An endpoint that asks `authenticate` before each upgrade, and gives what it accepts with to `body`.
    ///
    /// - Parameters:
    ///   - broadcaster: Carries publications between event loops and nodes.
    ///   - configuration: Limits, deadlines and the like.
    ///   - authenticate: Sees the request and decides; runs on the connection's event loop and may suspend for
    ///     ``ConnectionTimeouts/authenticationTimeout``. An error that it throws refuses the upgrade with 500. Its task is cancelled when
    ///     that time is over, the client has gone, or a shutdown has waited for as long as it may.
    ///   - body: What to do with a connection.
    public init<UserData: Sendable>(
        broadcaster: any Broadcaster = InMemoryBroadcaster(),
        configuration: EndpointConfiguration = EndpointConfiguration(),
        authenticate: @escaping @Sendable (UpgradeRequest) async throws -> UpgradeDecision<UserData>,
        _ body: @escaping @Sendable (WebSocket, UserData) async throws -> Void
    ) {
        self.init(
            broadcaster: broadcaster,
            configuration: configuration,
            authenticate: authenticate,
            handler: TaskHandler(body: .withUserData(body))
        )
    }

    // MARK: The async form, for connections that outlive their process

    /// An endpoint whose connections can go to the next process of a restart.
    ///
    /// A running function cannot go along. Its iteration ends and its task is cancelled; what it sends until it returns goes
    /// out, and the messages that it has not taken wait. The next process calls `body` with the same connection, whose
    /// ``WebSocket/isResumed`` is then true, and which gives back what ``WebSocket/carry(_:)`` was given. If the next process
    /// fails, `body` is called again in this one; so it is if the connection has ended meanwhile, with an iteration that ends at once.
    ///
    /// A body that has not returned when the transport has waited for it as long as it is told to stays in the old process,
    /// and its connection is closed there, as in a shutdown. A body that wants to end the connection while it is told to
    /// return calls ``WebSocket/close(_:reason:)``.
    ///
    /// - Parameters:
    ///   - broadcaster: Carries publications between event loops and nodes.
    ///   - configuration: Limits, deadlines and the like.
    ///   - body: What to do with a connection, from its beginning or from where another process stopped.
    /// - Returns: The endpoint.
    public static func resumable(
        broadcaster: any Broadcaster = InMemoryBroadcaster(),
        configuration: EndpointConfiguration = EndpointConfiguration(),
        _ body: @escaping @Sendable (WebSocket) async throws -> Void
    ) -> WebSocketEndpoint {
        self.resumable(
            broadcaster: broadcaster,
            configuration: configuration,
            cancelsBody: { _ in true },
            body
        )
    }

    /// As above; `cancelsBody` says, for a subprotocol, whether the task of a body that is to return is cancelled, or only its
    /// iteration ends.
    package static func resumable(
        broadcaster: any Broadcaster,
        configuration: EndpointConfiguration,
        cancelsBody: @escaping @Sendable (String?) -> Bool,
        _ body: @escaping @Sendable (WebSocket) async throws -> Void
    ) -> WebSocketEndpoint {
        WebSocketEndpoint(
            broadcaster: broadcaster,
            configuration: configuration,
            handler: TaskHandler<Void>(
                body: .plain(body),
                handoff: TaskHandler<Void>.Handoff(
                    encode: { _ in [] },
                    decode: { _ in () },
                    cancelsBody: cancelsBody
                )
            )
        )
    }

    /// An endpoint that asks `authenticate` before each upgrade, and whose connections can go to the next process of a restart,
    /// together with what they were accepted with.
    ///
    /// - Parameters:
    ///   - broadcaster: Carries publications between event loops and nodes.
    ///   - configuration: Limits, deadlines and the like.
    ///   - authenticate: Decides about upgrades; it is not asked again in the next process.
    ///   - body: What to do with a connection, from its beginning or from where another process stopped.
    /// - Returns: The endpoint.
    public static func resumable<UserData: Codable & Sendable>(
        broadcaster: any Broadcaster = InMemoryBroadcaster(),
        configuration: EndpointConfiguration = EndpointConfiguration(),
        authenticate: @escaping @Sendable (UpgradeRequest) async throws -> UpgradeDecision<UserData>,
        _ body: @escaping @Sendable (WebSocket, UserData) async throws -> Void
    ) -> WebSocketEndpoint {
        self.resumable(
            broadcaster: broadcaster,
            configuration: configuration,
            authenticate: authenticate,
            cancelsBody: { _ in true },
            body
        )
    }

    /// As above; `cancelsBody` says, for a subprotocol, whether the task of a body that is to return is cancelled, or only its
    /// iteration ends.
    package static func resumable<UserData: Codable & Sendable>(
        broadcaster: any Broadcaster,
        configuration: EndpointConfiguration,
        authenticate: @escaping @Sendable (UpgradeRequest) async throws -> UpgradeDecision<UserData>,
        cancelsBody: @escaping @Sendable (String?) -> Bool,
        _ body: @escaping @Sendable (WebSocket, UserData) async throws -> Void
    ) -> WebSocketEndpoint {
        WebSocketEndpoint(
            broadcaster: broadcaster,
            configuration: configuration,
            authenticate: authenticate,
            handler: TaskHandler(
                body: .withUserData(body),
                handoff: TaskHandler.Handoff(
                    encode: { try HandoffCoder.encode($0) },
                    decode: { try HandoffCoder.decode(UserData.self, from: $0) },
                    cancelsBody: cancelsBody
                )
            )
        )
    }

    // MARK: The synchronous form

    /// An endpoint whose handler is called on the event loop.
    ///
    /// - Parameters:
    ///   - broadcaster: Carries publications between event loops and nodes.
    ///   - configuration: Limits, deadlines and the like.
    ///   - handler: Copied once for each event loop.
    @inlinable
    public init<Handler: ConnectionHandler>(
        broadcaster: any Broadcaster = InMemoryBroadcaster(),
        configuration: EndpointConfiguration = EndpointConfiguration(),
        handler: Handler
    ) where Handler.UserData == Void {
        self.init(
            broadcaster: broadcaster,
            configuration: configuration,
            erasedAuthenticate: nil,
            makeCallbacks: { HandlerCallbacks(handler) }
        )
    }

    /// An endpoint that asks `authenticate` before each upgrade, and whose handler is called on the event loop.
    @inlinable
    public init<Handler: ConnectionHandler>(
        broadcaster: any Broadcaster = InMemoryBroadcaster(),
        configuration: EndpointConfiguration = EndpointConfiguration(),
        authenticate: @escaping @Sendable (UpgradeRequest) async throws -> UpgradeDecision<Handler.UserData>,
        handler: Handler
    ) {
        self.init(
            broadcaster: broadcaster,
            configuration: configuration,
            erasedAuthenticate: { try await authenticate($0).erased },
            makeCallbacks: { HandlerCallbacks(handler) }
        )
    }

    @usableFromInline
    init(
        broadcaster: any Broadcaster,
        configuration: EndpointConfiguration,
        erasedAuthenticate: (@Sendable (UpgradeRequest) async throws -> UpgradeDecision<any Sendable>)?,
        makeCallbacks: @escaping @Sendable () -> HandlerCallbacks
    ) {
        self.broadcaster = broadcaster
        self.configuration = configuration
        self.authenticate = erasedAuthenticate
        self.makeCallbacks = makeCallbacks
    }
}

extension UpgradeDecision {
    /// The same decision, without the type of its data.
    @usableFromInline
    var erased: UpgradeDecision<any Sendable> {
        switch self.base {
        case .accept(let data, let user, let subprotocol, let fields):
            .accept(data, user: user, subprotocol: subprotocol, headerFields: fields)
        case .refuse(let reply): UpgradeDecision<any Sendable>(base: .refuse(reply))
        }
    }
}

/// A handler's four functions for one event loop, without the handler's type.
///
/// Made where the type is known, so that the compiler specialises the closures' bodies for it: a call costs one
/// indirection. (A generic class would not do: its methods are called through unspecialised table entries.)
@usableFromInline
struct HandlerCallbacks {
    @usableFromInline let opened: (ConnectionContext) -> Void
    @usableFromInline let received: (borrowing MessageView, ConnectionContext) -> Void
    @usableFromInline let drained: (ConnectionContext) -> Void
    @usableFromInline let closed: (ConnectionContext, CloseCode) -> Void
    /// Nil if connections cannot go to another process.
    @usableFromInline let handoff: HandoffCallbacks?

    @inlinable
    init<Handler: ConnectionHandler>(_ handler: Handler) {
        let handler = HandlerBox(handler)
        self.opened = { context in
            var connection = Connection<Handler>(context)
            guard
                let userData = (Handler.UserData.self == Void.self ? () : context.takeUserData())
                    as? Handler.UserData
            else { preconditionFailure("an endpoint's authenticate accepted with data of another type") }
            context.initializeState(handler.value.opened(&connection, userData: userData))
        }
        self.received = { message, context in
            var connection = Connection<Handler>(context)
            handler.value.received(message, on: &connection)
        }
        self.drained = { context in
            var connection = Connection<Handler>(context)
            handler.value.drained(&connection)
        }
        self.closed = { context, code in
            var connection = Connection<Handler>(context)
            handler.value.closed(&connection, code: code)
            context.deinitializeState(as: Handler.State.self)
        }
        self.handoff = HandoffCallbacks.make(handler)
    }
}

/// A loop's copy of a handler, where its four closures find it.
///
/// In memory of its own: a class's stored property would be checked for exclusive access at every message.
@usableFromInline
@safe final class HandlerBox<Handler> {
    @usableFromInline let pointer: UnsafeMutablePointer<Handler>

    @inlinable
    init(_ value: Handler) {
        unsafe self.pointer = .allocate(capacity: 1)
        unsafe self.pointer.initialize(to: value)
    }

    @inlinable
    deinit {
        unsafe self.pointer.deinitialize(count: 1)
        unsafe self.pointer.deallocate()
    }

    /// The loop's alone; a handler's function is never called from within another one's call.
    @inlinable var value: Handler {
        _read { yield unsafe self.pointer.pointee }
        _modify { yield unsafe &self.pointer.pointee }
    }
}
