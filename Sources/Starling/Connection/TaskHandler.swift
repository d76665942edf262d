internal import StarlingCore

/// The async form of an endpoint, built on the synchronous one: each connection has a task that prefers its loop.
struct TaskHandler<UserData: Sendable>: ConnectionHandler {
    let body: @Sendable (WebSocket, UserData) async throws -> Void
    /// How the user data goes to another process; nil if connections do not.
    var handoff: Handoff?

    /// The user data as bytes, and back.
    struct Handoff: Sendable {
        let encode: @Sendable (UserData) throws -> [UInt8]
        let decode: @Sendable ([UInt8]) throws -> UserData
    }

    /// Retained from `opened` to `closed`, and so not for each message.
    @safe struct State {
        let reference: Unmanaged<AsyncConnection>
        /// For the body's next start, in this process or another one.
        let userData: UserData?
    }

    mutating func opened(_ connection: inout Connection<Self>, userData: UserData) -> State {
        let async = AsyncConnection(connection.context)
        let body = self.body
        connection.context.start(async) { socket in try await body(socket, userData) }
        return unsafe State(reference: .passRetained(async), userData: self.handoff == nil ? nil : userData)
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
    }
}

extension TaskHandler: HandoffSource {
    static func makeHandoff(_ handler: HandlerBox<Self>) -> HandoffCallbacks? {
        guard let handoff = handler.value.handoff else { return nil }
        let body = handler.value.body
        func state(_ context: ConnectionContext) -> State {
            // The connection is open, and its handler's state is there.
            unsafe context.state(as: State.self).pointee
        }
        func start(_ context: ConnectionContext) {
            let state = state(context)
            guard let userData = state.userData else { return }
            context.start(unsafe state.reference.takeUnretainedValue()) { try await body($0, userData) }
        }
        return HandoffCallbacks(
            suspend: { context in
                unsafe state(context).reference.takeUnretainedValue().suspend()
            },
            isAtRest: { unsafe state($0).reference.takeUnretainedValue().isAtRest },
            export: { context in
                let state = state(context)
                guard let userData = state.userData else { throw ConnectionRecord.Unusable("no user data") }
                var writer = ByteWriter()
                writer.write(try handoff.encode(userData))
                unsafe state.reference.takeUnretainedValue().write(to: &writer)
                return writer.bytes
            },
            resume: { context in
                let connection = unsafe state(context).reference.takeUnretainedValue()
                if connection.resume() { start(context) }
            },
            discard: { context in
                guard let driver = EventLoop.currentDriver else { return }
                let connection = unsafe state(context).reference.takeRetainedValue()
                connection.closed(context.closure(.goingAway), driver: driver)
                context.deinitializeState(as: State.self)
            },
            restore: { context, bytes in
                var reader = ByteReader(bytes)
                let userData = try handoff.decode(try reader.readBytes())
                let connection = AsyncConnection(context)
                if try connection.read(from: &reader) { context.pauseReadingFromTheStart() }
                unsafe context.initializeState(
                    State(reference: .passRetained(connection), userData: userData)
                )
            },
            begin: start
        )
    }
}
