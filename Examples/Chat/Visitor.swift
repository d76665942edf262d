import ChatTopics
import Starling
import StarlingTopics
import Synchronization

/// Whom a connection belongs to: nobody, until it has asked to join a room; then one member, in the next process of a restart too.
final class Visitor: Codable, Sendable {
    private struct State {
        /// Where the last join that is done has brought it, in this process or the one before.
        var place: Place?
        /// The last join of this process that was not refused; it may be on its way.
        var joining: Task<(Place, Welcome), any Error>?
        var reservation: Rooms.Reservation?
        var typedAt: ContinuousClock.Instant?
    }

    private let id: String
    private let state: Mutex<State>

    init(id: String) {
        self.id = id
        self.state = Mutex(State())
    }

    /// Finds a place in a room.
    ///
    /// A join that is refused changes nothing.
    func join(_ wish: JoinWish, in rooms: Rooms) async throws -> Welcome {
        let room = try Rules.name(wish.room, orRefuse: "invalid-room", "a room’s name")
        let nickname = try Rules.name(wish.nickname, orRefuse: "invalid-nickname", "a nickname")
        // Known before it is done: a client that comes back takes up its topics right behind its request.
        let (before, joining) = state.withLock { state in
            let (before, place) = (state.joining, state.place)
            let joining = Task {
                let old = (try? await before?.value.0) ?? place
                if old?.room != room { try await rooms.checkSpace(in: room) }
                let (place, welcome) = try await rooms.welcome(self.id, nickname: nickname, to: room)
                self.state.withLock { $0.place = place }
                return (place, welcome)
            }
            state.joining = joining
            state.reservation = state.reservation ?? Rooms.Reservation(of: self.id, in: rooms)
            state.typedAt = nil
            return (before, joining)
        }
        do {
            return try await joining.value.1
        } catch {
            state.withLock { state in
                if state.joining == joining { state.joining = before }
            }
            throw error
        }
    }

    /// The topics of its room, and none else.
    func access(to topic: Topic) async throws -> TopicAccess {
        let place = try await place()
        switch topic {
        case ChatTopics.room(place.room).topic: return .present(as: place.presence)
        case ChatTopics.typing(place.room).topic: return .allowed
        default: throw Self.notJoined
        }
    }

    /// What is said gets an author and a time.
    func check(_ publication: ClientPublication, in rooms: Rooms) async throws -> JSONText {
        let place = try await place()
        switch publication.topic {
        case ChatTopics.room(place.room).topic:
            let saying = try publication.data.decode(Saying.self)
            try Rules.checkKey(saying.key)
            try Rules.checkText(saying.text)
            return try JSONText(encoding: rooms.said(saying, by: place.member))
        case ChatTopics.typing(place.room).topic:
            try checkTyping()
            return try JSONText(encoding: Typing(member: place.member))
        default: throw Self.notJoined
        }
    }

    /// At most once a second.
    private func checkTyping() throws {
        try state.withLock { state in
            let now = ContinuousClock.now
            if let typedAt = state.typedAt, now - typedAt < .seconds(1) {
                throw TopicRefusal("too-often", "once a second is enough to say that somebody is writing")
            }
            state.typedAt = now
        }
    }

    private func place() async throws -> Place {
        let (joining, place) = state.withLock { ($0.joining, $0.place) }
        guard let place = try await joining?.value.0 ?? place else { throw Self.notJoined }
        return place
    }

    private static let notJoined = TopicRefusal("not-joined", "join this room first")

    // MARK: - To the next process

    private enum CodingKeys: CodingKey {
        case id, place
    }

    init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: CodingKeys.self)
        self.id = try values.decode(String.self, forKey: .id)
        self.state = Mutex(State(place: try values.decodeIfPresent(Place.self, forKey: .place)))
    }

    func encode(to encoder: any Encoder) throws {
        var values = encoder.container(keyedBy: CodingKeys.self)
        try values.encode(id, forKey: .id)
        try values.encodeIfPresent(state.withLock(\.place), forKey: .place)
    }
}

/// Where a visitor is.
struct Place: Codable {
    let room: String
    let member: Member

    var presence: PresenceMember { PresenceMember(id: member.id, info: member.nickname) }
}
