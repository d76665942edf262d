import Starling
import StarlingCore
import StarlingTesting
import Testing

/// A connection that subscribes from the position in its query and is told where it stands.
func follower(_ broadcaster: any Broadcaster, outbound: OutboundConfiguration? = nil)
    -> WebSocketEndpoint
{
    var configuration = EndpointConfiguration()
    configuration.deflate = nil
    if let outbound { configuration.outbound = outbound }
    configuration.publicationFormat.publication = { publication in
        .text("\(publication.position?.offset ?? 0)=\(publication.message)")
    }
    return WebSocketEndpoint(broadcaster: broadcaster, configuration: configuration) { socket in
        for try await message in socket {
            let words = (message.text ?? "").split(separator: " ").map(String.init)
            let position =
                words.count == 2
                ? StreamPosition(epoch: UInt64(words[0]) ?? 0, offset: UInt64(words[1]) ?? 0) : nil
            try await socket.subscribe(to: "history:room", from: position) { subscription in
                .text("from \(subscription.position?.offset ?? 0) recovered \(subscription.isRecovered)")
            }
        }
    }
}

private func texts(_ client: Client) -> [String] {
    client.takeFrames().map { String(decoding: $0.dropFirst(), as: UTF8.self) }
}

@Suite struct HistoryTests {
    static func broadcaster(countMax: Int = 100) -> InMemoryBroadcaster {
        InMemoryBroadcaster { topic in
            topic.name.hasPrefix("history:") ? HistoryLimits(countMax: countMax) : nil
        }
    }

    @Test("InMemoryBroadcaster does what every broadcaster must")
    func conformance() async throws {
        // Nodes of one process share the broadcaster itself.
        let shared = Self.broadcaster(countMax: 1000)
        let names = try await BroadcasterConformance { shared }.run()
        #expect(names.count == 13)
    }

    @Test("What was missed comes first, then what is live, in one sequence")
    func recovers() async throws {
        let broadcaster = Self.broadcaster()
        let server = EmbeddedTransport { WebSocketRoute("/", follower(broadcaster)) }
        var epoch: UInt64 = 0
        for number in 1...10 {
            epoch = try await broadcaster.publish(.text("\(number)"), to: "history:room")?.epoch ?? 0
        }
        let client = try Client(server)
        #expect(client.takeStatus() == 101)
        client.send(.text, Array("\(epoch) 7".utf8))
        await server.waiting { _ = try? await broadcaster.publish("11", to: "history:room") }
        server.advance(by: .milliseconds(1))
        #expect(texts(client) == ["from 7 recovered true", "8=8", "9=9", "10=10", "11=11"])
    }

    @Test("A window that has passed and an epoch that has changed are told, and the newest position with it")
    func tellsWhatIsLost() async throws {
        let broadcaster = Self.broadcaster(countMax: 3)
        let server = EmbeddedTransport { WebSocketRoute("/", follower(broadcaster)) }
        var epoch: UInt64 = 0
        for number in 1...10 {
            epoch = try await broadcaster.publish(.text("\(number)"), to: "history:room")?.epoch ?? 0
        }
        for (request, expected) in [
            ("\(epoch) 6", ["from 10 recovered false"]),
            ("\(epoch) 7", ["from 7 recovered true", "8=8", "9=9", "10=10"]),
            ("\(epoch &+ 1) 9", ["from 10 recovered false"]),
            ("\(epoch) 11", ["from 10 recovered false"]),
            ("\(epoch) \(UInt64.max)", ["from 10 recovered false"]),
            ("now", ["from 10 recovered true"]),
        ] {
            let client = try Client(server)
            #expect(client.takeStatus() == 101)
            client.send(.text, Array(request.utf8))
            await server.waiting {}
            #expect(texts(client) == expected, "\(request)")
        }
    }

    @Test("A slow client is replayed at its own speed, and publications that come meanwhile are not lost")
    func replaysSlowly() async throws {
        let broadcaster = InMemoryBroadcaster { _ in HistoryLimits(countMax: 5000, byteCountMax: 64 << 20) }
        var outbound = OutboundConfiguration()
        outbound.highWatermark = 4096
        outbound.lowWatermark = 1024
        let server = EmbeddedTransport { WebSocketRoute("/", follower(broadcaster, outbound: outbound)) }
        let payload = String(repeating: "x", count: 100)
        var epoch: UInt64 = 0
        for _ in 1...2000 {
            epoch = try await broadcaster.publish(.text(payload), to: "history:room")?.epoch ?? 0
        }
        let client = try Client(server)
        #expect(client.takeStatus() == 101)
        server.limitOutput(of: client.connection, to: 0)
        client.send(.text, Array("\(epoch) 0".utf8))
        await server.waiting {}
        // More than may wait for a subscriber that is being brought up to date.
        for _ in 1...2800 { _ = try await broadcaster.publish(.text(payload), to: "history:room") }
        await server.waiting {}
        server.limitOutput(of: client.connection, to: nil)
        await server.waiting { _ = try? await broadcaster.publish(.text(payload), to: "history:room") }
        server.advance(by: .milliseconds(1))
        let received = texts(client)
        #expect(received.first == "from 0 recovered true")
        #expect(received.count == 4802)
        let isInOrder = received.dropFirst().enumerated().allSatisfy { $1.hasPrefix("\($0 + 1)=") }
        #expect(isInOrder)
    }

    @Test(
        "What a broker's answer has overtaken does not come twice, nor does what is left of an epoch that is over"
    )
    func overtakes() async throws {
        let broadcaster = LaggingBroadcaster()
        let server = EmbeddedTransport { WebSocketRoute("/", follower(broadcaster)) }
        for _ in 1...3 { broadcaster.publish() }
        let client = try Client(server)
        #expect(client.takeStatus() == 101)
        client.send(.text, Array("1 1".utf8))
        await server.waiting {}
        #expect(texts(client) == ["from 1 recovered true", "2=2", "3=3"])
        // What comes live now has been had; the next one has not.
        broadcaster.publish()
        for _ in 1...4 { broadcaster.deliverNext() }
        server.advance(by: .milliseconds(1))
        #expect(texts(client) == ["4=4"])

        // The fifth is on its way when the history is lost; then the live stream begins anew too, and says so.
        broadcaster.publish()
        broadcaster.loseHistory()
        let late = try Client(server)
        #expect(late.takeStatus() == 101)
        late.send(.text, Array("1 4".utf8))
        await server.waiting {}
        #expect(texts(late) == ["from 0 recovered false"])
        broadcaster.deliverNext()
        broadcaster.publish()
        broadcaster.deliverNext()
        server.advance(by: .milliseconds(1))
        #expect(texts(late) == ["1=1"])
    }

    @Test("A gap is told to those who can be told, and ends the connection of the others")
    func tellsOfGaps() throws {
        for tells in [true, false] {
            let broadcaster = GapBroadcaster()
            var configuration = EndpointConfiguration()
            if tells {
                configuration.publicationFormat.gap = { .text("gap up to \($0.newest.offset)") }
            }
            let server = EmbeddedTransport {
                WebSocketRoute(
                    "/",
                    WebSocketEndpoint(
                        broadcaster: broadcaster,
                        configuration: configuration,
                        handler: RoomHandler()
                    )
                )
            }
            let client = try Client(server)
            #expect(client.takeStatus() == 101)
            broadcaster.lose("room", upTo: StreamPosition(epoch: 1, offset: 9))
            server.advance(by: .milliseconds(1))
            let frames = client.takeFrames()
            if tells {
                #expect(frames.map { String(decoding: $0.dropFirst(), as: UTF8.self) } == ["gap up to 9"])
            } else {
                #expect(Array(frames[0].prefix(3)) == [0x88, 0x03, 0xF5])
            }
        }
    }
}

/// A history that is ahead of what has been delivered, as far as the test says.
private final class LaggingBroadcaster: TestDrivenBroadcaster {
    private struct State {
        var sinks: [BroadcastSink] = []
        var epoch: UInt64 = 1
        var history: [Publication] = []
        var undelivered: [Publication] = []

        var newest: StreamPosition { StreamPosition(epoch: self.epoch, offset: UInt64(self.history.count)) }
    }

    private let state = Lock(State())
    private let topic: Topic = "history:room"

    func publish() {
        self.state.withLock { state in
            let position = StreamPosition(epoch: state.epoch, offset: state.newest.offset + 1)
            let publication = Publication(.text("\(position.offset)"), to: self.topic, position: position)
            state.history.append(publication)
            state.undelivered.append(publication)
        }
    }

    func deliverNext() {
        self.state.withLock { state in
            let publication = state.undelivered.removeFirst()
            for sink in state.sinks { sink.deliver(publication) }
        }
    }

    func loseHistory() {
        self.state.withLock { state in
            state.epoch += 1
            state.history = []
        }
    }

    func history(
        of topic: Topic,
        after position: StreamPosition,
        countMax: Int
    ) async throws(BroadcastError) -> TopicHistory {
        self.state.withLock { state in
            let isComplete = position.epoch == state.epoch
            return TopicHistory(
                publications: isComplete ? Array(state.history.dropFirst(Int(position.offset))) : [],
                newest: state.newest,
                isComplete: isComplete
            )
        }
    }

    func history(of topic: Topic, newest count: Int) async throws(BroadcastError) -> TopicHistory {
        self.state.withLock { TopicHistory(publications: [], newest: $0.newest, isComplete: true) }
    }

    func attach(_ sink: BroadcastSink) { self.state.withLock { $0.sinks.append(sink) } }
}

/// Delivers nothing but gaps.
final class GapBroadcaster: ImmediateBroadcaster {
    private let sinks = Lock<[BroadcastSink]>([])

    var deliversEverything: Bool { true }
    func attach(_ sink: BroadcastSink) { self.sinks.withLock { $0.append(sink) } }
    func tryPublish(_ message: Message, to topic: Topic) -> Bool { true }
    func subscribe(to topics: Set<Topic>) async throws(BroadcastError) {}
    func unsubscribe(from topics: Set<Topic>) async throws(BroadcastError) {}
    func publish(_ message: Message, to topic: Topic) async throws(BroadcastError) -> StreamPosition? { nil }
    func run() async throws(BroadcastError) {}

    func lose(_ topic: Topic, upTo newest: StreamPosition) {
        self.sinks.withLock { sinks in for sink in sinks { sink.reportGap(in: topic, newest: newest) } }
    }
}
