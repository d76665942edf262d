/// A message on its way to a topic's subscribers.
public struct Publication: Sendable {
    /// The topic it was published to.
    public let topic: Topic
    /// The message.
    public let message: Message
    /// Its place in the topic's history, or nil for topics without one.
    public let position: StreamPosition?
    /// What a tracer wants to have carried along from where it was published; nil for nothing.
    public var trace: TraceContext?
    /// What this stands for, if it is no publication; `message` is empty then.
    let notice: Notice?

    enum Notice: Sendable {
        /// Publications are lost; `position` is the newest.
        case gap
        /// Somebody has come or gone.
        case presence(PresenceEvent)
    }

    /// Makes a publication.
    public init(_ message: Message, to topic: Topic, position: StreamPosition? = nil) {
        self.topic = topic
        self.message = message
        self.position = position
        self.notice = nil
    }

    init(gapIn topic: Topic, newest: StreamPosition) {
        self.topic = topic
        self.message = .binary([])
        self.position = newest
        self.notice = .gap
    }

    init(_ event: PresenceEvent) {
        self.topic = event.topic
        self.message = .binary([])
        self.position = nil
        self.notice = .presence(event)
    }
}

/// Carries publications between the event loops of a node, and between nodes.
///
/// There is one order per topic everywhere: a publication reaches all nodes, the publisher's own included, in the
/// broker's order. A broadcaster of your own needs the five functions below; a server calls `attach` before
/// anything else, keeps `run` running as long as it serves, and calls the rest at any time, from any task.
public protocol Broadcaster: AnyObject, Sendable {
    /// Takes a sink: from now on it is handed whatever arrives for the topics that were subscribed to.
    ///
    /// Several servers of a process may share a broadcaster; each attaches a sink of its own.
    func attach(_ sink: BroadcastSink)

    /// The node's first subscriber of these topics has come. Returns when publications made from now on will arrive.
    ///
    /// After an error it is called again, as long as there are subscribers; topics that are subscribed already do no harm.
    func subscribe(to topics: Set<Topic>) async throws(BroadcastError)

    /// The node's last subscriber of these topics has gone.
    ///
    /// After an error it is not called again: publications that arrive nevertheless find nobody.
    func unsubscribe(from topics: Set<Topic>) async throws(BroadcastError)

    /// Publishes to every subscriber of the topic on every node.
    ///
    /// - Returns: The publication's place in the topic's history, or nil for topics without one.
    /// - Throws: What became of it where it was not, or may not have been, published: whoever has published is told. For synchronous
    ///   handlers, which do not wait, the broadcaster should log it.
    @discardableResult
    func publish(_ message: Message, to topic: Topic) async throws(BroadcastError) -> StreamPosition?

    /// Does whatever the broadcaster must do in the background, until its task is cancelled, when the server's last connection has gone.
    ///
    /// - Throws: Whatever it cannot go on after. The server logs it and serves on without it; it is not called again.
    func run() async throws(BroadcastError)

    /// Whether publications of other nodes arrive, as far as is known; `/ready` asks, on any thread.
    ///
    /// True unless the broadcaster says otherwise.
    var isReady: Bool { get }
}

extension Broadcaster {
    /// True.
    public var isReady: Bool { true }
}

/// A broadcaster that can take a publication without suspending; connections that publish from a synchronous handler
/// then need no queue in front of it.
public protocol ImmediateBroadcaster: Broadcaster {
    /// Takes a publication, in order behind all that were taken before on this thread; false if its queue is full.
    func tryPublish(_ message: Message, to topic: Topic) -> Bool

    /// Whether every publication reaches every sink anyway, so that `subscribe` and `unsubscribe` need not be called.
    var deliversEverything: Bool { get }
}

/// Where a broadcaster hands over what arrives.
public struct BroadcastSink: Sendable {
    private let take: @Sendable (Publication) -> Void

    init(hub: BroadcastHub) {
        self.take = { hub.deliver($0) }
    }

    /// A sink of a test's own.
    package init(
        delivered: @escaping @Sendable (Publication) -> Void,
        gap: @escaping @Sendable (Topic, StreamPosition) -> Void,
        presence: @escaping @Sendable (PresenceEvent) -> Void = { _ in }
    ) {
        self.take = { publication in
            switch publication.notice {
            case nil: delivered(publication)
            case .gap: if let newest = publication.position { gap(publication.topic, newest) }
            case .presence(let event): presence(event)
            }
        }
    }

    /// Delivers a publication to the server's subscribers.
    ///
    /// Never blocks for long and never suspends; any thread.
    ///
    /// Calls for one topic must come in the broker's order, one after the other.
    public func deliver(_ publication: Publication) {
        self.take(publication)
    }

    /// Says that publications of a topic with a history are lost: those before `newest` that were not delivered.
    ///
    /// Comes in order with what is delivered. Subscribers are told as ``PublicationFormat/gap`` says.
    public func reportGap(in topic: Topic, newest: StreamPosition) {
        self.take(Publication(gapIn: topic, newest: newest))
    }

    /// Says that a member has come or gone, in order with what is delivered to the topic.
    public func deliver(_ event: PresenceEvent) {
        self.take(Publication(event))
    }
}

/// Why a broadcaster could not do what it was asked.
public struct BroadcastError: Error, Sendable {
    /// What happened.
    public struct Code: Hashable, Sendable {
        enum Base: Sendable { case unavailable, queueFull, refused }
        let base: Base

        /// The broker cannot be reached.
        public static let unavailable = Code(base: .unavailable)
        /// Too many publications wait for the broker.
        public static let queueFull = Code(base: .queueFull)
        /// The broker refused; the message says why.
        public static let refused = Code(base: .refused)
    }

    /// What happened.
    public let code: Code
    /// What, where, and what to do.
    public let message: String
    /// The error below this one, for the operator.
    public let underlying: (any Error)?

    /// Makes an error; broadcasters of applications do.
    public init(_ code: Code, message: String, underlying: (any Error)? = nil) {
        self.code = code
        self.message = message
        self.underlying = underlying
    }
}

extension BroadcastError: CustomStringConvertible {
    /// The message.
    public var description: String {
        self.message
    }
}
