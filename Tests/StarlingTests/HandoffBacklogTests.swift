import Starling
import StarlingCore
import StarlingTesting
import Testing

/// Subscribers that have fallen behind go from one server to another, whose broker has nothing of what they have missed.
@Suite struct HandoffBacklogTests {
    /// Publishes more than the ring has, to one that takes nothing; then it goes to another server, and takes everything.
    private static func received(by path: String, _ old: Room) async throws -> [String] {
        let slow = try old.subscriber(path)
        old.server.limitOutput(of: slow.connection, to: 0)
        for number in 1...100 { try await old.publish(numbered(number), to: "h") }
        let new = Room()
        let number = old.server.handOff(to: new.server)[slow.connection]
        old.server.limitOutput(of: slow.connection, to: nil)
        old.settle()
        var all = slow.takeTexts()
        if let number {
            new.settle()
            try await new.publish(numbered(101), to: "h")
            all += Client(server: new.server, connection: number).takeTexts()
        }
        #expect(old.memory.byteCount == 0)
        #expect(new.memory.byteCount == 0)
        return all
    }

    /// The number of a publication, of a gap its last one: what follows is newer, and what came before is older.
    private static func number(_ text: String) -> Int {
        let word = text.hasPrefix("gap") ? text.split(separator: ".").last : text.split(separator: ":").first
        return word.flatMap { Int($0) } ?? .max
    }

    @Test("What the ring has goes along, and word of what it has not", arguments: ["skip", "recover"])
    func gap(_ policy: String) async throws {
        let old = Room()
        let all = try await Self.received(by: "/h=\(policy)", old)
        let first = try #require(numbers(all).dropFirst().first)
        #expect(first > 2)
        #expect(all.filter { $0.hasPrefix("gap") } == ["gap 1..\(first - 1)"])
        #expect(numbers(all) == [1] + Array(first...101))
        #expect(await old.figure("slow_consumer_drops_total") == first - 2)
    }

    @Test("Who has no word for a gap is closed with 1013 by the old server")
    func closed() async throws {
        let old = Room { $0.publicationFormat.gap = nil }
        let all = try await Self.received(by: "/h=skip", old)
        #expect(all == [numbered(1), closedWith1013])
        #expect(await old.figure("slow_consumer_disconnects_total") == 1)
    }

    @Test("In any course, everything comes once and in order, is told of, or is counted", arguments: 0..<60)
    func anyCourse(_ seed: UInt64) async throws {
        var random = SeededGenerator(seed: seed)
        let old = Room(historyCountMax: 200) { configuration in
            configuration.outbound.backlogByteCountMax = 5000
            // Less than a page of the history.
            configuration.outbound.highWatermark = 1000
            configuration.outbound.lowWatermark = 500
            if seed.isMultiple(of: 4) { configuration.publicationFormat.gap = nil }
        }
        let policies = ["disconnect", "recover", "skip", "recover"]
        let clients = try policies.map { try old.subscriber("/h=\($0)") }
        var bytes = [[UInt8]](repeating: [], count: clients.count)
        var published = 0
        for _ in 0..<Int.random(in: 20...200, using: &random) {
            let client = try #require(clients.randomElement(using: &random))
            let amount = [0, 0, 40, 300, 3000, nil].randomElement(using: &random) ?? nil
            old.server.limitOutput(of: client.connection, to: amount)
            for _ in 0..<Int.random(in: 0...6, using: &random) {
                published += 1
                try await old.broadcaster.publish(.text(numbered(published)), to: "h")
            }
            old.settle()
            for (index, client) in clients.enumerated() {
                bytes[index] += old.server.takeOutput(of: client.connection)
            }
        }
        let new = Room()
        let moved = old.server.handOff(to: new.server)
        for client in clients { old.server.limitOutput(of: client.connection, to: nil) }
        old.settle()
        new.settle()
        var deliveredCount = 0
        var closedCount = 0
        for (index, client) in clients.enumerated() {
            var rest = bytes[index] + old.server.takeOutput(of: client.connection)
            if let number = moved[client.connection] { rest += new.server.takeOutput(of: number) }
            let all = client.takeTexts(rest: &rest)
            #expect(rest.isEmpty)
            let course = all.map(Self.number)
            #expect(zip(course, course.dropFirst()).allSatisfy { $0 < $1 }, "\(policies[index]): \(course)")
            let isClosed = all.last == closedWith1013
            #expect(isClosed == (moved[client.connection] == nil))
            if isClosed {
                closedCount += 1
            } else {
                #expect(course.last ?? published == published)
                deliveredCount += numbers(all).count
            }
        }
        if closedCount == 0 {
            #expect(
                await old.figure("slow_consumer_drops_total") + deliveredCount == clients.count * published
            )
        }
        #expect(await old.figure("slow_consumer_disconnects_total") == closedCount)
        #expect(old.memory.byteCount == 0)
        #expect(new.memory.byteCount == 0)
    }
}
