import FoundationEssentials
import Starling
import Synchronization

/// Who is in which room, and what was said there last.
///
/// One lock guards all of it. A change is published before the lock is given back, so that a room's publications come
/// in the order of its changes: whoever takes the list of members and applies what arrives afterwards is up to date.
final class Rooms: Sendable {
    /// Rooms without members that are remembered, for the sake of their history.
    static let emptyRoomsMax = 1000

    private struct State {
        var rooms: [String: Room] = [:]
        /// Names of rooms without members, the one that has been empty longest first.
        var empty: [String] = []
        var idCount = 0
    }

    private let state = Mutex(State())
    private let broadcaster: InMemoryBroadcaster
    private let membersMax: Int
    /// Makes names differ from those of an earlier start.
    private let start = String(UInt32.random(in: .min ... .max), radix: 16)

    init(broadcaster: InMemoryBroadcaster, membersMax: Int) {
        self.broadcaster = broadcaster
        self.membersMax = membersMax
    }

    /// The topic of a room's publications; names that are canonically equivalent are one topic.
    static func topic(_ room: String) -> Topic {
        "room:\(room)"
    }

    /// A name that is never used again.
    func makeID() -> String {
        state.withLock { makeID(in: &$0) }
    }

    /// Leaves one room, if any, and enters another or the same one anew.
    ///
    /// - Throws: If the room is full; nothing has changed then.
    func join(_ name: String, _ id: String, nickname: String, leaving old: String?) throws(Refusal) -> Welcome
    {
        try state.withLock { state throws(Refusal) in
            let isMember = old == name
            let room = state.rooms[name] ?? Room(name: name)
            guard isMember || room.members.count < membersMax else {
                throw Refusal("room-full", "this room has \(membersMax) members already")
            }
            if let old { leave(old, id, in: &state) }
            return enter(name, id, nickname, in: &state)
        }
    }

    /// Leaves a room.
    func leave(_ room: String, _ id: String) {
        state.withLock { leave(room, id, in: &$0) }
    }

    /// Publishes a message, unless one with this key is in the history: that one is returned then.
    func say(_ text: String, key: String, _ id: String, in name: String) throws(Refusal) -> Message? {
        state.withLock { state in
            guard let member = state.rooms[name]?.member(id), let room = state.rooms[name]?.name else {
                return nil
            }
            if let known = state.rooms[name]?.history.message(key) { return known }
            let milliseconds = Int64(Date().timeIntervalSince1970 * 1000)
            let said = Said(
                room: room,
                id: "\(makeID(in: &state, "m"))",
                member: member,
                key: key,
                text: text,
                time: milliseconds
            ).encoded()
            state.rooms[name]?.history.append(said, key)
            publish(said, to: name)
            return nil
        }
    }

    /// Tells a room that a member is writing.
    func type(_ id: String, in name: String) {
        state.withLock { state in
            guard let room = state.rooms[name], let member = room.member(id) else { return }
            publish(MemberEvent(room: room.name, member: member).encoded("typing"), to: name)
        }
    }

    // MARK: - With the lock held

    private func enter(_ name: String, _ id: String, _ nickname: String, in state: inout State) -> Welcome {
        var room = state.rooms[name] ?? Room(name: name)
        if room.members.isEmpty { state.empty.removeAll { $0 == name } }
        let member = Member(id: id, nickname: room.freeNickname(nickname))
        room.members.append(member)
        state.rooms[name] = room
        publish(MemberEvent(room: room.name, member: member).encoded("joined"), to: name)
        return Welcome(member: member, room: room.name, members: room.members, history: room.history.messages)
    }

    private func leave(_ name: String, _ id: String, in state: inout State) {
        guard let room = state.rooms[name], let member = room.member(id) else { return }
        state.rooms[name]?.members.removeAll { $0.id == id }
        publish(MemberEvent(room: room.name, member: member).encoded("left"), to: name)
        guard state.rooms[name]?.members.isEmpty == true else { return }
        state.empty.append(name)
        if state.empty.count > Self.emptyRoomsMax { state.rooms[state.empty.removeFirst()] = nil }
    }

    private func makeID(in state: inout State, _ kind: String = "") -> String {
        state.idCount += 1
        return "\(start)-\(kind)\(state.idCount)"
    }

    private func publish(_ message: Message, to room: String) {
        // Never false: the in-memory broadcaster has no queue that could be full.
        _ = broadcaster.tryPublish(message, to: Self.topic(room))
    }
}

/// A room: its members in order of joining, and its last messages.
struct Room {
    let name: String
    var members: [Member] = []
    var history = History()

    func member(_ id: String) -> Member? {
        members.first { $0.id == id }
    }

    /// The nickname wished for, or with the first number that makes it unique here.
    func freeNickname(_ wish: String) -> String {
        let taken = Set(members.map { $0.nickname.lowercased() })
        var nickname = wish
        var number = 1
        while taken.contains(nickname.lowercased()) {
            number += 1
            let suffix = " \(number)"
            let kept = wish.unicodeScalars.prefix(Rules.nameLengthMax - suffix.unicodeScalars.count)
            nickname = String(kept) + suffix
        }
        return nickname
    }
}

/// The last messages of a room, as they were published.
struct History {
    static let countMax = 50
    static let byteCountMax = 64 << 10

    private var entries: [(key: String, message: Message)] = []
    private var byteCount = 0

    var messages: [Message] {
        entries.map(\.message)
    }

    func message(_ key: String) -> Message? {
        entries.first { $0.key == key }?.message
    }

    mutating func append(_ message: Message, _ key: String) {
        entries.append((key, message))
        byteCount += message.byteCount
        while entries.count > Self.countMax || byteCount > Self.byteCountMax {
            byteCount -= entries.removeFirst().message.byteCount
        }
    }
}
