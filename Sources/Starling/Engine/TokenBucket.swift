/// A bucket of tokens: so many may be taken at once, and it fills at a steady rate.
///
/// What is kept for each bucket is what is used of it, in hundredths of a token, which leaks: zero is a full bucket, so that
/// a new one needs no set-up, and hundredths of a second leak whole numbers.
struct BucketRule: Hashable {
    /// Tokens per second; the same number of hundredths leaks in a hundredth of a second.
    let rate: UInt64
    /// Hundredths of a token that the bucket holds.
    let capacity: UInt64

    init(perSecond rate: Int, burst: Int?) {
        // Far above any machine; what is computed from it does not overflow.
        let most = 1 << 40
        self.rate = UInt64(min(max(1, rate), most))
        self.capacity = UInt64(min(max(1, burst ?? rate), most)) * 100
    }

    func leak(_ used: inout UInt64, after elapsed: LoopInterval) {
        let (leaked, overflows) = self.rate.multipliedReportingOverflow(by: UInt64(elapsed.hundredths))
        used = overflows ? 0 : used - min(used, leaked)
    }

    /// Takes tokens if there are enough.
    func take(_ count: UInt64, of used: inout UInt64) -> Bool {
        guard used + count * 100 <= self.capacity else { return false }
        used += count * 100
        return true
    }

    /// How long until nothing is owed: what was taken beyond what there was has leaked.
    func debt(_ used: UInt64) -> LoopInterval {
        guard used > self.capacity else { return LoopInterval(hundredths: 0) }
        let owed = used - self.capacity
        // Longer than a connection may be paused, whatever is configured.
        return LoopInterval(hundredths: UInt32(clamping: min((owed + self.rate - 1) / self.rate, 1 << 30)))
    }

    var microsecondsPerToken: UInt64 {
        max(1, 1_000_000 / self.rate)
    }

    /// How long until the last of so many tokens is there.
    func microseconds(until count: UInt64, used: UInt64) -> UInt64 {
        let wanted = used + count * 100
        guard wanted > self.capacity else { return 0 }
        return (wanted - self.capacity) * 10_000 / self.rate
    }
}
