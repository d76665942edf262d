#if os(Linux)
/// How a server hands its listeners and connections to the next process on the same host.
///
/// A process that starts asks at ``path`` first. If another one answers, it takes that one's listeners and connections; the
/// other one then ends as after a shutdown. Otherwise it opens its listeners itself. Then it waits at ``path`` for its own
/// successor.
///
/// Both run as the same user, listen on the same endpoint, and have the same routes. The connections of endpoints that can be
/// handed off go along; all others, and all that speak TLS in the server itself, stay and are closed as in a shutdown. If the
/// new process fails before it has everything, the old one goes on as if nothing had been.
public struct Handoff: Sendable, Hashable {
    /// The Unix socket at which a process waits for its successor, with mode 0600.
    ///
    /// At most 85 bytes: a process that starts makes a socket beside it, whose name is longer.
    public var path: String
    /// How long one process waits for the other's next step.
    ///
    /// After it the old process goes on serving, and the new one fails to start.
    public var timeout: Duration
    /// How long bodies may take to return once they are told to; connections of later ones stay in the old process.
    public var bodiesTimeout: Duration

    /// Names the socket.
    public init(
        path: String,
        timeout: Duration = .seconds(5),
        bodiesTimeout: Duration = .milliseconds(250)
    ) {
        self.path = path
        self.timeout = timeout
        self.bodiesTimeout = bodiesTimeout
    }
}

/// Why listeners and connections were not handed off.
struct HandoffError: Error, CustomStringConvertible {
    let description: String

    init(_ description: String) {
        self.description = description
    }
}
#endif
