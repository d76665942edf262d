import Starling
import StarlingCore
import StarlingTesting
import Testing

/// Subscribes to the topics that the path names, separated by commas, each with a policy if it says one: `/a=skip,b`.
struct SubscriberHandler: HandoffConnectionHandler {
    static let policies: [Substring: SlowConsumerPolicy] = [
        "disconnect": .disconnect, "recover": .recover, "skip": .skip, "conflate": .conflate,
    ]

    mutating func opened(_ connection: inout Connection<Self>, userData: Void) {
        for word in connection.path.dropFirst().split(separator: ",") {
            let parts = word.split(separator: "=")
            connection.subscribe(
                to: Topic(String(parts[0])),
                slowConsumerPolicy: parts.count == 2 ? Self.policies[parts[1]] : nil
            )
        }
    }
    mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {
        connection.send(message)
    }
}

/// A server whose topics beginning with `h` have a history, and what publishes to them.
struct Room {
    let broadcaster: InMemoryBroadcaster
    let server: EmbeddedTransport
    let memory: MemoryBudget

    init(
        historyCountMax: Int = 10_000,
        memory: MemoryBudget = MemoryBudget(byteCountMax: 1 << 30),
        _ configure: (inout EndpointConfiguration) -> Void = { _ in }
    ) {
        self.broadcaster = InMemoryBroadcaster { topic in
            topic.name.hasPrefix("h") ? HistoryLimits(countMax: historyCountMax, byteCountMax: 64 << 20) : nil
        }
        self.memory = memory
        self.server = Self.server(self.broadcaster, memory, configure)
    }

    static func server(
        _ broadcaster: any Broadcaster,
        _ memory: MemoryBudget = MemoryBudget(byteCountMax: 1 << 30),
        _ configure: (inout EndpointConfiguration) -> Void = { _ in }
    ) -> EmbeddedTransport {
        var configuration = EndpointConfiguration()
        configuration.deflate = nil
        configuration.outbound.backlogByteCountMax = 20_000
        configuration.timeouts.writeTimeout = .seconds(3600)
        configuration.timeouts.pingInterval = nil
        configuration.publicationFormat.gap = { gap in
            .text("gap \(gap.after?.offset ?? 0)..\(gap.newest.offset)")
        }
        configuration.conflationKey = { publication in
            String(publication.message.text?.split(separator: ":").first ?? "")
        }
        configure(&configuration)
        let endpoint = WebSocketEndpoint(
            broadcaster: broadcaster,
            configuration: configuration,
            handler: SubscriberHandler()
        )
        var server = ServerConfiguration()
        server.memory = memory
        return EmbeddedTransport(configuration: server) { WebSocketRoute("*", endpoint) }
    }

    func subscriber(_ path: String) throws -> Client {
        let client = try Client(self.server, path: path)
        #expect(client.takeStatus() == 101)
        return client
    }

    func publish(_ text: String, to topic: String) async throws {
        try await self.broadcaster.publish(.text(text), to: Topic(topic))
        self.settle()
    }

    /// Somebody comes to be present in a topic.
    func enter(_ id: String, _ topic: Topic) async {
        let broadcaster = self.broadcaster
        await self.server.waiting { try? await broadcaster.enter(PresenceMember(id: id, info: ""), topic) }
    }

    /// Lets the loop do all that it can without time passing.
    func settle() {
        self.server.advance(by: .milliseconds(1))
    }

    func figure(_ name: String) async -> Int {
        let registry = self.server.registry
        let snapshot = await self.server.waiting {
            await registry.context.snapshot(ServerSnapshot.Options())
        }
        return snapshot.totals[name].map { Int($0) } ?? -1
    }
}

extension Client {
    /// The messages that have come as a whole, since the last call; `rest` is what has come of the next one.
    func takeTexts(rest: inout [UInt8]) -> [String] {
        var bytes = (rest + self.server.takeOutput(of: self.connection))[...]
        var texts: [String] = []
        while bytes.count >= 2, let first = bytes.first {
            // None of these tests' frames is longer than 125 bytes.
            let payload = bytes.dropFirst(2).prefix(Int(bytes[bytes.startIndex + 1]))
            guard payload.count == Int(bytes[bytes.startIndex + 1]) else { break }
            texts.append(
                first == 0x81
                    ? String(decoding: payload, as: UTF8.self)
                    : "close " + payload.prefix(2).map { "\($0)" }.joined(separator: " ")
            )
            bytes = bytes.dropFirst(2 + payload.count)
        }
        rest = Array(bytes)
        return texts
    }

    func takeTexts() -> [String] {
        var rest: [UInt8] = []
        defer { #expect(rest.isEmpty, "a message has come in part") }
        return self.takeTexts(rest: &rest)
    }
}

let closedWith1013 = "close 3 245"

/// A text of 100 bytes that begins with a number.
func numbered(_ number: Int) -> String {
    let digits = "\(number):"
    return digits + String(repeating: "x", count: 100 - digits.count)
}

func numbers(_ texts: [String]) -> [Int] {
    texts.compactMap { $0.split(separator: ":").first.flatMap { Int($0) } }
}
