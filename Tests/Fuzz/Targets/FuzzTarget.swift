/// A piece of the library that takes bytes from strangers, and what must hold whatever they are.
///
/// `Tests/fuzz.sh` lets libFuzzer look for inputs that break it; the regular tests replay the seeds.
public struct FuzzTarget: Sendable {
    /// The name of its folder in `Tests/Fuzz/Seeds`.
    public let name: String
    /// Tries one input; throws what did not hold.
    public let run: @Sendable ([UInt8]) throws -> Void

    /// All of them.
    public static let all: [FuzzTarget] = [.frames, .handshake, .deflate, .extensions, .topics]
}

/// What did not hold.
public struct FuzzFinding: Error, CustomStringConvertible {
    /// A sentence that says so.
    public let description: String

    init(_ description: String) {
        self.description = description
    }
}

/// Throws a finding unless the condition holds.
func require(_ condition: Bool, _ finding: @autoclosure () -> String) throws(FuzzFinding) {
    if !condition { throw FuzzFinding(finding()) }
}

/// An input read from the front: first the choices, then the bytes that they apply to.
struct FuzzInput {
    private(set) var rest: ArraySlice<UInt8>

    init(_ bytes: [UInt8]) {
        self.rest = bytes[...]
    }

    /// The next byte; 0 at the end, so that every input means something.
    mutating func byte() -> UInt8 {
        self.rest.popFirst() ?? 0
    }

    /// The next byte as a number in a range of at most 256.
    mutating func number(in range: ClosedRange<Int>) -> Int {
        range.lowerBound + Int(self.byte()) % range.count
    }

    /// The bytes up to the next `separator`, which is taken too.
    mutating func bytes(until separator: UInt8) -> [UInt8] {
        let taken = self.rest.prefix { $0 != separator }
        self.rest = self.rest.dropFirst(taken.count + 1)
        return Array(taken)
    }

    /// The next bytes, as many as the two in front of them say.
    mutating func counted() -> [UInt8] {
        let count = Int(self.byte()) << 8 | Int(self.byte())
        let taken = self.rest.prefix(count)
        self.rest = self.rest.dropFirst(taken.count)
        return Array(taken)
    }
}

/// The sizes of the reads that a stream arrives in; the same for the same seed (a linear congruential generator).
struct ReadSizes {
    private var state: UInt64

    init(seed: UInt8) {
        self.state = UInt64(seed)
    }

    mutating func next() -> Int {
        self.state = self.state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        // Mostly a few bytes, at times many: both sides of every limit.
        let bits = self.state >> 40
        return bits & 3 == 0 ? Int(bits >> 2 & 0xFF) + 1 : Int(bits >> 2 & 7) + 1
    }
}
