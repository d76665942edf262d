public import StarlingCore
public import StarlingDeflate

/// Everything about an endpoint that has a default.
public struct EndpointConfiguration: Sendable {
    /// What a peer may make the server hold, in bytes and fragments.
    ///
    /// What a request's head may have is said by ``ServerConfiguration/headLimits``, and not here.
    public var limits = Limits()
    /// How long a peer may take, and how long a connection may last.
    public var timeouts = ConnectionTimeouts()
    /// How fast a peer may send.
    public var rates = RateLimits()
    /// What may wait for a peer that reads slowly, and what happens then.
    public var outbound = OutboundConfiguration()
    /// Received messages that may wait for an async handler, in bytes, of which each counts 128 more; then the connection is not
    /// read until half of them are taken.
    ///
    /// TCP then slows the sender down. It bounds as well what tasks on other threads have sent and the loop has not taken yet.
    public var inboundByteCountMax = 256 << 10
    /// What a newer publication must have in common with an older one of its topic to take its place, for subscribers with
    /// ``SlowConsumerPolicy/conflate`` that are behind.
    ///
    /// Called on the loop's thread, once per publication, while there are such; it must be quick. Without one a topic's newest
    /// publication takes the place of all others.
    public var conflationKey: (@Sendable (Publication) -> String)?
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
    /// A ping is sent after this much silence.
    ///
    /// The first is spread at random, so that connections made together are not pinged together.
    public var pingInterval: Duration? = .seconds(25)
    /// The connection ends if nothing arrives within this time after a ping.
    ///
    /// Ticks longer than a second, in which the loop read nothing, do not count.
    public var pongTimeout: Duration = .seconds(10)
    /// How long to wait for the answer to a close frame of ours; then the connection ends.
    public var closeTimeout: Duration = .seconds(5)
    /// A peer that accepts no bytes for this long, while some wait for it, is cut.
    ///
    /// Progress shows when half of the kernel's send buffer is free again, 64 KiB: a peer so slow that this takes longer counts as one
    /// that accepts nothing.
    public var writeTimeout: Duration = .seconds(10)
    /// A connection whose peer has sent no message for this long is closed with 1001.
    ///
    /// Off by default: pongs prove life.
    public var idleTimeout: Duration?
    /// Time limit for `authenticate`; then the upgrade is refused with 503.
    public var authenticationTimeout: Duration = .seconds(10)
    /// A connection's own compression window is freed after this much disuse, and allocated again when it is needed.
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

/// How fast a peer may send.
///
/// Nil switches a limit off.
///
/// Token buckets: a burst may come at once, and further ones as the bucket fills, on the loop's clock.
public struct RateLimits: Sendable, Hashable {
    /// Pings, pongs and close frames per second; more closes with 1008, whatever the ``policy``.
    public var controlFramesPerSecondMax: Int? = 100
    /// Messages per second.
    ///
    /// Off by default.
    public var messagesPerSecondMax: Int?
    /// Messages that may come at once; as many as in a second if nil.
    public var messageBurstMax: Int?
    /// Bytes per second, framing included.
    ///
    /// Off by default.
    public var bytesPerSecondMax: Int?
    /// Bytes that may come at once; as many as in a second if nil.
    public var byteBurstMax: Int?
    /// What happens to a peer that sends faster.
    public var policy = RatePolicy.close
    /// ``RatePolicy/delay``: a peer that would have to be paused for longer is closed with 1008.
    public var delayMax: Duration = .seconds(30)

    /// The defaults.
    public init() {}
}

/// What happens to a peer that sends faster than ``RateLimits`` allow.
public struct RatePolicy: Sendable, Hashable {
    enum Base: Sendable {
        case close, delay
    }
    let base: Base

    /// It is closed with 1008.
    public static let close = RatePolicy(base: .close)
    /// It is not read until it has waited for what it has sent; TCP then slows it down.
    ///
    /// Nothing is lost: what has been received already is handled, and lengthens the wait. Up to 256 KiB may come so at once.
    public static let delay = RatePolicy(base: .delay)
}

/// What may wait for a peer that reads slowly, and what happens when it is too much.
public struct OutboundConfiguration: Sendable, Hashable {
    /// Bytes of messages to it alone that may wait for one connection, and the bytes of the longest one.
    ///
    /// Where no more than ``highWatermark`` waits, each of them is taken, so that whoever sends when it may is not refused: at most
    /// both together wait. Publications do not wait for a connection: it has a cursor in the topic's ring.
    public var byteCountMax = 1 << 20
    /// Bytes that wait for the connection: above it `send` suspends, and a synchronous send says ``SendResult/buffered``; one at least.
    public var highWatermark = 64 << 10
    /// Bytes that wait for the connection: below it again, `send` goes on and `drained` is called.
    public var lowWatermark = 16 << 10
    /// What happens to a subscriber that the topic's ring has passed, unless its subscription says otherwise; and, if it is
    /// ``SlowConsumerPolicy/disconnect``, to a peer for which a message to it alone does not fit any more.
    public var slowConsumerPolicy = SlowConsumerPolicy.disconnect
    /// Bytes of publications that a topic's ring keeps for those of its subscribers that take no bytes: once per event loop,
    /// however many they are, and only while there are some.
    ///
    /// Each publication counts 160 bytes more than its payload. Half of them may be taken by the newest of their keys, for those who
    /// conflate. Above the soft limit of ``MemoryBudget`` an eighth.
    public var backlogByteCountMax = 256 << 10
    /// How long the ring keeps a publication.
    public var backlogAgeMax: Duration = .seconds(30)

    /// The defaults.
    public init() {}

    /// Whether a message is taken behind so many bytes that wait.
    func hasRoom(for byteCount: Int, behind waiting: Int) -> Bool {
        if waiting + byteCount <= self.byteCountMax { return true }
        return byteCount <= self.byteCountMax && waiting <= self.highWatermark
            && self.highWatermark < self.byteCountMax
    }
}

/// What happens to a subscriber that takes bytes again, or does not, when its topic's ring has given up publications that it
/// has not had.
///
/// What the ring still has it gets in any case. Messages that were sent to it alone are never dropped: their sender is told.
/// Presence events that the ring has given up cannot be replaced: the connection is closed with 1013.
public struct SlowConsumerPolicy: Sendable, Hashable {
    enum Base: UInt8, Sendable {
        case disconnect, recover, skip, conflate
    }
    let base: Base

    /// What stands for it in a record for another process.
    var number: Int { Int(self.base.rawValue) }

    init(base: Base) {
        self.base = base
    }

    init?(number: Int) {
        guard let base = UInt8(exactly: number).flatMap(Base.init(rawValue:)) else { return nil }
        self.base = base
    }

    /// Close with 1013 (try again later): the client comes back and asks for what it missed.
    public static let disconnect = SlowConsumerPolicy(base: .disconnect)
    /// Send what it missed from the topic's history; if that does not reach back so far, as ``skip``.
    public static let recover = SlowConsumerPolicy(base: .recover)
    /// Go on with the oldest publication in the ring.
    ///
    /// For a topic with positions the subscriber is told first, as ``PublicationFormat/gap`` says; without that it is closed
    /// with 1013. A topic without positions promises nothing: what is left out is only counted.
    public static let skip = SlowConsumerPolicy(base: .skip)
    /// Send the newest publication of each key alone, whatever the ring has; see
    /// ``EndpointConfiguration/conflationKey``.
    ///
    /// For topics where only the newest state counts.
    public static let conflate = SlowConsumerPolicy(base: .conflate)
}
