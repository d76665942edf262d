import ExampleSupport
import Starling
import StarlingTopics
import Synchronization

/// What is said in a room: the number goes up by one; the attempt does when the publisher was told that it failed, and says it
/// again.
struct Event: Codable, Sendable {
    var number: UInt64
    var attempt: UInt64
    var padding = "some words, so that there is something to compress, some words"

    static func room(_ number: Int) -> TypedTopic<Event> {
        TypedTopic("room:\(number)")
    }
}

/// What all clients have seen together.
final class Tally: Sendable {
    private struct Contents {
        /// The number of the newest event that was acknowledged, by room.
        var acknowledged: [UInt64]
        /// The newest event that each subscriber has in each room.
        var progress: [Place: Progress] = [:]
        var published = 0
        var publishingErrors = 0
        var delivered = 0
        var lost: UInt64 = 0
        var lostInGaps: UInt64 = 0
        var duplicates = 0
        var gaps = 0
        var gapsToldTwice = 0
        var subscriptions = 0
        var wrongs = 0
    }

    private struct Place: Hashable {
        var subscriber: Int
        var room: Int
    }

    private struct Progress {
        var newest: Event?
        var isBehindGap = false
    }

    private let contents: Mutex<Contents>

    init(rooms: Int) {
        self.contents = Mutex(Contents(acknowledged: Array(repeating: 0, count: rooms)))
    }

    // MARK: - What happens

    func acknowledged(_ number: UInt64, room: Int) {
        self.contents.withLock { contents in
            contents.acknowledged[room] = number
            contents.published += 1
        }
    }

    func publishingFailed(_ error: any Error, room: Int) {
        self.contents.withLock { $0.publishingErrors += 1 }
        Output.line("note: publishing in room \(room) failed: \(error)")
    }

    func subscribed(isRecovered: Bool, subscriber: Int, room: Int) {
        let place = Place(subscriber: subscriber, room: room)
        self.contents.withLock { contents in
            contents.subscriptions += 1
            if contents.progress[place] == nil { contents.progress[place] = Progress() }
        }
        if !isRecovered { self.gap(subscriber: subscriber, room: room) }
    }

    /// A subscriber is told of a gap; once more, before anything has come behind the first one, it is the same hole.
    func gap(subscriber: Int, room: Int) {
        let place = Place(subscriber: subscriber, room: room)
        let isNew = self.contents.withLock { contents in
            var progress = contents.progress[place] ?? Progress()
            let isNew = !progress.isBehindGap
            progress.isBehindGap = true
            contents.progress[place] = progress
            contents.gaps += isNew ? 1 : 0
            contents.gapsToldTwice += isNew ? 0 : 1
            return isNew
        }
        if isNew { Output.line("gap: subscriber \(subscriber) in room \(room)") }
    }

    func received(_ event: Event, subscriber: Int, room: Int) {
        let place = Place(subscriber: subscriber, room: room)
        let complaint: String? = self.contents.withLock { contents in
            contents.delivered += 1
            let progress = contents.progress[place] ?? Progress()
            contents.progress[place] = Progress(newest: event)
            guard let newest = progress.newest else { return nil }
            if event.number == newest.number + 1 { return nil }
            let what = "subscriber \(subscriber) in room \(room) has \(event.number) after \(newest.number)"
            if progress.isBehindGap, event.number >= newest.number {
                // A Redis that began anew has forgotten the newest key, too, so that what was not acknowledged may come again.
                let lost = event.number - min(event.number, newest.number + 1)
                contents.lostInGaps += lost
                return "note: subscriber \(subscriber) in room \(room) has lost \(lost) in a gap"
            }
            if event.number > newest.number {
                contents.lost += event.number - newest.number - 1
                return "LOST: \(what)"
            }
            // The publisher was told that it failed, and said it again: these are two publications.
            if event.number == newest.number, event.attempt > newest.attempt { return nil }
            contents.duplicates += 1
            return "TWICE: \(what)"
        }
        if let complaint { Output.line(complaint) }
    }

    /// Something that must not happen.
    func isWrong(_ what: String) {
        self.contents.withLock { $0.wrongs += 1 }
        Output.line("WRONG: \(what)")
    }

    // MARK: - What comes of it

    /// Waits until every subscriber is in every room; false if that takes too long.
    func waitUntilSubscribed(count: Int, within time: Duration) async -> Bool {
        let end = ContinuousClock.now + time
        while self.contents.withLock({ $0.progress.count }) < count {
            if .now > end { return false }
            try? await Task.sleep(for: .milliseconds(20))
        }
        return true
    }

    /// Waits until every subscriber has the newest event of every room; says what is missing if that takes too long.
    func waitUntilComplete(subscribers: Int, within time: Duration) async -> Bool {
        let end = ContinuousClock.now + time
        while true {
            let missing = self.contents.withLock { contents in
                contents.progress.filter { place, progress in
                    progress.newest?.number ?? 0 < contents.acknowledged[place.room]
                }
            }
            if missing.isEmpty { return true }
            if .now > end {
                for place in missing.keys {
                    Output.line(
                        "MISSING: subscriber \(place.subscriber) in room \(place.room) lacks the last events"
                    )
                }
                return false
            }
            try? await Task.sleep(for: .milliseconds(50))
        }
    }

    var isFaultless: Bool {
        self.contents.withLock {
            $0.lost == 0 && $0.duplicates == 0 && $0.wrongs == 0 && $0.published > 0 && $0.delivered > 0
        }
    }

    /// One line of JSON.
    var figures: String {
        self.contents.withLock { contents in
            """
            {"published":\(contents.published),"delivered":\(contents.delivered),"lost":\(contents.lost),\
            "duplicates":\(contents.duplicates),"gaps":\(contents.gaps),"gapsToldTwice":\(contents.gapsToldTwice),\
            "lostInGaps":\(contents.lostInGaps),\
            "subscriptions":\(contents.subscriptions),"publishingErrors":\(contents.publishingErrors)}
            """
        }
    }
}
