#if os(Linux)
import Foundation
import Starling
import StarlingCore
import StarlingNative
import Testing

@testable import StarlingTopics

/// Tickets with which clients come back after a shutdown.
@Suite struct ResumeTicketTests {
    private static let key = Array("a key of thirty-two bytes, or so".utf8)
    private static let otherKey = Array("another key of about such length".utf8)
    private static let holder = ResumeTickets.Holder(user: "ada", path: "/chat")
    private static let entries = [
        ResumeTickets.Entry(
            topic: "room:a",
            position: TopicPosition(rawValue: "5f.7"),
            member: PresenceMember(id: "ada", info: "Ada \"A\"")
        ),
        ResumeTickets.Entry(topic: "typing:a"),
    ]

    /// What a ticket says, or the code with which it is refused.
    private static func read(
        _ tickets: ResumeTickets,
        _ ticket: String,
        for holder: ResumeTickets.Holder = Self.holder,
        at now: Date = Date()
    ) -> Result<[ResumeTickets.Entry], TopicRefusal> {
        do throws(TopicRefusal) {
            return .success(try tickets.entries(of: ticket, for: holder, at: now))
        } catch {
            return .failure(error)
        }
    }

    private static func refusal(
        _ tickets: ResumeTickets,
        _ ticket: String,
        for holder: ResumeTickets.Holder = Self.holder,
        at now: Date = Date()
    ) -> String? {
        switch self.read(tickets, ticket, for: holder, at: now) {
        case .success: return nil
        case .failure(let refusal):
            #expect(refusal.code == .invalidTicket)
            return refusal.text
        }
    }

    @Test("A ticket says on any node that has the key what it was made for")
    func honoured() throws {
        let ticket = try #require(ResumeTickets(keys: [Self.key]).ticket(for: Self.holder, Self.entries))
        #expect(try Self.read(ResumeTickets(keys: [Self.key]), ticket).get() == Self.entries)
        // A new key comes first, and the old one is still believed.
        #expect(
            try Self.read(ResumeTickets(keys: [Self.otherKey, Self.key]), ticket).get() == Self.entries
        )
        #expect(Self.refusal(ResumeTickets(keys: [Self.otherKey]), ticket) == "the ticket was not made here")
        let nobody = ResumeTickets.Holder(user: nil, path: "/chat")
        let open = try #require(ResumeTickets(keys: [Self.key]).ticket(for: nobody, Self.entries))
        #expect(try Self.read(ResumeTickets(keys: [Self.key]), open, for: nobody).get() == Self.entries)
        #expect(Self.refusal(ResumeTickets(keys: [Self.key]), open) == "the ticket is somebody else's")
    }

    @Test("A ticket is refused when its time is over, to others, and elsewhere")
    func refused() throws {
        var tickets = ResumeTickets(keys: [Self.key])
        tickets.lifetime = .seconds(10)
        let now = Date(timeIntervalSince1970: 1_800_000_000)
        let ticket = try #require(tickets.ticket(for: Self.holder, Self.entries, at: now))
        #expect(Self.refusal(tickets, ticket, at: now + 10) == nil)
        #expect(Self.refusal(tickets, ticket, at: now + 11) == "the ticket has expired")
        for holder in [
            ResumeTickets.Holder(user: "bob", path: "/chat"), ResumeTickets.Holder(user: nil, path: "/chat"),
            ResumeTickets.Holder(user: "ada", path: "/admin"),
        ] {
            #expect(Self.refusal(tickets, ticket, for: holder, at: now) == "the ticket is somebody else's")
        }
    }

    @Test("A ticket that was changed anywhere, cut anywhere, or is no ticket, is refused")
    func forged() throws {
        let tickets = ResumeTickets(keys: [Self.key])
        let ticket = Array(try #require(tickets.ticket(for: Self.holder, Self.entries)).utf8)
        for index in ticket.indices {
            var changed = ticket
            changed[index] = changed[index] == UInt8(ascii: "A") ? UInt8(ascii: "B") : UInt8(ascii: "A")
            // The last digit of Base64 may carry bits that stand for nothing.
            guard case .success(let entries) = Self.read(tickets, String(decoding: changed, as: UTF8.self))
            else { continue }
            #expect(entries == Self.entries)
            #expect(index >= ticket.count - 2)
        }
        for count in 0..<ticket.count {
            #expect(Self.refusal(tickets, String(decoding: ticket[..<count], as: UTF8.self)) != nil)
        }
        for text in ["", ".", "..", "a.b", "e30=.e30=", String(repeating: "A", count: 1 << 16)] {
            #expect(Self.refusal(tickets, text) != nil)
        }
        // What another part of the library signs with the same key is none.
        let contents = Array(
            #"{"version":1,"until":9000000000,"path":"/chat","user":"ada","topics":[]}"#.utf8
        )
        let signature = HMACSHA256.code(of: contents, key: Self.key)
        let foreign = "\(Data(contents).base64EncodedString()).\(Data(signature).base64EncodedString())"
        #expect(Self.refusal(tickets, foreign) == "the ticket was not made here")
    }

    @Test("A ticket has no more bytes than it may: with too many subscriptions there is none")
    func bytes() throws {
        var tickets = ResumeTickets(keys: [Self.key])
        #expect(tickets.ticket(for: Self.holder, []) == nil)
        let many = (0..<1000).map { ResumeTickets.Entry(topic: Topic("room:\($0)")) }
        #expect(tickets.ticket(for: Self.holder, many) == nil)
        let count = try #require(
            (1...1000).last { tickets.ticket(for: Self.holder, Array(many[..<$0])) != nil }
        )
        #expect(count > 100)
        let ticket = try #require(tickets.ticket(for: Self.holder, Array(many[..<count])))
        #expect((8000...8192).contains(ticket.utf8.count))
        tickets.byteCountMax = 8000
        #expect(Self.refusal(tickets, ticket) == "the ticket has more than 8000 bytes")
    }

    // MARK: - On a connection

    private let client = WebSocketClient(connector: NativeConnector())

    private func connect<Result>(
        _ server: TopicServer,
        as user: String = "ada",
        _ body: (WebSocket, inout WebSocket.AsyncIterator) async throws -> Result
    ) async throws -> Result {
        var configuration = ClientConfiguration()
        configuration.subprotocols = [TopicProtocol.name]
        return try await self.client.connect(to: server.url(user), configuration: configuration) { socket in
            var messages = socket.makeAsyncIterator()
            return try await body(socket, &messages)
        }
    }

    /// A service that counts how often it is asked about a subscription.
    private static func service(_ asked: Lock<Int>) -> TopicService<String> {
        var service = TopicService<String> { client, topic in
            asked.withLock { $0 += 1 }
            guard topic.name != "room:closed" else { throw TopicRefusal(.forbidden, "the room is closed") }
            return topic.name.hasPrefix("room:")
                ? .present(as: PresenceMember(id: client.userData)) : .allowed
        } publish: { _, publication in
            publication.data
        }
        service.configuration.tickets = ResumeTickets(keys: [Self.key])
        return service
    }

    /// The ticket that a shutdown gives somebody who is subscribed to two topics still, having left one and been taken out of another.
    private func takeTicket(_ service: TopicService<String>, _ broadcaster: InMemoryBroadcaster) async throws
        -> String
    {
        try await TopicServer.run(broadcaster: broadcaster, service: service) { server in
            try await self.connect(server) { socket, messages in
                for (id, topic) in ["room:a", "typing:a", "typing:b", "typing:c"].enumerated() {
                    try await socket.send(#"{"type":"subscribe","id":\#(id + 1),"topic":"\#(topic)"}"#)
                }
                try await socket.send(#"{"type":"unsubscribe","id":5,"topic":"typing:b"}"#)
                while let text = try await messages.next()?.text, !text.contains(#""unsubscribed""#) {}
                await server.server.registry.unsubscribe(user: "ada", from: "typing:c")
                server.server.beginShutdown()
                var drain: ServerMessage?
                while let message = try await messages.next() {
                    if message.text?.hasPrefix(#"{"type":"drain""#) == true {
                        drain = try ServerMessage(parsing: message)
                    }
                }
                guard case .drain(_, let ticket?) = drain else { throw Chat.Mistake() }
                return ticket
            }
        }
    }

    @Test("Another server takes all subscriptions up by one message, and asks its application nothing")
    func resume() async throws {
        let asked = Lock(0)
        let broadcaster = Chat.broadcaster()
        let service = Self.service(asked)
        let ticket = try await self.takeTicket(service, broadcaster)
        #expect(asked.withLock { $0 } == 4)
        let position = try #require(try await broadcaster.publish(.text("1"), to: "room:a"))
        try await TopicServer.run(broadcaster: broadcaster, service: service) { server in
            try await self.connect(server) { socket, messages in
                // Without places: from where the ticket says.
                try await socket.send(#"{"type":"resume","id":7,"ticket":"\#(ticket)"}"#)
                var types: [String] = []
                // Who comes is told by way of the broadcaster, before the answer's end or behind it.
                while !(types.contains("resumed") && types.contains("joined ada")),
                    let message = try await messages.next()
                {
                    switch try ServerMessage(parsing: message) {
                    case .subscribed(7, let topic, _, let isRecovered):
                        #expect(isRecovered)
                        types.append("subscribed \(topic)")
                    case .publication(let topic, let at, _):
                        #expect(at == TopicPosition(position))
                        types.append("publication \(topic)")
                    case .joined(let member, _): types.append("joined \(member.id)")
                    case .resumed(7): types.append("resumed")
                    case let other: Issue.record("\(other)")
                    }
                }
                #expect(
                    Set(types) == [
                        "subscribed room:a", "publication room:a", "subscribed typing:a", "joined ada",
                        "resumed",
                    ]
                )
            }
            try await self.connect(server) { socket, messages in
                // With places: those alone that the ticket has, and from where the client stands.
                let place = #"{"topic":"room:a","position":"\#(TopicPosition(position).rawValue)"}"#
                try await socket.send(
                    #"{"type":"resume","id":8,"ticket":"\#(ticket)","topics":[\#(place),{"topic":"room:b"}]}"#
                )
                var answers: [ServerMessage] = []
                while answers.last != .resumed(id: 8), let message = try await messages.next() {
                    let message = try ServerMessage(parsing: message)
                    if case .joined = message { continue }
                    answers.append(message)
                }
                #expect(
                    answers == [
                        .subscribed(
                            id: 8,
                            topic: "room:a",
                            position: TopicPosition(position),
                            isRecovered: true
                        ), .resumed(id: 8),
                    ]
                )
            }
            try await self.connect(server, as: "bob") { socket, messages in
                try await socket.send(#"{"type":"resume","id":9,"ticket":"\#(ticket)"}"#)
                guard
                    case .error(9, let refusal) = try ServerMessage(
                        parsing: await messages.next() ?? .text("")
                    )
                else { throw Chat.Mistake() }
                #expect(refusal.code == .invalidTicket)
            }
        }
        #expect(asked.withLock { $0 } == 4)
    }

    @Test("A server without tickets gives none, and believes none")
    func without() async throws {
        try await TopicServer.run { server in
            try await self.connect(server) { socket, messages in
                try await socket.send(#"{"type":"resume","id":1,"ticket":"a.b"}"#)
                #expect(
                    try await messages.next()?.text
                        == #"{"type":"error","id":1,"code":"invalid-ticket","text":"no tickets are believed here"}"#
                )
            }
        }
    }

    // MARK: - In the client

    private static func core(standingIn topics: [Topic]) -> TopicClientCore {
        var core = TopicClientCore(ReconnectingConfiguration())
        _ = core.connected()
        for (index, topic) in topics.enumerated() {
            _ = core.subscribe(to: topic, from: nil)
            _ = core.received(
                .subscribed(
                    id: UInt64(index + 1),
                    topic: topic,
                    position: TopicPosition(rawValue: "5.\(index)"),
                    isRecovered: true
                )
            )
        }
        return core
    }

    @Test("The client shows its ticket once, and asks by itself for what was not resumed")
    func core() {
        var core = Self.core(standingIn: ["a", "b"])
        #expect(
            core.received(.drain(retry: .seconds(1), ticket: "ticket")) == [.comeBack(after: .seconds(1))]
        )
        _ = core.disconnected()
        _ = core.subscribe(to: "c", from: nil)
        let places = [("a", "5.0"), ("b", "5.1")].map {
            TopicPlace(topic: Topic($0.0), position: TopicPosition(rawValue: $0.1))
        }
        #expect(
            core.connected() == [
                .send(ClientMessage.resume(id: 3, ticket: "ticket", places).message),
                .send(ClientMessage.subscribe(id: 4, topic: "c", position: nil).message),
            ]
        )
        let position = TopicPosition(rawValue: "5.0")
        #expect(
            core.received(.subscribed(id: 3, topic: "a", position: position, isRecovered: true))
                == [.update("a", .subscribed(position, isRecovered: true))]
        )
        let asked = [
            TopicClientCore.Effect.send(
                ClientMessage.subscribe(id: 5, topic: "b", position: TopicPosition(rawValue: "5.1")).message
            )
        ]
        #expect(core.received(.resumed(id: 3)) == asked)
        _ = core.disconnected()
        // The next connection has no ticket.
        #expect(core.connected().count == 3)
    }

    @Test("A client whose ticket is refused subscribes to each topic")
    func coreRefused() {
        var core = Self.core(standingIn: ["a", "b"])
        _ = core.received(.drain(retry: .seconds(1), ticket: "ticket"))
        _ = core.disconnected()
        #expect(core.connected().count == 1)
        #expect(
            core.received(.error(id: 3, TopicRefusal(.invalidTicket, ""))) == [
                .send(
                    ClientMessage.subscribe(id: 4, topic: "a", position: TopicPosition(rawValue: "5.0"))
                        .message
                ),
                .send(
                    ClientMessage.subscribe(id: 5, topic: "b", position: TopicPosition(rawValue: "5.1"))
                        .message
                ),
            ]
        )
    }
}
#endif
