import Starling
import Testing

@testable import StarlingTopics

@Suite struct MessageTests {
    static let data = JSONText(checked: Array(#"{"n":1.0e2,"s":"\u0041","list":[null]}"#.utf8)[...])
    static let member = PresenceMember(id: "ada", info: #"{"name":"Ada \"L\""}"#)

    static let clientMessages: [ClientMessage] = [
        .subscribe(id: 1, topic: "room:swift", position: nil),
        .subscribe(
            id: 1 << 53 - 1,
            topic: "grün",
            position: TopicPosition(rawValue: "ffffffffffffffff.18446744073709551615")
        ),
        .unsubscribe(id: 2, topic: "a"),
        .publish(id: nil, topic: "a", data: data, key: nil),
        .publish(id: 3, topic: "a", data: data, key: "k"),
        .request(id: 4, name: "rename", data: data, timeout: .milliseconds(1500)),
        .request(id: 4, name: "rename", data: .null, timeout: nil),
        .members(id: 5, topic: "a", from: "cursor"),
        .resume(id: 6, ticket: "a.b", []),
        .resume(
            id: 6,
            ticket: "a.b",
            [
                TopicPlace(topic: "a", position: TopicPosition(rawValue: "5f.1")),
                TopicPlace(topic: "b", position: nil),
            ]
        ),
    ]
    static let serverMessages: [ServerMessage] = [
        .subscribed(id: 1, topic: "a", position: TopicPosition(rawValue: "5f.1"), isRecovered: true),
        .subscribed(id: 1, topic: "a", position: nil, isRecovered: false),
        .unsubscribed(id: 2, topic: "a"),
        .published(id: 3, position: nil),
        .published(id: 3, position: TopicPosition(rawValue: "5f.2")),
        .reply(id: 4, data: data),
        .members(id: 5, topic: "a", [member, PresenceMember(id: "b")], next: "c"),
        .members(id: 5, topic: "a", [], next: nil),
        .error(id: 6, TopicRefusal("my-code", "a \"text\"")),
        .error(id: nil, TopicRefusal(.forbidden, "")),
        .publication(topic: "a", position: TopicPosition(rawValue: "5f.3"), .data(data)),
        .publication(topic: "a", position: nil, .text("no JSON")),
        .publication(topic: "a", position: nil, .bytes([0, 255, 1])),
        .gap(topic: "a", after: TopicPosition(rawValue: "5f.3"), position: TopicPosition(rawValue: "5f.9")),
        .gap(topic: "a", after: nil, position: TopicPosition(rawValue: "5f.9")),
        .joined(member, topic: "a"),
        .left(member, topic: "a"),
        .drain(retry: .milliseconds(2400)),
        .drain(retry: .zero, ticket: "a.b"),
        .resumed(id: 7),
    ]

    @Test("What one end writes the other reads", arguments: clientMessages)
    func clientMessage(message: ClientMessage) throws {
        #expect(try ClientMessage(parsing: message.message) == message)
    }

    @Test("What one end writes the other reads", arguments: serverMessages)
    func serverMessage(message: ServerMessage) throws {
        #expect(try ServerMessage(parsing: message.message) == message)
    }

    private static func prefix(_ message: Message, _ count: Int) -> Message {
        let bytes = Array(message.byteArray[..<count])
        return unsafe Message(.text, copying: bytes.span.bytes)
    }

    @Test("Every message that is cut anywhere is refused")
    func cuts() {
        for message in Self.clientMessages.map(\.message) {
            for count in 0..<message.byteCount {
                let cut = Self.prefix(message, count)
                #expect(throws: InvalidMessage.self) { try ClientMessage(parsing: cut) }
            }
        }
        for message in Self.serverMessages.map(\.message) {
            for count in 0..<message.byteCount {
                let cut = Self.prefix(message, count)
                #expect(throws: InvalidMessage.self) { try ServerMessage(parsing: cut) }
            }
        }
    }

    @Test("Client messages that break a rule are refused, and the refusal names the id if there is one")
    func refusals() throws {
        for (text, id) in [
            (#"{}"#, nil), (#"{"type":"hello","id":7}"#, 7), (#"{"type":7,"id":8}"#, 8),
            (#"{"type":"subscribe","topic":"a"}"#, nil), (#"{"type":"subscribe","id":0,"topic":"a"}"#, nil),
            (#"{"type":"subscribe","id":1.5,"topic":"a"}"#, nil),
            (#"{"type":"subscribe","id":9,"topic":""}"#, 9),
            (#"{"type":"subscribe","id":9,"topic":"\#(String(repeating: "x", count: 257))"}"#, 9),
            (#"{"type":"subscribe","id":9,"topic":"a","position":"17"}"#, 9),
            (#"{"type":"subscribe","id":9,"topic":"a","position":"x.y"}"#, 9),
            (#"{"type":"publish","id":9,"topic":"a","data":1,"key":""}"#, 9),
            (
                #"{"type":"publish","id":9,"topic":"a","data":1,"key":"\#(String(repeating: "k", count: 65))"}"#,
                9
            ),
            (#"{"type":"request","id":9,"data":1}"#, 9),
            (#"{"type":"request","id":9,"name":"a","timeout":-1}"#, 9),
            (#"{"type":"members","id":9}"#, 9),
        ] as [(String, UInt64?)] {
            let error = #expect(throws: InvalidMessage.self, "\(text)") {
                try ClientMessage(parsing: .text(text))
            }
            #expect(error?.id == id, "\(text)")
        }
    }

    @Test("A message of a newer server is passed over")
    func unknown() throws {
        #expect(try ServerMessage(parsing: .text(#"{"type":"weather","sun":true}"#)) == .unknown)
    }

    @Test(
        "A gap says where it begins and ends; an older server's, and one that all are told of, only where it ends"
    )
    func gap() throws {
        let (after, position) = (TopicPosition(rawValue: "5f.3"), TopicPosition(rawValue: "5f.9"))
        let whole = #"{"type":"gap","topic":"a","after":"5f.3","position":"5f.9"}"#
        let old = #"{"type":"gap","topic":"a","position":"5f.9"}"#
        #expect(ServerMessage.gap(topic: "a", after: after, position: position).message == .text(whole))
        #expect(ServerMessage.gap(topic: "a", after: nil, position: position).message == .text(old))
        for text in [old, #"{"type":"gap","topic":"a","after":null,"position":"5f.9"}"#] {
            #expect(
                try ServerMessage(parsing: .text(text)) == .gap(topic: "a", after: nil, position: position)
            )
        }
        // As an older client hears `after`: a field that it does not know is passed over.
        let newer = #"{"type":"gap","topic":"a","position":"5f.9","depth":[{"after":1}]}"#
        #expect(
            try ServerMessage(parsing: .text(newer)) == .gap(topic: "a", after: nil, position: position)
        )
        #expect(throws: InvalidMessage.self) {
            try ServerMessage(parsing: .text(#"{"type":"gap","topic":"a","after":3,"position":"5f.9"}"#))
        }
    }

    @Test("What a server publishes is data if it is JSON, and is not lost if it is not")
    func content() {
        #expect(
            PublicationContent(.text(#" {"a":1} "#)) == .data(JSONText(checked: Array(#"{"a":1}"#.utf8)[...]))
        )
        #expect(PublicationContent("hello") == .text("hello"))
        #expect(PublicationContent(.binary([1, 2])) == .bytes([1, 2]))
        #expect(PublicationContent("") == .text(""))
    }

    @Test("Positions go out and come back; what no server made is none")
    func positions() {
        let position = StreamPosition(epoch: .max, offset: 12)
        #expect(TopicPosition(position).streamPosition == position)
        for text in ["", ".", "1.", ".1", "1.2.3", "g.1", "1.-1", "10000000000000000.1"] {
            #expect(TopicPosition(rawValue: text).streamPosition == nil, "\(text)")
        }
    }
}
