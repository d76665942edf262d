internal import Starling
internal import StarlingCore

#if canImport(FoundationEssentials)
internal import FoundationEssentials
#else
internal import Foundation
#endif

/// Tickets with which clients that a shutdown sends away take up all their subscriptions in one message, on whatever node.
///
/// ```swift
/// service.configuration.tickets = ResumeTickets(keys: [secret])
/// ```
///
/// A ticket comes with the `drain` message, and says what its client was subscribed to and as whom it was present there, until when
/// it is good, and for which user and path; it is signed with HMAC-SHA256. A node that has the key believes it: the
/// service's `subscribe` is not asked again for those topics. So a right that is taken away meanwhile lasts until the ticket
/// ends, as it does on a connection that stands. The user must be the same: the new connection is authenticated like every other.
/// On an endpoint whose `authenticate` names no user a ticket is good for whoever has it.
///
/// What a node does not believe costs a client nothing but one answer: it then subscribes to each topic, as without a ticket.
public struct ResumeTickets: Sendable {
    /// How long a ticket is good; longer than a client may be asked to stay away.
    public var lifetime: Duration = .seconds(60)
    /// Bytes that a ticket may have; a connection with more subscriptions than fit in gets none, and a longer one is not read.
    public var byteCountMax = 8 << 10

    private let keys: [[UInt8]]

    /// Makes and believes tickets.
    ///
    /// - Parameter keys: The same on all nodes, 16 bytes at least each, best 32 random ones. The first signs, all of them are
    ///   believed: to change it, add the new one behind, then put it first, then take the old one away, a deploy each.
    public init(keys: [[UInt8]]) {
        precondition(!keys.isEmpty, "tickets need a key")
        precondition(keys.allSatisfy { $0.count >= 16 }, "a key has 16 bytes at least")
        self.keys = keys
    }

    /// What a ticket says of one topic.
    struct Entry: Hashable {
        let topic: Topic
        /// Where the subscription began: not behind what its client has got.
        var position: TopicPosition?
        var member: PresenceMember?
    }

    /// What a ticket was made for.
    struct Holder: Hashable {
        private let user: UTF8Name?
        let path: String

        init(user: String?, path: String) {
            self.user = user.map(UTF8Name.init)
            self.path = path
        }

        var userName: String? { self.user?.string }
    }

    /// A ticket for a client's subscriptions; nil if it has none, or too many.
    func ticket(for holder: Holder, _ entries: [Entry], at now: Date = Date()) -> String? {
        guard !entries.isEmpty else { return nil }
        var writer = JSONWriter()
        writer.add("version", Self.version)
        writer.add(
            "until",
            UInt64(max(0, now.timeIntervalSince1970)) + UInt64(self.lifetime.components.seconds)
        )
        writer.add("user", holder.userName)
        writer.add("path", holder.path)
        writer.add("topics", entries.map(\.json))
        let contents = writer.text.bytes
        // Base64 is a third longer.
        guard contents.count < self.byteCountMax else { return nil }
        let ticket =
            "\(Data(contents).base64EncodedString()).\(Data(Self.signature(contents, self.keys[0])).base64EncodedString())"
        return ticket.utf8.count <= self.byteCountMax ? ticket : nil
    }

    /// What a ticket says, if it is to be believed.
    func entries(of ticket: String, for holder: Holder, at now: Date = Date()) throws(TopicRefusal) -> [Entry]
    {
        guard ticket.utf8.count <= self.byteCountMax else {
            throw TopicRefusal(.invalidTicket, "the ticket has more than \(self.byteCountMax) bytes")
        }
        let parts = ticket.split(separator: ".", omittingEmptySubsequences: false)
        guard parts.count == 2, let contents = Data(base64Encoded: String(parts[0])).map(Array.init),
            let signature = Data(base64Encoded: String(parts[1])).map(Array.init),
            self.keys.contains(where: { HMACSHA256.isSame(Self.signature(contents, $0), signature) })
        else { throw TopicRefusal(.invalidTicket, "the ticket was not made here") }
        do throws(InvalidMessage) {
            let object = try JSONObject(parsing: contents)
            guard try object.optionalInteger("version", from: 0) == Self.version,
                let until = try object.optionalInteger("until", from: 0)
            else { throw InvalidMessage("the ticket is of another version") }
            guard Double(until) >= now.timeIntervalSince1970 else {
                throw InvalidMessage("the ticket has expired")
            }
            let owner = Holder(user: try object.optionalString("user"), path: try object.string("path"))
            guard owner == holder else { throw InvalidMessage("the ticket is somebody else's") }
            var entries: [Entry] = []
            for entry in try JSONObject.list(object.value("topics") ?? .null) {
                entries.append(try Entry(entry))
            }
            return entries
        } catch {
            throw TopicRefusal(.invalidTicket, error.text)
        }
    }

    private static let version: UInt64 = 1

    /// Signs under a name of its own, so that a key that something else is signed with makes no tickets.
    private static func signature(_ contents: [UInt8], _ key: [UInt8]) -> [UInt8] {
        HMACSHA256.code(of: Array("starling resume ticket\n".utf8) + contents, key: key)
    }
}

extension ResumeTickets.Entry {
    fileprivate var json: JSONText {
        var writer = JSONWriter()
        writer.add("topic", self.topic.name)
        writer.add("position", self.position?.rawValue)
        writer.add("member", self.member?.id)
        writer.add("info", self.member?.info)
        return writer.text
    }

    fileprivate init(_ object: JSONObject) throws(InvalidMessage) {
        let info = try object.optionalString("info") ?? ""
        self.init(
            topic: Topic(try object.string("topic")),
            position: try object.optionalString("position").map(TopicPosition.init(rawValue:)),
            member: try object.optionalString("member").map { PresenceMember(id: $0, info: info) }
        )
    }
}

/// What the connections of an endpoint are subscribed to, for the tickets that a shutdown gives them.
///
/// A lock, because a session belongs to its connection's loop, and there are several.
final class TicketOffice: Sendable {
    private struct Guest {
        let holder: ResumeTickets.Holder
        var entries: [Topic: ResumeTickets.Entry] = [:]
    }

    private let guests = Lock<[ConnectionID: Guest]>([:])
    private let tickets: ResumeTickets

    init(_ tickets: ResumeTickets) {
        self.tickets = tickets
    }

    func came(_ id: ConnectionID, _ holder: ResumeTickets.Holder) {
        self.guests.withLock { $0[id] = Guest(holder: holder) }
    }

    func left(_ id: ConnectionID) {
        self.guests.withLock { $0[id] = nil }
    }

    func subscribed(_ id: ConnectionID, _ entry: ResumeTickets.Entry) {
        self.guests.withLock { $0[id]?.entries[entry.topic] = entry }
    }

    func unsubscribed(_ id: ConnectionID, from topic: Topic) {
        self.guests.withLock { _ = $0[id]?.entries.removeValue(forKey: topic) }
    }

    /// What a connection is subscribed to.
    func entries(of id: ConnectionID) -> [ResumeTickets.Entry] {
        self.guests.withLock { $0[id].map { Array($0.entries.values) } ?? [] }
    }

    /// The ticket of a connection that goes, for those of its topics that it is subscribed to still: the application may have taken it
    /// out of others.
    func ticket(for id: ConnectionID, among topics: Set<Topic>) -> String? {
        guard let guest = self.guests.withLock({ $0[id] }) else { return nil }
        let entries = guest.entries.values.filter { topics.contains($0.topic) }
        return self.tickets.ticket(for: guest.holder, entries.sorted { $0.topic.name < $1.topic.name })
    }

    func entries(of ticket: String, for holder: ResumeTickets.Holder) throws(TopicRefusal) -> [ResumeTickets
        .Entry]
    {
        try self.tickets.entries(of: ticket, for: holder)
    }
}
