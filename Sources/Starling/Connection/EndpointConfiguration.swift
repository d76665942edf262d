public import StarlingCore
public import StarlingDeflate

/// Everything about an endpoint that has a default.
public struct EndpointConfiguration: Sendable {
    /// What a peer may make the server hold, in bytes and fragments.
    public var limits = Limits()
    /// How long a peer may take, and how long a connection may last.
    public var timeouts = ConnectionTimeouts()
    /// How fast a peer may send.
    public var rates = RateLimits()
    /// What may wait for a peer that reads slowly, and what happens then.
    public var outbound = OutboundConfiguration()
    /// Received messages that may wait for an async handler, in bytes; then the connection is not read until
    /// half of them are taken.
    ///
    /// TCP then slows the sender down.
    public var inboundByteCountMax = 256 << 10
    /// Topics that one connection may subscribe to; a further one fails.
    public var subscriptionsMax = 1024
    /// What subscribers are sent for a publication, and for a gap.
    ///
    /// Connections that agreed on one of ``subprotocols`` are sent what that says instead.
    public var publicationFormat = PublicationFormat()
    /// The subprotocols that the endpoint speaks, its favourite first; 255 at most.
    ///
    /// The first of them that a client offers is agreed on, unless `authenticate` names another; a client that offers none
    /// of them is let in without one.
    public var subprotocols: [Subprotocol] = []
    /// Which pages may connect.
    public var origins = OriginPolicy.sameHost
    /// permessage-deflate, or nil to decline it.
    ///
    /// On by default, without state between messages.
    public var deflate: DeflateConfiguration? = DeflateConfiguration()

    /// The defaults.
    public init() {}
}

/// How long a peer may take, and how long a connection may last.
///
/// Nil switches a limit off.
///
/// Deadlines fire up to 80 ms late: they are served by one timing wheel per event loop.
public struct ConnectionTimeouts: Sendable, Hashable {
    /// A connection from which nothing has arrived for so long is sent a ping.
    ///
    /// The first is spread at random, so that connections made together are not pinged together.
    public var pingInterval: Duration? = .seconds(25)
    /// A ping that nothing answers for so long ends the connection; the time of ticks over a second, in which nobody listened, does
    /// not count.
    public var pongTimeout: Duration = .seconds(10)
    /// A close frame that is not answered for so long ends the connection.
    public var closeTimeout: Duration = .seconds(5)
    /// A peer that takes no byte for so long, while some wait, is cut.
    public var writeTimeout: Duration = .seconds(10)
    /// A connection that sends no message for so long is closed with 1001.
    ///
    /// Off by default: pongs prove life.
    public var idleTimeout: Duration?
    /// `authenticate` may take so long; then the upgrade is refused with 503.
    public var authenticationTimeout: Duration = .seconds(10)
    /// A compression window of a connection's own that is not used for so long is released, and made anew when needed.
    ///
    /// Up to 256 KiB each. Only where ``/StarlingDeflate/DeflateConfiguration/preferences`` ask for context takeover is there one.
    public var compressionWindowTimeout: Duration? = .seconds(30)
    /// A connection of this age is closed with 1001, so that clients spread over new nodes.
    ///
    /// Off by default.
    public var lifetimeMax: Duration?

    /// The defaults.
    public init() {}
}

/// How fast a peer may send; more closes with 1008.
///
/// Nil switches a limit off.
///
/// Counted per second of the loop's clock.
public struct RateLimits: Sendable, Hashable {
    /// Pings, pongs and close frames per second.
    public var controlFramesPerSecondMax: Int? = 100
    /// Messages per second.
    ///
    /// Off by default.
    public var messagesPerSecondMax: Int?
    /// Bytes per second, framing included.
    ///
    /// Off by default.
    public var bytesPerSecondMax: Int?

    /// The defaults.
    public init() {}
}

/// What may wait for a peer that reads slowly, and what happens when it is too much.
public struct OutboundConfiguration: Sendable, Hashable {
    /// Bytes that may wait for one connection.
    public var byteCountMax = 1 << 20
    /// Above it `send` suspends, and a synchronous send says ``SendResult/buffered``.
    public var highWatermark = 64 << 10
    /// Below it again, `send` goes on and `drained` is called.
    public var lowWatermark = 16 << 10
    /// What happens to a publication that does not fit any more.
    public var slowConsumerPolicy = SlowConsumerPolicy.disconnect

    /// The defaults.
    public init() {}
}

/// What happens to publications for a peer that does not keep up.
///
/// Messages that were sent to it alone are never dropped: their sender is told.
public struct SlowConsumerPolicy: Sendable, Hashable {
    enum Base: Sendable {
        case disconnect, dropNewest, dropOldest, conflate
    }
    let base: Base

    /// At the limit, close with 1013 (try again later): the client comes back and asks for what it missed.
    public static let disconnect = SlowConsumerPolicy(base: .disconnect)
    /// At the limit, leave the new publication out.
    public static let dropNewest = SlowConsumerPolicy(base: .dropNewest)
    /// At the limit, leave the oldest waiting publications out.
    public static let dropOldest = SlowConsumerPolicy(base: .dropOldest)
    /// While the peer takes no bytes, a new publication replaces the waiting one of its topic; at the limit,
    /// as ``dropNewest``.
    ///
    /// For topics where only the newest state counts.
    public static let conflate = SlowConsumerPolicy(base: .conflate)
}
