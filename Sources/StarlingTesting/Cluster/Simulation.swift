internal import Starling

/// Time, chance and order of a simulation, and the executor of its tasks.
///
/// Sendable because only the thread that runs the simulation touches it: every task of a simulation prefers an executor that
/// this thread drains, and nothing in it waits for the real world.
final class Simulation: @unchecked Sendable {
    /// Nanoseconds since the simulation began.
    private(set) var now: UInt64 = 0
    var random: SeededGenerator
    /// What has happened, a line each.
    private(set) var trace: [String] = []
    /// The first rule that was broken.
    private(set) var violation: String?
    let executor = QueuedExecutor()

    private var events = EventHeap()
    private var lastEvent: UInt64 = 0
    private var sleepers: [UInt64: CheckedContinuation<Void, Never>] = [:]
    private var lastSleeper: UInt64 = 0

    init(seed: UInt64) {
        self.random = SeededGenerator(seed: seed)
    }

    // MARK: - Time

    /// Does something later; what is due at the same time happens in the order in which it was asked for.
    func after(_ nanoseconds: UInt64, _ action: @escaping () -> Void) {
        self.lastEvent += 1
        self.events.insert(
            EventHeap.Event(time: self.now + nanoseconds, number: self.lastEvent, action: action)
        )
    }

    /// Goes to the next event and performs it; false if there is none before `end`.
    func step(until end: UInt64) -> Bool {
        guard let time = self.events.firstTime, time <= end, let event = self.events.popFirst() else {
            self.now = max(self.now, end)
            return false
        }
        self.now = time
        event.action()
        return true
    }

    /// Waits for the simulation's clock.
    func sleep(_ nanoseconds: UInt64) async {
        await withCheckedContinuation { continuation in
            self.lastSleeper += 1
            let id = self.lastSleeper
            self.sleepers[id] = continuation
            self.after(nanoseconds) { self.sleepers.removeValue(forKey: id)?.resume() }
        }
    }

    /// Wakes whoever sleeps, at the end; false if nobody does.
    func wakeSleepers() -> Bool {
        let sleepers = self.sleepers
        self.sleepers = [:]
        for id in sleepers.keys.sorted() { sleepers[id]?.resume() }
        return !sleepers.isEmpty
    }

    /// What the engine takes from the world.
    var surroundings: Surroundings {
        Surroundings(
            sleep: { await self.sleep($0.wholeNanoseconds) },
            random: { range in
                range.lowerBound + UInt32(self.random.below(Int(range.upperBound - range.lowerBound) + 1))
            }
        )
    }

    // MARK: - Trace

    func note(_ text: String) {
        let milliseconds = self.now / 1_000_000
        self.trace.append("\(milliseconds) ms: \(text)")
    }

    /// A rule is broken; the first counts.
    func violate(_ text: String) {
        self.note("VIOLATION: \(text)")
        if self.violation == nil {
            self.violation = "step \(self.trace.count), \(self.now / 1_000_000) ms: \(text)"
        }
    }
}

/// Events by time, then by number.
private struct EventHeap {
    struct Event {
        let time: UInt64
        let number: UInt64
        let action: () -> Void

        func isBefore(_ other: Event) -> Bool {
            (self.time, self.number) < (other.time, other.number)
        }
    }

    private var events: [Event] = []

    var firstTime: UInt64? { self.events.first?.time }

    mutating func insert(_ event: Event) {
        self.events.append(event)
        var child = self.events.count - 1
        while child > 0 {
            let parent = (child - 1) / 2
            guard self.events[child].isBefore(self.events[parent]) else { return }
            self.events.swapAt(child, parent)
            child = parent
        }
    }

    mutating func popFirst() -> Event? {
        guard let first = self.events.first, let last = self.events.popLast() else { return nil }
        guard !self.events.isEmpty else { return first }
        self.events[0] = last
        var parent = 0
        while true {
            var smallest = parent
            for child in [2 * parent + 1, 2 * parent + 2] where child < self.events.count {
                if self.events[child].isBefore(self.events[smallest]) { smallest = child }
            }
            guard smallest != parent else { return first }
            self.events.swapAt(parent, smallest)
            parent = smallest
        }
    }
}
