/// What an endpoint's handler does for connections that go to another process, or come from one; on the event loop's thread.
@usableFromInline
struct HandoffCallbacks {
    /// The application is to come to rest.
    let suspend: (ConnectionContext) -> Void
    /// Whether it has.
    let isAtRest: (ConnectionContext) -> Bool
    /// The handler's state as bytes.
    let export: (ConnectionContext) throws -> [UInt8]
    /// Whether senders on other threads are told that the connection has gone, because another process may have it already.
    let depart: (ConnectionContext, Bool) -> Void
    /// The other process has failed: the application goes on here.
    let resume: (ConnectionContext) -> Void
    /// The connection has gone: the state is destroyed without a word.
    let discard: (ConnectionContext) -> Void
    /// Makes the state of a connection that another process had.
    let restore: (ConnectionContext, [UInt8]) throws -> Void
    /// The other process has let go: the application may begin.
    let begin: (ConnectionContext) -> Void
}

/// Handlers inside this module that can do without the public protocol.
protocol HandoffSource: ConnectionHandler {
    static func makeHandoff(_ handler: HandlerBox<Self>) -> HandoffCallbacks?
}

extension HandoffCallbacks {
    /// The functions of a handler that can be handed off, or nil.
    @usableFromInline
    static func make<Handler: ConnectionHandler>(_ handler: HandlerBox<Handler>) -> HandoffCallbacks? {
        if let source = Handler.self as? any HandoffSource.Type { return Self.make(source, handler) }
        if let type = Handler.self as? any HandoffConnectionHandler.Type {
            return Self.make(synchronous: type, handler)
        }
        return nil
    }

    private static func make<Handler: HandoffSource>(
        _ type: Handler.Type,
        _ handler: AnyObject
    ) -> HandoffCallbacks? {
        (handler as? HandlerBox<Handler>).flatMap(Handler.makeHandoff)
    }

    private static func make<Handler: HandoffConnectionHandler>(
        synchronous type: Handler.Type,
        _ handler: AnyObject
    ) -> HandoffCallbacks? {
        guard let handler = handler as? HandlerBox<Handler> else { return nil }
        return HandoffCallbacks(
            suspend: { _ in },
            isAtRest: { _ in true },
            export: { context in
                var connection = Connection<Handler>(context)
                return try handler.value.handOff(&connection)
            },
            depart: { _, _ in },
            resume: { _ in },
            discard: { $0.deinitializeState(as: Handler.State.self) },
            restore: { context, bytes in
                var connection = Connection<Handler>(context)
                context.initializeState(try handler.value.takeOver(&connection, from: bytes))
            },
            begin: { _ in }
        )
    }
}
