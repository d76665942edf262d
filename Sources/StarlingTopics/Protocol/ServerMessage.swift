package import Starling

/// What a server says.
package enum ServerMessage: Sendable, Hashable {
    case subscribed(id: UInt64, topic: Topic, position: TopicPosition?, isRecovered: Bool)
    case unsubscribed(id: UInt64, topic: Topic)
    case published(id: UInt64, position: TopicPosition?)
    case reply(id: UInt64, data: JSONText)
    case members(id: UInt64, topic: Topic, [PresenceMember], next: String?)
    case error(id: UInt64?, TopicRefusal)
    case publication(topic: Topic, position: TopicPosition?, PublicationContent)
    /// What is behind `after`, up to `position`, is lost; nil from a server that does not say where it begins.
    case gap(topic: Topic, after: TopicPosition?, position: TopicPosition)
    case joined(PresenceMember, topic: Topic)
    case left(PresenceMember, topic: Topic)
    case drain(retry: Duration, ticket: String? = nil)
    /// All that a ticket could do is done.
    case resumed(id: UInt64)
    /// One of a newer server's, which this client passes over.
    case unknown

    // MARK: - Written by servers

    package var message: Message {
        switch self {
        case .subscribed(let id, let topic, let position, let isRecovered):
            var writer = JSONWriter("subscribed")
            writer.add("id", id)
            writer.add("topic", topic.name)
            writer.add("position", position?.rawValue)
            writer.add("recovered", isRecovered)
            return writer.message()
        case .unsubscribed(let id, let topic):
            var writer = JSONWriter("unsubscribed")
            writer.add("id", id)
            writer.add("topic", topic.name)
            return writer.message()
        case .published(let id, let position):
            var writer = JSONWriter("published")
            writer.add("id", id)
            writer.add("position", position?.rawValue)
            return writer.message()
        case .reply(let id, let data):
            var writer = JSONWriter("reply", reserving: data.bytes.count)
            writer.add("id", id)
            writer.add("data", data)
            return writer.message()
        case .members(let id, let topic, let members, let next):
            var writer = JSONWriter("members", reserving: members.count * 64)
            writer.add("id", id)
            writer.add("topic", topic.name)
            writer.add("members", members.map(\.json))
            writer.add("next", next)
            return writer.message()
        case .error(let id, let refusal):
            var writer = JSONWriter("error")
            writer.add("id", id)
            writer.add("code", refusal.code.name)
            writer.add("text", refusal.text)
            return writer.message()
        case .publication(let topic, let position, let content):
            var writer = JSONWriter("publication")
            writer.add("topic", topic.name)
            writer.add("position", position?.rawValue)
            content.add(to: &writer)
            return writer.message()
        case .gap(let topic, let after, let position):
            var writer = JSONWriter("gap")
            writer.add("topic", topic.name)
            writer.add("after", after?.rawValue)
            writer.add("position", position.rawValue)
            return writer.message()
        case .joined(let member, let topic): return Self.presence("joined", member, topic)
        case .left(let member, let topic): return Self.presence("left", member, topic)
        case .drain(let retry, let ticket):
            var writer = JSONWriter("drain", reserving: ticket?.utf8.count ?? 0)
            writer.add("retry", UInt64(retry.wholeMilliseconds))
            writer.add("ticket", ticket)
            return writer.message()
        case .resumed(let id):
            var writer = JSONWriter("resumed")
            writer.add("id", id)
            return writer.message()
        case .unknown: preconditionFailure("a server does not say what it does not know")
        }
    }

    private static func presence(_ type: StaticString, _ member: PresenceMember, _ topic: Topic) -> Message {
        var writer = JSONWriter(type)
        writer.add("topic", topic.name)
        writer.add("member", member.json)
        return writer.message()
    }

    // MARK: - Read by clients

    package init(parsing message: Message) throws(InvalidMessage) {
        let object = try JSONObject(parsing: message.byteArray)
        func id() throws(InvalidMessage) -> UInt64 {
            guard let id = try object.optionalInteger("id", from: 1) else {
                throw InvalidMessage("'id' is missing")
            }
            return id
        }
        let topic = try object.optionalString("topic").map { Topic($0) } ?? Topic("")
        let position = try object.optionalString("position").map(TopicPosition.init(rawValue:))
        switch try object.string("type") {
        case "subscribed":
            self = .subscribed(
                id: try id(),
                topic: topic,
                position: position,
                isRecovered: try object.boolean("recovered")
            )
        case "unsubscribed": self = .unsubscribed(id: try id(), topic: topic)
        case "published": self = .published(id: try id(), position: position)
        case "reply": self = .reply(id: try id(), data: object.value("data") ?? .null)
        case "members":
            var members: [PresenceMember] = []
            for entry in try JSONObject.list(object.value("members") ?? .null) {
                members.append(try PresenceMember(entry))
            }
            self = .members(id: try id(), topic: topic, members, next: try object.optionalString("next"))
        case "error":
            self = .error(
                id: try object.optionalInteger("id", from: 1),
                TopicRefusal(.init(try object.string("code")), try object.optionalString("text") ?? "")
            )
        case "publication":
            self = .publication(topic: topic, position: position, try PublicationContent(object))
        case "gap":
            guard let position else { throw InvalidMessage("'position' is missing") }
            let after = try object.optionalString("after").map(TopicPosition.init(rawValue:))
            self = .gap(topic: topic, after: after, position: position)
        case "joined": self = .joined(try PresenceMember(memberOf: object), topic: topic)
        case "left": self = .left(try PresenceMember(memberOf: object), topic: topic)
        case "drain":
            self = .drain(
                retry: .milliseconds(Int64(try object.optionalInteger("retry", from: 0) ?? 0)),
                ticket: try object.optionalString("ticket")
            )
        case "resumed": self = .resumed(id: try id())
        default: self = .unknown
        }
    }
}

extension PresenceMember {
    fileprivate init(memberOf object: JSONObject) throws(InvalidMessage) {
        guard let member = object.value("member") else { throw InvalidMessage("'member' is missing") }
        try self.init(try JSONObject(parsing: member.bytes))
    }

    fileprivate init(_ object: JSONObject) throws(InvalidMessage) {
        self.init(id: try object.string("id"), info: try object.optionalString("info") ?? "")
    }

    fileprivate var json: JSONText {
        var writer = JSONWriter()
        writer.add("id", self.id)
        writer.add("info", self.info)
        return writer.text
    }
}
