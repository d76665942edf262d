/// A broadcaster that says how it is, for metrics and for ``WebSocketServer/snapshot(_:)``.
///
/// Not needed to carry publications: of one that does not say, the snapshot has the name and ``Broadcaster/isReady``.
public protocol InspectableBroadcaster: Broadcaster {
    /// What it has done, and how its links are. Asked once a second, and for each snapshot, on any thread.
    var status: BroadcasterStatus { get }
}

/// What a broadcaster has done since it was made, and how its links are.
public struct BroadcasterStatus: Sendable, Hashable, Codable {
    /// Tells it apart from others of its server; a dimension of its metrics.
    public var name: String
    /// Whether publications of other nodes arrive, as far as is known.
    public var isReady: Bool
    /// Publications that it has taken and its broker has confirmed.
    public var publishedCount: UInt64
    /// Publications that it could not make.
    public var failedCount: UInt64
    /// Publications that have arrived.
    public var deliveredCount: UInt64
    /// Its links to brokers; none for one that needs none.
    public var links: [BrokerLink]

    /// Makes a status; broadcasters of applications do.
    public init(
        name: String,
        isReady: Bool = true,
        publishedCount: UInt64 = 0,
        failedCount: UInt64 = 0,
        deliveredCount: UInt64 = 0,
        links: [BrokerLink] = []
    ) {
        self.name = name
        self.isReady = isReady
        self.publishedCount = publishedCount
        self.failedCount = failedCount
        self.deliveredCount = deliveredCount
        self.links = links
    }
}

/// A broadcaster's connection to a broker.
public struct BrokerLink: Sendable, Hashable, Codable {
    /// How a link is.
    public struct State: Sendable, Hashable, Codable, RawRepresentable {
        /// The state's name.
        public let rawValue: String

        /// Makes a state; those that there are stand below.
        public init(rawValue: String) {
            self.rawValue = rawValue
        }

        /// There is none; it is made anew.
        public static let down = State(rawValue: "down")
        /// It stands, but not everything that should arrive on it does.
        public static let joining = State(rawValue: "joining")
        /// It does what it is for.
        public static let up = State(rawValue: "up")
    }

    /// What it leads to, and what for.
    public var name: String
    /// How it is.
    public var state: State
    /// For how long it has been so.
    public var stateSeconds: Double
    /// Why the last one ended; nil if none has.
    public var lastError: String?

    /// Makes a link's description.
    public init(name: String, state: State, stateSeconds: Double, lastError: String? = nil) {
        self.name = name
        self.state = state
        self.stateSeconds = stateSeconds
        self.lastError = lastError
    }
}
