/// A handler whose connections can go to the next process of a restart.
///
/// Connections of other handlers stay in the old process and are closed there, as in a shutdown.
///
/// Where ``ConnectionHandler/State`` is `Codable`, or there is none, nothing needs to be written:
///
/// ```swift
/// struct Counter: HandoffConnectionHandler {
///     struct State: Codable { var received = 0 }
///
///     mutating func opened(_ connection: inout Connection<Self>, userData: Void) -> State { State() }
///
///     mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {
///         connection.state.received += 1
///     }
/// }
/// ```
///
/// What the handler keeps for all connections of its event loop does not go along.
public protocol HandoffConnectionHandler: ConnectionHandler {
    /// The state of a connection as bytes, for the next process; on the event loop's thread.
    ///
    /// Must change nothing: the connection may come back, if the next process fails. `closed` is not called for a
    /// connection that has gone.
    ///
    /// - Throws: If the connection must stay; then it is closed here.
    mutating func handOff(_ connection: inout Connection<Self>) throws -> [UInt8]

    /// Makes the state of a connection that another process had; instead of `opened`, on the event loop's thread.
    ///
    /// The subscriptions are there already. What is sent goes out once the other process has let go of the connection; if that
    /// does not come to pass, it does not go out, and `closed` is not called.
    ///
    /// - Throws: If it cannot be made from the bytes; then the connection stays in the other process, and is closed there.
    mutating func takeOver(_ connection: inout Connection<Self>, from bytes: [UInt8]) throws -> State
}

extension HandoffConnectionHandler where State == Void {
    /// Nothing.
    @inlinable
    public mutating func handOff(_ connection: inout Connection<Self>) throws -> [UInt8] { [] }
    /// Does nothing.
    @inlinable
    public mutating func takeOver(_ connection: inout Connection<Self>, from bytes: [UInt8]) throws {}
}

extension HandoffConnectionHandler where State: Codable {
    /// The state, encoded.
    public mutating func handOff(_ connection: inout Connection<Self>) throws -> [UInt8] {
        try HandoffCoder.encode(connection.state)
    }

    /// The state, decoded.
    public mutating func takeOver(_ connection: inout Connection<Self>, from bytes: [UInt8]) throws -> State {
        try HandoffCoder.decode(State.self, from: bytes)
    }
}
