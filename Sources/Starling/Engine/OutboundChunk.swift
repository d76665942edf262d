internal import StarlingCore

/// A block of encoded frames.
///
/// One loop's frames of a tick lie in it back to back; connections hold segments of it. Bytes that a segment holds are
/// never changed.
@safe final class OutboundChunk {
    let base: UnsafeMutableRawPointer
    let capacity: Int
    /// Whether it is one connection's alone, whose last segment may grow within it.
    let isGathering: Bool
    /// What is charged with it, if it is a big publication's: once, however many connections have yet to write it.
    private let charges: PublicationCharges?
    /// How many connections had yet to write a part of it when they were counted last.
    var sharerCount = 0

    init(capacity: Int, isGathering: Bool = false, chargedTo charges: PublicationCharges? = nil) {
        self.capacity = capacity
        self.isGathering = isGathering
        self.charges = charges
        unsafe self.base = .allocate(byteCount: capacity, alignment: 16)
        charges?.charge(capacity)
    }

    /// Whether connections that hold a part of it are charged nothing for that.
    var isCharged: Bool { self.charges != nil }

    /// A chunk of exactly these bytes, or with room for more behind them.
    convenience init(copying bytes: RawSpan, withRoom: Bool = false) {
        self.init(
            capacity: withRoom ? max(bytes.byteCount, Self.gatheringByteCount) : bytes.byteCount,
            isGathering: withRoom
        )
        unsafe bytes.withUnsafeBytes { source in
            // The chunk was just made as long as its source, at least.
            if let from = source.baseAddress {
                unsafe self.base.copyMemory(from: from, byteCount: source.count)
            }
        }
    }

    /// Room for the small frames that wait for one slow peer: alone, each would take a hundred bytes beside its own.
    private static let gatheringByteCount = 512

    deinit {
        unsafe self.base.deallocate()
        self.charges?.charge(-self.capacity)
    }
}

@available(*, unavailable) extension OutboundChunk: Sendable {}

/// What a loop's big publications hold that some have yet to write.
final class PublicationCharges {
    private(set) var byteCount = 0
    private let budget: MemoryBudget

    init(_ budget: MemoryBudget) {
        self.budget = budget
    }

    func charge(_ byteCount: Int) {
        self.byteCount += byteCount
        self.budget.charge(byteCount)
    }
}

@available(*, unavailable) extension PublicationCharges: Sendable {}

/// A run of whole frames in a chunk, or the rest of one that was written in part.
struct OutboundSegment {
    var chunk: OutboundChunk
    /// Both ends in one word, which is written and read as a whole: a processor cannot pass on half a word that was just
    /// written to a load of all of it, and waits until it is in the cache, at every message.
    private var bounds: UInt64

    var start: UInt32 {
        get { UInt32(truncatingIfNeeded: self.bounds) }
        set { self.bounds = Self.bounds(newValue, self.end) }
    }
    var end: UInt32 {
        get { UInt32(truncatingIfNeeded: self.bounds >> 32) }
        set { self.bounds = Self.bounds(self.start, newValue) }
    }

    /// A segment in a chunk of its own.
    init(copying bytes: RawSpan) {
        self.init(chunk: OutboundChunk(copying: bytes), start: 0, end: UInt32(bytes.byteCount))
    }

    init(chunk: OutboundChunk, start: UInt32, end: UInt32) {
        self.chunk = chunk
        self.bounds = Self.bounds(start, end)
    }

    private static func bounds(_ start: UInt32, _ end: UInt32) -> UInt64 {
        UInt64(end) << 32 | UInt64(start)
    }

    /// Adds bytes behind its end, which the chunk must have.
    @inline(__always)
    mutating func lengthen(by byteCount: Int) {
        self.bounds &+= UInt64(truncatingIfNeeded: byteCount) << 32
    }

    /// Whether the other one begins where this one ends.
    func isFollowed(by other: OutboundSegment) -> Bool {
        self.chunk === other.chunk && self.end == other.start
    }

    /// The two as one, if the other begins where this one ends; nil otherwise.
    func joined(with other: OutboundSegment) -> OutboundSegment? {
        guard self.isFollowed(by: other) else { return nil }
        return OutboundSegment(chunk: self.chunk, start: self.start, end: other.end)
    }

    /// Copies another's bytes behind its own, if its chunk is there for that and has room; false if nothing was done.
    mutating func gather(_ other: OutboundSegment) -> Bool {
        guard self.chunk.isGathering, Int(self.end) + other.byteCount <= self.chunk.capacity else {
            return false
        }
        guard let source = unsafe other.bytes.baseAddress else { return true }
        // There is room, as just seen, and nobody else has a segment of this chunk behind this one's end.
        unsafe (self.chunk.base + Int(self.end)).copyMemory(from: source, byteCount: other.byteCount)
        self.lengthen(by: other.byteCount)
        return true
    }

    /// Whether it is no more than a quarter of the chunk that it keeps alive.
    var isSmallPart: Bool {
        self.byteCount * 4 <= self.chunk.capacity
    }

    var byteCount: Int {
        Int(self.end &- self.start)
    }

    /// How many of the bytes are charged by themselves.
    var chargedByteCount: Int {
        self.chunk.isCharged ? self.byteCount : 0
    }

    /// Good as long as the segment, or another one, holds the chunk.
    var bytes: UnsafeRawBufferPointer {
        unsafe UnsafeRawBufferPointer(start: self.chunk.base + Int(self.start), count: self.byteCount)
    }

    /// The same bytes in a chunk that holds nothing else, and may have room for more.
    func alone(withRoom: Bool = false) -> OutboundSegment {
        // The chunk lives at least as long as `self`.
        let chunk = unsafe OutboundChunk(copying: RawSpan(_unsafeBytes: self.bytes), withRoom: withRoom)
        return OutboundSegment(chunk: chunk, start: 0, end: UInt32(self.byteCount))
    }
}

/// Where a loop encodes its frames: the free end of a chunk that nobody else adds to.
@safe struct OutboundWriter: ~Copyable {
    private var chunk = OutboundChunk(capacity: OutboundWriter.chunkByteCount)
    private var used = 0
    /// Nil for a server: it does not mask.
    private var maskingKeys: MaskingKeys?
    /// What big frames are charged to by themselves; nil where each is one connection's.
    private let charges: PublicationCharges?

    static let chunkByteCount = 256 << 10

    init(role: Role, chargedTo charges: PublicationCharges? = nil) {
        self.maskingKeys = role == .client ? MaskingKeys() : nil
        self.charges = charges
    }

    /// Encodes a frame at the end of the chunk, or in a new one if there is no space.
    mutating func encode(
        _ opcode: Opcode,
        _ payload: RawSpan,
        isCompressed: Bool
    ) -> OutboundSegment {
        let header = FrameHeader(
            opcode: opcode,
            isCompressed: isCompressed,
            payloadByteCount: payload.byteCount,
            maskingKey: self.maskingKeys?.next()
        )
        let byteCount = header.byteCount + payload.byteCount
        let hasRoom = byteCount <= self.chunk.capacity - self.used
        // Each of the three targets has `byteCount` bytes that no segment refers to.
        // A big frame gets a chunk of its own, so that the common one is not thrown away half empty; or to be charged by itself.
        if byteCount > Self.chunkByteCount / 4, !hasRoom || self.charges != nil {
            let chunk = OutboundChunk(capacity: byteCount, chargedTo: self.charges)
            unsafe FrameCodec.write(header, payload, to: chunk.base)
            return OutboundSegment(chunk: chunk, start: 0, end: UInt32(byteCount))
        }
        if !hasRoom {
            self.chunk = OutboundChunk(capacity: Self.chunkByteCount)
            self.used = 0
        }
        let start = self.used
        unsafe FrameCodec.write(header, payload, to: self.chunk.base + start)
        self.used = start + byteCount
        return OutboundSegment(
            chunk: self.chunk,
            start: UInt32(start),
            end: UInt32(start + byteCount)
        )
    }

    /// Encodes a short message's frame behind all that waits for a connection, if that stands at the end of the chunk, as it
    /// does within a burst, and comes to no more than `byteCountMax` bytes; false if nothing was done.
    @inline(__always)
    mutating func extend(
        _ queue: inout OutboundQueue,
        by opcode: Opcode,
        _ payload: RawSpan,
        upTo byteCountMax: Int
    ) -> Bool {
        let (base, used) = unsafe (self.chunk.base, self.used)
        let byteCount = FrameCodec.shortHeaderByteCount + payload.byteCount
        guard payload.byteCount <= FrameCodec.shortPayloadByteCountMax, self.maskingKeys == nil,
            byteCount <= self.chunk.capacity &- used,
            unsafe queue.extendOnly(base, endingAt: used, by: byteCount, upTo: byteCountMax)
        else { return false }
        // The space was just checked; the queue's segment has been lengthened by it.
        unsafe FrameCodec.writeShort(opcode, payload, to: base + used)
        self.used = used &+ byteCount
        return true
    }

    /// Starts the chunk over if nothing refers to it any more: the usual case, and what keeps it in the cache.
    mutating func reuse() {
        if self.used > 0, isKnownUniquelyReferenced(&self.chunk) { self.used = 0 }
    }
}

/// A client's masking keys: fresh and unpredictable for each frame (RFC 6455 §10.3), from the system's generator.
struct MaskingKeys {
    private var random: UInt64 = 0
    private var isHalfUsed = false

    mutating func next() -> MaskingKey {
        // A call of the generator gives two keys.
        if !self.isHalfUsed { self.random = .random(in: .min ... .max) }
        defer {
            self.random >>= 32
            self.isHalfUsed.toggle()
        }
        return MaskingKey(rawValue: UInt32(truncatingIfNeeded: self.random))
    }
}
