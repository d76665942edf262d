public import Logging
public import Starling

/// What an application allows and answers on an endpoint that speaks ``TopicProtocol``.
///
/// ```swift
/// var chat = TopicService<User> { client, topic in
///     guard topic.name.hasPrefix("room:") else { throw TopicRefusal(.forbidden, "there are rooms only") }
///     return .present(as: PresenceMember(id: client.userData.id, info: client.userData.name))
/// } publish: { client, publication in
///     guard case .said(let text, _) = try publication.data.decode(Chat.Event.self) else {
///         throw TopicRefusal(.invalidData, "clients say things")
///     }
///     return try JSONText(encoding: Chat.Event.said(text, by: client.userData.name))
/// }
/// chat.answer(Chat.rename) { client, name in
///     try await users.rename(client.userData, to: name.to)
/// }
/// ```
///
/// All closures run on the connection's event loop, which they must not block, and may suspend.
public struct TopicService<UserData: Sendable>: Sendable {
    typealias Answer = @Sendable (TopicClient<UserData>, JSONText) async throws -> JSONText

    /// Limits and the logger.
    public var configuration = TopicServiceConfiguration()

    let subscribe: @Sendable (TopicClient<UserData>, Topic) async throws -> TopicAccess
    let publish: @Sendable (TopicClient<UserData>, ClientPublication) async throws -> JSONText
    private(set) var answers: [String: Answer] = [:]

    /// Makes a service.
    ///
    /// What the closures throw refuses: a ``TopicRefusal`` with its code, a `DecodingError` with
    /// ``TopicRefusal/Code/invalidData``, anything else with ``TopicRefusal/Code/internal`` and a log message.
    ///
    /// - Parameters:
    ///   - subscribe: Whether a client may subscribe to a topic, and as whom it is present there. Asked for each subscription,
    ///     after a lost connection too, unless the client has a ticket (``TopicServiceConfiguration/tickets``).
    ///   - publish: Checks what a client would publish, and returns what is published instead: the same, or with the sender
    ///     and the time for example. Without it clients may not publish.
    public init(
        subscribe: @escaping @Sendable (TopicClient<UserData>, Topic) async throws -> TopicAccess,
        publish: @escaping @Sendable (TopicClient<UserData>, ClientPublication) async throws -> JSONText = {
            _,
            _ in throw TopicRefusal(.forbidden, "clients may not publish here")
        }
    ) {
        self.subscribe = subscribe
        self.publish = publish
    }

    /// Answers a request.
    ///
    /// The answers of one connection may run beside each other, up to ``TopicServiceConfiguration/requestsMax``; one that
    /// takes longer than the client or ``TopicServiceConfiguration/requestTimeout`` allows is cancelled.
    public mutating func answer<Question, Reply>(
        _ request: TypedRequest<Question, Reply>,
        _ answer: @escaping @Sendable (TopicClient<UserData>, Question) async throws -> Reply
    ) {
        self.answers[request.name] = { client, data in
            try await JSONText(encoding: answer(client, data.decode(Question.self)))
        }
    }
}

/// Limits of a ``TopicService``.
public struct TopicServiceConfiguration: Sendable {
    /// Requests of one connection that are worked on at a time; a further one is refused with
    /// ``TopicRefusal/Code/tooManyRequests``.
    public var requestsMax = 32
    /// How long a request may take; then it is answered with ``TopicRefusal/Code/timeout`` and cancelled.
    public var requestTimeout: Duration = .seconds(10)
    /// Messages that are none of the protocol's; with the next one the connection is closed with 1008.
    public var invalidMessagesMax = 16
    /// Members that one answer lists; the client asks on.
    public var membersPerPageMax = 100
    /// Makes tickets for clients that a shutdown sends away, so that they come back with one message; nil for none.
    public var tickets: ResumeTickets?
    /// Where failures of the application's closures are logged, at `error`.
    public var logger = Logger(label: "starling.topics")

    /// The defaults.
    public init() {}
}

/// A client of a ``TopicService``: its connection, and what `authenticate` accepted it with.
public struct TopicClient<UserData: Sendable>: Sendable {
    /// The connection.
    ///
    /// What the application sends on it itself must be in the protocol.
    public let socket: WebSocket
    /// What `authenticate` accepted the connection with.
    public let userData: UserData
}

/// That a client may subscribe to a topic.
public struct TopicAccess: Sendable, Hashable {
    let member: PresenceMember?

    /// It gets the topic's publications.
    public static let allowed = TopicAccess(member: nil)

    /// It gets the topic's publications, and others see that it is there, until it unsubscribes or its connection ends.
    ///
    /// A client that the application takes out of the topic, for example by `ConnectionRegistry.unsubscribe(user:from:)`, is still seen
    /// until then: take it out of the presence too, or close its connection.
    ///
    /// Needs a `PresenceBroadcaster`: with another one the subscription fails.
    public static func present(as member: PresenceMember) -> TopicAccess {
        TopicAccess(member: member)
    }
}

/// What a client would publish.
public struct ClientPublication: Sendable {
    /// Where to.
    public let topic: Topic
    /// What, as the client sent it.
    ///
    /// A `DecodingError` that ``JSONText/decode(_:)`` throws refuses the publication with ``TopicRefusal/Code/invalidData``.
    public let data: JSONText
}
