/// How long a client is asked to wait before it comes back, as it stands in a close frame's reason: `retry in 2400 ms`.
///
/// A sentence, since some clients show it to people, that programs can read.
package struct RetryHint: CustomStringConvertible {
    package let delay: Duration

    /// Longer waits are none of a server's business.
    package static let delayMax = Duration.seconds(3600)

    package init(_ delay: Duration) {
        self.delay = delay
    }

    /// Finds a hint in a close frame's reason.
    package init?(in reason: String) {
        guard let words = reason.firstRange(of: "retry in ") else { return nil }
        let digits = reason[words.upperBound...].prefix { ("0"..."9").contains($0) }
        guard reason[digits.endIndex...].hasPrefix(" ms"), let milliseconds = Int64(digits) else {
            return nil
        }
        self.delay = min(.milliseconds(milliseconds), Self.delayMax)
    }

    package var description: String {
        "retry in \(self.delay.wholeMilliseconds) ms"
    }
}

extension Duration {
    /// Its milliseconds, without a fraction; 0 for a negative one.
    package var wholeMilliseconds: Int64 {
        let parts = self.components
        return max(0, parts.seconds * 1000 + parts.attoseconds / 1_000_000_000_000_000)
    }
}
