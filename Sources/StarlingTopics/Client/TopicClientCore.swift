internal import Starling

/// What a client knows of its topics, publications and requests, without a connection, a clock or a task: what is asked
/// and what arrives goes in, what to send and whom to tell comes out.
struct TopicClientCore {
    /// What the caller must do, in this order.
    enum Effect: Equatable {
        case send(Message)
        /// Tell those that iterate over the topic.
        case update(Topic, RawUpdate)
        /// The subscription was refused, and is over.
        case fail(Topic, TopicRefusal)
        /// The broker cannot be reached: call ``retry()`` after a while.
        case retryLater
        case answer(UInt64, Answer)
        /// The server closes the connection; it wants the client back after this time.
        case comeBack(after: Duration)
    }

    /// What became of a question.
    enum Answer: Equatable {
        case published(TopicPosition?)
        case reply(JSONText)
        case members([PresenceMember], next: String?)
        case refused(TopicRefusal)
        case failed(TopicError.Code)
    }

    private struct Subscription {
        /// The last position that the iterations were told of.
        var position: TopicPosition?
        /// The `subscribe` that waits for its answer.
        var ask: UInt64?
        /// Whether the server sends the topic.
        var isStanding = false
        /// Whether it was so once: what comes without a position then may follow a hole.
        var hasStood = false
        /// Whether an iteration is too far behind.
        var isPaused = false
    }

    private enum Question {
        case publication(byteCount: Int)
        case request
    }

    private struct Pending {
        let question: Question
        let message: ClientMessage
        var isSent = false
    }

    private let publicationsMax: Int
    private let publicationByteCountMax: Int
    private let requestsMax: Int
    /// Bytes of a message that the connection takes.
    private let messageByteCountMax: Int
    private let policy: PublicationQueuePolicy

    private var isConnected = false
    /// What the last server has given us for the way: good for one attempt.
    private var ticket: String?
    /// The last message that showed one.
    private var resumeID: UInt64?
    /// Whether what the server could not bring to its broker waits for ``retry()``; what is asked meanwhile does too, so
    /// that the order stays.
    private var isHolding = false
    private var lastID: UInt64 = 0
    private var subscriptions: [Topic: Subscription] = [:]
    private var pending: [UInt64: Pending] = [:]
    private var publicationCount = 0
    private var publicationByteCount = 0

    init(_ configuration: ReconnectingConfiguration) {
        self.publicationsMax = configuration.publicationsMax
        self.publicationByteCountMax = configuration.publicationByteCountMax
        self.requestsMax = configuration.requestsMax
        self.messageByteCountMax = configuration.connection.outbound.byteCountMax
        self.policy = configuration.publicationQueuePolicy
    }

    // MARK: - The connection

    /// A connection stands: all subscriptions are made anew, then what waits is sent, in the order in which it was asked.
    mutating func connected() -> [Effect] {
        self.isConnected = true
        self.isHolding = false
        return self.resume() + self.askForAll()
    }

    /// Takes up the subscriptions that the ticket is for, in one message; those of which nothing is heard are asked for one by
    /// one when it has been answered.
    private mutating func resume() -> [Effect] {
        guard let ticket = self.ticket else { return [] }
        self.ticket = nil
        let topics = self.subscriptions.filter { $0.value.hasStood && !$0.value.isPaused }.keys.sorted {
            $0.name < $1.name
        }
        guard !topics.isEmpty else { return [] }
        let id = self.nextID()
        self.resumeID = id
        for topic in topics { self.subscriptions[topic]?.ask = id }
        let places = topics.map { TopicPlace(topic: $0, position: self.subscriptions[$0]?.position) }
        return [.send(ClientMessage.resume(id: id, ticket: ticket, places).message)]
    }

    /// A ticket has been answered, or refused.
    private mutating func finishResuming(_ id: UInt64) -> [Effect] {
        let left = self.subscriptions.filter { $0.value.ask == id }.keys.sorted { $0.name < $1.name }
        for topic in left { self.subscriptions[topic]?.ask = nil }
        return left.flatMap { self.ask(for: $0) }
    }

    /// Asks again for what was not to be had.
    mutating func retry() -> [Effect] {
        guard self.isConnected, self.isHolding else { return [] }
        self.isHolding = false
        return self.askForAll()
    }

    private mutating func askForAll() -> [Effect] {
        var effects: [Effect] = []
        for topic in self.subscriptions.keys.sorted(by: { $0.name < $1.name }) {
            effects += self.ask(for: topic)
        }
        for id in self.pending.keys.sorted() {
            guard let entry = self.pending[id], !entry.isSent else { continue }
            self.pending[id]?.isSent = true
            effects.append(.send(entry.message.message))
        }
        return effects
    }

    /// The connection is gone: publications wait for the next one, requests that were sent fail.
    mutating func disconnected() -> [Effect] {
        self.isConnected = false
        for topic in self.subscriptions.keys {
            self.subscriptions[topic]?.ask = nil
            self.subscriptions[topic]?.isStanding = false
        }
        var effects: [Effect] = []
        for id in self.pending.keys.sorted() {
            guard let entry = self.pending[id], entry.isSent else { continue }
            switch entry.question {
            case .publication: self.pending[id]?.isSent = false
            case .request: effects += self.finish(id, .failed(.connectionLost))
            }
        }
        return effects
    }

    /// There will be no further connection.
    mutating func close() -> [Effect] {
        self.isConnected = false
        self.subscriptions = [:]
        return self.pending.keys.sorted().flatMap { self.finish($0, .failed(.closed)) }
    }

    // MARK: - Topics

    /// Somebody iterates over a topic; nothing if others do already.
    mutating func subscribe(to topic: Topic, from position: TopicPosition?) -> [Effect] {
        guard self.subscriptions[topic] == nil else { return [] }
        self.subscriptions[topic] = Subscription(position: position, hasStood: position != nil)
        return self.ask(for: topic)
    }

    /// Nobody iterates over a topic any more.
    mutating func unsubscribe(from topic: Topic) -> [Effect] {
        guard let subscription = self.subscriptions.removeValue(forKey: topic) else { return [] }
        return self.stop(topic, subscription)
    }

    /// An iteration is too far behind: no more of the topic until ``resume(_:)``.
    mutating func pause(_ topic: Topic) -> [Effect] {
        guard let subscription = self.subscriptions[topic], !subscription.isPaused else { return [] }
        self.subscriptions[topic]?.isPaused = true
        self.subscriptions[topic]?.isStanding = false
        self.subscriptions[topic]?.ask = nil
        return self.stop(topic, subscription)
    }

    /// The iterations have caught up.
    mutating func resume(_ topic: Topic) -> [Effect] {
        guard self.subscriptions[topic]?.isPaused == true else { return [] }
        self.subscriptions[topic]?.isPaused = false
        return self.ask(for: topic)
    }

    private mutating func ask(for topic: Topic) -> [Effect] {
        guard self.isConnected, !self.isHolding, let subscription = self.subscriptions[topic],
            !subscription.isPaused, !subscription.isStanding, subscription.ask == nil
        else { return [] }
        let id = self.nextID()
        self.subscriptions[topic]?.ask = id
        return [.send(ClientMessage.subscribe(id: id, topic: topic, position: subscription.position).message)]
    }

    private mutating func stop(_ topic: Topic, _ subscription: Subscription) -> [Effect] {
        guard self.isConnected, subscription.isStanding || subscription.ask != nil else { return [] }
        return [.send(ClientMessage.unsubscribe(id: self.nextID(), topic: topic).message)]
    }

    // MARK: - Questions

    /// A publication; nil if none may wait any more.
    mutating func publish(
        _ data: JSONText,
        to topic: Topic,
        key: String
    ) -> (id: UInt64, effects: [Effect])? {
        let byteCount = data.bytes.count
        let id = self.nextID()
        let message = ClientMessage.publish(id: id, topic: topic, data: data, key: key)
        // Before others make room for it.
        if let refusal = self.refusal(of: message, data) { return (id, [.answer(id, .refused(refusal))]) }
        guard byteCount <= self.publicationByteCountMax else { return nil }
        var effects: [Effect] = []
        while self.publicationCount >= self.publicationsMax
            || self.publicationByteCount + byteCount > self.publicationByteCountMax
        {
            guard self.policy == .dropOldest, let oldest = self.oldestPublication else { return nil }
            effects += self.finish(oldest, .failed(.dropped))
        }
        self.publicationCount += 1
        self.publicationByteCount += byteCount
        effects += self.begin(id, Pending(question: .publication(byteCount: byteCount), message: message))
        return (id, effects)
    }

    /// A request; nil if none may wait any more.
    mutating func request(
        _ name: String,
        _ data: JSONText,
        timeout: Duration
    ) -> (id: UInt64, effects: [Effect])? {
        self.ask(data) { .request(id: $0, name: name, data: data, timeout: timeout) }
    }

    /// A page of members; nil if no question may wait any more.
    mutating func members(of topic: Topic, from cursor: String?) -> (id: UInt64, effects: [Effect])? {
        self.ask { .members(id: $0, topic: topic, from: cursor) }
    }

    private mutating func ask(
        _ data: JSONText? = nil,
        _ question: (UInt64) -> ClientMessage
    ) -> (id: UInt64, effects: [Effect])? {
        guard self.pending.count - self.publicationCount < self.requestsMax else { return nil }
        let id = self.nextID()
        let message = question(id)
        if let data, let refusal = self.refusal(of: message, data) {
            return (id, [.answer(id, .refused(refusal))])
        }
        return (id, self.begin(id, Pending(question: .request, message: message)))
    }

    /// Why a message will never be sent, if it is too big: nothing behind it would be sent either.
    private func refusal(of message: ClientMessage, _ data: JSONText) -> TopicRefusal? {
        // What is around the data is never as big as that.
        guard data.bytes.count > self.messageByteCountMax / 2 else { return nil }
        let byteCount = message.message.byteCount
        guard byteCount > self.messageByteCountMax else { return nil }
        let limit = self.messageByteCountMax
        return TopicRefusal(
            .invalidData,
            "the message has \(byteCount) bytes, and the connection takes \(limit) (outbound.byteCountMax)"
        )
    }

    /// Nobody waits for an answer any more.
    mutating func withdraw(_ id: UInt64) {
        _ = self.finish(id, .failed(.timeout))
    }

    private var oldestPublication: UInt64? {
        self.pending.filter { entry in
            switch entry.value.question {
            case .publication: true
            case .request: false
            }
        }.keys.min()
    }

    private mutating func begin(_ id: UInt64, _ pending: Pending) -> [Effect] {
        let mustWait =
            switch pending.question {
            case .publication: !self.isConnected || self.isHolding
            case .request: !self.isConnected
            }
        self.pending[id] = pending
        self.pending[id]?.isSent = !mustWait
        return mustWait ? [] : [.send(pending.message.message)]
    }

    private mutating func finish(_ id: UInt64, _ answer: Answer) -> [Effect] {
        guard let entry = self.pending.removeValue(forKey: id) else { return [] }
        if case .publication(let byteCount) = entry.question {
            self.publicationCount -= 1
            self.publicationByteCount -= byteCount
        }
        return [.answer(id, answer)]
    }

    private mutating func nextID() -> UInt64 {
        self.lastID += 1
        return self.lastID
    }

    // MARK: - What arrives

    mutating func received(_ message: ServerMessage) -> [Effect] {
        switch message {
        case .subscribed(let id, let topic, let position, let isRecovered):
            return self.subscribed(id, topic, position, isRecovered: isRecovered)
        case .published(let id, let position): return self.finish(id, .published(position))
        case .reply(let id, let data): return self.finish(id, .reply(data))
        case .members(let id, _, let members, let next): return self.finish(id, .members(members, next: next))
        case .error(let id?, let refusal): return self.refused(id, refusal)
        case .publication(let topic, let position, let content):
            return self.update(topic, position, .publication(position, content))
        case .gap(let topic, let after, let position):
            return self.update(topic, position, .gap(after: after, position: position))
        case .joined(let member, let topic): return self.update(topic, nil, .joined(member))
        case .left(let member, let topic): return self.update(topic, nil, .left(member))
        case .drain(let retry, let ticket):
            self.ticket = ticket
            return [.comeBack(after: retry)]
        case .resumed(let id): return self.finishResuming(id)
        case .unsubscribed, .error(nil, _), .unknown: return []
        }
    }

    private mutating func subscribed(
        _ id: UInt64,
        _ topic: Topic,
        _ position: TopicPosition?,
        isRecovered: Bool
    ) -> [Effect] {
        guard let subscription = self.subscriptions[topic], subscription.ask == id else { return [] }
        // A topic without a history has no position to come back to: what was published meanwhile is lost.
        let isComplete = isRecovered && (subscription.position != nil || !subscription.hasStood)
        self.subscriptions[topic]?.ask = nil
        self.subscriptions[topic]?.isStanding = true
        self.subscriptions[topic]?.hasStood = true
        self.subscriptions[topic]?.position = position
        return [.update(topic, .subscribed(position, isRecovered: isComplete))]
    }

    private mutating func update(
        _ topic: Topic,
        _ position: TopicPosition?,
        _ update: RawUpdate
    ) -> [Effect] {
        // What still comes of a subscription that was left is not wanted: it comes again, from the position.
        guard self.subscriptions[topic]?.isStanding == true else { return [] }
        if let position { self.subscriptions[topic]?.position = position }
        return [.update(topic, update)]
    }

    private mutating func refused(_ id: UInt64, _ refusal: TopicRefusal) -> [Effect] {
        if id == self.resumeID { return self.finishResuming(id) }
        if let topic = self.subscriptions.first(where: { $0.value.ask == id })?.key {
            self.subscriptions[topic]?.ask = nil
            guard refusal.code != .unavailable else { return self.hold() }
            self.subscriptions[topic] = nil
            return [.fail(topic, refusal)]
        }
        guard refusal.code == .unavailable, case .publication? = self.pending[id]?.question else {
            return self.finish(id, .refused(refusal))
        }
        // It may have been made: its key sees to it that it is made once.
        self.pending[id]?.isSent = false
        return self.hold()
    }

    private mutating func hold() -> [Effect] {
        defer { self.isHolding = true }
        return self.isHolding ? [] : [.retryLater]
    }
}

/// What has happened in a topic, before it is decoded.
enum RawUpdate: Sendable, Equatable {
    case subscribed(TopicPosition?, isRecovered: Bool)
    case publication(TopicPosition?, PublicationContent)
    case gap(after: TopicPosition?, position: TopicPosition)
    case joined(PresenceMember)
    case left(PresenceMember)
}
