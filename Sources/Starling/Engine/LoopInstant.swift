/// A moment on an event loop's own clock, in hundredths of a second since the loop began.
///
/// Four bytes, because every connection holds several. It wraps after 497 days: comparisons go by the difference, which
/// is right as long as the two moments lie less than 248 days apart.
package struct LoopInstant: Hashable, Sendable {
    package var hundredths: UInt32

    package init(hundredths: UInt32) {
        self.hundredths = hundredths
    }

    /// The moment `nanoseconds` after the loop began.
    package init(nanoseconds: UInt64) {
        self.hundredths = UInt32(truncatingIfNeeded: nanoseconds / 10_000_000)
    }

    package static func + (instant: LoopInstant, interval: LoopInterval) -> LoopInstant {
        LoopInstant(hundredths: instant.hundredths &+ interval.hundredths)
    }

    package static func - (instant: LoopInstant, interval: LoopInterval) -> LoopInstant {
        LoopInstant(hundredths: instant.hundredths &- interval.hundredths)
    }

    package static func - (later: LoopInstant, earlier: LoopInstant) -> LoopInterval {
        LoopInterval(hundredths: later.hundredths &- earlier.hundredths)
    }

    package func isBefore(_ other: LoopInstant) -> Bool {
        Int32(bitPattern: self.hundredths &- other.hundredths) < 0
    }
}

/// A span of time on an event loop's clock, in hundredths of a second.
package struct LoopInterval: Hashable, Sendable {
    package var hundredths: UInt32

    package init(hundredths: UInt32) {
        self.hundredths = hundredths
    }

    /// Its seconds, rounded up.
    package var wholeSeconds: UInt32 {
        (self.hundredths + 99) / 100
    }

    /// Rounds up, and down to the longest span that can be compared: 248 days.
    package init(_ duration: Duration) {
        let parts = duration.components
        guard parts.seconds >= 0, parts.attoseconds >= 0 else {
            self.hundredths = 0
            return
        }
        let seconds = min(parts.seconds, 21_000_000)
        let fraction = (parts.attoseconds + 9_999_999_999_999_999) / 10_000_000_000_000_000
        self.hundredths = UInt32(seconds * 100 + fraction)
    }
}
