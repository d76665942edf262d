public import HTTPTypes
public import Starling
internal import StarlingCore

/// Everything about a ``ReconnectingClient`` that has a default.
public struct ReconnectingConfiguration: Sendable {
    /// Each connection: TLS, proxy, deadlines, pings, limits.
    ///
    /// Its subprotocols are set by the client.
    public var connection = ClientConfiguration()
    /// Asked before each attempt for more header fields: a token that expires, for example.
    ///
    /// What it throws is an attempt that failed.
    public var headerFields: (@Sendable () async throws -> HTTPFields)?
    /// How long is waited before the next attempt, unless the server has said how long.
    public var backoff = Backoff()
    /// Whether a connection that has ended is to be made anew.
    ///
    /// The default goes by the close code: not after 1000, not after codes that say that the client broke a rule or a limit
    /// (1002, 1003, 1007 to 1010), and not after an application's own codes (3000 and above).
    public var comesBack: @Sendable (WebSocketClosure) -> Bool = { Self.comesBack(after: $0.code) }
    /// Publications that may wait for their acknowledgement, sent or not.
    public var publicationsMax = 1000
    /// Bytes that these publications may have together.
    public var publicationByteCountMax = 1 << 20
    /// What happens to a publication when as many wait as may.
    public var publicationQueuePolicy = PublicationQueuePolicy.refuse
    /// How long a publication may wait for its acknowledgement, the time without a connection included.
    public var publicationTimeout: Duration = .seconds(60)
    /// Requests that may wait for their answers; a further one fails with ``TopicError/Code/queueFull``.
    public var requestsMax = 1000
    /// How long a request may take, the time without a connection included, unless the call says otherwise.
    public var requestTimeout: Duration = .seconds(10)
    /// Updates that one iteration over a topic may be behind; two at least.
    ///
    /// Then the client leaves the topic, and takes it up again from where it was when the iteration has caught up.
    public var bufferedUpdatesMax = 1024

    /// The defaults.
    public init() {}

    static func comesBack(after code: CloseCode) -> Bool {
        switch code {
        case .normalClosure, .protocolError, .unsupportedData, .invalidPayload, .policyViolation,
            .messageTooBig, .mandatoryExtension:
            false
        default: code.rawValue < 3000
        }
    }
}

/// What happens to a publication when as many wait as may.
public struct PublicationQueuePolicy: Sendable, Hashable {
    enum Base: Sendable { case refuse, dropOldest }
    let base: Base

    /// It fails at once, with ``TopicError/Code/queueFull``.
    public static let refuse = PublicationQueuePolicy(base: .refuse)
    /// The one that has waited longest fails, with ``TopicError/Code/dropped``; it may have been made.
    public static let dropOldest = PublicationQueuePolicy(base: .dropOldest)
}

/// How long to wait before the next attempt: a random time up to a bound that doubles (full jitter), so that the clients of a
/// server that was away do not all come back at once.
///
/// Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
public struct Backoff: Sendable, Hashable {
    /// The bound of the first wait.
    public var first: Duration
    /// The bound of all further ones.
    public var max: Duration
    /// A connection that has lasted so long begins anew with ``first``.
    public var resetsAfter: Duration

    /// Makes a backoff: 0.5 s, 1 s, 2 s … 30 s, anew after 10 s, unless told otherwise.
    public init(
        first: Duration = .milliseconds(500),
        max: Duration = .seconds(30),
        resetsAfter: Duration = .seconds(10)
    ) {
        precondition(first >= .zero && max >= first, "the first bound of a backoff is not above the last")
        self.first = first
        self.max = max
        self.resetsAfter = resetsAfter
    }

    /// What a server has said about when to come back.
    package enum Hint: Sendable {
        /// A time that it has chosen for this client, as a drain does.
        case ownTime(Duration)
        /// A time that it says to everybody whom it refuses: without a backoff on top they would all be back together.
        case leastTime(Duration)
    }

    /// The wait before an attempt, by what the server has said.
    package func delay(
        beforeAttempt attempt: Int,
        hint: Hint?,
        using generator: inout some RandomNumberGenerator
    ) -> Duration {
        switch hint {
        case .ownTime(let time): time
        case .leastTime(let time): time + self.delay(beforeAttempt: attempt, using: &generator)
        case nil: self.delay(beforeAttempt: attempt, using: &generator)
        }
    }

    /// The wait before an attempt; 0 is the first one after a failure.
    func delay(
        beforeAttempt attempt: Int,
        using generator: inout some RandomNumberGenerator
    ) -> Duration {
        var bound = self.first
        for _ in 0..<attempt where bound < self.max { bound = bound * 2 }
        let milliseconds = min(bound, self.max).wholeMilliseconds
        return .milliseconds(Int64.random(in: 0...milliseconds, using: &generator))
    }
}
