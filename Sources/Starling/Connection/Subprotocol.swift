/// A subprotocol that an endpoint speaks (RFC 6455 §1.9), as far as the server itself sends messages in it.
public struct Subprotocol: Sendable {
    /// Its name in `Sec-WebSocket-Protocol`.
    public var name: String
    /// What subscribers that agreed on it are sent for a publication, a gap and a presence event.
    public var publicationFormat: PublicationFormat
    /// Makes the message that goes out before a connection is closed because the server shuts down; none without one.
    ///
    /// It is given the time after which the client should come back. Called on the loop's thread.
    public var drainMessage: (@Sendable (Duration) -> Message)?
    /// The same for a connection of this name, where what is said depends on it; ``drainMessage`` if it makes none.
    package var connectionDrainMessage: (@Sendable (ConnectionID, Set<Topic>, Duration) -> Message?)?

    /// Names a subprotocol.
    public init(
        _ name: String,
        publicationFormat: PublicationFormat = PublicationFormat(),
        drainMessage: (@Sendable (Duration) -> Message)? = nil
    ) {
        self.name = name
        self.publicationFormat = publicationFormat
        self.drainMessage = drainMessage
    }
}
