import Starling
import StarlingCore
import Synchronization

/// One connection's conversation with the server: what arrives is checked, and done or refused.
struct Visitor {
    private let socket: WebSocket
    private let rooms: Rooms
    private let id: String
    private var place: Place?
    private var typedAt: ContinuousClock.Instant?

    init(_ socket: WebSocket, _ rooms: Rooms) {
        self.socket = socket
        self.rooms = rooms
        self.id = rooms.makeID()
    }

    /// Chats until the connection ends, and leaves the room then.
    mutating func chat() async throws {
        do {
            try await converse()
        } catch {
            try await leave()
            throw error
        }
        try await leave()
    }

    private mutating func converse() async throws {
        for try await message in socket {
            guard let text = message.text else {
                return await socket.close(.unsupportedData, reason: "the chat is in text messages")
            }
            do {
                try await receive(ClientMessage(parsing: text))
            } catch let refusal as Refusal {
                try await socket.send(refusal.encoded())
            } catch let error as BroadcastError {
                return await comeBackLater(error)
            } catch let error as WebSocketError where error.code == .broadcasting {
                return await comeBackLater(error)
            }
        }
    }

    /// The broker is away: the client tries again, here or on another node, and says again what was not answered.
    private func comeBackLater(_ error: any Error) async {
        await socket.close(.tryAgainLater, reason: "the chat is not reachable at the moment")
    }

    private mutating func receive(_ message: ClientMessage) async throws {
        switch message {
        case .join(let room, let nickname): try await join(room, as: nickname)
        case .say(let key, let text): try await say(text, key)
        case .typing: try await type()
        }
    }

    private mutating func join(_ name: String, as nickname: String) async throws {
        let name = try Rules.name(name, orRefuse: "invalid-room", "a room’s name")
        let nickname = try Rules.name(nickname, orRefuse: "invalid-nickname", "a nickname")
        let old = place?.room
        if old != name { try await rooms.checkSpace(in: name) }
        try await leave()
        if let old, old != name {
            await socket.unsubscribe(from: Rooms.topic(old))
            await socket.unsubscribe(from: Rooms.typingTopic(old))
        }
        typedAt = nil
        let entering = Entering()
        do {
            try await beginToListen(to: name, as: nickname, entering)
        } catch {
            if let place = entering.place.withLock({ $0 }) { rooms.release(place.member, name) }
            throw error
        }
        guard let place = entering.place.withLock({ $0 }) else { return }
        self.place = place
        try await rooms.enter(place.member, name)
    }

    /// Subscribes, with a welcome before what is published from then on.
    private func beginToListen(
        to name: String,
        as nickname: String,
        _ entering: Entering
    ) async throws {
        let (rooms, id) = (rooms, id)
        // What happens in the room while the welcome is put together follows it.
        try await socket.subscribe(to: Rooms.topic(name), from: nil) { subscription throws(BroadcastError) in
            let (member, welcome) = try await rooms.welcome(
                id,
                nickname: nickname,
                to: name,
                before: subscription.position
            )
            entering.place.withLock {
                $0 = Place(room: name, member: member, position: subscription.position)
            }
            return welcome.encoded()
        }
        try await socket.subscribe(to: Rooms.typingTopic(name))
    }

    private mutating func leave() async throws {
        guard let room = place?.room else { return }
        place = nil
        try await rooms.leave(room, id)
    }

    private func say(_ text: String, _ key: String) async throws {
        try Rules.checkKey(key)
        guard let place else { throw Refusal("not-joined", "join a room first", key: key) }
        try Rules.checkText(text, key)
        let known = try await rooms.say(
            text,
            key: key,
            place.member,
            in: place.room,
            welcomedAt: place.position
        )
        if let known { try await socket.send(known) }
    }

    private mutating func type() async throws {
        guard let place else { throw Refusal("not-joined", "join a room first") }
        let now = ContinuousClock.now
        if let typedAt, now - typedAt < .seconds(1) { return }
        typedAt = now
        try await rooms.type(place.member, in: place.room)
    }
}

/// Where a visitor is.
private struct Place {
    let room: String
    let member: Member
    /// Of the last publication before the welcome; those after it are delivered.
    let position: StreamPosition?
}

/// The place that a welcome was made for.
private final class Entering: Sendable {
    let place = Mutex<Place?>(nil)
}
