import Starling
import StarlingCore

/// One connection's conversation with the server: what arrives is checked, and done or refused.
struct Visitor {
    private let socket: WebSocket
    private let rooms: Rooms
    private let id: String
    private var room: String?
    private var typedAt: ContinuousClock.Instant?

    init(_ socket: WebSocket, _ rooms: Rooms) {
        self.socket = socket
        self.rooms = rooms
        self.id = rooms.makeID()
    }

    /// Chats until the connection ends, and leaves the room then.
    mutating func chat() async throws {
        defer { if let room { rooms.leave(room, id) } }
        for try await message in socket {
            guard let text = message.text else {
                return await socket.close(.unsupportedData, reason: "the chat is in text messages")
            }
            do {
                try await receive(ClientMessage(parsing: text))
            } catch let refusal as Refusal {
                try await socket.send(refusal.encoded())
            }
        }
    }

    private mutating func receive(_ message: ClientMessage) async throws {
        switch message {
        case .join(let room, let nickname): try await join(room, as: nickname)
        case .say(let key, let text): try await say(text, key)
        case .typing: try type()
        }
    }

    private mutating func join(_ name: String, as nickname: String) async throws {
        let name = try Rules.name(name, orRefuse: "invalid-room", "a room’s name")
        let nickname = try Rules.name(nickname, orRefuse: "invalid-nickname", "a nickname")
        // Subscribed first, so that nothing is missed between the welcome and what follows it.
        try await socket.subscribe(to: Rooms.topic(name))
        let welcome: Welcome
        do throws(Refusal) {
            welcome = try rooms.join(name, id, nickname: nickname, leaving: room)
        } catch {
            if room != name { await socket.unsubscribe(from: Rooms.topic(name)) }
            throw error
        }
        if let room, room != name { await socket.unsubscribe(from: Rooms.topic(room)) }
        room = name
        typedAt = nil
        try await socket.send(welcome.encoded())
    }

    private func say(_ text: String, _ key: String) async throws {
        try Rules.checkKey(key)
        guard let room else { throw Refusal("not-joined", "join a room first", key: key) }
        try Rules.checkText(text, key)
        if let known = try rooms.say(text, key: key, id, in: room) {
            try await socket.send(known)
        }
    }

    private mutating func type() throws {
        guard let room else { throw Refusal("not-joined", "join a room first") }
        let now = ContinuousClock.now
        if let typedAt, now - typedAt < .seconds(1) { return }
        typedAt = now
        rooms.type(id, in: room)
    }
}
