/// Who may upgrade now, who waits, and when the others are to come back: a token bucket, and a queue before it that is no
/// longer than can be served in time.
///
/// An upgrade that `authenticate` decides about needs a place among those that are decided about too. While none is free, it does
/// not hold up those that need none.
///
/// A value without a clock; the queue itself is kept by the event loops, each its own part, in order (`WaitingUpgrades`).
struct UpgradeQueue {
    /// What the server's configuration says about it.
    struct Rules {
        /// Nil for any rate.
        let bucket: BucketRule?
        let decisionsMax: Int
        let waitingMax: Int
        let timeout: LoopInterval

        init(_ configuration: ServerConfiguration) {
            self.bucket = configuration.upgradesPerSecondMax.map { rate in
                // Loops look at what waits a hundred times per second: a smaller burst than that would let in fewer.
                let leastBurst = max(1, rate / 20)
                return BucketRule(
                    perSecond: rate,
                    burst: max(configuration.upgradeBurstMax ?? rate, leastBurst)
                )
            }
            self.decisionsMax = configuration.authenticationsMax
            self.waitingMax = configuration.upgradeQueueMax
            self.timeout = LoopInterval(configuration.upgradeQueueTimeout)
        }
    }

    /// What becomes of an upgrade that is asked for.
    enum Verdict: Equatable {
        case proceed
        case wait
        /// Nil if nobody knows when there is room.
        case refuse(retryAfter: Duration?)
    }

    /// Upgrades that wait for their turn, on all loops: those that `authenticate` decides about, and the others.
    private var waitingDecided = 0
    private var waitingUndecided = 0
    /// Upgrades that `authenticate` decides about.
    var deciding = 0
    private var used: UInt64 = 0
    private var updatedAt: LoopInstant?
    /// How far ahead, in microseconds, clients have been told to come back.
    private var promisedAhead: UInt64 = 0

    /// Nobody is told to stay away for longer: a flood of requests must not push away those that come after that.
    private static let promiseMicrosecondsMax: UInt64 = 120_000_000

    mutating func request(at now: LoopInstant, isDecided: Bool, _ rules: Rules) -> Verdict {
        self.update(to: now, rules)
        let ahead = self.waiting(aheadOf: isDecided, rules)
        if ahead == 0, self.take(isDecided: isDecided, rules) { return .proceed }
        guard (isDecided ? self.waitingDecided : self.waitingUndecided) < rules.waitingMax,
            self.waitMicroseconds(behind: ahead, rules) <= UInt64(rules.timeout.hundredths) * 10_000
        else { return .refuse(retryAfter: self.promise(rules)) }
        self.countWaiting(1, isDecided: isDecided)
        return .wait
    }

    mutating func takeTurn(at now: LoopInstant, isDecided: Bool, _ rules: Rules) -> Bool {
        self.update(to: now, rules)
        guard self.take(isDecided: isDecided, rules) else { return false }
        self.stopWaiting(isDecided: isDecided)
        return true
    }

    mutating func stopWaiting(isDecided: Bool) {
        self.countWaiting(-1, isDecided: isDecided)
    }

    /// How many wait for their turn.
    var waiting: Int { self.waitingDecided + self.waitingUndecided }

    mutating func promise(at now: LoopInstant, _ rules: Rules) -> Duration? {
        self.update(to: now, rules)
        return self.promise(rules)
    }

    private mutating func update(to now: LoopInstant, _ rules: Rules) {
        // Loops' clocks begin at slightly different moments: the bucket's goes by the one that is ahead.
        guard let updatedAt = self.updatedAt, !now.isBefore(updatedAt) else {
            if self.updatedAt == nil { self.updatedAt = now }
            return
        }
        let elapsed = now - updatedAt
        rules.bucket?.leak(&self.used, after: elapsed)
        self.promisedAhead -= min(self.promisedAhead, UInt64(elapsed.hundredths) * 10_000)
        self.updatedAt = now
    }

    private mutating func take(isDecided: Bool, _ rules: Rules) -> Bool {
        if isDecided, self.deciding >= rules.decisionsMax { return false }
        if let bucket = rules.bucket, !bucket.take(1, of: &self.used) { return false }
        if isDecided { self.deciding += 1 }
        return true
    }

    private mutating func countWaiting(_ change: Int, isDecided: Bool) {
        if isDecided { self.waitingDecided += change } else { self.waitingUndecided += change }
    }

    /// How many wait whose turn is before that of one that comes now.
    private func waiting(aheadOf isDecided: Bool, _ rules: Rules) -> Int {
        let passes = !isDecided && self.deciding >= rules.decisionsMax
        return passes ? self.waitingUndecided : self.waiting
    }

    /// How long one more would wait for a token.
    private func waitMicroseconds(behind count: Int, _ rules: Rules) -> UInt64 {
        guard let bucket = rules.bucket else { return 0 }
        return bucket.microseconds(until: UInt64(count) + 1, used: self.used)
    }

    /// Each is told a moment of its own, behind those that wait and those that were told before: who keeps to it finds a
    /// token.
    private mutating func promise(_ rules: Rules) -> Duration? {
        guard let bucket = rules.bucket else { return nil }
        self.promisedAhead = min(
            max(self.promisedAhead, self.waitMicroseconds(behind: self.waiting, rules))
                + bucket.microsecondsPerToken,
            Self.promiseMicrosecondsMax
        )
        return .microseconds(Int64(self.promisedAhead))
    }
}
