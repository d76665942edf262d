import FoundationEssentials
import Starling

// The messages of PROTOCOL.md, as they are read and written.

/// What a client asks.
enum ClientMessage: Decodable {
    case join(room: String, nickname: String)
    case say(key: String, text: String)
    case typing

    init(parsing text: String) throws(Refusal) {
        do {
            self = try JSONDecoder().decode(ClientMessage.self, from: Data(text.utf8))
        } catch {
            throw Refusal("invalid-message", "this is not a message of the chat’s protocol")
        }
    }

    private enum Fields: CodingKey {
        case type, room, nickname, key, text
    }

    init(from decoder: any Decoder) throws {
        let fields = try decoder.container(keyedBy: Fields.self)
        switch try fields.decode(String.self, forKey: .type) {
        case "join":
            self = .join(
                room: try fields.decode(String.self, forKey: .room),
                nickname: try fields.decode(String.self, forKey: .nickname)
            )
        case "say":
            self = .say(
                key: try fields.decode(String.self, forKey: .key),
                text: try fields.decode(String.self, forKey: .text)
            )
        case "typing": self = .typing
        case let type:
            throw DecodingError.dataCorruptedError(
                forKey: .type,
                in: fields,
                debugDescription: "unknown: \(type)"
            )
        }
    }
}

/// Somebody in a room.
struct Member: Encodable {
    let id: String
    let nickname: String
}

/// `welcome`, without its history.
struct Welcome: Encodable {
    let member: Member
    let room: String
    let members: [Member]
    let history: [Message]

    private enum CodingKeys: CodingKey {
        case member, room, members
    }

    func encoded() -> Message {
        // The history is put in as it was published, not encoded anew.
        let head = encodedObject("welcome", self).dropLast()
        return .text(head + #","history":[\#(history.map(\.description).joined(separator: ","))]}"#)
    }
}

/// `message`.
struct Said: Encodable {
    let room: String
    let id: String
    let member: Member
    let key: String
    let text: String
    let time: Int64

    func encoded() -> Message {
        .text(encodedObject("message", self))
    }
}

/// `joined`, `left` and `typing`.
struct MemberEvent: Encodable {
    let room: String
    let member: Member

    func encoded(_ type: String) -> Message {
        .text(encodedObject(type, self))
    }
}

/// `error`: why something was not done.
struct Refusal: Error, Encodable {
    let code: String
    let text: String
    let key: String?

    init(_ code: String, _ text: String, key: String? = nil) {
        self.code = code
        self.text = text
        self.key = key
    }

    func encoded() -> Message {
        .text(encodedObject("error", self))
    }
}

/// A JSON object that begins with its type, for people who read along.
private func encodedObject(_ type: String, _ fields: some Encodable) -> String {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    guard let object = try? encoder.encode(fields) else {
        preconditionFailure("strings and integers can always be encoded")
    }
    return #"{"type":"\#(type)","# + String(decoding: object.dropFirst(), as: UTF8.self)
}
