/// Messages that wait for a task: a list through their own storage, which needs no memory beside them.
@safe struct Inbox: ~Copyable {
    private var first: Unmanaged<Message.Storage>?
    private var last: Unmanaged<Message.Storage>?
    /// What they hold: their bytes, and ``messageByteCount`` for each.
    private(set) var byteCount = 0

    /// What a message takes beside its bytes, so that empty ones have a bound as well.
    static let messageByteCount = 128

    deinit {
        var next = unsafe self.first
        while let storage = unsafe next { unsafe next = storage.takeRetainedValue().next }
    }

    /// Adds a message that was just made: one that is in no other inbox, because nobody else has seen it.
    mutating func append(_ message: consuming Message) {
        self.byteCount += Self.messageByteCount + message.byteCount
        // Retained here, released by `popFirst`.
        let storage = unsafe Unmanaged.passRetained(message.storage)
        if let last = unsafe self.last {
            unsafe last._withUnsafeGuaranteedRef { unsafe $0.next = unsafe storage }
        } else {
            unsafe self.first = storage
        }
        unsafe self.last = storage
    }

    /// All messages, which stay.
    var messages: [Message] {
        var messages: [Message] = []
        var next = unsafe self.first
        while let storage = unsafe next?.takeUnretainedValue() {
            messages.append(Message(storage: storage))
            unsafe next = unsafe storage.next
        }
        return messages
    }

    mutating func popFirst() -> Message? {
        guard let storage = unsafe self.first?.takeRetainedValue() else { return nil }
        unsafe self.first = unsafe storage.next
        if unsafe self.first == nil { unsafe self.last = nil }
        unsafe storage.next = nil
        self.byteCount -= Self.messageByteCount + storage.byteCount
        return Message(storage: storage)
    }
}
