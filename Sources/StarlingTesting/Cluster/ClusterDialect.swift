public import Starling

/// How the clients of a ``DeterministicCluster`` and its nodes talk: the endpoint under test, and its messages.
///
/// ``PlainDialect`` is one. An application that tests its own endpoint writes another: what it sends for each request, and what
/// its clients are told in each message.
public protocol ClusterDialect: Sendable {
    /// The endpoint that every node serves, at every path.
    ///
    /// - Parameters:
    ///   - broadcaster: The node's; to publish with, and to ask for members.
    ///   - configuration: Deadlines and limits that fit the simulation, to be completed with a format for publications, gaps and
    ///     presence events.
    func makeEndpoint(broadcaster: SimulatedBroadcaster, configuration: EndpointConfiguration)
        -> WebSocketEndpoint

    /// The path and query that a client asks for; `/` unless told otherwise.
    func path(for client: String) -> String

    /// What a client sends.
    func message(for request: ClientRequest) -> Message

    /// What a client is told; nil for a message that is none of this cluster's business.
    func event(in message: Message) -> ClientEvent?
}

extension ClusterDialect {
    /// `/`.
    public func path(for client: String) -> String { "/" }
}

/// What a simulated client asks for.
public enum ClientRequest: Sendable, Hashable {
    /// Subscribe, from a position on if the client has one.
    case subscribe(Topic, from: StreamPosition?)
    /// Publish a text without spaces, once for each key.
    case publish(String, Topic, key: String)
    /// Be present under a name.
    case enter(Topic, member: String)
    /// Be present no more.
    case leave(Topic)
}

/// What a simulated client is told.
public enum ClientEvent: Sendable, Hashable {
    /// A subscription begins behind a position; who was present then.
    case subscribed(Topic, position: StreamPosition, isRecovered: Bool, members: [String])
    /// A publication.
    case publication(Topic, StreamPosition, text: String)
    /// Publications are lost; what comes is behind the position.
    case gap(Topic, newest: StreamPosition)
    /// A member has come.
    case joined(Topic, member: String)
    /// A member has gone.
    case left(Topic, member: String)
    /// The publication with this key has been made.
    case acknowledged(key: String, StreamPosition)
    /// The publication with this key may have been made or not; the client tries again.
    case failed(key: String)
}

/// Requests and events as words with spaces between them.
public struct PlainDialect: ClusterDialect {
    /// Makes the dialect.
    public init() {}

    /// An endpoint that does what it is asked, one request after the other.
    public func makeEndpoint(
        broadcaster: SimulatedBroadcaster,
        configuration: EndpointConfiguration
    ) -> WebSocketEndpoint {
        var configuration = configuration
        configuration.publicationFormat.publication = { publication in
            let (topic, text) = (publication.topic, publication.message.text ?? "")
            return .text("publication \(topic) \(publication.position.map(\.words) ?? "0 0") \(text)")
        }
        configuration.publicationFormat.gap = { .text("gap \($0.topic) \($0.newest.words)") }
        configuration.publicationFormat.presence = { event in
            switch event.kind {
            case .joined: .text("joined \(event.topic) \(event.member.id)")
            case .left: .text("left \(event.topic) \(event.member.id)")
            }
        }
        return WebSocketEndpoint(broadcaster: broadcaster, configuration: configuration) { socket in
            var entered: [Topic: String] = [:]
            var failure: (any Error)?
            do {
                for try await message in socket {
                    try await Self.serve(message, of: socket, broadcaster, &entered)
                }
            } catch {
                failure = error
            }
            for topic in entered.keys.sorted(by: { $0.name < $1.name }) {
                if let member = entered[topic] { try? await broadcaster.leave(member, from: topic) }
            }
            if let failure { throw failure }
        }
    }

    private static func serve(
        _ message: Message,
        of socket: WebSocket,
        _ broadcaster: SimulatedBroadcaster,
        _ entered: inout [Topic: String]
    ) async throws {
        let words = (message.text ?? "").split(separator: " ").map(String.init)
        guard words.count >= 2 else { return }
        let topic = Topic(words[1])
        switch (words[0], words.count) {
        case ("subscribe", _):
            let position = StreamPosition(words: words.dropFirst(2))
            try await socket.subscribe(to: topic, from: position) {
                subscription async throws(BroadcastError) in
                let page = try await broadcaster.members(of: topic, from: nil, countMax: .max)
                let start = subscription.position.map(\.words) ?? "0 0"
                let members = page.members.map { " \($0.id)" }.joined()
                return .text(
                    "subscribed \(topic) \(start) \(subscription.isRecovered ? "recovered" : "lost")\(members)"
                )
            }
        case ("publish", 4):
            let answer: String
            do throws(BroadcastError) {
                let outcome = try await broadcaster.publish(
                    .text(words[3]),
                    to: topic,
                    idempotencyKey: words[2]
                )
                answer = "acknowledged \(words[2]) \(outcome.position.map(\.words) ?? "0 0")"
            } catch {
                answer = "failed \(words[2])"
            }
            try await socket.send(answer)
        case ("enter", 3):
            guard entered[topic] == nil else { return }
            entered[topic] = words[2]
            try await broadcaster.enter(PresenceMember(id: words[2]), topic)
        case ("leave", _):
            if let member = entered.removeValue(forKey: topic) {
                try await broadcaster.leave(member, from: topic)
            }
        default: return
        }
    }

    /// The words of a request.
    public func message(for request: ClientRequest) -> Message {
        switch request {
        case .subscribe(let topic, nil): .text("subscribe \(topic)")
        case .subscribe(let topic, let position?): .text("subscribe \(topic) \(position.words)")
        case .publish(let text, let topic, let key): .text("publish \(topic) \(key) \(text)")
        case .enter(let topic, let member): .text("enter \(topic) \(member)")
        case .leave(let topic): .text("leave \(topic)")
        }
    }

    /// The event that the words name.
    public func event(in message: Message) -> ClientEvent? {
        let words = (message.text ?? "").split(separator: " ").map(String.init)
        guard words.count >= 2 else { return nil }
        let topic = Topic(words[1])
        switch (words[0], StreamPosition(words: words.dropFirst(2))) {
        case ("subscribed", let position?) where words.count >= 5:
            return .subscribed(
                topic,
                position: position,
                isRecovered: words[4] == "recovered",
                members: Array(words[5...])
            )
        case ("publication", let position?) where words.count == 5:
            return .publication(topic, position, text: words[4])
        case ("gap", let position?): return .gap(topic, newest: position)
        case ("joined", _) where words.count == 3: return .joined(topic, member: words[2])
        case ("left", _) where words.count == 3: return .left(topic, member: words[2])
        case ("acknowledged", let position?): return .acknowledged(key: words[1], position)
        case ("failed", _): return .failed(key: words[1])
        default: return nil
        }
    }
}

extension StreamPosition {
    fileprivate var words: String { "\(self.epoch) \(self.offset)" }

    fileprivate init?(words: ArraySlice<String>) {
        guard let epoch = words.first.flatMap({ UInt64($0) }),
            let offset = words.dropFirst().first.flatMap({ UInt64($0) })
        else { return nil }
        self.init(epoch: epoch, offset: offset)
    }
}
