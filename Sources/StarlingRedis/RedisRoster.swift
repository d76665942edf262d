internal import Starling

/// Whom of a topic's members somebody here was told of: what arrived while a link was broken is found out by comparing.
struct RedisRoster {
    private var members: [UTF8Name: PresenceMember] = [:]
    /// Who has come or gone since the comparison began; nil if there is none.
    private var changed: Set<UTF8Name>?
    /// About what it takes.
    private(set) var byteCount = 0

    /// What a member takes besides the bytes of its texts.
    private static let memberByteCount = 128

    /// Somebody has been told of a member.
    mutating func tell(_ member: PresenceMember) {
        let name = UTF8Name(member.id)
        if let former = self.members.updateValue(member, forKey: name) {
            self.byteCount -= Self.byteCount(former)
        }
        self.byteCount += Self.byteCount(member)
    }

    /// An event has arrived, which is newer than whatever has been read.
    mutating func note(_ event: PresenceEvent) {
        self.changed?.insert(UTF8Name(event.member.id))
        switch event.kind {
        case .joined: self.tell(event.member)
        case .left: self.remove(event.member)
        }
    }

    private mutating func remove(_ member: PresenceMember) {
        guard let former = self.members.removeValue(forKey: UTF8Name(member.id)) else { return }
        self.byteCount -= Self.byteCount(former)
    }

    private static func byteCount(_ member: PresenceMember) -> Int {
        member.id.utf8.count + member.info.utf8.count + self.memberByteCount
    }

    // MARK: - Comparing

    /// From now on members are read.
    mutating func beginComparison() {
        self.changed = []
    }

    /// What has been missed, now that members have been read.
    ///
    /// Whoever has come or gone meanwhile is left alone: its event is newer, or still to come. If it is too early to say who has left,
    /// `areComplete` is false, and they are kept for the next time.
    mutating func compare(
        with present: [UTF8Name: PresenceMember],
        areComplete: Bool,
        _ topic: Topic
    ) -> [PresenceEvent] {
        let changed = self.changed ?? []
        self.changed = nil
        var events: [PresenceEvent] = []
        if areComplete {
            for (name, member) in self.members where present[name] == nil && !changed.contains(name) {
                events.append(PresenceEvent(.left, member, topic))
            }
        }
        for (name, member) in present where self.members[name] == nil && !changed.contains(name) {
            events.append(PresenceEvent(.joined, member, topic))
        }
        for event in events { self.note(event) }
        return events
    }
}
