/// What a connection still has to write: nothing for most connections, most of the time.
///
/// One segment is held in place; more than one costs an array. Neighbouring segments of one chunk become one, so that
/// several messages to a connection in a tick, or several publications to all of a topic's subscribers, are one write
/// from the memory they were encoded into.
struct OutboundQueue: ~Copyable {
    private(set) var first: OutboundSegment?
    private(set) var rest: [OutboundSegment] = []
    private(set) var byteCount = 0
    private var restStart = 0
    /// Whether a part of the first segment is written, so that the rest of it must follow.
    private(set) var isFirstStarted = false

    var isEmpty: Bool {
        self.first == nil
    }

    /// Whether there is exactly one segment, which can be written from where it is.
    var isContiguous: Bool {
        self.restStart == self.rest.count
    }

    /// The bytes of the first segment; the queue must not be empty.
    var firstBytes: UnsafeRawBufferPointer {
        precondition(!self.isEmpty, "an empty outbound buffer has no bytes")
        return unsafe self.first!.bytes
    }

    /// Lengthens the only segment if it ends at `end` in the chunk at `base`; false otherwise.
    ///
    /// Compares addresses, so that the chunk is not retained for the comparison.
    mutating func extendOnly(
        _ base: UnsafeMutableRawPointer,
        endingAt end: Int,
        by byteCount: Int
    ) -> Bool {
        guard self.isContiguous, self.first != nil, unsafe self.first!.chunk.base == base,
            Int(self.first!.end) == end
        else { return false }
        self.first!.end += UInt32(byteCount)
        self.byteCount += byteCount
        return true
    }

    /// Adds a segment at the end; joined with its neighbour if the two stand together.
    mutating func append(_ segment: OutboundSegment) {
        self.byteCount += segment.byteCount
        if self.first == nil {
            self.first = segment
        } else if self.isContiguous {
            if self.first!.isFollowed(by: segment) {
                self.first!.end = segment.end
            } else {
                self.rest.append(segment)
            }
        } else {
            let last = self.rest.count - 1
            if self.rest[last].isFollowed(by: segment) {
                self.rest[last].end = segment.end
            } else {
                self.rest.append(segment)
            }
        }
    }

    /// Removes bytes from the front, which were written.
    mutating func removeFirst(_ byteCount: Int) {
        var left = byteCount
        self.byteCount -= byteCount
        while left > 0, let segment = self.first {
            if left < segment.byteCount {
                self.first!.start += UInt32(left)
                self.isFirstStarted = true
                return
            }
            left -= segment.byteCount
            self.advance()
        }
    }

    /// Removes everything but what must follow a part that is already written.
    mutating func removeAllButStarted() {
        guard self.isFirstStarted, let first = self.first else { return self.removeAll() }
        self.rest = []
        self.restStart = 0
        self.byteCount = first.byteCount
    }

    /// Removes everything.
    mutating func removeAll() {
        self.isFirstStarted = false
        self.first = nil
        self.rest = []
        self.restStart = 0
        self.byteCount = 0
    }

    /// Copies what is left out of chunks that it would keep alive for little, now that the peer takes no bytes.
    ///
    /// Those that share much of a chunk go on sharing it: many peers that stop in one tick hold the same bytes.
    mutating func leaveChunks() {
        if let segment = self.first, segment.isSmallPart { self.first = segment.alone() }
        for index in self.rest.indices[self.restStart...] where self.rest[index].isSmallPart {
            self.rest[index] = self.rest[index].alone()
        }
    }

    /// The same for what was just added behind it.
    mutating func leaveLastChunk() {
        if self.isContiguous {
            if let segment = self.first, segment.isSmallPart { self.first = segment.alone() }
        } else if let segment = self.rest.last, segment.isSmallPart {
            self.rest[self.rest.count - 1] = segment.alone()
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
        guard let first = self.first, copy(first) else { return copied }
        for index in self.restStart..<self.rest.count where !copy(self.rest[index]) { break }
        return copied
    }

    /// How many segments wait.
    var segmentCount: Int {
        (self.first == nil ? 0 : 1) + self.rest.count - self.restStart
    }

    /// Shows what waits, in its order.
    func forEachSegment(_ body: (OutboundSegment) -> Void) {
        if let first = self.first { body(first) }
        for segment in self.rest[self.restStart...] { body(segment) }
    }

    /// A part of the first segment was written by another process.
    mutating func markFirstStarted() {
        self.isFirstStarted = true
    }

    private mutating func advance() {
        self.isFirstStarted = false
        if self.restStart < self.rest.count {
            self.first = self.rest[self.restStart]
            self.restStart += 1
            if self.restStart == self.rest.count {
                self.rest = []
                self.restStart = 0
            } else if self.restStart >= 64, self.restStart * 2 >= self.rest.count {
                self.rest.removeFirst(self.restStart)
                self.restStart = 0
            }
        } else {
            self.first = nil
        }
    }
}
