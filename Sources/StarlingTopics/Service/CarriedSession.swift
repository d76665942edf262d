internal import Starling

/// What a session leaves for the one that serves its connection in the next process.
struct CarriedSession: Codable {
    struct Place: Codable {
        var topic: String
        var position: String?
        var member: Member?
    }

    struct Member: Codable {
        var id: String
        var info: String
    }

    /// The process whose broadcaster has been told who is present.
    var process: UInt64
    private var present: [Place]
    private var subscribed: [Place]

    init(process: UInt64, _ members: [Topic: PresenceMember], _ entries: [ResumeTickets.Entry]) {
        self.process = process
        self.present = members.map { Place(topic: $0.key.name, member: Member($0.value)) }
        self.subscribed = entries.map { entry in
            Place(
                topic: entry.topic.name,
                position: entry.position?.rawValue,
                member: entry.member.map(Member.init)
            )
        }
    }

    /// Who is present on account of the connection.
    var members: [Topic: PresenceMember] {
        var members: [Topic: PresenceMember] = [:]
        for place in self.present { members[Topic(place.topic)] = place.member?.value }
        return members
    }

    /// What the connection's ticket would say.
    var entries: [ResumeTickets.Entry] {
        self.subscribed.map { place in
            ResumeTickets.Entry(
                topic: Topic(place.topic),
                position: place.position.map(TopicPosition.init(rawValue:)),
                member: place.member?.value
            )
        }
    }
}

extension CarriedSession.Member {
    init(_ member: PresenceMember) {
        self.init(id: member.id, info: member.info)
    }

    var value: PresenceMember {
        PresenceMember(id: self.id, info: self.info)
    }
}
