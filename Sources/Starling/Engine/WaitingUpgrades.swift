/// One loop's upgrades that wait for their turn, in the order in which they came.
///
/// Those that `authenticate` decides about stand in a row of their own: while it decides about as many as it may, the others go past.
struct WaitingUpgrades {
    struct Upgrade {
        let id: ConnectionID
        let isDecided: Bool
        fileprivate let number: UInt64
    }

    private var decided = Deque<Upgrade>()
    private var others = Deque<Upgrade>()
    private var nextNumber: UInt64 = 0

    var count: Int { self.decided.count + self.others.count }
    var isEmpty: Bool { self.decided.isEmpty && self.others.isEmpty }

    mutating func append(_ id: ConnectionID, isDecided: Bool) {
        let upgrade = Upgrade(id: id, isDecided: isDecided, number: self.nextNumber)
        self.nextNumber += 1
        if isDecided { self.decided.append(upgrade) } else { self.others.append(upgrade) }
    }

    /// The first of all, or of those that need no decision.
    func first(undecidedOnly: Bool) -> Upgrade? {
        guard !undecidedOnly, let decided = self.decided.first else { return self.others.first }
        guard let other = self.others.first, other.number < decided.number else { return decided }
        return other
    }

    mutating func remove(_ first: Upgrade) {
        if first.isDecided { _ = self.decided.removeFirst() } else { _ = self.others.removeFirst() }
    }
}
