/// One direction of a link at work: takes bytes, and says which arrive when.
///
/// A value without a clock; `now` is in nanoseconds since the connection was made.
package struct FaultLine {
    /// What arrives.
    package enum Arrival: Equatable, Sendable {
        case bytes([UInt8])
        /// The sender has ended the direction.
        case end
        /// The connection breaks, for both ends.
        case reset
    }

    private enum State: Equatable {
        case intact
        /// Nothing arrives; the connection breaks at the time, if there is one.
        case silent(resetAt: UInt64?)
        case broken
    }

    private struct Piece {
        let due: UInt64
        let bytes: [UInt8]
        let isEnd: Bool
    }

    private let plan: FaultPlan.Direction
    private var random: SeededGenerator
    private var pieces = Queue<Piece>()
    private var state = State.intact
    private var lastDue: UInt64 = 0
    private var takenByteCount = 0
    private var inTransitByteCount = 0

    package init(_ plan: FaultPlan.Direction, _ random: SeededGenerator) {
        precondition(plan.pieceByteCountMax ?? 1 > 0, "a piece has a byte at least")
        precondition(plan.bytesPerSecondMax ?? 1 > 0, "a reader that takes nothing is a half-open link")
        precondition(plan.inTransitByteCountMax > 0, "a link without room carries nothing")
        self.plan = plan
        self.random = random
        if let breakage = plan.breakage, case .afterBytes(let limit) = breakage.moment, limit <= 0 {
            self.breakNow(breakage.kind, at: 0)
        }
    }

    /// Bytes that ``send(_:at:)`` may be given now.
    package var room: Int {
        max(0, self.plan.inTransitByteCountMax - self.inTransitByteCount)
    }

    /// Whether nothing is on its way.
    package var isEmpty: Bool { self.pieces.isEmpty }

    /// Takes bytes onto their way.
    package mutating func send(_ bytes: [UInt8], at now: UInt64) {
        self.observe(now)
        var rest = bytes[...]
        while !rest.isEmpty {
            var count = rest.count
            if let max = self.plan.pieceByteCountMax { count = min(count, 1 + self.random.below(max)) }
            // What is taken before the breakage still arrives.
            if case .afterBytes(let limit)? = self.plan.breakage?.moment, self.state == .intact {
                count = min(count, max(1, limit - self.takenByteCount))
            }
            let piece = Array(rest.prefix(count))
            rest = rest.dropFirst(count)
            self.takenByteCount += count
            self.inTransitByteCount += count
            guard self.state == .intact else { continue }
            var due = max(self.lastDue, now + self.random.nanoseconds(self.plan.delay))
            if let rate = self.plan.bytesPerSecondMax {
                due = max(due, now) + UInt64(count) * 1_000_000_000 / UInt64(rate)
            }
            self.lastDue = due
            self.pieces.append(Piece(due: due, bytes: piece, isEnd: false))
            if case .afterBytes(let limit)? = self.plan.breakage?.moment, self.takenByteCount >= limit {
                self.breakOff(at: due)
            }
        }
    }

    /// Ends the direction behind what was sent.
    package mutating func end(at now: UInt64) {
        self.observe(now)
        guard self.state == .intact else { return }
        self.lastDue = max(self.lastDue, now + self.random.nanoseconds(self.plan.delay))
        self.pieces.append(Piece(due: self.lastDue, bytes: [], isEnd: true))
    }

    /// The next thing that has arrived, piece by piece.
    package mutating func receive(at now: UInt64) -> Arrival? {
        self.observe(now)
        if self.state == .broken { return .reset }
        if let piece = self.pieces.first, piece.due <= now {
            _ = self.pieces.popFirst()
            self.inTransitByteCount -= piece.bytes.count
            return piece.isEnd ? .end : .bytes(piece.bytes)
        }
        return nil
    }

    /// When ``receive(at:)`` has something; nil if nothing is to be waited for.
    package var nextArrival: UInt64? {
        if self.state == .broken { return 0 }
        var next = self.pieces.first?.due
        if case .silent(let resetAt?) = self.state { next = min(next ?? resetAt, resetAt) }
        if self.state == .intact, case .after(let duration)? = self.plan.breakage?.moment {
            let time = duration.wholeNanoseconds
            next = min(next ?? time, time)
        }
        return next
    }

    /// Whether nothing arrives any more, and the connection has not broken.
    var isSilent: Bool {
        switch self.state {
        case .intact, .broken: false
        case .silent: self.pieces.isEmpty
        }
    }

    /// Whether the connection is broken, for both ends.
    mutating func isBroken(at now: UInt64) -> Bool {
        self.observe(now)
        return self.state == .broken
    }

    /// When the connection breaks, as far as it is known by now.
    var breaksAt: UInt64? {
        switch self.state {
        case .broken: return 0
        case .silent(let resetAt): return resetAt
        case .intact:
            guard let breakage = self.plan.breakage, case .after(let duration) = breakage.moment else {
                return nil
            }
            switch breakage.kind {
            case .reset: return duration.wholeNanoseconds
            case .halfOpen: return nil
            case .drop(let resetAfter): return (duration + resetAfter).wholeNanoseconds
            }
        }
    }

    /// Breaks the direction now, whatever the plan says; what is on its way is lost.
    mutating func breakNow(_ kind: BreakageKind, at now: UInt64) {
        self.pieces = Queue()
        switch kind {
        case .reset: self.state = .broken
        case .halfOpen: self.state = .silent(resetAt: nil)
        case .drop(let resetAfter): self.state = .silent(resetAt: now + resetAfter.wholeNanoseconds)
        }
    }

    /// Serves what depends on the time.
    private mutating func observe(_ now: UInt64) {
        switch self.state {
        case .intact:
            guard case .after(let duration)? = self.plan.breakage?.moment, let breakage = self.plan.breakage,
                now >= duration.wholeNanoseconds
            else { return }
            self.breakNow(breakage.kind, at: duration.wholeNanoseconds)
            self.observe(now)
        case .silent(let resetAt?):
            // Pieces that were taken before a breakage by bytes have arrived by then.
            if now >= resetAt, self.pieces.first.map({ $0.due > now }) ?? true {
                self.breakNow(.reset, at: now)
            }
        case .silent, .broken: break
        }
    }

    /// The last piece before a breakage by bytes has been taken, and arrives at `due`.
    private mutating func breakOff(at due: UInt64) {
        switch self.plan.breakage?.kind {
        case .reset?: self.state = .silent(resetAt: due)
        case .halfOpen?: self.state = .silent(resetAt: nil)
        case .drop(let resetAfter)?: self.state = .silent(resetAt: due + resetAfter.wholeNanoseconds)
        case nil: break
        }
    }
}

/// How a direction ends, without the moment.
enum BreakageKind: Sendable, Hashable {
    case reset
    case halfOpen
    case drop(resetAfter: Duration)
}

extension FaultPlan.Breakage {
    var moment: FaultPlan.Moment {
        switch self {
        case .reset(let moment), .halfOpen(let moment), .drop(let moment, _): moment
        }
    }

    var kind: BreakageKind {
        switch self {
        case .reset: .reset
        case .halfOpen: .halfOpen
        case .drop(_, let resetAfter): .drop(resetAfter: resetAfter)
        }
    }
}

/// A queue whose front is taken in constant time.
struct Queue<Element> {
    private var elements: [Element] = []
    private var head = 0

    var isEmpty: Bool { self.head == self.elements.count }
    var first: Element? { self.isEmpty ? nil : self.elements[self.head] }

    mutating func append(_ element: Element) {
        self.elements.append(element)
    }

    mutating func popFirst() -> Element? {
        guard let first = self.first else { return nil }
        self.head += 1
        if self.head > 32, self.head * 2 > self.elements.count {
            self.elements.removeFirst(self.head)
            self.head = 0
        }
        return first
    }
}
