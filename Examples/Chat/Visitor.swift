import ChatTopics
import Starling
import StarlingTopics
import Synchronization

/// Whom a connection belongs to: nobody, until it has asked to join a room; then one member.
final class Visitor: Sendable {
    private struct State {
        /// The last join that was not refused; it may be on its way.
        var joining: Task<(Place, Welcome), any Error>?
        var typedAt: ContinuousClock.Instant?
    }

    private let rooms: Rooms
    private let id: String
    private let state = Mutex(State())

    init(_ rooms: Rooms) {
        self.rooms = rooms
        self.id = rooms.makeID()
    }

    deinit {
        rooms.release(id)
    }

    /// Finds a place in a room.
    ///
    /// A join that is refused changes nothing.
    func join(_ wish: JoinWish) async throws -> Welcome {
        let room = try Rules.name(wish.room, orRefuse: "invalid-room", "a room’s name")
        let nickname = try Rules.name(wish.nickname, orRefuse: "invalid-nickname", "a nickname")
        let (rooms, id) = (rooms, id)
        // Known before it is done: a client that comes back takes up its topics right behind its request.
        let (before, joining) = state.withLock { state in
            let before = state.joining
            let joining = Task {
                let old = try? await before?.value.0
                if old?.room != room { try await rooms.checkSpace(in: room) }
                return try await rooms.welcome(id, nickname: nickname, to: room)
            }
            state.joining = joining
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
    func check(_ publication: ClientPublication) async throws -> JSONText {
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
        guard let joining = state.withLock({ $0.joining }) else { throw Self.notJoined }
        return try await joining.value.0
    }

    private static let notJoined = TopicRefusal("not-joined", "join this room first")
}

/// Where a visitor is.
struct Place {
    let room: String
    let member: Member
    let presence: PresenceMember
}
