internal import StarlingCore
internal import Synchronization

/// The async form of an endpoint, built on the synchronous one: each connection has a task that prefers its loop.
struct TaskHandler<UserData: Sendable>: ConnectionHandler {
    typealias PlainBody = @Sendable (WebSocket) async throws -> Void

    enum Body {
        /// One for all connections, which none of them need a closure for.
        case plain(PlainBody)
        case withUserData(@Sendable (WebSocket, UserData) async throws -> Void)
    }

    let body: Body
    /// How the user data goes to another process; nil if connections do not.
    var handoff: Handoff?

    /// The user data as bytes, and back.
    struct Handoff: Sendable {
        let encode: @Sendable (UserData) throws -> [UInt8]
        let decode: @Sendable ([UInt8]) throws -> UserData
        /// Whether a body that is to return is cancelled, by the connection's subprotocol.
        var cancelsBody: @Sendable (String?) -> Bool = { _ in true }
    }

    /// Retained from `opened` to `closed`, and so not for each message.
    @safe struct State {
        let reference: Unmanaged<AsyncConnection>
    }

    /// The body of one connection.
    private func body(with userData: UserData) -> PlainBody {
        switch self.body {
        case .plain(let body): body
        case .withUserData(let body): { socket in try await body(socket, userData) }
        }
    }

    mutating func opened(_ connection: inout Connection<Self>, userData: UserData) -> State {
        let async = AsyncConnection(connection.context)
        if self.handoff != nil { async.rare.handoff.userData = userData }
        connection.context.start(async, self.body(with: userData))
        return unsafe State(reference: .passRetained(async))
    }

    mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {
        let context = connection.context
        unsafe connection.state.reference._withUnsafeGuaranteedRef { $0.received(message, context) }
    }

    mutating func drained(_ connection: inout Connection<Self>) {
        unsafe connection.state.reference._withUnsafeGuaranteedRef { $0.drained() }
    }

    mutating func closed(_ connection: inout Connection<Self>, code: CloseCode) {
        guard let driver = EventLoop.currentDriver else { preconditionFailure("closed outside a tick") }
        let async = unsafe connection.state.reference.takeRetainedValue()
        async.closed(connection.context.closure(code), driver: driver)
        guard self.handoff != nil, let userData = async.rare.handoff.userData as? UserData else { return }
        if async.mustResumeAtEnd() {
            connection.context.start(async, self.body(with: userData))
            driver.stragglers[async.id] = async
        } else {
            async.resumeAtEnd(self.body(with: userData))
        }
    }
}

extension TaskHandler: HandoffSource {
    static func makeHandoff(_ handler: HandlerBox<Self>) -> HandoffCallbacks? {
        guard let handoff = handler.value.handoff else { return nil }
        func connection(_ context: ConnectionContext) -> AsyncConnection {
            // The connection is open, and its handler's state is there.
            unsafe context.state(as: State.self).pointee.reference.takeUnretainedValue()
        }
        func start(_ context: ConnectionContext) {
            let connection = connection(context)
            guard let userData = connection.rare.handoff.userData as? UserData else { return }
            context.start(connection, handler.value.body(with: userData))
        }
        return HandoffCallbacks(
            suspend: { context in
                let connection = connection(context)
                connection.suspend(cancels: handoff.cancelsBody(connection.facts.subprotocol))
            },
            isAtRest: { connection($0).isAtRest },
            export: { context in
                let connection = connection(context)
                guard let userData = connection.rare.handoff.userData as? UserData else {
                    throw ConnectionRecord.Unusable("no user data")
                }
                var writer = ByteWriter()
                writer.write(try handoff.encode(userData))
                connection.write(to: &writer)
                return writer.bytes
            },
            depart: { connection($0).hasDeparted.store($1, ordering: .relaxed) },
            resume: { context in
                if connection(context).resume() { start(context) }
            },
            discard: { context in
                guard let driver = EventLoop.currentDriver else { return }
                let connection = unsafe context.state(as: State.self).pointee.reference.takeRetainedValue()
                connection.closed(context.closure(.goingAway), driver: driver)
                context.deinitializeState(as: State.self)
            },
            restore: { context, bytes in
                var reader = ByteReader(bytes)
                let userData = try handoff.decode(try reader.readBytes())
                let connection = AsyncConnection(context)
                connection.rare.handoff.userData = userData
                if try connection.read(from: &reader) {
                    let byteCount = connection.facts.inboundByteCountMax
                    context.pauseReadingFromTheStart(for: connection, holding: byteCount)
                }
                unsafe context.initializeState(State(reference: .passRetained(connection)))
            },
            begin: start
        )
    }
}
