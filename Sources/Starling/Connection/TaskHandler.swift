internal import StarlingCore

/// The async form of an endpoint, built on the synchronous one: each connection has a task that prefers its loop.
struct TaskHandler<UserData: Sendable>: ConnectionHandler {
    let body: @Sendable (WebSocket, UserData) async throws -> Void

    /// Retained from `opened` to `closed`, and so not for each message.
    @safe struct State {
        let reference: Unmanaged<AsyncConnection>
    }

    mutating func opened(_ connection: inout Connection<Self>, userData: UserData) -> State {
        let async = AsyncConnection(connection.context)
        let body = self.body
        connection.context.start(async) { socket in try await body(socket, userData) }
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
    }
}
