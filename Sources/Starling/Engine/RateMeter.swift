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

/// What one peer has used of its buckets.
struct RateMeter {
    private var updatedAt = LoopInstant(hundredths: 0)
    /// When a peer that was too fast is read again.
    private(set) var pausedUntil = LoopInstant(hundredths: 0)
    private var controlFrames: UInt64 = 0
    private var messages: UInt64 = 0
    private var bytes: UInt64 = 0

    /// Counts a control frame; whether it was one too many.
    mutating func countControlFrame(at now: LoopInstant, _ rules: RateRules) -> Bool {
        guard let rule = rules.controlFrames else { return false }
        self.leak(to: now, rules)
        return self.use(1, of: \.controlFrames, rule)
    }

    /// Counts a message; whether it was one too many.
    mutating func countMessage(at now: LoopInstant, _ rules: RateRules) -> Bool {
        guard let rule = rules.messages else { return false }
        self.leak(to: now, rules)
        return self.use(1, of: \.messages, rule)
    }

    /// Counts received bytes; whether they were too many.
    mutating func countBytes(_ count: Int, at now: LoopInstant, _ rules: RateRules) -> Bool {
        guard let rule = rules.bytes else { return false }
        self.leak(to: now, rules)
        return self.use(UInt64(count), of: \.bytes, rule)
    }

    /// How long the peer has to wait for what it has sent.
    func debt(_ rules: RateRules) -> LoopInterval {
        let messages = rules.messages?.debt(self.messages).hundredths ?? 0
        let bytes = rules.bytes?.debt(self.bytes).hundredths ?? 0
        return LoopInterval(hundredths: max(messages, bytes))
    }

    mutating func pause(until instant: LoopInstant) {
        self.pausedUntil = instant
    }

    private mutating func leak(to now: LoopInstant, _ rules: RateRules) {
        guard now != self.updatedAt else { return }
        let elapsed = now - self.updatedAt
        self.updatedAt = now
        rules.controlFrames?.leak(&self.controlFrames, after: elapsed)
        rules.messages?.leak(&self.messages, after: elapsed)
        rules.bytes?.leak(&self.bytes, after: elapsed)
    }

    /// What is used may be more than there is: a debt, up to what can be received at once.
    private mutating func use(
        _ count: UInt64,
        of bucket: WritableKeyPath<RateMeter, UInt64>,
        _ rule: BucketRule
    ) -> Bool {
        self[keyPath: bucket] += count * 100
        return self[keyPath: bucket] > rule.capacity
    }
}
