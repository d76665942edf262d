import ExampleSupport
import Starling
import StarlingTopics
import Synchronization

/// Publishes events in a room, one after the other.
final class Publisher: Sendable {
    private let room: Int
    private let client: ReconnectingClient
    private let tally: Tally
    private let isStopped = Atomic(false)

    init(room: Int, client: ReconnectingClient, tally: Tally) {
        self.room = room
        self.client = client
        self.tally = tally
    }

    /// Ends with an event that is acknowledged.
    func speak(every interval: Duration) async {
        var event = Event(number: 1, attempt: 0)
        while true {
            do {
                try await self.client.publish(event, to: Event.room(self.room))
                self.tally.acknowledged(event.number, room: self.room)
                if self.isStopped.load(ordering: .relaxed) { return }
                event = Event(number: event.number + 1, attempt: 0)
            } catch {
                self.tally.publishingFailed(error, room: self.room)
                event.attempt += 1
            }
            try? await Task.sleep(for: interval)
        }
    }

    func stop() {
        self.isStopped.store(true, ordering: .relaxed)
    }
}

/// Is in all rooms, and has its connection closed now and then.
final class Subscriber: Sendable {
    private let number: Int
    private let client: ReconnectingClient
    private let tally: Tally
    private let closeAfter: Int
    private let isStopped = Atomic(false)

    init(number: Int, client: ReconnectingClient, tally: Tally, closeAfter: Int) {
        self.number = number
        self.client = client
        self.tally = tally
        self.closeAfter = closeAfter
    }

    func listen(rooms: Int) async {
        await withDiscardingTaskGroup { group in
            for room in 0..<rooms { group.addTask { await self.listen(in: room) } }
        }
    }

    private func listen(in room: Int) async {
        do {
            for try await update in self.client.topic(Event.room(room)).updates {
                switch update {
                case .event(let event, _):
                    self.tally.received(event, subscriber: self.number, room: room)
                    // Sometimes it has something else to do for a moment.
                    if event.number % 200 == 0 { try await Task.sleep(for: .milliseconds(500)) }
                case .gap: self.tally.gap(subscriber: self.number, room: room)
                case .subscribed(let isRecovered, _):
                    self.tally.subscribed(isRecovered: isRecovered, subscriber: self.number, room: room)
                case .joined, .left: break
                }
            }
        } catch is CancellationError {
        } catch let error as TopicError where error.code == .closed {
        } catch {
            self.tally.isWrong("subscriber \(self.number) in room \(room): \(error)")
        }
    }

    /// Asks the server to close the connection, which answers nothing.
    func interrupt() async {
        while !self.isStopped.load(ordering: .relaxed) {
            do {
                try await Task.sleep(for: .seconds(Int.random(in: 1...self.closeAfter)))
                _ = try await self.client.request(TypedRequest<UInt16, Int?>("close"), 1012)
            } catch is CancellationError {
                return
            } catch {
                continue
            }
        }
    }

    func stopInterrupting() {
        self.isStopped.store(true, ordering: .relaxed)
    }
}
