import Starling
import StarlingTopics
import Synchronization

/// All clients of the process.
final class Crowd: Sendable {
    private let visitors: [Visitor]
    private let topicCount: Int
    private let isStopped = Atomic<Bool>(false)

    static func topic(_ number: Int) -> TypedTopic<Int> {
        TypedTopic("room:\(number)")
    }

    init(url: String, count: Int, topicCount: Int) {
        self.topicCount = topicCount
        self.visitors = (0..<count).map { number in
            // The first of them publish, each in its first topic.
            Visitor(url: url, topics: [number % topicCount, (number + 1 + number / topicCount) % topicCount])
        }
    }

    /// Starts all clients, some at a time.
    func join(_ atATime: Int, _ group: inout ThrowingTaskGroup<Void, any Error>) async {
        for (number, visitor) in self.visitors.enumerated() {
            visitor.start(&group)
            if number >= atATime { await self.visitors[number - atATime].untilBack() }
        }
    }

    /// Waits until every client's subscriptions stand; says what it knows of those that are missing after 20 s.
    func untilAllAreBack() async {
        let watch = Task {
            try await Task.sleep(for: .seconds(20))
            for visitor in self.visitors { visitor.complain() }
        }
        defer { watch.cancel() }
        for visitor in self.visitors { await visitor.untilBack() }
    }

    /// Publishes in each topic until ``stopPublishing()``; the tasks return the last number.
    func publish(every interval: Duration) -> [Task<Int, any Error>] {
        let start = ContinuousClock.now
        return (0..<self.topicCount).map { topic in
            Task {
                var number = 0
                while !self.isStopped.load(ordering: .relaxed) {
                    number += 1
                    try await self.visitors[topic].client.publish(number, to: Self.topic(topic))
                    // Who was away catches up.
                    try await Task.sleep(until: start + interval * number)
                }
                return number
            }
        }
    }

    func stopPublishing() {
        self.isStopped.store(true, ordering: .relaxed)
    }

    func beginRestart() {
        for visitor in self.visitors { visitor.beginRestart() }
    }

    /// How everybody fared since ``beginRestart()``.
    func restartReport() -> [String: Int] {
        let absences = self.visitors.map { $0.absencesSinceRestart }
        let all = absences.joined()
        let away = all.map(\.away).sorted()
        let late = all.map(\.late).sorted()
        return [
            "away": absences.count { !$0.isEmpty },
            "awayTwice": absences.count { $0.count > 1 },
            "notTold": all.count { !$0.wasTold },
            "attempts": all.map(\.attempts).reduce(0, +),
            "attemptsMax": all.map(\.attempts).max() ?? 0,
            "awayMilliseconds50": away.percentile(50),
            "awayMilliseconds99": away.percentile(99),
            "awayMillisecondsMax": away.last.map { Int($0.milliseconds) } ?? 0,
            "lateMilliseconds50": late.percentile(50),
            "lateMilliseconds99": late.percentile(99),
            "lateMillisecondsMax": late.last.map { Int($0.milliseconds) } ?? 0,
        ]
    }

    /// Waits until everybody has everything, for a while, and counts what is missing, came twice, or in another order.
    func finalReport(last: [Int]) async -> [String: Int] {
        let deadline = ContinuousClock.now + .seconds(30)
        while !self.visitors.allSatisfy({ $0.hasAll(last) }), ContinuousClock.now < deadline {
            // A look now and then: nobody tells when the last of thousands has the last publication.
            try? await Task.sleep(for: .milliseconds(100))
        }
        var report = ["published": last.reduce(0, +)]
        for visitor in self.visitors {
            for (name, count) in visitor.count(last) { report[name, default: 0] += count }
        }
        return report
    }

    func close() {
        for visitor in self.visitors { visitor.client.close() }
    }
}

extension Duration {
    var milliseconds: Int64 {
        self.components.seconds * 1000 + self.components.attoseconds / 1_000_000_000_000_000
    }
}

extension [Duration] {
    /// Of sorted durations the one below which so many of a hundred lie, in milliseconds.
    func percentile(_ percent: Int) -> Int {
        self.isEmpty ? 0 : Int(self[Swift.min(self.count - 1, self.count * percent / 100)].milliseconds)
    }
}
