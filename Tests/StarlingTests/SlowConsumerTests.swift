import Starling
import StarlingCore
import StarlingTesting
import Testing

@Suite struct SlowConsumerTests {
    @Test(
        "Who is behind gets what the ring has, in order, with every policy",
        arguments: ["disconnect", "recover", "skip"]
    )
    func catchesUp(_ policy: String) async throws {
        let room = Room()
        let slow = try room.subscriber("/h=\(policy)")
        let fast = try room.subscriber("/h")
        room.server.limitOutput(of: slow.connection, to: 30)
        for number in 1...50 { try await room.publish(numbered(number), to: "h") }
        #expect(numbers(fast.takeTexts()) == Array(1...50))
        room.server.limitOutput(of: slow.connection, to: nil)
        room.settle()
        #expect(numbers(slow.takeTexts()) == Array(1...50))
        // From now on it is served like any other.
        try await room.publish(numbered(51), to: "h")
        #expect(numbers(slow.takeTexts()) == [51])
        #expect(room.memory.byteCount == 0)
    }

    @Test("Hundreds that stop reading cost one ring, and the others lose nothing")
    func costs() async throws {
        let room = Room { $0.outbound.slowConsumerPolicy = .skip }
        let fast = try room.subscriber("/t")
        let slow = try (0..<200).map { _ in try room.subscriber("/t") }
        for client in slow { room.server.limitOutput(of: client.connection, to: 50) }
        var received: [Int] = []
        for number in 1...1000 {
            try await room.broadcaster.publish(.text(numbered(number)), to: "t")
            if number % 20 == 0 {
                room.settle()
                received += numbers(fast.takeTexts())
            }
        }
        #expect(received == Array(1...1000))
        // The rest of the burst in which each of them stopped, and the ring.
        #expect(room.memory.byteCount <= 200 * 20 * 102 + 20_000)
        #expect(await room.figure("slow_consumers_total") == 200)
        for client in slow { room.server.endInput(of: client.connection) }
        room.settle()
        #expect(room.memory.byteCount == 0)
    }

    @Test("With `disconnect`, a ring that has passed a subscriber ends it with 1013")
    func disconnects() async throws {
        let room = Room()
        let slow = try room.subscriber("/t")
        room.server.limitOutput(of: slow.connection, to: 0)
        // 76 of 260 bytes fit into the ring.
        for number in 1...76 { try await room.publish(numbered(number), to: "t") }
        #expect(await room.figure("slow_consumer_disconnects_total") == 0)
        for number in 77...80 { try await room.publish(numbered(number), to: "t") }
        #expect(await room.figure("slow_consumer_disconnects_total") == 1)
        room.server.limitOutput(of: slow.connection, to: nil)
        // What was begun is finished: the first, at which it stopped.
        #expect(slow.takeTexts().last == closedWith1013)
        #expect(room.memory.byteCount == 0)
    }

    @Test(
        "With `skip`, it goes on with the oldest in the ring, and is told between which positions nothing comes"
    )
    func skips() async throws {
        let room = Room()
        let slow = try room.subscriber("/h=skip,t=skip")
        room.server.limitOutput(of: slow.connection, to: 0)
        for number in 1...100 {
            try await room.publish(numbered(number), to: "h")
            try await room.publish(numbered(1000 + number), to: "t")
        }
        room.server.limitOutput(of: slow.connection, to: nil)
        room.settle()
        let all = slow.takeTexts()
        let gaps = all.filter { $0.hasPrefix("gap") }
        let ofH = numbers(all).filter { $0 <= 1000 }
        let ofT = numbers(all).filter { $0 > 1000 }
        let first = try #require(ofH.dropFirst().first)
        #expect(first > 2)
        #expect(gaps == ["gap 1..\(first - 1)"], "a topic without positions has no gaps to tell of")
        #expect(ofH == [1] + Array(first...100))
        // The first that came to the topic could not be written any more.
        let firstOfT = try #require(ofT.first)
        #expect(ofT == Array(firstOfT...1100) && firstOfT > 1001)
        #expect(await room.figure("slow_consumer_gaps_total") == 2)
        #expect(await room.figure("slow_consumer_drops_total") == first - 2 + firstOfT - 1001)
    }

    @Test("With `skip`, and no word for a gap, it is closed with 1013 instead")
    func skipsInSilence() async throws {
        let room = Room { $0.publicationFormat.gap = nil }
        let slow = try room.subscriber("/h=skip")
        room.server.limitOutput(of: slow.connection, to: 0)
        for number in 1...100 { try await room.publish(numbered(number), to: "h") }
        room.server.limitOutput(of: slow.connection, to: nil)
        room.settle()
        #expect(slow.takeTexts().last == closedWith1013)
        #expect(await room.figure("slow_consumer_disconnects_total") == 1)
        #expect(await room.figure("slow_consumer_gaps_total") == 0)
    }

    @Test("With `recover`, what the ring has not is read from the history, page by page")
    func recovers() async throws {
        let room = Room()
        let slow = try room.subscriber("/h=recover")
        room.server.limitOutput(of: slow.connection, to: 0)
        for number in 1...1000 { try await room.publish(numbered(number), to: "h") }
        var received: [Int] = []
        var rest: [UInt8] = []
        // It reads on in small portions while more is published.
        for number in 1001...1100 {
            room.server.limitOutput(of: slow.connection, to: 500)
            try await room.publish(numbered(number), to: "h")
            received += numbers(slow.takeTexts(rest: &rest))
        }
        #expect(!received.isEmpty && received.count < 1000)
        room.server.limitOutput(of: slow.connection, to: nil)
        room.settle()
        received += numbers(slow.takeTexts(rest: &rest))
        #expect(received == Array(1...1100))
        #expect(await room.figure("slow_consumer_recoveries_total") == 1)
        #expect(await room.figure("slow_consumer_gaps_total") == 0)
    }

    @Test("With `recover`, and a history that does not reach back, it is told of the gap")
    func recoversNot() async throws {
        let room = Room(historyCountMax: 10)
        let slow = try room.subscriber("/h=recover")
        room.server.limitOutput(of: slow.connection, to: 0)
        for number in 1...200 { try await room.publish(numbered(number), to: "h") }
        room.server.limitOutput(of: slow.connection, to: nil)
        room.settle()
        let all = slow.takeTexts()
        let first = try #require(numbers(all).dropFirst().first)
        #expect(all.dropFirst().first == "gap 1..\(first - 1)")
        #expect(numbers(all) == [1] + Array(first...200))
        #expect(await room.figure("slow_consumer_drops_total") == first - 2)
    }

    @Test(
        "With `recover`, what it has had from a history that then goes on without it is not counted as lost"
    )
    func recoversInPart() async throws {
        let room = Room(historyCountMax: 300)
        let slow = try room.subscriber("/h=recover")
        room.server.limitOutput(of: slow.connection, to: 0)
        for number in 1...300 { try await room.publish(numbered(number), to: "h") }
        var all: [String] = []
        var rest: [UInt8] = []
        for _ in 0..<10 {
            room.server.limitOutput(of: slow.connection, to: 1000)
            room.settle()
            all += slow.takeTexts(rest: &rest)
        }
        room.server.limitOutput(of: slow.connection, to: 0)
        for number in 301...900 { try await room.publish(numbered(number), to: "h") }
        room.server.limitOutput(of: slow.connection, to: nil)
        for _ in 0..<10 { room.settle() }
        all += slow.takeTexts(rest: &rest)
        let received = numbers(all)
        let last = try #require(zip(received, received.dropFirst()).first { $0 + 1 != $1 })
        #expect(last.0 > 64, "more than a page has come")
        #expect(received == Array(1...last.0) + Array(last.1...900))
        #expect(all.filter { $0.hasPrefix("gap") } == ["gap \(last.0)..\(last.1 - 1)"])
        #expect(await room.figure("slow_consumer_drops_total") == 900 - received.count)
    }

    @Test("With `conflate`, only the newest of each key comes, even where the ring has given them up")
    func conflates() async throws {
        let room = Room()
        let slow = try room.subscriber("/t=conflate")
        room.server.limitOutput(of: slow.connection, to: 0)
        try await room.publish("begun:0", to: "t")
        try await room.publish("rare:1", to: "t")
        for number in 1...300 { try await room.publish("\(number % 3):\(number)", to: "t") }
        try await room.publish("last:1", to: "t")
        room.server.limitOutput(of: slow.connection, to: nil)
        room.settle()
        #expect(slow.takeTexts() == ["begun:0", "rare:1", "1:298", "2:299", "0:300", "last:1"])
        #expect(await room.figure("slow_consumer_conflations_total") == 297)
        #expect(room.memory.byteCount == 0)
    }

    @Test("With `conflate`, and more keys than there is room for, what is left out is counted")
    func conflatesTooMuch() async throws {
        let room = Room()
        let slow = try room.subscriber("/h=conflate")
        room.server.limitOutput(of: slow.connection, to: 0)
        for number in 1...500 { try await room.publish("key \(number):1", to: "h") }
        #expect(room.memory.byteCount < 21_000)
        room.server.limitOutput(of: slow.connection, to: nil)
        room.settle()
        let all = slow.takeTexts()
        let received = all.compactMap { $0.hasPrefix("key ") ? Int($0.dropFirst(4).dropLast(2)) : nil }
        let first = try #require(received.dropFirst().first)
        #expect(all.dropFirst().first == "gap 1..\(first - 1)", "what comes behind a gap is newer")
        #expect(received == [1] + Array(first...500))
        #expect(await room.figure("slow_consumer_gaps_total") == 1)
        #expect(await room.figure("slow_consumer_drops_total") == 500 - received.count)
    }

    @Test(
        "With `conflate`, everything is delivered, left out for something newer, or counted",
        arguments: 0..<40
    )
    func conflatesInAnyCourse(_ seed: UInt64) async throws {
        var random = SeededGenerator(seed: seed)
        let room = Room { $0.outbound.backlogByteCountMax = 5000 }
        let clients = try (0..<3).map { _ in try room.subscriber("/h=conflate") }
        var received = [[String]](repeating: [], count: 3)
        var rests = [[UInt8]](repeating: [], count: 3)
        var newest: [Int: Int] = [:]
        var published = 0
        func collect() {
            for (index, client) in clients.enumerated() {
                received[index] += client.takeTexts(rest: &rests[index])
            }
        }
        for _ in 0..<200 {
            if Int.random(in: 0..<3, using: &random) == 0 {
                let amount = [0, 0, 0, 40, 300, nil].randomElement(using: &random) ?? nil
                let client = try #require(clients.randomElement(using: &random))
                room.server.limitOutput(of: client.connection, to: amount)
            }
            for _ in 0..<Int.random(in: 1...6, using: &random) {
                published += 1
                let key = Int.random(in: 0..<60, using: &random)
                newest[key] = published
                try await room.broadcaster.publish(.text("\(key):\(published)"), to: "h")
            }
            room.settle()
            collect()
        }
        for client in clients { room.server.limitOutput(of: client.connection, to: nil) }
        for _ in 0..<20 { room.settle() }
        collect()
        var deliveredCount = 0
        for texts in received {
            // Nothing that comes is older than what came, or what a gap has told of.
            let course = texts.map { text in
                Int(text.split(separator: text.hasPrefix("gap") ? "." : ":").last ?? "") ?? -1
            }
            #expect(course == course.sorted())
            #expect(!texts.contains { $0.hasPrefix("close") })
            let delivered = zip(texts, course).filter { !$0.0.hasPrefix("gap") }.map(\.1)
            #expect(Set(delivered).count == delivered.count)
            deliveredCount += delivered.count
            // The newest of a key has come, unless a gap was told that covers it.
            let lastGap = texts.lastIndex { $0.hasPrefix("gap") }.map { course[$0] } ?? 0
            for number in newest.values where number > lastGap { #expect(delivered.contains(number)) }
        }
        let leftOut = await room.figure("slow_consumer_conflations_total")
        let lost = await room.figure("slow_consumer_drops_total")
        #expect(deliveredCount + leftOut + lost == 3 * published)
        #expect(room.memory.byteCount == 0)
    }

    @Test("Nothing follows the close frame of one for whom there was no memory while it caught up")
    func closedMeanwhile() async throws {
        let memory = MemoryBudget(byteCountMax: 30_000, scarceByteCount: 29_000)
        let room = Room(memory: memory) { $0.outbound.backlogByteCountMax = 25_000 }
        let slow = try room.subscriber("/h=skip")
        room.server.limitOutput(of: slow.connection, to: 0)
        for number in 1...90 { try await room.publish(numbered(number), to: "h") }
        // It takes a little, and is given more than there is room for.
        room.server.limitOutput(of: slow.connection, to: 50)
        room.settle()
        room.server.limitOutput(of: slow.connection, to: nil)
        room.settle()
        let all = slow.takeTexts()
        #expect(all.filter { $0.hasPrefix("close") }.count <= 1)
        #expect(all.firstIndex(of: closedWith1013).map { $0 == all.count - 1 } ?? true, "\(all.prefix(5))")
        #expect(memory.byteCount < 30_000)
    }

    @Test("The ring forgets what is too old")
    func ages() async throws {
        let room = Room { $0.outbound.backlogAgeMax = .seconds(5.5) }
        let slow = try room.subscriber("/t=skip")
        room.server.limitOutput(of: slow.connection, to: 0)
        for number in 1...10 {
            try await room.publish(numbered(number), to: "t")
            room.server.advance(by: .seconds(1))
        }
        room.server.limitOutput(of: slow.connection, to: nil)
        room.settle()
        #expect(numbers(slow.takeTexts()) == [1, 6, 7, 8, 9, 10])
    }

    @Test("A presence event that is lost cannot be replaced: the client is to come back")
    func losesPresence() async throws {
        let room = Room { $0.publicationFormat.presence = { .text("presence \($0.member.id)") } }
        let slow = try room.subscriber("/h=recover")
        room.server.limitOutput(of: slow.connection, to: 0)
        try await room.publish(numbered(1), to: "h")
        await room.enter("someone", "h")
        for number in 2...200 { try await room.publish(numbered(number), to: "h") }
        room.server.limitOutput(of: slow.connection, to: nil)
        room.settle()
        #expect(slow.takeTexts().last == closedWith1013)
    }

    @Test("One that is sent no presence events is not closed for one that is lost")
    func withoutPresence() async throws {
        let room = Room {
            // Others are sent them.
            var format = PublicationFormat()
            format.presence = { .text("presence \($0.member.id)") }
            $0.subprotocols = [Subprotocol("with-presence", publicationFormat: format)]
        }
        let slow = try room.subscriber("/h=recover")
        room.server.limitOutput(of: slow.connection, to: 0)
        for number in 1...2 { try await room.publish(numbered(number), to: "h") }
        await room.enter("someone", "h")
        for number in 3...200 { try await room.publish(numbered(number), to: "h") }
        room.server.limitOutput(of: slow.connection, to: nil)
        for _ in 0..<20 { room.settle() }
        #expect(numbers(slow.takeTexts()) == Array(1...200))
    }

    @Test("One that fell behind at a presence event is brought up to date from the history all the same")
    func beginsAtPresence() async throws {
        let room = Room {
            $0.publicationFormat.presence = { .text("presence \($0.member.id)") }
            $0.outbound.highWatermark = 200
        }
        let slow = try room.subscriber("/h=recover")
        try await room.publish(numbered(1), to: "h")
        #expect(numbers(slow.takeTexts()) == [1])
        // It stops with something of its own.
        room.server.limitOutput(of: slow.connection, to: 0)
        slow.send(.text, Array("own".utf8))
        await room.enter("someone", "h")
        for number in 2...10 { try await room.publish(numbered(number), to: "h") }
        // It takes the presence event and two publications, and stops again before the ring passes it.
        room.server.limitOutput(of: slow.connection, to: 5 + 18 + 2 * 102)
        room.settle()
        for number in 11...200 { try await room.publish(numbered(number), to: "h") }
        room.server.limitOutput(of: slow.connection, to: nil)
        for _ in 0..<20 { room.settle() }
        let texts = slow.takeTexts()
        #expect(texts.prefix(2) == ["own", "presence someone"])
        #expect(numbers(Array(texts.dropFirst(2))) == Array(2...200))
    }

    @Test(
        "The ring is charged to the budget, once for all that are behind, and given back when the last of them goes"
    )
    func charged() async throws {
        let room = Room()
        let slow = try (0..<2).map { _ in try room.subscriber("/t=skip") }
        for client in slow { room.server.limitOutput(of: client.connection, to: 0) }
        try await room.publish(numbered(0), to: "t")
        // At this one they stopped: it is in the outbound buffers of both.
        let outbound = room.memory.byteCount
        #expect((100...2 * 102).contains(outbound))
        for number in 1...50 {
            try await room.publish(numbered(number), to: "t")
            #expect(
                room.memory.byteCount == outbound + number * 260,
                "100 bytes, and 160 for the publication"
            )
        }
        // What the ring gives up is charged no more.
        for number in 51...200 { try await room.publish(numbered(number), to: "t") }
        #expect(room.memory.byteCount == outbound + 76 * 260)
        room.server.endInput(of: slow[0].connection)
        room.settle()
        #expect((76 * 260...76 * 260 + outbound).contains(room.memory.byteCount))
        room.server.endInput(of: slow[1].connection)
        room.settle()
        #expect(room.memory.byteCount == 0)
    }

    @Test(
        "What conflation keeps beyond the ring is charged, and given back when the last that conflates goes"
    )
    func keptIsCharged() async throws {
        let room = Room()
        let slow = try room.subscriber("/t=conflate")
        let other = try room.subscriber("/t=skip")
        for client in [slow, other] { room.server.limitOutput(of: client.connection, to: 0) }
        try await room.publish("begun:0", to: "t")
        for number in 1...20 { try await room.publish("rare \(number):1", to: "t") }
        for number in 1...300 { try await room.publish("often:\(number)", to: "t") }
        let held = room.memory.byteCount
        #expect(held > 19_000 && held < 21_000)
        room.server.endInput(of: slow.connection)
        room.settle()
        let withoutKept = room.memory.byteCount
        // The twenty that the ring itself had given up.
        #expect(held - withoutKept >= 20 * 160)
        #expect(withoutKept > 10_000)
        room.server.endInput(of: other.connection)
        room.settle()
        #expect(room.memory.byteCount == 0)
    }

    @Test(
        "While memory is scarce a ring keeps an eighth, a quiet topic's too, and more again when there is more"
    )
    func scarce() async throws {
        let room = Room(memory: MemoryBudget(byteCountMax: 1_000_000, scarceByteCount: 60_000))
        let slow = try room.subscriber("/t=skip,quiet=skip")
        room.server.limitOutput(of: slow.connection, to: 0)
        try await room.publish(numbered(0), to: "t")
        let outbound = room.memory.byteCount
        for number in 1...76 {
            try await room.publish(numbered(number), to: "t")
            try await room.publish(numbered(1000 + number), to: "quiet")
        }
        #expect(room.memory.byteCount == outbound + 2 * 76 * 260)

        let other = try room.subscriber("/")
        let message = Client.frame(.binary, [UInt8](repeating: 7, count: 70_000))
        room.server.receive(Array(message.dropLast()), on: other.connection)
        room.settle()
        // An eighth of 20,000 bytes has room for nine.
        let held = room.memory.byteCount - 2 * 9 * 260 - outbound
        #expect((69_999...71_000).contains(held))
        for number in 77...100 { try await room.publish(numbered(number), to: "t") }
        #expect(room.memory.byteCount == held + 2 * 9 * 260 + outbound)

        room.server.endInput(of: other.connection)
        room.settle()
        for number in 101...120 { try await room.publish(numbered(number), to: "t") }
        #expect(room.memory.byteCount == (9 + 20 + 9) * 260 + outbound)
        room.server.limitOutput(of: slow.connection, to: nil)
        room.settle()
        let all = numbers(slow.takeTexts())
        #expect(all.filter { $0 < 1000 } == [0] + Array(92...120))
        #expect(all.filter { $0 > 1000 } == Array(1068...1076))
        #expect(room.memory.byteCount == 0)
    }

    @Test("One connection has a policy for each of its subscriptions")
    func policies() async throws {
        let room = Room()
        let slow = try room.subscriber("/h1=recover,h2=skip,t=conflate,few=disconnect")
        room.server.limitOutput(of: slow.connection, to: 0)
        try await room.publish("begun:0", to: "few")
        try await room.publish("few:1", to: "few")
        for number in 1...100 {
            try await room.publish(numbered(1000 + number), to: "h1")
            try await room.publish(numbered(2000 + number), to: "h2")
            try await room.publish("\(3000 + number % 2):\(number)", to: "t")
        }
        room.server.limitOutput(of: slow.connection, to: nil)
        room.settle()
        let all = slow.takeTexts()
        func numbersOf(_ thousand: Int) -> [Int] {
            numbers(all).filter { $0 / 1000 == thousand }.map { $0 % 1000 }
        }
        #expect(all.first == "begun:0" && all.filter { $0 == "few:1" }.count == 1)
        #expect(numbersOf(1) == Array(1...100), "all of it, from the history")
        let first = try #require(numbersOf(2).first)
        #expect(first > 1 && numbersOf(2) == Array(first...100), "what the ring has")
        #expect(all.filter { $0.hasPrefix("gap") } == ["gap 0..\(first - 1)"])
        #expect(all.filter { $0.hasPrefix("300") } == ["3001:99", "3000:100"], "the newest of each key")
        // The policy of one does not reach the others.
        room.server.limitOutput(of: slow.connection, to: 0)
        try await room.publish("begun:1", to: "h1")
        for number in 1...100 { try await room.publish(numbered(number), to: "few") }
        room.server.limitOutput(of: slow.connection, to: nil)
        #expect(slow.takeTexts().last == closedWith1013)
    }

    @Test("Subscribers of one topic are each served by their own policy, from one ring")
    func policiesOfOneTopic() async throws {
        let room = Room()
        let slow = try ["disconnect", "recover", "skip", "conflate"].map { try room.subscriber("/h=\($0)") }
        for client in slow { room.server.limitOutput(of: client.connection, to: 0) }
        for number in 1...100 { try await room.publish(numbered(number), to: "h") }
        for client in slow { room.server.limitOutput(of: client.connection, to: nil) }
        room.settle()
        let all = slow.map { $0.takeTexts() }
        #expect(all[0] == [closedWith1013])
        #expect(numbers(all[1]) == Array(1...100) && all[1].count == 100)
        let first = try #require(numbers(all[2]).dropFirst().first)
        #expect(all[2].prefix(2) == [numbered(1), "gap 1..\(first - 1)"])
        #expect(numbers(all[2]) == [1] + Array(first...100) && first > 2)
        // Each has a key of its own: there was room for as many as in the ring.
        #expect(all[3].first == numbered(1) && all[3].last == numbered(100))
        #expect(room.memory.byteCount == 0)
    }

    @Test("Answers to a slow peer of its own overtake publications, and keep their order")
    func answers() async throws {
        let room = Room()
        let slow = try room.subscriber("/t=skip")
        room.server.limitOutput(of: slow.connection, to: 0)
        for number in 1...20 {
            try await room.publish(numbered(number), to: "t")
            slow.send(.text, Array("answer \(number)".utf8))
        }
        room.server.limitOutput(of: slow.connection, to: nil)
        room.settle()
        let all = slow.takeTexts()
        #expect(numbers(all) == Array(1...20))
        #expect(all.filter { $0.hasPrefix("answer") } == (1...20).map { "answer \($0)" })
    }

    @Test(
        "Whatever it takes and when, a subscriber that recovers gets each publication once and in order",
        arguments: 0..<60
    )
    func anyCourse(_ seed: UInt64) async throws {
        var random = SeededGenerator(seed: seed)
        let room = Room { $0.outbound.backlogByteCountMax = 2000 }
        let clients = try (0..<4).map { _ in try room.subscriber("/h=recover,hh=recover") }
        var received = [[Int]](repeating: [], count: 8)
        var published = [0, 0]
        var rests = [[UInt8]](repeating: [], count: 4)
        func collect() {
            for (index, client) in clients.enumerated() {
                for number in numbers(client.takeTexts(rest: &rests[index])) {
                    received[index * 2 + (number >= 100_000 ? 1 : 0)].append(number % 100_000)
                }
            }
        }
        for _ in 0..<150 {
            switch Int.random(in: 0..<4, using: &random) {
            case 0:
                let client = clients.randomElement(using: &random)
                let amount = [0, 0, 7, 110, 1500, 5000].randomElement(using: &random)
                if let client { room.server.limitOutput(of: client.connection, to: amount) }
            case 1: room.settle()
            default:
                for _ in 0..<Int.random(in: 1...8, using: &random) {
                    let topic = Int.random(in: 0...1, using: &random)
                    published[topic] += 1
                    try await room.broadcaster.publish(
                        .text(numbered(published[topic] + topic * 100_000)),
                        to: topic == 0 ? "h" : "hh"
                    )
                }
            }
            collect()
        }
        for client in clients { room.server.limitOutput(of: client.connection, to: nil) }
        for _ in 0..<20 { room.settle() }
        collect()
        for (index, numbers) in received.enumerated() {
            #expect(
                numbers == Array(1..<(published[index % 2] + 1)),
                "client \(index / 2), topic \(index % 2)"
            )
        }
        #expect(room.memory.byteCount == 0)
    }
}
