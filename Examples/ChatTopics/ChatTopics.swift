package import StarlingTopics

/// What the chat's clients ask, publish and hear: Chat/PROTOCOL.md as types, for the server and for clients in Swift.
package enum ChatTopics {
    /// Asks for a place in a room; the subscription to the room's topic takes it.
    package static let join = TypedRequest<JoinWish, Welcome>("join")

    /// What is said in a room, and who is there: with a history.
    package static func room(_ name: String) -> TypedTopic<Said> {
        TypedTopic("\(roomPrefix)\(name)")
    }

    /// The same topic, as clients publish to it.
    package static func sayings(_ name: String) -> TypedTopic<Saying> {
        TypedTopic("\(roomPrefix)\(name)")
    }

    /// Who is writing in a room, of which nothing is kept.
    package static func typing(_ name: String) -> TypedTopic<Typing> {
        TypedTopic("typing:\(name)")
    }

    package static let roomPrefix = "room:"
}

/// Where a client wants to be, and as whom.
package struct JoinWish: Codable, Sendable {
    package let room: String
    package let nickname: String

    package init(room: String, nickname: String) {
        self.room = room
        self.nickname = nickname
    }
}

/// Where a client is, and as whom, and what was said there up to a position, oldest first.
package struct Welcome: Codable, Sendable {
    package let member: Member
    package let room: String
    package let history: [Said]
    package let position: TopicPosition?

    package init(member: Member, room: String, history: [Said], position: TopicPosition?) {
        self.member = member
        self.room = room
        self.history = history
        self.position = position
    }
}

/// Somebody in a room.
package struct Member: Codable, Sendable {
    package let id: String
    package let nickname: String

    package init(id: String, nickname: String) {
        self.id = id
        self.nickname = nickname
    }
}

/// What a client publishes in a room.
package struct Saying: Codable, Sendable {
    /// By which it knows its own message when it comes back.
    package let key: String
    package let text: String

    package init(key: String, text: String) {
        self.key = key
        self.text = text
    }
}

/// What becomes of it.
package struct Said: Codable, Sendable {
    package let id: String
    package let member: Member
    package let key: String
    package let text: String
    /// Milliseconds since 1970.
    package let time: Int64

    package init(id: String, member: Member, key: String, text: String, time: Int64) {
        self.id = id
        self.member = member
        self.key = key
        self.text = text
        self.time = time
    }
}

/// That somebody is writing.
package struct Typing: Codable, Sendable {
    package let member: Member

    package init(member: Member) {
        self.member = member
    }
}
