/// Which end of a connection a piece of code speaks for.
///
/// The role decides who masks: frames from a client are masked, frames from a server are not (RFC 6455 §5.1).
public enum Role: Sendable, Hashable {
    /// The end that answered the handshake.
    case server
    /// The end that asked for it.
    case client
}
