/// A slot's place in the timing wheel: the neighbours in its bucket, and when it is due, which says in what bucket.
struct TimerEntry {
    /// The neighbours; -1 for none, and -2 for `next` of an entry that is in no bucket.
    var next: Int32 = -2
    var previous: Int32 = -1
    var due = LoopInstant(hundredths: 0)

    var isScheduled: Bool { self.next != -2 }
}

/// The deadlines of a loop's connections: one entry each, no allocation, insertion and removal in constant time.
///
/// A hashed timing wheel (Varghese and Lauck, 1987): 1,024 buckets of 80 ms. An entry that is due after more than a
/// revolution stays in its bucket and is looked at once per revolution. Deadlines fire up to 80 ms late, never early.
struct TimerWheel: ~Copyable {
    private static let bucketCount = 1024
    private static let hundredthsPerBucket: UInt32 = 8
    private var heads = [Int32](repeating: -1, count: TimerWheel.bucketCount)
    private var position: UInt32 = 0
    private(set) var count = 0

    /// How long a loop with deadlines may sleep.
    static let intervalMilliseconds = 80

    /// Where a deadline belongs: rounded up, so that it is never early.
    private static func bucket(of due: LoopInstant) -> Int {
        let target = (due.hundredths &+ Self.hundredthsPerBucket &- 1) / Self.hundredthsPerBucket
        return Int(target) & (Self.bucketCount - 1)
    }

    mutating func schedule(_ index: Int, at due: LoopInstant, in slots: borrowing Slots) {
        let slot = unsafe slots.pointer(index)
        // At least one bucket ahead: the current one has been served already.
        let first = LoopInstant(hundredths: (self.position &+ 1) &* Self.hundredthsPerBucket)
        let due = due.isBefore(first) ? first : due
        if unsafe slot.pointee.timer.isScheduled {
            if unsafe slot.pointee.timer.due == due { return }
            self.cancel(index, in: slots)
        }
        let bucket = Self.bucket(of: due)
        let head = self.heads[bucket]
        unsafe slot.pointee.timer = TimerEntry(next: head, previous: -1, due: due)
        if head >= 0 { unsafe slots.pointer(Int(head)).pointee.timer.previous = Int32(index) }
        self.heads[bucket] = Int32(index)
        self.count += 1
    }

    mutating func cancel(_ index: Int, in slots: borrowing Slots) {
        let entry = unsafe slots.pointer(index).pointee.timer
        guard entry.isScheduled else { return }
        if entry.previous >= 0 {
            unsafe slots.pointer(Int(entry.previous)).pointee.timer.next = entry.next
        } else {
            self.heads[Self.bucket(of: entry.due)] = entry.next
        }
        if entry.next >= 0 { unsafe slots.pointer(Int(entry.next)).pointee.timer.previous = entry.previous }
        unsafe slots.pointer(index).pointee.timer = TimerEntry()
        self.count -= 1
    }

    /// Takes out every entry that is due and adds it to `expired`.
    mutating func advance(to now: LoopInstant, in slots: borrowing Slots, expired: inout [Int]) {
        let target = now.hundredths / Self.hundredthsPerBucket
        // After a long stop, one revolution sees every entry.
        var steps = min(Int(max(0, Int32(bitPattern: target &- self.position))), Self.bucketCount)
        self.position = target &- UInt32(steps)
        while steps > 0 {
            self.position &+= 1
            steps -= 1
            var index = self.heads[Int(self.position) & (Self.bucketCount - 1)]
            while index >= 0 {
                let entry = unsafe slots.pointer(Int(index)).pointee.timer
                if !now.isBefore(entry.due) {
                    self.cancel(Int(index), in: slots)
                    expired.append(Int(index))
                }
                index = entry.next
            }
        }
    }
}
