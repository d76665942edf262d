/// How fast peers of an endpoint may send, in the loop's units.
struct RateRules {
    let controlFrames: BucketRule?
    let messages: BucketRule?
    let bytes: BucketRule?
    let delays: Bool
    let delayMax: LoopInterval

    init(_ limits: RateLimits) {
        self.controlFrames = limits.controlFramesPerSecondMax.map { BucketRule(perSecond: $0, burst: nil) }
        self.messages = limits.messagesPerSecondMax.map {
            BucketRule(perSecond: $0, burst: limits.messageBurstMax)
        }
        self.bytes = limits.bytesPerSecondMax.map { BucketRule(perSecond: $0, burst: limits.byteBurstMax) }
        self.delayMax = LoopInterval(limits.delayMax)
        switch limits.policy.base {
        case .close: self.delays = false
        case .delay: self.delays = true
        }
    }
}

/// What one peer has used of the control frames that it may send.
///
/// In four bytes, because every connection has one; hundredths of a frame, as in ``BucketRule``.
struct ControlFrameMeter {
    private var used: UInt32 = 0

    /// Time has passed since the last call.
    mutating func leak(after elapsed: LoopInterval, _ rules: RateRules) {
        guard self.used > 0, let rule = rules.controlFrames else { return }
        var used = UInt64(self.used)
        rule.leak(&used, after: elapsed)
        self.used = UInt32(used)
    }

    /// Counts a control frame; whether it was one too many.
    ///
    /// A rule of more than 42 million in a burst never is passed.
    mutating func count(_ rules: RateRules) -> Bool {
        guard let rule = rules.controlFrames else { return false }
        let (sum, overflows) = self.used.addingReportingOverflow(100)
        self.used = overflows ? .max : sum
        return UInt64(self.used) > rule.capacity
    }
}

/// What one peer has used of its buckets of messages and bytes, where its endpoint has such limits.
final class TrafficMeter {
    private var updatedAt: LoopInstant
    /// When a peer that was too fast is read again.
    private(set) var pausedUntil = LoopInstant(hundredths: 0)
    private var messages: UInt64 = 0
    private var bytes: UInt64 = 0

    init(at now: LoopInstant) {
        self.updatedAt = now
    }

    /// Counts a message; whether it was one too many.
    func countMessage(at now: LoopInstant, _ rules: RateRules) -> Bool {
        guard let rule = rules.messages else { return false }
        self.leak(to: now, rules)
        return Self.use(1, of: &self.messages, rule)
    }

    /// Counts received bytes; whether they were too many.
    func countBytes(_ count: Int, at now: LoopInstant, _ rules: RateRules) -> Bool {
        guard let rule = rules.bytes else { return false }
        self.leak(to: now, rules)
        return Self.use(UInt64(count), of: &self.bytes, rule)
    }

    /// How long the peer has to wait for what it has sent.
    func debt(at now: LoopInstant, _ rules: RateRules) -> LoopInterval {
        self.leak(to: now, rules)
        let messages = rules.messages?.debt(self.messages).hundredths ?? 0
        let bytes = rules.bytes?.debt(self.bytes).hundredths ?? 0
        return LoopInterval(hundredths: max(messages, bytes))
    }

    func pause(until instant: LoopInstant) {
        self.pausedUntil = instant
    }

    private func leak(to now: LoopInstant, _ rules: RateRules) {
        guard now != self.updatedAt else { return }
        let elapsed = now - self.updatedAt
        self.updatedAt = now
        rules.messages?.leak(&self.messages, after: elapsed)
        rules.bytes?.leak(&self.bytes, after: elapsed)
    }

    /// What is used may be more than there is: a debt, up to what can be received at once.
    private static func use(_ count: UInt64, of used: inout UInt64, _ rule: BucketRule) -> Bool {
        used += count * 100
        return used > rule.capacity
    }
}
