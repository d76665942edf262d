public import Starling

#if canImport(FoundationEssentials)
internal import FoundationEssentials
#else
internal import Foundation
#endif

/// The subprotocol `starling.v1.json`: <doc:StarlingV1JSON> says what it is.
public enum TopicProtocol {
    /// Its name in `Sec-WebSocket-Protocol`.
    public static let name = "starling.v1.json"

    /// Bytes that a topic's name may have.
    static let topicByteCountMax = 256
    /// Bytes that a publication's key may have.
    static let keyByteCountMax = 64

    /// What connections that agreed on it are sent by the server itself.
    static func subprotocol(_ office: TicketOffice?) -> Subprotocol {
        var format = PublicationFormat()
        format.publication = { Self.message(for: $0) }
        format.gap = { gap in
            ServerMessage.gap(
                topic: gap.topic,
                after: gap.after.map(TopicPosition.init),
                position: TopicPosition(gap.newest)
            ).message
        }
        format.presence = { event in
            switch event.kind {
            case .joined: ServerMessage.joined(event.member, topic: event.topic).message
            case .left: ServerMessage.left(event.member, topic: event.topic).message
            }
        }
        var subprotocol = Subprotocol(Self.name, publicationFormat: format) {
            ServerMessage.drain(retry: $0).message
        }
        if let office {
            subprotocol.connectionDrainMessage = { id, topics, delay in
                ServerMessage.drain(retry: delay, ticket: office.ticket(for: id, among: topics)).message
            }
        }
        return subprotocol
    }

    private static func message(for publication: Publication) -> Message {
        let position = publication.position.map(TopicPosition.init)
        return ServerMessage.publication(
            topic: publication.topic,
            position: position,
            PublicationContent(publication.message)
        ).message
    }
}

/// A place in a topic's history, as clients know it: a string that only servers understand.
///
/// An application may keep it, in a file for example, and come back with it days later: the answer then says whether
/// everything since is there.
public struct TopicPosition: Sendable, Hashable, Codable, RawRepresentable {
    /// The string.
    public let rawValue: String

    /// Takes a string that came from ``rawValue``.
    public init(rawValue: String) {
        self.rawValue = rawValue
    }

    /// Writes a position down for clients: the newest of a history that they are given otherwise, for example.
    public init(_ position: StreamPosition) {
        self.rawValue = "\(String(position.epoch, radix: 16)).\(position.offset)"
    }

    /// What it says to a server; nil if no server of ours has made it.
    var streamPosition: StreamPosition? {
        let parts = self.rawValue.split(separator: ".", omittingEmptySubsequences: false)
        guard parts.count == 2, let epoch = UInt64(parts[0], radix: 16), let offset = UInt64(parts[1]) else {
            return nil
        }
        return StreamPosition(epoch: epoch, offset: offset)
    }
}

/// What a publication carries.
public enum PublicationContent: Sendable, Hashable {
    /// A JSON value, as it was published.
    case data(JSONText)
    /// A text that is no JSON; only a server's application can publish one.
    case text(String)
    /// Bytes; only a server's application can publish them.
    case bytes([UInt8])

    init(_ message: Message) {
        switch message.kind {
        case .binary: self = .bytes(message.byteArray)
        case .text:
            let bytes = message.byteArray
            var scanner = JSONScanner(bytes)
            do throws(JSONSyntaxError) {
                self = .data(JSONText(checked: bytes[try scanner.onlyValue()]))
            } catch {
                self = .text(String(decoding: bytes, as: UTF8.self))
            }
        }
    }

    init(_ object: JSONObject) throws(InvalidMessage) {
        if let text = try object.optionalString("text") {
            self = .text(text)
        } else if let base64 = try object.optionalString("base64") {
            guard let data = Data(base64Encoded: base64) else {
                throw InvalidMessage("'base64' is not Base64")
            }
            self = .bytes(Array(data))
        } else {
            self = .data(object.value("data") ?? .null)
        }
    }

    func add(to writer: inout JSONWriter) {
        switch self {
        case .data(let data): writer.add("data", data)
        case .text(let text): writer.add("text", text)
        case .bytes(let bytes): writer.add("base64", Data(bytes).base64EncodedString())
        }
    }
}
