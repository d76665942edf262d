import FoundationEssentials
import Starling
import Synchronization

/// What the chat asks of a broadcaster: in memory or Redis, it is the same program.
typealias ChatBroadcaster = HistoryBroadcaster & PresenceBroadcaster

/// The rooms, as they are known to all nodes: who is in them, and what was said there last.
final class Rooms: Sendable {
    /// What is kept of a room.
    static let history = HistoryLimits(countMax: 50, byteCountMax: 64 << 10, ageMax: .seconds(24 * 3600))

    private struct State {
        var idCount = 0
        /// Nicknames on their way into a room through this node.
        var reserved: [String: Set<String>] = [:]
    }

    private let state = Mutex(State())
    private let broadcaster: any ChatBroadcaster
    private let membersMax: Int
    /// Makes names differ from those of other nodes, and of an earlier start.
    private let start = String(UInt32.random(in: .min ... .max), radix: 16)

    init(broadcaster: any ChatBroadcaster, membersMax: Int) {
        self.broadcaster = broadcaster
        self.membersMax = membersMax
    }

    /// The topic of what a room's members say, come and go; only that is kept.
    static func topic(_ room: String) -> Topic {
        "room:\(room)"
    }

    /// The topic of who is writing, of which nothing is kept.
    static func typingTopic(_ room: String) -> Topic {
        "typing:\(room)"
    }

    /// How much of a topic is kept, on every node.
    @Sendable static func historyLimits(_ topic: Topic) -> HistoryLimits? {
        topic.name.hasPrefix("room:") ? history : nil
    }

    /// What subscribers are sent when somebody comes or goes.
    @Sendable static func message(for event: PresenceEvent) -> Message {
        MemberEvent(room: String(event.topic.name.dropFirst("room:".count)), member: Member(event.member))
            .encoded(event.kind == .joined ? "joined" : "left")
    }

    /// A name that is never used again.
    func makeID(_ kind: String = "") -> String {
        let count = state.withLock { state in
            state.idCount += 1
            return state.idCount
        }
        return "\(start)-\(kind)\(count)"
    }

    /// Refuses if the room has its most members already.
    func checkSpace(in room: String) async throws {
        guard try await broadcaster.memberCount(of: Self.topic(room)) < membersMax else {
            throw Refusal("room-full", "this room has \(membersMax) members already")
        }
    }

    /// Finds a free nickname, and says who is there, the new member included, and what was said up to a position.
    ///
    /// The nickname is reserved on this node until ``enter(_:_:)`` or ``release(_:_:)``.
    func welcome(
        _ id: String,
        nickname: String,
        to room: String,
        before position: StreamPosition?
    ) async throws(BroadcastError) -> (Member, Welcome) {
        var members = try await members(of: room)
        let history = try await broadcaster.history(of: Self.topic(room), newest: Self.history.countMax)
        let said = history.publications.filter { publication in
            guard let place = publication.position, let position else { return true }
            return place.epoch == position.epoch && place.offset <= position.offset
        }
        let taken = Set(members.map { $0.nickname.lowercased() })
        let free = state.withLock { state in
            let free = Self.free(nickname, of: taken.union(state.reserved[room] ?? []))
            state.reserved[room, default: []].insert(free.lowercased())
            return free
        }
        let member = Member(id: id, nickname: free)
        members.append(member)
        let welcome = Welcome(member: member, room: room, members: members, history: said.map(\.message))
        return (member, welcome)
    }

    /// Makes a member present, and known to the others.
    func enter(_ member: Member, _ room: String) async throws {
        defer { release(member, room) }
        try await broadcaster.enter(member.present(since: Self.milliseconds()), Self.topic(room))
    }

    /// Gives up a nickname's reservation.
    func release(_ member: Member, _ room: String) {
        state.withLock { state in
            state.reserved[room]?.remove(member.nickname.lowercased())
            if state.reserved[room]?.isEmpty == true { state.reserved[room] = nil }
        }
    }

    /// Ends a member's presence.
    func leave(_ room: String, _ id: String) async throws {
        try await broadcaster.leave(id, from: Self.topic(room))
    }

    /// Publishes a message, unless one with this key was said already.
    ///
    /// That one is returned if the welcome ended after it; otherwise it comes to the member in its turn.
    func say(
        _ text: String,
        key: String,
        _ member: Member,
        in room: String,
        welcomedAt welcomed: StreamPosition?
    ) async throws -> Message? {
        let said = Said(
            room: room,
            id: makeID("m"),
            member: member,
            key: key,
            text: text,
            time: Self.milliseconds()
        ).encoded()
        let topic = Self.topic(room)
        let outcome = try await broadcaster.publish(said, to: topic, idempotencyKey: key)
        guard !outcome.isNew, let position = outcome.position, let welcomed,
            position.epoch == welcomed.epoch, position.offset <= welcomed.offset
        else { return nil }
        let before = StreamPosition(epoch: position.epoch, offset: position.offset - 1)
        let known = try await broadcaster.history(of: topic, after: before, countMax: 1)
        return known.isComplete ? known.publications.first?.message : nil
    }

    /// Tells a room that a member is writing.
    func type(_ member: Member, in room: String) async throws {
        let event = MemberEvent(room: room, member: member).encoded("typing")
        try await broadcaster.publish(event, to: Self.typingTopic(room))
    }

    /// Who is there, in order of joining.
    private func members(of room: String) async throws(BroadcastError) -> [Member] {
        var present: [PresenceMember] = []
        var cursor: PresenceCursor?
        repeat {
            let page = try await broadcaster.members(of: Self.topic(room), from: cursor, countMax: 500)
            present += page.members
            cursor = page.next
        } while cursor != nil
        return present.map { (Member.joinTime($0), Member($0)) }
            .sorted { ($0.0, $0.1.id) < ($1.0, $1.1.id) }
            .map(\.1)
    }

    /// The nickname wished for, or with the first number that makes it unique.
    private static func free(_ wish: String, of taken: Set<String>) -> String {
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

    private static func milliseconds() -> Int64 {
        Int64(Date().timeIntervalSince1970 * 1000)
    }
}

extension Member {
    /// How a member is known to the broadcaster: when it joined, and its nickname.
    func present(since milliseconds: Int64) -> PresenceMember {
        PresenceMember(id: id, info: "\(milliseconds) \(nickname)")
    }

    init(_ present: PresenceMember) {
        let nickname = present.info.drop { $0 != " " }.dropFirst()
        self.init(id: present.id, nickname: String(nickname))
    }

    static func joinTime(_ present: PresenceMember) -> Int64 {
        Int64(present.info.prefix { $0 != " " }) ?? 0
    }
}
