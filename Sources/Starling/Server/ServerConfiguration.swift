public import Logging
public import StarlingCore

/// Everything about a server that has a default.
public struct ServerConfiguration: Sendable {
    /// Connections in all; further ones are answered with 503 and `Retry-After`, or over TLS with nothing, and closed
    /// at once.
    public var connectionsMax = 1_000_000
    /// Connections from one address; further ones end as those over ``connectionsMax`` do.
    ///
    /// Off by default: many users may share an address.
    public var connectionsPerAddressMax: Int?
    /// Connections of one user, as `authenticate` names it; further ones are refused with 429.
    ///
    /// Off by default.
    public var connectionsPerUserMax: Int?
    /// Upgrades per second in all; further ones wait for their turn, see ``upgradeQueueMax``.
    ///
    /// Off by default.
    public var upgradesPerSecondMax: Int?
    /// What all connections may hold together, shared with the process's other servers by default.
    public var memory = MemoryBudget.process
    /// Upgrades that may come at once after a quiet time; as many as in a second if nil, and a twentieth of them at least.
    public var upgradeBurstMax: Int?
    /// Upgrades that `authenticate` decides about at the same time, in all; further ones wait for their turn.
    ///
    /// What `authenticate` asks, a database for example, is then asked no more than so much at once by clients that come back together.
    public var authenticationsMax = 1000
    /// Upgrades that may wait for their turn, in order, in all; further ones are refused with 503 and `Retry-After`.
    ///
    /// Those that ``authenticationsMax`` holds up do not hold up those of endpoints without `authenticate`, and are counted apart from
    /// them: as many of either kind may wait. A waiting one holds its request, and has no task. `Retry-After` says when there will be
    /// room, by the rate, the number of those that wait, and those that were told before. 0: nobody waits.
    public var upgradeQueueMax = 10_000
    /// How long an upgrade may wait for its turn.
    ///
    /// One that would have to wait longer is refused at once, with 503 and `Retry-After`; and so is one that has.
    public var upgradeQueueTimeout: Duration = .seconds(3)
    /// Bytes and fields of a request's head.
    ///
    /// The other limits here are not looked at: they are an endpoint's.
    public var headLimits = Limits()
    /// A request's head must arrive within this time; a connection that is kept must send the next one within it.
    public var handshakeTimeout: Duration = .seconds(5)
    /// How long the end of a peer's stream is waited for after the end of ours.
    public var lingerTimeout: Duration = .seconds(2)
    /// Graceful shutdown: connections are closed with 1001, evenly over this time.
    ///
    /// The last of them a second before ``drainTimeout`` at the latest, or after half of it, so that there is time for goodbyes.
    public var drainSpread: Duration = .seconds(5)
    /// Graceful shutdown: each client is asked to come back after a random part of this time, its slot, in its close frame's
    /// reason (`retry in 1200 ms`) and by its subprotocol.
    ///
    /// No slot ends later than ``drainTimeout``: when the server has ended, everybody is back elsewhere.
    public var drainRetryDelayMax: Duration = .seconds(2)
    /// Graceful shutdown: what is left after this time is cut, and its tasks are cancelled.
    public var drainTimeout: Duration = .seconds(10)
    /// A path that answers 200 as long as the server runs, or nil.
    public var healthPath: String? = "/health"
    /// A path that answers 200 while the server takes new connections, and 503 from the start of its shutdown; or nil.
    public var readyPath: String? = "/ready"
    /// Whose word about a client's address is believed; nobody's by default.
    public var trustedProxies = TrustedProxies.none
    /// Names this node to a load balancer, by a cookie; nil for none.
    public var affinity: SessionAffinity?
    /// Joins this server's users with those of other nodes; nil for a server that is alone.
    public var cluster: ClusterRegistry?
    /// Dimensions of this server's metrics in swift-metrics, to tell several servers of a process apart.
    public var metricDimensions: [(String, String)] = []
    /// Where the server logs: single connections at `debug`, its own course at `info`.
    public var logger = Logger(label: "starling")

    /// The defaults.
    public init() {}
}

/// The keys that stand in log messages; they do not change between versions.
public enum LoggingKeys {
    /// A connection's name: loop, slot, generation.
    public static let connection = "ws.connection"
    /// A close code.
    public static let closeCode = "ws.close-code"
    /// Why a connection ended, or a handshake was refused.
    public static let cause = "ws.cause"
    /// Who ended a connection: `peer`, `application`, `server` or `network`.
    public static let closedBy = "ws.closed-by"
    /// A sentence for humans.
    public static let reason = "ws.reason"
    /// An HTTP status.
    public static let status = "http.status"
    /// Host and port of the peer.
    public static let remoteAddress = "net.remote-address"
    /// Host and port, or path, that the server listens on.
    public static let localAddress = "net.local-address"
    /// A topic.
    public static let topic = "ws.topic"
    /// Host and port, or path, of another server, such as a broker.
    public static let server = "net.server"
    /// How long is waited before the next attempt.
    public static let delay = "delay"
    /// An error.
    public static let error = "error"
    /// Seconds since a connection was accepted.
    public static let ageSeconds = "ws.age-s"
    /// Bytes received on a connection.
    public static let bytesReceived = "ws.bytes-received"
    /// Bytes sent on a connection.
    public static let bytesSent = "ws.bytes-sent"
    /// Bytes that were not written when a connection ended.
    public static let bufferedBytes = "ws.buffered-bytes"
    /// Connections that a hand-off has brought to the next process.
    public static let connections = "connections"
    /// Connections of a hand-off that the next process could not take.
    public static let refused = "refused"
    /// Connections that a hand-off has left where they were.
    public static let stayed = "stayed"
    /// How long something took.
    public static let duration = "duration"

    /// All of them.
    package static let all = [
        connection, closeCode, cause, closedBy, reason, status, remoteAddress, localAddress, topic, server,
        delay,
        error, ageSeconds, bytesReceived, bytesSent, bufferedBytes, connections, refused, stayed, duration,
    ]
}
