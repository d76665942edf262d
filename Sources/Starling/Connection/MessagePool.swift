internal import StarlingCore

/// Memory for the messages that a loop hands to tasks: most are short, and let go of within the tick.
///
/// A ring of storages that have been handed out. If nobody but the ring refers to the next one, the next message goes into it.
/// Otherwise somebody keeps that message, and new memory takes its place; or, if that happens twice in a row, a burst of messages
/// is under way, and the ring grows, up to ``countMax``.
@safe struct MessagePool: ~Copyable {
    /// Messages of up to so many bytes share memory; with 48 bytes before them that makes an allocation of 128.
    static let byteCountMax = 80
    /// How many storages a loop keeps: 256 KiB.
    static let countMax = 2048

    /// Messages that are copied before tasks have their turn: 32 KiB, which a core's first cache holds.
    static let copiesMax = 256

    private let ring = UnsafeMutablePointer<Message.Storage>.allocate(capacity: MessagePool.countMax)
    private var count = 0
    private var next = 0
    private var wasNextInUse = false
    /// Messages copied since tasks last ran. (As the first property it makes Swift 6.3 crash with `--sanitize=thread`.)
    private(set) var copyCount = 0

    deinit {
        unsafe self.ring.deinitialize(count: self.count)
        unsafe self.ring.deallocate()
    }

    /// A copy of a received message.
    mutating func copy(_ message: borrowing MessageView) -> Message {
        guard message.bytes.byteCount <= Self.byteCountMax else { return Message(copying: message) }
        self.copyCount &+= 1
        if self.next == self.count { self.next = 0 }
        // `next` is below `count`, and as many are initialized.
        if self.count > 0, unsafe isKnownUniquelyReferenced(&self.ring[self.next]) {
            let storage = unsafe self.ring[self.next]
            self.next += 1
            self.wasNextInUse = false
            storage.refill(message.kind, copying: message.bytes)
            return Message(storage: storage)
        }
        let storage = Message.Storage.make(
            message.kind,
            copying: message.bytes,
            capacity: Self.byteCountMax
        )
        self.add(storage)
        return Message(storage: storage)
    }

    /// Tasks have their turn.
    mutating func startCountingCopies() {
        self.copyCount = 0
    }

    private mutating func add(_ storage: Message.Storage) {
        if self.count == 0 || self.wasNextInUse && self.count < Self.countMax {
            unsafe (self.ring + self.count).initialize(to: storage)
            self.count += 1
        } else {
            unsafe self.ring[self.next] = storage
        }
        self.next += 1
        self.wasNextInUse = true
    }
}
