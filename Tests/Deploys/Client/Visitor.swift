import HTTPTypes
import Starling
import StarlingCore
import StarlingNative
import StarlingTopics
import Synchronization

/// One client with its book.
final class Visitor: Sendable {
    /// A time without a connection.
    struct Absence {
        /// When the connection had ended.
        let since: ContinuousClock.Instant
        /// How long the server asked it to stay away; zero if it did not ask.
        let slot: Duration
        let wasTold: Bool
        /// Connections that were tried.
        var attempts = 0
        /// Until all subscriptions stood again.
        var away = Duration.zero

        /// How much longer than it was asked to.
        var late: Duration { self.away - self.slot }
    }

    /// What came of one topic.
    private struct TopicBook {
        let topic: Int
        var isStanding = false
        /// Whether each number came.
        var seen: [Bool] = [true]
        var newest = 0
        var duplicated = 0
        var reordered = 0
        var gaps = 0

        mutating func received(_ number: Int) {
            while self.seen.count <= number { self.seen.append(false) }
            if self.seen[number] {
                self.duplicated += 1
            } else if number < self.newest {
                self.reordered += 1
            }
            self.seen[number] = true
            self.newest = max(self.newest, number)
        }
    }

    private struct Book {
        var topics: [TopicBook]
        var absence: Absence?
        var absences: [Absence] = []
        var absencesBeforeRestart = 0
        var waiters: [CheckedContinuation<Void, Never>] = []

        var isBack: Bool { self.topics.allSatisfy(\.isStanding) }
    }

    let client: ReconnectingClient
    private let book: Mutex<Book>
    private let ledger: Ledger

    /// What the client's own closures need of its book.
    private final class Ledger: Sendable {
        let ended = Mutex<@Sendable (WebSocketClosure) -> Void>({ _ in })
        let tries = Mutex<@Sendable () -> Void>({})
    }

    init(url: String, topics: [Int]) {
        let ledger = Ledger()
        var configuration = ReconnectingConfiguration()
        configuration.connection.deflate = nil
        configuration.comesBack = { closure in
            ledger.ended.withLock { $0 }(closure)
            return closure.code != .normalClosure
        }
        configuration.headerFields = {
            ledger.tries.withLock { $0 }()
            return HTTPFields()
        }
        self.ledger = ledger
        self.client = ReconnectingClient(
            to: url,
            connector: NativeConnector(),
            configuration: configuration
        )
        self.book = Mutex(Book(topics: topics.map { TopicBook(topic: $0) }))
    }

    /// Connects, and writes down what comes until the client is closed.
    func start(_ group: inout ThrowingTaskGroup<Void, any Error>) {
        self.ledger.ended.withLock { $0 = { [weak self] in self?.ended($0) } }
        self.ledger.tries.withLock { $0 = { [weak self] in self?.tries() } }
        group.addTask { try await self.client.run() }
        for index in self.book.withLock({ $0.topics.indices }) {
            let topic = Crowd.topic(self.book.withLock { $0.topics[index].topic })
            group.addTask {
                for try await update in self.client.topic(topic).updates { self.note(update, index) }
            }
        }
    }

    private func note(_ update: TopicUpdate<Int>, _ index: Int) {
        let waiters = self.book.withLock { book in
            switch update {
            case .event(let number, _): book.topics[index].received(number)
            case .gap: book.topics[index].gaps += 1
            case .subscribed(let isRecovered, _):
                if !isRecovered { book.topics[index].gaps += 1 }
                book.topics[index].isStanding = true
                guard book.isBack else { return [] as [CheckedContinuation<Void, Never>] }
                if var absence = book.absence {
                    absence.away = absence.since.duration(to: .now)
                    book.absences.append(absence)
                    book.absence = nil
                }
                defer { book.waiters = [] }
                return book.waiters
            case .joined, .left: break
            }
            return []
        }
        for waiter in waiters { waiter.resume() }
    }

    private func ended(_ closure: WebSocketClosure) {
        self.book.withLock { book in
            for index in book.topics.indices { book.topics[index].isStanding = false }
            let hint = RetryHint(in: closure.reason)
            // Who was cut off while it came back is away a second time.
            if let absence = book.absence { book.absences.append(absence) }
            book.absence = Absence(
                since: .now,
                slot: hint?.delay ?? .zero,
                wasTold: hint != nil && closure.code == .goingAway
            )
        }
    }

    private func tries() {
        self.book.withLock { $0.absence?.attempts += 1 }
    }

    /// Suspends until all subscriptions stand.
    func untilBack() async {
        await withCheckedContinuation { waiter in
            let isBack = self.book.withLock { book in
                if !book.isBack { book.waiters.append(waiter) }
                return book.isBack
            }
            if isBack { waiter.resume() }
        }
    }

    /// Says what is missing, if anything is.
    func complain() {
        self.book.withLock { book in
            guard !book.isBack else { return }
            let missing = book.topics.filter { !$0.isStanding }.map(\.topic)
            print("missing: topics \(missing), \(self.client.state), \(String(describing: book.absence))")
        }
    }

    func beginRestart() {
        self.book.withLock { $0.absencesBeforeRestart = $0.absences.count }
    }

    var absencesSinceRestart: [Absence] {
        self.book.withLock { Array($0.absences[$0.absencesBeforeRestart...]) }
    }

    /// Whether each topic's last publication, and all before it, are there.
    func hasAll(_ last: [Int]) -> Bool {
        self.book.withLock { book in
            book.topics.allSatisfy { $0.seen.count > last[$0.topic] && !$0.seen.contains(false) }
        }
    }

    func count(_ last: [Int]) -> [String: Int] {
        self.book.withLock { book in
            var counts = [
                "expected": 0, "received": 0, "lost": 0, "duplicated": 0, "reordered": 0, "gaps": 0,
            ]
            for topic in book.topics {
                let received = topic.seen.dropFirst().count { $0 }
                counts["expected", default: 0] += last[topic.topic]
                counts["received", default: 0] += received
                counts["lost", default: 0] += max(0, last[topic.topic] - received)
                counts["duplicated", default: 0] += topic.duplicated
                counts["reordered", default: 0] += topic.reordered
                counts["gaps", default: 0] += topic.gaps
            }
            return counts
        }
    }
}
