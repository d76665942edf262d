internal import Synchronization

/// Counts durations by size.
///
/// One thread writes, so that plain loads and stores of atomics suffice; any may read.
final class Histogram: Sendable {
    /// The greatest duration of each bucket but the last, in nanoseconds.
    let bounds: [UInt64]
    private let counts: [LoopStatistics.Box]
    private let sum = Atomic<UInt64>(0)

    init(bounds: [UInt64]) {
        self.bounds = bounds
        self.counts = (0...bounds.count).map { _ in LoopStatistics.Box() }
    }

    /// Counts a duration.
    func record(nanoseconds: UInt64) {
        // A handful of bounds, of which short durations, by far the most, need the first.
        var bucket = 0
        while bucket < self.bounds.count, nanoseconds > self.bounds[bucket] { bucket += 1 }
        let box = self.counts[bucket]
        box.value.store(box.value.load(ordering: .relaxed) &+ 1, ordering: .relaxed)
        self.sum.store(self.sum.load(ordering: .relaxed) &+ nanoseconds, ordering: .relaxed)
    }

    var figures: HistogramFigures {
        HistogramFigures(
            counts: self.counts.map { $0.value.load(ordering: .relaxed) },
            sum: self.sum.load(ordering: .relaxed)
        )
    }

    /// For ticks: 100 µs to 1 s.
    static let tickBounds: [UInt64] = [
        100_000, 1_000_000, 5_000_000, 10_000_000, 50_000_000, 100_000_000, 500_000_000, 1_000_000_000,
    ]
    /// For handshakes: 10 ms to 10 s.
    static let handshakeBounds: [UInt64] = [
        10_000_000, 50_000_000, 100_000_000, 250_000_000, 500_000_000, 1_000_000_000, 2_500_000_000,
        5_000_000_000, 10_000_000_000,
    ]
}

/// What a ``Histogram`` has counted: one number for each bound, and one for what is beyond.
struct HistogramFigures {
    var counts: [UInt64]
    /// Nanoseconds.
    var sum: UInt64

    static func + (left: HistogramFigures, right: HistogramFigures) -> HistogramFigures {
        HistogramFigures(counts: zip(left.counts, right.counts).map(&+), sum: left.sum &+ right.sum)
    }

    static func zero(_ bounds: [UInt64]) -> HistogramFigures {
        HistogramFigures(counts: Array(repeating: 0, count: bounds.count + 1), sum: 0)
    }
}
