package import Starling

/// Traces whose publications have not arrived.
///
/// Each comes right before its publication, but others may come between, and what is lost on its way leaves one over.
package struct PendingTraces {
    /// More are not kept: the oldest is let go.
    package static let countMax = 256
    private var traces: [(number: UInt64, context: TraceContext)] = []

    package init() {}

    package mutating func note(_ context: TraceContext?, _ number: UInt64) {
        guard let context else { return }
        if self.traces.count >= Self.countMax { self.traces.removeFirst() }
        self.traces.append((number, context))
    }

    /// The trace of the publication with this number.
    package mutating func take(_ number: UInt64?) -> TraceContext? {
        guard !self.traces.isEmpty, let number,
            let index = self.traces.firstIndex(where: { $0.number == number })
        else { return nil }
        return self.traces.remove(at: index).context
    }
}
