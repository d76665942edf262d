import ChatTopics
import FoundationEssentials
import Starling
import StarlingTopics
import Synchronization

/// What the chat asks of a broadcaster: in memory or Redis, it is the same program.
typealias ChatBroadcaster = HistoryBroadcaster & PresenceBroadcaster

/// The rooms, as they are known to all nodes: who is in them, and what was said there last.
final class Rooms: Sendable {
    /// What is kept of a room.
    static let history = HistoryLimits(countMax: 50, byteCountMax: 64 << 10, ageMax: .seconds(24 * 3600))

    private struct State {
        var idCount = 0
        /// The nicknames of visitors that have come through this node, by id: not all of them are present yet.
        var reserved: [String: (room: String, nickname: String)] = [:]
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

    /// How much of a topic is kept, on every node.
    @Sendable static func historyLimits(_ topic: Topic) -> HistoryLimits? {
        topic.name.hasPrefix(ChatTopics.roomPrefix) ? history : nil
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
        guard try await broadcaster.memberCount(of: ChatTopics.room(room).topic) < membersMax else {
            throw TopicRefusal("room-full", "this room has \(membersMax) members already")
        }
    }

    /// Finds a free nickname, and says what was said in the room.
    ///
    /// The nickname is the visitor's until it is welcomed elsewhere, or its ``Reservation`` ends.
    func welcome(_ id: String, nickname: String, to room: String) async throws -> (Place, Welcome) {
        let present = try await nicknames(in: room, except: id)
        let history = try await broadcaster.history(
            of: ChatTopics.room(room).topic,
            newest: Self.history.countMax
        )
        let free = state.withLock { state in
            let reserved = state.reserved.filter { $0.key != id && $0.value.room == room }
            let taken = present.union(reserved.values.map { $0.nickname.lowercased() })
            let free = Self.free(nickname, of: taken)
            state.reserved[id] = (room, free)
            return free
        }
        let member = Member(id: id, nickname: free)
        let welcome = Welcome(
            member: member,
            room: room,
            history: try history.publications.map {
                try JSONText(parsing: $0.message.text ?? "").decode(Said.self)
            },
            position: history.newest.map { TopicPosition($0) }
        )
        return (Place(room: room, member: member), welcome)
    }

    /// Keeps a visitor's nickname for as long as somebody has this, before the visitor is present and after.
    final class Reservation: Sendable {
        private let id: String
        private let rooms: Rooms

        init(of id: String, in rooms: Rooms) {
            self.id = id
            self.rooms = rooms
        }

        deinit {
            rooms.state.withLock { $0.reserved[id] = nil }
        }
    }

    /// What becomes of what a member says.
    func said(_ saying: Saying, by member: Member) -> Said {
        let time = Int64(Date().timeIntervalSince1970 * 1000)
        return Said(id: makeID("m"), member: member, key: saying.key, text: saying.text, time: time)
    }

    private func nicknames(in room: String, except id: String) async throws(BroadcastError) -> Set<String> {
        var nicknames: Set<String> = []
        var cursor: PresenceCursor?
        repeat {
            let page = try await broadcaster.members(
                of: ChatTopics.room(room).topic,
                from: cursor,
                countMax: 500
            )
            nicknames.formUnion(page.members.filter { $0.id != id }.map { $0.info.lowercased() })
            cursor = page.next
        } while cursor != nil
        return nicknames
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
}
