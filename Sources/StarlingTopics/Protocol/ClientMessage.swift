package import Starling

/// What a client says.
package enum ClientMessage: Sendable, Hashable {
    case subscribe(id: UInt64, topic: Topic, position: TopicPosition?)
    case unsubscribe(id: UInt64, topic: Topic)
    case publish(id: UInt64?, topic: Topic, data: JSONText, key: String?)
    case request(id: UInt64, name: String, data: JSONText, timeout: Duration?)
    case members(id: UInt64, topic: Topic, from: String?)
    case resume(id: UInt64, ticket: String, [TopicPlace])

    // MARK: - Read by servers

    package init(parsing message: Message) throws(InvalidMessage) {
        let object = try JSONObject(parsing: message.byteArray)
        let id = try? object.optionalInteger("id", from: 1)
        do {
            try self.init(object)
        } catch {
            throw InvalidMessage(error.text, id: id)
        }
    }

    private init(_ object: JSONObject) throws(InvalidMessage) {
        func id() throws(InvalidMessage) -> UInt64 {
            guard let id = try object.optionalInteger("id", from: 1) else {
                throw InvalidMessage("'id' is missing")
            }
            return id
        }
        func topic() throws(InvalidMessage) -> Topic { try object.topic() }
        switch try object.string("type") {
        case "subscribe":
            self = .subscribe(id: try id(), topic: try topic(), position: try object.position())
        case "unsubscribe": self = .unsubscribe(id: try id(), topic: try topic())
        case "publish":
            let key = try object.optionalString("key")
            if let key, !(1...TopicProtocol.keyByteCountMax).contains(key.utf8.count) {
                throw InvalidMessage("'key' must have 1 to \(TopicProtocol.keyByteCountMax) bytes")
            }
            self = .publish(
                id: try object.optionalInteger("id", from: 1),
                topic: try topic(),
                data: object.value("data") ?? .null,
                key: key
            )
        case "request":
            let timeout = try object.optionalInteger("timeout", from: 0)
            self = .request(
                id: try id(),
                name: try object.string("name"),
                data: object.value("data") ?? .null,
                timeout: timeout.map { .milliseconds(Int64($0)) }
            )
        case "members":
            self = .members(id: try id(), topic: try topic(), from: try object.optionalString("from"))
        case "resume":
            var places: [TopicPlace] = []
            if let list = object.value("topics") {
                for entry in try JSONObject.list(list) {
                    places.append(TopicPlace(topic: try entry.topic(), position: try entry.position()))
                }
            }
            self = .resume(id: try id(), ticket: try object.string("ticket"), places)
        case let type: throw InvalidMessage("there is no type '\(type.prefix(40))'")
        }
    }

    // MARK: - Written by clients

    package var message: Message {
        switch self {
        case .subscribe(let id, let topic, let position):
            var writer = JSONWriter("subscribe")
            writer.add("id", id)
            writer.add("topic", topic.name)
            writer.add("position", position?.rawValue)
            return writer.message()
        case .unsubscribe(let id, let topic):
            var writer = JSONWriter("unsubscribe")
            writer.add("id", id)
            writer.add("topic", topic.name)
            return writer.message()
        case .publish(let id, let topic, let data, let key):
            var writer = JSONWriter("publish", reserving: data.bytes.count)
            writer.add("id", id)
            writer.add("topic", topic.name)
            writer.add("data", data)
            writer.add("key", key)
            return writer.message()
        case .request(let id, let name, let data, let timeout):
            var writer = JSONWriter("request", reserving: data.bytes.count)
            writer.add("id", id)
            writer.add("name", name)
            writer.add("data", data)
            writer.add("timeout", timeout.map { UInt64($0.wholeMilliseconds) })
            return writer.message()
        case .members(let id, let topic, let cursor):
            var writer = JSONWriter("members")
            writer.add("id", id)
            writer.add("topic", topic.name)
            writer.add("from", cursor)
            return writer.message()
        case .resume(let id, let ticket, let places):
            var writer = JSONWriter("resume", reserving: ticket.utf8.count + 64 * places.count)
            writer.add("id", id)
            writer.add("ticket", ticket)
            writer.add("topics", places.map(\.json))
            return writer.message()
        }
    }
}

/// A topic, and where a client stands in it.
package struct TopicPlace: Sendable, Hashable {
    package let topic: Topic
    package let position: TopicPosition?

    package init(topic: Topic, position: TopicPosition?) {
        self.topic = topic
        self.position = position
    }

    fileprivate var json: JSONText {
        var writer = JSONWriter()
        writer.add("topic", self.topic.name)
        writer.add("position", self.position?.rawValue)
        return writer.text
    }
}

extension JSONObject {
    fileprivate func topic() throws(InvalidMessage) -> Topic {
        let name = try self.string("topic")
        guard (1...TopicProtocol.topicByteCountMax).contains(name.utf8.count) else {
            throw InvalidMessage("'topic' must have 1 to \(TopicProtocol.topicByteCountMax) bytes")
        }
        return Topic(name)
    }

    fileprivate func position() throws(InvalidMessage) -> TopicPosition? {
        let position = try self.optionalString("position").map(TopicPosition.init(rawValue:))
        guard position == nil || position?.streamPosition != nil else {
            throw InvalidMessage("'position' was not made by this server")
        }
        return position
    }
}
