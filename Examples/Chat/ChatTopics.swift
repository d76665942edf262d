import StarlingTopics

/// What the chat's clients ask, publish and hear: PROTOCOL.md as types.
enum ChatTopics {
    /// Asks for a place in a room; the subscription to the room's topic takes it.
    static let join = TypedRequest<JoinWish, Welcome>("join")

    /// What is said in a room, and who is there: with a history.
    static func room(_ name: String) -> TypedTopic<Said> {
        TypedTopic("\(roomPrefix)\(name)")
    }

    /// Who is writing in a room, of which nothing is kept.
    static func typing(_ name: String) -> TypedTopic<Typing> {
        TypedTopic("typing:\(name)")
    }

    static let roomPrefix = "room:"
}

/// Where a client wants to be, and as whom.
struct JoinWish: Codable {
    let room: String
    let nickname: String
}

/// Where a client is, and as whom, and what was said there up to a position, oldest first.
struct Welcome: Codable {
    let member: Member
    let room: String
    let history: [Said]
    let position: TopicPosition?
}

/// Somebody in a room.
struct Member: Codable {
    let id: String
    let nickname: String
}

/// What a client publishes in a room.
struct Saying: Codable {
    /// By which it knows its own message when it comes back.
    let key: String
    let text: String
}

/// What becomes of it.
struct Said: Codable {
    let id: String
    let member: Member
    let key: String
    let text: String
    /// Milliseconds since 1970.
    let time: Int64
}

/// That somebody is writing.
struct Typing: Codable {
    let member: Member
}
