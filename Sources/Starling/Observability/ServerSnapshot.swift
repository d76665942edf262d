/// A server at a moment: what it does, for whom, within which limits, and how it is connected.
///
/// A value without Foundation: encode it with whatever encoder you like. ``DebugRoute(_:authorize:)`` serves it as JSON.
public struct ServerSnapshot: Sendable, Hashable, Codable {
    /// The version of Starling.
    public var version: String
    /// Where the server stands between its start and its end.
    public var stage: Stage
    /// Whether `/ready` says yes.
    public var isReady: Bool
    /// How long the server has been there.
    public var uptimeSeconds: Double
    /// What all loops have counted together, and what they have, by the names of the metrics without `starling_`.
    public var totals: [String: UInt64]
    /// WebSockets closed, by cause.
    public var closes: [String: UInt64]
    /// Handshakes refused, by cause.
    public var refusals: [String: UInt64]
    /// The event loops.
    public var loops: [Loop]
    /// The topics with the most subscribers here, the greatest first; see ``Options/topicCountMax``.
    public var topics: [TopicSummary]
    /// What connections hold, and may hold.
    public var memory: Memory
    /// The limits in force.
    public var limits: ServerLimits
    /// The endpoints, with their limits.
    public var endpoints: [Endpoint]
    /// The broadcasters and their links.
    public var broadcasters: [BroadcasterStatus]
    /// A page of connections, if ``Options/connectionCountMax`` asks for one.
    public var connections: [ConnectionSummary]
    /// Where the next page of connections begins; nil if there is none, or none was asked for.
    public var nextConnection: String?

    /// Where a server stands between its start and its end.
    public struct Stage: Sendable, Hashable, Codable, RawRepresentable {
        /// The stage's name.
        public let rawValue: String

        /// Makes a stage; those that there are stand below.
        public init(rawValue: String) {
            self.rawValue = rawValue
        }

        /// It does not listen yet.
        public static let starting = Stage(rawValue: "starting")
        /// It listens.
        public static let serving = Stage(rawValue: "serving")
        /// It shuts down.
        public static let draining = Stage(rawValue: "draining")
    }

    /// What a snapshot is to hold.
    public struct Options: Sendable, Hashable {
        /// How many of the greatest topics; at most 1000.
        ///
        /// To find them each loop looks at all its topics, some thousand per tick.
        public var topicCountMax = 20
        /// How many connections; at most 1000.
        public var connectionCountMax = 0
        /// Where the page of connections begins: ``ServerSnapshot/nextConnection`` of the one before.
        ///
        /// Nil, or what is no such place, begins with the first.
        public var connectionsFrom: String?
        /// How long a loop is waited for.
        ///
        /// One that does not answer in time is in the snapshot all the same, by what it published last.
        public var timeout: Duration = .seconds(1)

        /// The defaults.
        public init() {}
    }

    /// An event loop.
    public struct Loop: Sendable, Hashable, Codable {
        /// Its number.
        public var index: Int
        /// Whether it answered in time; if not, all but the counts below is 0.
        public var hasAnswered: Bool
        /// Connections of any kind.
        public var connections: Int
        /// WebSockets that are open.
        public var webSockets: Int
        /// Topics with subscribers on this loop.
        public var topics: Int
        /// Subscriptions of its connections.
        public var subscriptions: Int
        /// Tasks that have not returned.
        public var tasks: Int
        /// Bytes that wait for peers.
        public var outboundBytes: UInt64
        /// Ticks since the loop began.
        public var ticks: UInt64
        /// How long ticks took together.
        public var busyNanoseconds: UInt64
        /// The longest tick since the loop began.
        public var longestTickNanoseconds: UInt64
        /// How long the loop took to answer: what a message from another thread waits.
        public var answerNanoseconds: UInt64
        /// Messages from other threads that came with the question.
        public var mailboxCount: Int
        /// Parts of tasks that were ready to run.
        public var jobCount: Int
        /// Connections in the timer wheel.
        public var timerCount: Int
    }

    /// A topic, and how many connections of this server are subscribed to it.
    public struct TopicSummary: Sendable, Hashable, Codable {
        /// Its name.
        public var name: String
        /// Its subscribers on all loops that answered.
        public var subscriberCount: Int
    }

    /// What connections hold together.
    public struct Memory: Sendable, Hashable, Codable {
        /// What is charged to ``ServerConfiguration/memory``, by all servers that share it: ``MemoryBudget/byteCount``.
        public var heldBytes: Int
        /// The limit, ``MemoryBudget/byteCountMax``.
        public var heldBytesMax: Int
        /// Of this server: what of it waits for peers.
        public var outboundBytes: UInt64
    }

    /// The limits of a server; nil for one that is off.
    public struct ServerLimits: Sendable, Hashable, Codable {
        /// ``ServerConfiguration/connectionsMax``.
        public var connectionsMax: Int
        /// ``ServerConfiguration/connectionsPerAddressMax``.
        public var connectionsPerAddressMax: Int?
        /// ``ServerConfiguration/connectionsPerUserMax``.
        public var connectionsPerUserMax: Int?
        /// ``ServerConfiguration/upgradesPerSecondMax``.
        public var upgradesPerSecondMax: Int?
        /// ``ServerConfiguration/handshakeTimeout``.
        public var handshakeTimeoutSeconds: Double
        /// ``ServerConfiguration/drainTimeout``.
        public var drainTimeoutSeconds: Double
    }

    /// An endpoint and its limits; nil for one that is off.
    public struct Endpoint: Sendable, Hashable, Codable {
        /// Its route's pattern.
        public var path: String
        /// Bytes of a message.
        public var messageBytesMax: Int
        /// Bytes that may wait for one connection.
        public var outboundBytesMax: Int
        /// Topics that one connection may subscribe to.
        public var subscriptionsMax: Int
        /// Messages per second of one connection.
        public var messagesPerSecondMax: Int?
        /// Bytes per second of one connection.
        public var bytesPerSecondMax: Int?
        /// Seconds of silence until a ping.
        public var pingIntervalSeconds: Double?
        /// Seconds without a message until a connection is closed.
        public var idleTimeoutSeconds: Double?
    }

    /// A connection.
    public struct ConnectionSummary: Sendable, Hashable, Codable {
        /// Its name, as in logs: loop, slot, generation.
        public var id: String
        /// What it does: `http`, `deciding`, `open`, `closing`, `lingering`.
        public var phase: String
        /// Its endpoint's route; nil before it asked for one.
        public var path: String?
        /// The user that `authenticate` accepted it for.
        public var user: String?
        /// Where it comes from.
        public var remoteAddress: String
        /// The subprotocol that was agreed on.
        public var subprotocol: String?
        /// Seconds since it was accepted.
        public var ageSeconds: Double
        /// Seconds since something arrived.
        public var silentSeconds: Double
        /// Messages received, modulo 2³².
        public var messagesReceived: UInt64
        /// Bytes received.
        public var bytesReceived: UInt64
        /// Bytes sent.
        public var bytesSent: UInt64
        /// Bytes that wait for the peer.
        public var bufferedBytes: Int
        /// Topics that it is subscribed to.
        public var subscriptionCount: Int
        /// The first of them, at most 8.
        public var topics: [String]
    }
}

extension ServerSnapshot {
    /// The version of this package.
    package static let libraryVersion = "unreleased"
}
