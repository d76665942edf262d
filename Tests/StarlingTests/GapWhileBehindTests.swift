import Starling
import StarlingCore
import StarlingTesting
import Testing

/// What a broadcaster loses while subscribers cannot be written.
@Suite struct GapWhileBehindTests {
    private let topic: Topic = "t"

    private func subscriber(_ server: EmbeddedTransport, _ path: String) throws -> Client {
        let client = try Client(server, path: path)
        #expect(client.takeStatus() == 101)
        return client
    }

    @Test(
        "One that was behind when an epoch ended gets what is published in the next one",
        arguments: ["disconnect", "skip", "recover", "conflate"]
    )
    func newEpoch(policy: String) throws {
        let broadcaster = ScriptedBroadcaster()
        let server = Room.server(broadcaster)
        let slow = try self.subscriber(server, "/t=\(policy)")
        server.limitOutput(of: slow.connection, to: 0)
        for number in 1...3 {
            broadcaster.deliver("\(number)", to: self.topic, 1, UInt64(number))
            server.advance(by: .milliseconds(1))
        }
        broadcaster.lose(self.topic, upTo: 2, 0)
        server.advance(by: .milliseconds(1))
        server.limitOutput(of: slow.connection, to: nil)
        server.advance(by: .milliseconds(1))
        for number in 1...2 {
            broadcaster.deliver("new \(number)", to: self.topic, 2, UInt64(number))
            server.advance(by: .milliseconds(1))
        }
        let texts = slow.takeTexts()
        #expect(texts.suffix(3) == ["gap 0..0", "new 1", "new 2"])
    }

    @Test(
        "Where a subscriber stands that falls behind at a gap is what it has had, and not what the gap ends at"
    )
    func beginsAtGap() async throws {
        let broadcaster = ScriptedBroadcaster()
        let server = Room.server(broadcaster) { $0.outbound.highWatermark = 200 }
        let slow = try self.subscriber(server, "/t=recover")
        broadcaster.deliver("5", to: self.topic, 1, 5)
        server.advance(by: .milliseconds(1))
        // It stops with something of its own.
        server.limitOutput(of: slow.connection, to: 0)
        slow.send(.text, Array("own".utf8))
        broadcaster.lose(self.topic, upTo: 1, 9)
        for number in 10...200 {
            broadcaster.deliver(numbered(number), to: self.topic, 1, UInt64(number))
            server.advance(by: .milliseconds(1))
        }
        server.limitOutput(of: slow.connection, to: nil)
        for _ in 0..<5 { await server.waiting {} }
        #expect(broadcaster.asked == [StreamPosition(epoch: 1, offset: 5)])
        let texts = slow.takeTexts()
        let first = try #require(numbers(texts).dropFirst().first)
        #expect(texts.prefix(3) == ["5", "own", "gap 5..\(first - 1)"])
        #expect(numbers(texts) == [5] + Array(first...200))
    }

    @Test("A gap that the history has filled already is told to nobody")
    func filledGap() async throws {
        let broadcaster = ScriptedBroadcaster { position throws(BroadcastError) in
            guard let position else { return TopicHistory(publications: [], newest: nil, isComplete: true) }
            let missed = (position.offset + 1..<321).prefix(64).map { offset in
                let position = StreamPosition(epoch: 1, offset: offset)
                return Publication(.text(numbered(Int(offset))), to: "t", position: position)
            }
            return TopicHistory(
                publications: missed,
                newest: StreamPosition(epoch: 1, offset: 320),
                isComplete: true
            )
        }
        let server = Room.server(broadcaster)
        let slow = try self.subscriber(server, "/t=recover")
        server.limitOutput(of: slow.connection, to: 0)
        for number in 1...200 {
            broadcaster.deliver(numbered(number), to: self.topic, 1, UInt64(number))
            server.advance(by: .milliseconds(1))
        }
        broadcaster.lose(self.topic, upTo: 1, 250)
        for number in 251...320 {
            broadcaster.deliver(numbered(number), to: self.topic, 1, UInt64(number))
            server.advance(by: .milliseconds(1))
        }
        server.limitOutput(of: slow.connection, to: nil)
        for _ in 0..<20 { await server.waiting {} }
        let texts = slow.takeTexts()
        #expect(numbers(texts) == Array(1...320))
        #expect(texts.count == 320)
    }

    /// A subscriber that stands before a presence event which the ring has, and before much that it has not.
    private static func behindPresence() async throws -> (Room, Client) {
        let room = Room { $0.publicationFormat.presence = { .text("presence \($0.member.id)") } }
        let slow = try room.subscriber("/h=recover")
        room.server.limitOutput(of: slow.connection, to: 0)
        for number in 1...120 { try await room.publish(numbered(number), to: "h") }
        await room.enter("someone", "h")
        for number in 121...150 { try await room.publish(numbered(number), to: "h") }
        return (room, slow)
    }

    @Test(
        "A presence event that the ring still has comes, though the publications around it came from the history"
    )
    func presenceBesideHistory() async throws {
        let (room, slow) = try await Self.behindPresence()
        room.server.limitOutput(of: slow.connection, to: nil)
        for _ in 0..<20 { room.settle() }
        let texts = slow.takeTexts()
        #expect(texts.filter { $0.hasPrefix("presence") } == ["presence someone"])
        #expect(numbers(texts) == Array(1...150))
    }

    @Test(
        "A presence event that is lost while pages are read ends the connection, as one that was lost before"
    )
    func presenceLostBesideHistory() async throws {
        let (room, slow) = try await Self.behindPresence()
        // It takes a few of its first page, and stops again.
        room.server.limitOutput(of: slow.connection, to: 1000)
        room.settle()
        for number in 151...400 { try await room.publish(numbered(number), to: "h") }
        room.server.limitOutput(of: slow.connection, to: nil)
        for _ in 0..<20 { room.settle() }
        var rest: [UInt8] = []
        #expect(slow.takeTexts(rest: &rest).last == closedWith1013)
    }

    @Test("What comes out of a history after the close is decided is for nobody")
    func closedWhileReading() async throws {
        let gate = Gate()
        let broadcaster = ScriptedBroadcaster { position throws(BroadcastError) in
            await gate.wait()
            let newest = StreamPosition(epoch: 1, offset: 200)
            let publication = Publication(.text("of the history"), to: "t", position: newest)
            return TopicHistory(publications: [publication], newest: newest, isComplete: true)
        }
        let server = Room.server(broadcaster)
        let slow = try self.subscriber(server, "/t=recover")
        server.limitOutput(of: slow.connection, to: 0)
        for number in 1...200 {
            broadcaster.deliver(numbered(number), to: self.topic, 1, UInt64(number))
            server.advance(by: .milliseconds(1))
        }
        server.limitOutput(of: slow.connection, to: nil)
        server.advance(by: .milliseconds(1))
        #expect(broadcaster.asked.count == 1)
        let registry = server.registry
        await server.waiting { _ = await registry.closeAll(.goingAway, reason: "") }
        await server.waiting { await gate.open() }
        server.advance(by: .milliseconds(1))
        #expect(slow.takeTexts().last == "close 3 233")
    }

    @Test("One that conflates over many keys does not take the ring away from the others")
    func conflatingBeside() async throws {
        let room = Room()
        let conflating = try room.subscriber("/t=conflate")
        let other = try room.subscriber("/t=disconnect")
        room.server.limitOutput(of: conflating.connection, to: 0)
        // Each has a key of its own, and all together are more than the ring may hold.
        for number in 1...200 { try await room.publish(numbered(number), to: "t") }
        room.server.limitOutput(of: other.connection, to: 0)
        for number in 201...220 { try await room.publish(numbered(number), to: "t") }
        room.server.limitOutput(of: other.connection, to: nil)
        room.settle()
        #expect(numbers(other.takeTexts()) == Array(1...220))
        room.server.limitOutput(of: conflating.connection, to: nil)
        room.settle()
        let kept = numbers(conflating.takeTexts())
        // Its first one had been framed before; then half a ring of older keys, and half a ring of what came last.
        #expect(kept.count > 60 && kept.dropFirst().elementsEqual(221 - (kept.count - 1)...220))
        #expect(room.memory.byteCount == 0)
    }
}
