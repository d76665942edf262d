/// A broadcaster that keeps the last publications of some topics, so that a subscriber that was away gets what it
/// missed.
///
/// Which topics have a history is the broadcaster's configuration. Their publications carry positions, whose offsets
/// grow by one; a broadcaster delivers them without a gap, or calls ``BroadcastSink/reportGap(in:newest:)``.
public protocol HistoryBroadcaster: Broadcaster {
    /// The publications after a position, oldest first.
    ///
    /// At most `countMax`: ask again after the last one, until it is the newest.
    func history(
        of topic: Topic,
        after position: StreamPosition,
        countMax: Int
    ) async throws(BroadcastError) -> TopicHistory

    /// The last publications, oldest first; none for 0, which asks for the newest position alone.
    func history(of topic: Topic, newest count: Int) async throws(BroadcastError) -> TopicHistory

    /// Publishes, unless a publication with this key is in the topic's history already.
    ///
    /// Makes it safe to publish again after an error that left open what had happened. For a topic without a history the
    /// key means nothing.
    @discardableResult
    func publish(
        _ message: Message,
        to topic: Topic,
        idempotencyKey: String
    ) async throws(BroadcastError) -> IdempotentPublication
}

/// What became of a publication with a key.
public struct IdempotentPublication: Sendable, Hashable {
    /// The place of the publication with this key; nil for a topic without a history.
    public let position: StreamPosition?
    /// Whether it was published by this call, and not by an earlier one.
    public let isNew: Bool

    /// Makes an outcome; broadcasters of applications do.
    public init(position: StreamPosition?, isNew: Bool) {
        self.position = position
        self.isNew = isNew
    }
}

/// What a topic's history said.
public struct TopicHistory: Sendable {
    /// Publications with their positions, oldest first, without a gap between them.
    public let publications: [Publication]
    /// The position of the topic's newest publication, offset 0 before the first; nil for a topic without a history.
    public let newest: StreamPosition?
    /// Whether nothing is missing between the position that was asked for and the first publication.
    ///
    /// False if the window has passed it, or if the history was lost and began anew.
    public let isComplete: Bool

    /// Makes an answer; broadcasters of applications do.
    public init(publications: [Publication], newest: StreamPosition?, isComplete: Bool) {
        self.publications = publications
        self.newest = newest
        self.isComplete = isComplete
    }
}

/// How much of a topic is kept.
///
/// The oldest publications go as soon as one of the bounds is passed.
public struct HistoryLimits: Sendable, Hashable {
    /// Publications.
    public var countMax: Int
    /// Bytes of their payloads together.
    public var byteCountMax: Int
    /// Their age.
    public var ageMax: Duration

    /// Makes limits: 1,000 publications, 1 MiB, 5 minutes unless told otherwise.
    public init(countMax: Int = 1000, byteCountMax: Int = 1 << 20, ageMax: Duration = .seconds(300)) {
        precondition(
            countMax > 0 && byteCountMax > 0 && ageMax > .zero,
            "a history without room is none: return nil for this topic"
        )
        self.countMax = countMax
        self.byteCountMax = byteCountMax
        self.ageMax = ageMax
    }
}

/// What a subscription began with.
public struct TopicSubscription: Sendable, Hashable {
    /// The topic.
    public let topic: Topic
    /// The position behind which everything is delivered, replayed or live.
    ///
    /// The one that was asked for if ``isRecovered``, the newest one otherwise. Nil for a topic without a history.
    public let position: StreamPosition?
    /// Whether everything since the position that was asked for is delivered; true if none was asked for.
    public let isRecovered: Bool
}

/// A hole in what a subscriber of a topic with a history has got.
public struct TopicGap: Sendable, Hashable {
    /// The topic.
    public let topic: Topic
    /// The last position that the subscriber has had; nil for a gap that the broadcaster reports, which is not one
    /// subscriber's alone.
    public let after: StreamPosition?
    /// The position behind which everything is delivered again.
    public let newest: StreamPosition

    init(topic: Topic, after: StreamPosition? = nil, newest: StreamPosition) {
        self.topic = topic
        self.after = after
        self.newest = newest
    }
}

/// What subscribers are sent; the default is the published message itself.
public struct PublicationFormat: Sendable {
    /// Makes the message for a publication, to show its position for example.
    ///
    /// Called once per event loop and publication, on the loop's thread: it must be quick and must not block.
    public var publication: (@Sendable (Publication) -> Message)?
    /// Makes the message that tells a subscriber of a gap.
    ///
    /// Without one the connection is closed with 1013 (try again later), so that nothing is lost in silence.
    public var gap: (@Sendable (TopicGap) -> Message)?

    /// Makes the message that tells subscribers who has come or gone.
    ///
    /// Without one they are not told. Called once per event loop and event, on the loop's thread.
    public var presence: (@Sendable (PresenceEvent) -> Message)?

    /// The default.
    public init() {}
}
