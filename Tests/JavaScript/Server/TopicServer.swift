import ArgumentParser
import ExampleSupport
import HTTPTypes
import Starling
import StarlingCore
import StarlingNative
import StarlingRedis
import StarlingTopics
import Synchronization

/// A server for the tests of `starling.js`: topics of all kinds, requests of all outcomes, and an empty page that loads the client.
///
/// What begins with `room:` has a history, and whoever gave its name by the request `enter` is present there; what begins
/// with `secret:` is forbidden; everything else has no history.
@main
struct TopicServer: AsyncParsableCommand {
    @OptionGroup var options: ServerOptions

    @Option(help: "A Redis that joins this server with others; without it, memory.")
    var redis: String?

    @Option(
        help: "Signs resume tickets: 16 characters or more, the same on all nodes; without it there are none."
    )
    var ticketKey: String?

    func run() async throws {
        let broadcaster: any HistoryBroadcaster & PresenceBroadcaster =
            if let redis {
                try RedisBroadcaster(url: redis, connector: NativeConnector(), history: Self.history)
            } else {
                InMemoryBroadcaster(history: Self.history)
            }
        let topics = WebSocketEndpoint(
            broadcaster: broadcaster,
            configuration: options.endpointConfiguration(),
            authenticate: { _ in .accept(Visitor()) },
            service: self.service(broadcaster)
        )
        try await options.serve {
            WebSocketRoute("/topics", topics)
            // How often the application was asked for a subscription; for those that a ticket is good for it is not.
            HTTPRoute("/asked") { _ in
                HTTPReply(
                    .ok,
                    headerFields: [.contentType: "text/plain"],
                    body: Array("\(Self.asked.load(ordering: .relaxed))\n".utf8)
                )
            }
            TopicScriptRoute()
            HTTPRoute("/") { _ in
                HTTPReply(
                    .ok,
                    headerFields: [.contentType: "text/html"],
                    body: Array("<!doctype html><title>Topics</title><link rel=icon href=data:,>".utf8)
                )
            }
        }
    }

    private static let asked = Atomic<Int>(0)

    @Sendable private static func history(_ topic: Topic) -> HistoryLimits? {
        topic.name.hasPrefix("room:") ? HistoryLimits(countMax: 1000) : nil
    }

    func validate() throws {
        guard self.ticketKey?.utf8.count ?? 16 >= 16 else {
            throw ValidationError("--ticket-key has 16 characters or more")
        }
    }

    private func service(_ broadcaster: any Broadcaster) -> TopicService<Visitor> {
        var service = TopicService<Visitor> { client, topic in
            Self.asked.add(1, ordering: .relaxed)
            guard !topic.name.hasPrefix("secret:") else { throw TopicRefusal(.forbidden, "it is secret") }
            guard topic.name.hasPrefix("room:"), let member = client.userData.member else { return .allowed }
            return .present(as: member)
        } publish: { _, publication in
            publication.data
        }
        service.configuration.tickets = self.ticketKey.map { ResumeTickets(keys: [Array($0.utf8)]) }
        service.answer(TypedRequest<String, String>("enter")) { client, name in
            let id = "\(client.socket.id)"
            client.userData.enter(PresenceMember(id: id, info: name))
            return id
        }
        service.answer(TypedRequest<[String], [String]>("reversed")) { _, words in words.reversed() }
        service.answer(TypedRequest<Int?, Int>("never")) { _, _ in
            try await Task.sleep(for: .seconds(3600))
            return 0
        }
        service.answer(TypedRequest<String, Int?>("publish-text")) { _, text in
            try await broadcaster.publish(.text(text), to: "room:texts")
            return nil
        }
        service.answer(TypedRequest<[UInt8], Int?>("publish-bytes")) { _, bytes in
            try await broadcaster.publish(.binary(bytes), to: "room:texts")
            return nil
        }
        service.answer(TypedRequest<UInt16, Int?>("close")) { client, code in
            await client.socket.close(CloseCode(rawValue: code), reason: "as asked")
            return nil
        }
        return service
    }
}

/// Whom a connection belongs to.
private final class Visitor: Sendable {
    private let entered = Mutex<PresenceMember?>(nil)

    var member: PresenceMember? {
        self.entered.withLock { $0 }
    }

    func enter(_ member: PresenceMember) {
        self.entered.withLock { $0 = member }
    }
}
