/// What the subscribers of a topic that cannot be written have yet to get: its publications, kept once for all of them, and
/// a cursor for each.
///
/// The publications are a ring, bounded by bytes and age. A thousand subscribers that have stopped reading cost a thousand
/// cursors and one ring. It is there only while somebody is behind.
final class TopicBacklog {
    /// How far a subscriber has come.
    struct Cursor {
        /// The number of the next publication that it has not had.
        var next: UInt64
        /// The position of the last one that it has had; nil for a topic without positions.
        var position: StreamPosition?
        let policy: SlowConsumerPolicy
        /// How many publications from `next` on it does not get though nothing has taken their place, when it conflates.
        var lostCount: UInt64 = 0
        /// What it is sent from the history, once the ring has passed it.
        var reading = Reading.none
        /// Whether something of that has come.
        var isRecovering = false
    }

    /// A subscriber's way through the history.
    enum Reading {
        case none
        /// A page is asked for; what the ring gets from `number` on has come since.
        case asked(atNumber: UInt64)
        /// A page has come, and is being sent.
        case page(ArraySlice<Publication>, newest: StreamPosition, askedAt: UInt64)
    }

    struct Entry {
        let number: UInt64
        let publication: Publication
        let arrivedAt: LoopInstant
        /// What a newer publication must share to take this one's place; nil where nobody conflates.
        let key: String?
        /// Whether a newer publication has the same key.
        var isSuperseded = false

        /// Whether those who conflate get it: the newest of its key, or word of a gap.
        var isForConflating: Bool {
            if case .gap = self.publication.notice { return true }
            return self.key != nil && !self.isSuperseded
        }

        var byteCount: Int {
            TopicBacklog.entryByteCount + self.publication.message.byteCount
        }
    }

    /// What is counted for a publication beside its payload.
    static let entryByteCount = 160

    private(set) var cursors: [UInt32: Cursor] = [:]
    private(set) var byteCount = 0
    /// How many publications were given up, by the ring or of those that are kept for who conflates.
    private(set) var givenUpCount: UInt64 = 0
    /// The position of the newest publication that the ring had to give up.
    private(set) var lastTrimmedPosition: StreamPosition?

    private var ring: [Entry] = []
    private var start = 0
    private(set) var nextNumber: UInt64 = 0
    /// The number of the newest presence event that the ring had to give up; no history has those.
    private var lastTrimmedPresence: UInt64?

    /// The newest publications of their keys that the ring had to give up, for those who conflate; oldest first.
    private var kept: [Entry] = []
    private var keptByteCount = 0
    private var newestOfKey: [String: UInt64] = [:]
    private var conflatingCount = 0
    /// The newest publication that there was no room for although nothing had taken its place.
    private(set) var lastKeptTrimmed: (number: UInt64, position: StreamPosition?)?
    /// No cursor of a subscriber that is to be disconnected stands before this number.
    private var strictFloor = UInt64.max

    private let budget: MemoryBudget

    init(budget: MemoryBudget) {
        self.budget = budget
    }

    deinit {
        self.budget.charge(-self.byteCount)
    }

    // MARK: - Who is behind

    /// Notes that a subscriber cannot be given the next publication that the ring will get, and has had everything up to
    /// `position`.
    func add(_ subscriber: UInt32, after position: StreamPosition?, _ policy: SlowConsumerPolicy) {
        self.cursors[subscriber] = Cursor(next: self.nextNumber, position: position, policy: policy)
        switch policy.base {
        case .conflate: self.conflatingCount += 1
        case .disconnect: self.strictFloor = min(self.strictFloor, self.nextNumber)
        case .recover, .skip: break
        }
    }

    /// Sets the cursor of a subscriber that is still behind; one that is gone stays gone.
    func update(_ subscriber: UInt32, _ cursor: Cursor) {
        guard self.cursors[subscriber] != nil else { return }
        self.cursors[subscriber] = cursor
    }

    /// A subscriber is up to date, or gone.
    func remove(_ subscriber: UInt32) {
        guard let cursor = self.cursors.removeValue(forKey: subscriber) else { return }
        guard cursor.policy == .conflate else { return }
        self.conflatingCount -= 1
        guard self.conflatingCount == 0 else { return }
        self.charge(-self.keptByteCount)
        self.kept = []
        self.keptByteCount = 0
        self.newestOfKey = [:]
        self.lastKeptTrimmed = nil
    }

    var isEmpty: Bool {
        self.cursors.isEmpty
    }

    /// Those that are to be disconnected, since the ring has passed them.
    ///
    /// Looks at all cursors only if the ring may have passed one.
    func passedForGood() -> [UInt32] {
        guard self.firstNumber > self.strictFloor else { return [] }
        let strict = self.cursors.filter { $0.value.policy == .disconnect }
        let passed = strict.filter { self.hasPassed($0.value) }
        self.strictFloor = strict.values.lazy.map(\.next).filter { $0 >= self.firstNumber }.min() ?? .max
        return passed.keys.sorted()
    }

    // MARK: - What they have yet to get

    /// The number of the oldest publication in the ring.
    var firstNumber: UInt64 {
        self.nextNumber - UInt64(self.ring.count - self.start)
    }

    /// Adds a publication; `key` is asked for only if somebody conflates.
    func append(_ publication: Publication, at now: LoopInstant, key: (Publication) -> String) {
        var entryKey: String?
        if self.conflatingCount > 0, publication.notice == nil {
            let key = key(publication)
            entryKey = key
            if let older = self.newestOfKey.updateValue(self.nextNumber, forKey: key) {
                self.supersede(older)
            }
        }
        let entry = Entry(number: self.nextNumber, publication: publication, arrivedAt: now, key: entryKey)
        self.ring.append(entry)
        self.nextNumber += 1
        self.charge(entry.byteCount)
    }

    /// Gives up the oldest publications until the bounds hold; the newest one always stays.
    ///
    /// Half of the bytes may be those that are kept for who conflates: the ring is there for the others too.
    func trim(byteCountMax: Int, arrivedBefore: LoopInstant) {
        while self.ring.count - self.start > 1,
            self.byteCount > byteCountMax || self.ring[self.start].arrivedAt.isBefore(arrivedBefore)
        {
            self.trimFirst()
            self.loseKept(over: byteCountMax / 2)
        }
        let ringByteCount = self.byteCount - self.keptByteCount
        self.loseKept(over: max(0, byteCountMax - ringByteCount))
    }

    private func loseKept(over byteCountMax: Int) {
        var count = 0
        while self.keptByteCount > byteCountMax, count < self.kept.count {
            self.lose(self.kept[count])
            count += 1
        }
        if count > 0 { self.kept.removeFirst(count) }
    }

    /// Gives up everything but the newest publication.
    func trimToNewest() {
        self.trim(byteCountMax: 0, arrivedBefore: LoopInstant(hundredths: 0))
    }

    /// What a subscriber would have to answer for, if it shared the ring's bytes with all others that are behind.
    func part(of subscriber: UInt32) -> Int {
        self.cursors[subscriber] == nil ? 0 : self.byteCount / self.cursors.count
    }

    private func lose(_ entry: Entry) {
        self.givenUpCount += 1
        self.lastKeptTrimmed = (entry.number, entry.publication.position)
        if let key = entry.key, self.newestOfKey[key] == entry.number { self.newestOfKey[key] = nil }
        self.chargeKept(-entry.byteCount)
        for (subscriber, cursor) in self.cursors
        where cursor.policy == .conflate && cursor.next <= entry.number {
            self.cursors[subscriber]?.lostCount += 1
        }
    }

    private func trimFirst() {
        let entry = self.ring[self.start]
        self.givenUpCount += 1
        self.start += 1
        if self.start > 32, self.start > self.ring.count / 2 {
            self.ring.removeFirst(self.start)
            self.start = 0
        }
        switch entry.publication.notice {
        case .presence: self.lastTrimmedPresence = entry.number
        case .gap, nil: self.lastTrimmedPosition = entry.publication.position ?? self.lastTrimmedPosition
        }
        if self.conflatingCount > 0, entry.isForConflating {
            self.kept.append(entry)
            self.keptByteCount += entry.byteCount
        } else {
            self.charge(-entry.byteCount)
        }
    }

    private func supersede(_ number: UInt64) {
        if number >= self.firstNumber {
            self.ring[self.start + Int(number - self.firstNumber)].isSuperseded = true
        } else if let index = self.kept.firstIndex(where: { $0.number == number }) {
            self.chargeKept(-self.kept.remove(at: index).byteCount)
        }
    }

    private func chargeKept(_ byteCount: Int) {
        self.keptByteCount += byteCount
        self.charge(byteCount)
    }

    private func charge(_ byteCount: Int) {
        self.byteCount += byteCount
        self.budget.charge(byteCount)
    }

    /// Whether the ring has given up something that the subscriber has not had.
    func hasPassed(_ cursor: Cursor) -> Bool {
        cursor.next < self.firstNumber
    }

    /// Whether a presence event waits for the subscriber, or is lost to it.
    func holdsPresence(for cursor: Cursor) -> Bool {
        if self.hasLostPresence(cursor) { return true }
        return self.ring[self.start...].contains { entry in
            guard entry.number >= cursor.next, case .presence = entry.publication.notice else { return false }
            return true
        }
    }

    /// The presence events that the ring has of these numbers.
    func presence(from first: UInt64, to end: UInt64) -> [Publication] {
        let first = max(first, self.firstNumber)
        guard first < end else { return [] }
        let entries = self.ring[self.start...].dropFirst(Int(first - self.firstNumber)).prefix(
            Int(end - first)
        )
        return entries.lazy.map(\.publication).filter {
            if case .presence = $0.notice { true } else { false }
        }
    }

    /// Whether something is lost to the subscriber that nothing can replace: a presence event.
    func hasLostPresence(_ cursor: Cursor) -> Bool {
        self.lastTrimmedPresence.map { $0 >= cursor.next } ?? false
    }

    /// How many publications a subscriber that goes on with the oldest in the ring does not get.
    func passedCount(_ cursor: Cursor) -> UInt64 {
        // It may have had some of them from the history.
        if let had = cursor.position, let trimmed = self.lastTrimmedPosition, had.epoch == trimmed.epoch {
            return trimmed.offset > had.offset ? trimmed.offset - had.offset : 0
        }
        return self.hasPassed(cursor) ? self.firstNumber - cursor.next : 0
    }

    /// The next publication for a subscriber; nil if it has had them all.
    func next(for cursor: Cursor) -> Entry? {
        if cursor.policy == .conflate { return self.nextConflated(from: cursor.next) }
        let number = max(cursor.next, self.firstNumber)
        return number < self.nextNumber ? self.ring[self.start + Int(number - self.firstNumber)] : nil
    }

    private func nextConflated(from number: UInt64) -> Entry? {
        if number < self.firstNumber, let entry = self.kept.first(where: { $0.number >= number }) {
            return entry
        }
        let offset = Int(max(number, self.firstNumber) - self.firstNumber)
        return self.ring[(self.start + offset)...].first { !$0.isSuperseded }
    }

    // MARK: - From the history back to the ring

    /// The number from which on the ring has what follows `position`; nil if there is more in the history between the two.
    ///
    /// - Parameters:
    ///   - position: What the subscriber has had.
    ///   - newest: The newest in the history when it was read last.
    ///   - askedAt: The number of the next publication when it was asked for.
    /// - Returns: A number for a cursor, or nil.
    func number(after position: StreamPosition, newest: StreamPosition, askedAt: UInt64) -> UInt64? {
        if let trimmed = self.lastTrimmedPosition, trimmed.epoch == position.epoch,
            trimmed.offset > position.offset
        {
            return nil
        }
        var number = self.firstNumber
        for entry in self.ring[self.start...] {
            guard let other = entry.publication.position else { continue }
            if other.epoch == position.epoch {
                if other.offset > position.offset {
                    let follows = other.offset == position.offset + 1 && entry.publication.notice == nil
                    return follows ? number : nil
                }
            } else if entry.number >= askedAt {
                // An epoch that the history did not know of yet; an older one was over before it was asked.
                return nil
            }
            number = entry.number + 1
        }
        return position == newest ? number : nil
    }
}

@available(*, unavailable) extension TopicBacklog: Sendable {}
