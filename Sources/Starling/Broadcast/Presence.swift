/// A broadcaster that knows who is present in a topic, on all nodes.
///
/// An application says who enters and leaves, for each of its connections; a member is present as long as one of its
/// connections is, on whichever node. Joins and leaves are delivered to the topic's subscribers, see
/// ``PublicationFormat/presence``. When a node dies, its members leave, once.
public protocol PresenceBroadcaster: Broadcaster {
    /// A connection of a member has come.
    ///
    /// Each call is to be matched by one of ``leave(_:from:)``.
    func enter(_ member: PresenceMember, _ topic: Topic) async throws(BroadcastError)

    /// A connection of a member has gone; `id` is the member's.
    func leave(_ id: String, from topic: Topic) async throws(BroadcastError)

    /// Who is present, page by page and in no order; a member that comes or goes meanwhile may be missing or not.
    ///
    /// - Parameters:
    ///   - topic: The topic.
    ///   - cursor: Where the last page ended; nil for the first one.
    ///   - countMax: About how many members a page has.
    /// - Returns: A page, and where the next one begins.
    /// - Throws: If the broker cannot be asked.
    func members(
        of topic: Topic,
        from cursor: PresenceCursor?,
        countMax: Int
    ) async throws(BroadcastError) -> PresencePage

    /// How many members are present.
    func memberCount(of topic: Topic) async throws(BroadcastError) -> Int
}

/// Somebody who is present.
public struct PresenceMember: Hashable, Sendable {
    /// Tells members apart; a user's name for example.
    public let id: String
    /// What others are shown, as the application likes: a nickname, or JSON.
    ///
    /// The first connection's counts.
    public let info: String

    /// Makes a member.
    public init(id: String, info: String = "") {
        self.id = id
        self.info = info
    }
}

/// A member has come or gone.
public struct PresenceEvent: Hashable, Sendable {
    /// What has happened.
    public enum Kind: Sendable {
        /// The member's first connection has come.
        case joined
        /// The member's last connection has gone, or its node has died.
        case left
    }

    /// What has happened.
    public let kind: Kind
    /// Who.
    public let member: PresenceMember
    /// Where.
    public let topic: Topic

    /// Makes an event; broadcasters of applications do.
    public init(_ kind: Kind, _ member: PresenceMember, _ topic: Topic) {
        self.kind = kind
        self.member = member
        self.topic = topic
    }
}

/// Where a page of members ended; only for the broadcaster that made it.
public struct PresenceCursor: Hashable, Sendable {
    package let value: String

    package init(_ value: String) {
        self.value = value
    }
}

/// Some of a topic's members.
public struct PresencePage: Sendable {
    /// The members.
    public let members: [PresenceMember]
    /// Where the next page begins; nil after the last one.
    public let next: PresenceCursor?

    /// Makes a page.
    public init(members: [PresenceMember], next: PresenceCursor?) {
        self.members = members
        self.next = next
    }
}

/// How often each member has entered each topic through this process.
///
/// A broker need only know of the first time and the last.
package struct PresenceCounts {
    /// Members by their ids' bytes, as a broker tells them apart.
    package private(set) var topics: [Topic: [UTF8Name: (member: PresenceMember, count: Int)]] = [:]

    package init() {}

    /// Counts a connection; true if it is the member's first.
    package mutating func enter(_ member: PresenceMember, _ topic: Topic) -> Bool {
        let name = UTF8Name(member.id)
        if self.topics[topic]?[name] != nil {
            self.topics[topic]?[name]?.count += 1
            return false
        }
        self.topics[topic, default: [:]][name] = (member, 1)
        return true
    }

    /// Counts a connection off; the member if it was its last.
    package mutating func leave(_ id: String, from topic: Topic) -> PresenceMember? {
        let name = UTF8Name(id)
        guard let entry = self.topics[topic]?[name] else { return nil }
        guard entry.count == 1 else {
            self.topics[topic]?[name]?.count -= 1
            return nil
        }
        self.topics[topic]?[name] = nil
        if self.topics[topic]?.isEmpty == true { self.topics[topic] = nil }
        return entry.member
    }
}
