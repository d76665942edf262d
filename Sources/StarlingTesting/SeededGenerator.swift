/// Random numbers that are the same for the same seed, on every machine and in every version.
///
/// For tests alone: whoever has seen one number can tell the next.
public struct SeededGenerator: RandomNumberGenerator, Sendable, Hashable {
    private var state: UInt64

    /// Makes a generator; neighbouring seeds give unrelated numbers.
    public init(seed: UInt64) {
        self.state = seed
    }

    /// The next number.
    public mutating func next() -> UInt64 {
        // SplitMix64: a counter whose bits are mixed (Steele, Lea and Flood, 2014).
        self.state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = self.state
        mixed = (mixed ^ mixed >> 30) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ mixed >> 27) &* 0x94D0_49BB_1331_11EB
        return mixed ^ mixed >> 31
    }

    /// A generator of its own for a part of a test, so that what one part draws does not change the others.
    public mutating func split() -> SeededGenerator {
        SeededGenerator(seed: self.next())
    }

    // The standard library may change how it turns random bits into values; these stay as they are.

    /// A number below `bound`, which must be above 0.
    mutating func below(_ bound: Int) -> Int {
        Int(truncatingIfNeeded: self.next().multipliedFullWidth(by: UInt64(bound)).high)
    }

    /// True so many times in a hundred.
    mutating func happens(_ percent: Int) -> Bool {
        self.below(100) < percent
    }

    mutating func pick<Element>(_ elements: [Element]) -> Element {
        elements[self.below(elements.count)]
    }

    /// Nanoseconds in a range.
    mutating func nanoseconds(_ range: ClosedRange<Duration>) -> UInt64 {
        let (low, high) = (range.lowerBound.wholeNanoseconds, range.upperBound.wholeNanoseconds)
        return low + self.next().multipliedFullWidth(by: high - low + 1).high
    }
}

extension Duration {
    /// The duration in nanoseconds; 0 for a negative one.
    var wholeNanoseconds: UInt64 {
        let parts = self.components
        guard parts.seconds >= 0, parts.attoseconds >= 0 else { return 0 }
        return UInt64(parts.seconds) * 1_000_000_000 + UInt64(parts.attoseconds / 1_000_000_000)
    }
}
