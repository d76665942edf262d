/// What a connection still has to write: nothing for most connections, most of the time.
///
/// One segment is held in place; more than one costs an object. Neighbouring segments of one chunk become one, so that
/// several messages to a connection in a tick, or several publications to all of a topic's subscribers, are one write
/// from the memory they were encoded into.
struct OutboundQueue: ~Copyable {
    private(set) var first: OutboundSegment?
    /// What is behind the first, if anything.
    private var rest: OutboundRest?
    /// Whether a part of the first segment is written, so that the rest of it must follow.
    private(set) var isFirstStarted = false

    var isEmpty: Bool {
        self.first == nil
    }

    var byteCount: Int {
        (self.first?.byteCount ?? 0) + (self.rest?.byteCount ?? 0)
    }

    /// How many of the bytes are charged to the memory budget as parts of a publication that others have yet to write too.
    var chargedByteCount: Int {
        (self.first?.chargedByteCount ?? 0) + (self.rest?.chargedByteCount ?? 0)
    }

    /// What the connection has to answer for of these: its part of each publication among those who have yet to write it, as they were
    /// counted last.
    var sharedPartByteCount: Int {
        guard self.chargedByteCount > 0 else { return 0 }
        var sum = 0
        self.forEachSegment { sum += $0.chargedByteCount / max(1, $0.chunk.sharerCount) }
        return sum
    }

    /// How many segments wait.
    var segmentCount: Int {
        (self.first == nil ? 0 : 1) + (self.rest?.count ?? 0)
    }

    /// Whether there is exactly one segment, which can be written from where it is.
    var isContiguous: Bool {
        self.rest == nil
    }

    /// The bytes of the first segment; the queue must not be empty.
    var firstBytes: UnsafeRawBufferPointer {
        precondition(!self.isEmpty, "an empty outbound buffer has no bytes")
        return unsafe self.first!.bytes
    }

    /// Lengthens the only segment if it ends at `end` in the chunk at `base`, to no more than `byteCountMax` bytes; false
    /// otherwise.
    ///
    /// Compares addresses, so that the chunk is not retained for the comparison.
    @inline(__always)
    mutating func extendOnly(
        _ base: UnsafeMutableRawPointer,
        endingAt end: Int,
        by byteCount: Int,
        upTo byteCountMax: Int
    ) -> Bool {
        guard self.isContiguous, self.first != nil, unsafe self.first!.chunk.base == base,
            Int(self.first!.end) == end, self.first!.byteCount + byteCount <= byteCountMax
        else { return false }
        self.first!.lengthen(by: byteCount)
        return true
    }

    /// Adds a segment at the end; joined with its neighbour if the two stand together.
    mutating func append(_ segment: consuming OutboundSegment) {
        if self.first == nil {
            self.first = consume segment
        } else {
            self.appendBehind(segment)
        }
    }

    /// The same where it is not the first.
    private mutating func appendBehind(_ segment: OutboundSegment) {
        if let rest = self.rest {
            rest.append(segment)
        } else if self.first!.isFollowed(by: segment) {
            self.first!.end = segment.end
        } else {
            self.rest = OutboundRest(segment)
        }
    }

    /// Removes bytes from the front, which were written.
    mutating func removeFirst(_ byteCount: Int) {
        var left = byteCount
        while left > 0, let segment = self.first {
            if left < segment.byteCount {
                self.first!.start += UInt32(left)
                self.isFirstStarted = true
                return
            }
            left -= segment.byteCount
            self.isFirstStarted = false
            self.first = self.rest?.removeFirst()
            if let rest = self.rest, rest.count == 0 { self.rest = nil }
        }
    }

    /// Removes everything but what must follow a part that is already written.
    mutating func removeAllButStarted() {
        guard self.isFirstStarted else { return self.removeAll() }
        self.rest = nil
    }

    /// Removes everything.
    mutating func removeAll() {
        self.isFirstStarted = false
        self.first = nil
        self.rest = nil
    }

    /// Copies what is left out of chunks that it would keep alive for little, now that the peer takes no bytes.
    ///
    /// Those that share much of a chunk go on sharing it: many peers that stop in one tick hold the same bytes.
    mutating func leaveChunks() {
        if let segment = self.first, segment.isSmallPart { self.first = segment.alone() }
        self.rest?.leaveChunks()
    }

    /// The same for what was just added behind it.
    mutating func leaveLastChunk() {
        if let rest = self.rest {
            if rest.leaveLastChunk(behind: &self.first) { self.rest = nil }
        } else if let segment = self.first, segment.isSmallPart {
            self.first = segment.alone()
        }
    }

    /// Copies segments from the front into `buffer` and returns how many bytes.
    func gather(into buffer: UnsafeMutableRawBufferPointer) -> Int {
        var copied = 0
        func copy(_ segment: OutboundSegment) -> Bool {
            let count = min(segment.byteCount, buffer.count - copied)
            guard count > 0, let target = buffer.baseAddress, let source = unsafe segment.bytes.baseAddress
            else { return false }
            // `count` fits in both, as just computed; the buffer is the loop's own and disjoint from every chunk.
            unsafe (target + copied).copyMemory(from: source, byteCount: count)
            copied += count
            return count == segment.byteCount
        }
        guard let first = self.first, copy(first), let rest = self.rest else { return copied }
        rest.forEach(while: copy)
        return copied
    }

    /// Shows what waits, in its order.
    func forEachSegment(_ body: (OutboundSegment) -> Void) {
        if let first = self.first { body(first) }
        self.rest?.forEach { segment in
            body(segment)
            return true
        }
    }

    /// A part of the first segment was written by another process, or may have been.
    mutating func markFirstStarted() {
        self.isFirstStarted = true
    }
}

/// The segments behind a connection's first; never none.
private final class OutboundRest {
    /// Nil for those that are gone, so that nothing keeps their chunks.
    private var storage: [OutboundSegment?]
    /// How many of `storage` are gone already.
    private var start = 0
    private(set) var byteCount: Int
    private(set) var chargedByteCount: Int

    init(_ segment: OutboundSegment) {
        self.storage = [segment]
        self.byteCount = segment.byteCount
        self.chargedByteCount = segment.chargedByteCount
    }

    var count: Int {
        self.storage.count - self.start
    }

    /// Shows the segments in their order, until `body` says that it has seen enough.
    func forEach(while body: (OutboundSegment) -> Bool) {
        for case let segment? in self.storage[self.start...] where !body(segment) { return }
    }

    func append(_ segment: OutboundSegment) {
        self.byteCount += segment.byteCount
        self.chargedByteCount += segment.chargedByteCount
        let last = self.storage.count - 1
        if let segment = self.storage[last]?.joined(with: segment) {
            self.storage[last] = segment
        } else {
            self.storage.append(segment)
        }
    }

    /// Takes out the first; what is left may be nothing, and then nothing may be appended.
    func removeFirst() -> OutboundSegment? {
        guard let segment = self.storage[self.start] else { return nil }
        self.storage[self.start] = nil
        self.byteCount -= segment.byteCount
        self.chargedByteCount -= segment.chargedByteCount
        self.start += 1
        if self.start >= 64, self.start * 2 >= self.storage.count {
            self.storage.removeFirst(self.start)
            self.start = 0
        }
        return segment
    }

    func leaveChunks() {
        for index in self.storage.indices[self.start...] {
            if let segment = self.storage[index], segment.isSmallPart {
                self.chargedByteCount -= segment.chargedByteCount
                self.storage[index] = segment.alone()
            }
        }
    }

    /// Copies the last segment out of a chunk that it would keep alive for little: behind the one before it, which may be
    /// `first`, if there is room for it.
    ///
    /// - Returns: Whether it was the only one, and is there no more.
    func leaveLastChunk(behind first: inout OutboundSegment?) -> Bool {
        let last = self.storage.count - 1
        guard let segment = self.storage[last], segment.isSmallPart else { return false }
        self.chargedByteCount -= segment.chargedByteCount
        let isGathered =
            last == self.start
            ? first?.gather(segment) ?? false : self.storage[last - 1]?.gather(segment) ?? false
        guard isGathered else {
            self.storage[last] = segment.alone(withRoom: true)
            return false
        }
        if last > self.start { self.storage.removeLast() }
        return last == self.start
    }
}
