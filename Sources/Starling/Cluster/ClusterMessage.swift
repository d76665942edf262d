internal import StarlingCore

/// What nodes tell each other: a version, a kind, and fields with four bytes of length before them.
enum ClusterMessage: Sendable, Equatable {
    case send(String, Message)
    case close(String, CloseCode, String)
    case subscribe(String, Topic)
    case unsubscribe(String, Topic)
    case ask(UInt64, asker: String, String, Topic?)
    case answer(UInt64, ClusterReport)

    private static let version: UInt8 = 1

    func encoded() -> [UInt8] {
        switch self {
        case .send(let user, let message):
            Self.encode(message.kind == .text ? 0 : 1, [Array(user.utf8), message.byteArray])
        case .close(let user, let code, let reason):
            Self.encode(2, [Array(user.utf8), Self.encode(UInt64(code.rawValue)), Array(reason.utf8)])
        case .subscribe(let user, let topic):
            Self.encode(3, [Array(user.utf8), Array(topic.name.utf8)])
        case .unsubscribe(let user, let topic):
            Self.encode(4, [Array(user.utf8), Array(topic.name.utf8)])
        case .ask(let id, let asker, let question, let topic):
            Self.encode(
                5,
                [Self.encode(id), Array(asker.utf8), Array(question.utf8)]
                    + (topic.map { [Array($0.name.utf8)] } ?? [])
            )
        case .answer(let id, let report):
            Self.encode(
                6,
                [
                    Self.encode(id), Array(report.node.utf8), Self.encode(UInt64(report.connectionCount)),
                    Self.encode(UInt64(report.subscriberCount)), Array(report.answer.utf8),
                ]
            )
        }
    }

    /// Reads a message; nil if it is none, or of a version to come.
    init?(_ bytes: [UInt8]) {
        guard bytes.count >= 2, bytes[0] == Self.version, let fields = Self.fields(bytes[2...]) else {
            return nil
        }
        func text(_ index: Int) -> String { String(decoding: fields[index], as: UTF8.self) }
        func number(_ index: Int) -> UInt64 { fields[index].reduce(0) { $0 << 8 | UInt64($1) } }
        switch (bytes[1], fields.count) {
        case (0, 2): self = .send(text(0), .text(text(1)))
        case (1, 2): self = .send(text(0), .binary(Array(fields[1])))
        case (2, 3):
            self = .close(text(0), CloseCode(rawValue: UInt16(truncatingIfNeeded: number(1))), text(2))
        case (3, 2): self = .subscribe(text(0), Topic(text(1)))
        case (4, 2): self = .unsubscribe(text(0), Topic(text(1)))
        case (5, 3...4):
            self = .ask(number(0), asker: text(1), text(2), fields.count == 4 ? Topic(text(3)) : nil)
        case (6, 5):
            let report = ClusterReport(
                node: text(1),
                connectionCount: Int(truncatingIfNeeded: number(2)),
                subscriberCount: Int(truncatingIfNeeded: number(3)),
                answer: text(4)
            )
            self = .answer(number(0), report)
        default: return nil
        }
    }

    private static func encode(_ kind: UInt8, _ fields: [[UInt8]]) -> [UInt8] {
        [self.version, kind] + fields.flatMap { self.encode(UInt64($0.count)).suffix(4) + $0 }
    }

    private static func encode(_ number: UInt64) -> [UInt8] {
        (0..<8).map { UInt8(truncatingIfNeeded: number >> (56 - 8 * UInt64($0))) }
    }

    private static func fields(_ bytes: ArraySlice<UInt8>) -> [ArraySlice<UInt8>]? {
        var fields: [ArraySlice<UInt8>] = []
        var rest = bytes
        while !rest.isEmpty {
            guard rest.count >= 4 else { return nil }
            let count = rest.prefix(4).reduce(0) { $0 << 8 | Int($1) }
            rest = rest.dropFirst(4)
            guard rest.count >= count else { return nil }
            fields.append(rest.prefix(count))
            rest = rest.dropFirst(count)
        }
        return fields
    }
}
