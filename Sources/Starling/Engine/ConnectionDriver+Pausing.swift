/// Why a connection is not read.
struct ReadingPauses: OptionSet {
    let rawValue: UInt8
    /// The application has not decided yet, or does not take its messages.
    static let application = ReadingPauses(rawValue: 1 << 0)
    /// Memory is scarce.
    static let memory = ReadingPauses(rawValue: 1 << 1)
    /// The peer has sent more than it may, and has to wait for that.
    static let rate = ReadingPauses(rawValue: 1 << 2)
    /// What was received before is not decoded yet.
    static let undecoded = ReadingPauses(rawValue: 1 << 3)
}

extension ConnectionDriver {
    func pauseReading(_ index: Int, for reason: ReadingPauses) {
        let slot = unsafe self.slots.pointer(index)
        let wasPaused = unsafe !slot.pointee.readingPauses.isEmpty
        unsafe slot.pointee.readingPauses.insert(reason)
        if !wasPaused { self.io.setReading(false, on: index) }
    }

    /// Reads the connection again, unless there is another reason not to.
    func resumeReading(_ index: Int, from reasons: ReadingPauses) {
        let slot = unsafe self.slots.pointer(index)
        guard unsafe !slot.pointee.readingPauses.isEmpty else { return }
        unsafe slot.pointee.readingPauses.subtract(reasons)
        if unsafe slot.pointee.readingPauses.isEmpty {
            self.io.setReading(true, on: index)
        } else if unsafe slot.pointee.readingPauses == .undecoded {
            self.undecoded.append(self.id(of: index))
        }
    }

    /// Reads the connection whatever there was against it: it ends, and what comes now is only looked at for that.
    func readToTheEnd(_ index: Int) {
        let pauses = unsafe self.slots.pointer(index).pointee.readingPauses
        self.resumeReading(index, from: pauses.subtracting(.undecoded))
    }

    /// An async handler does not take its messages, which are so many bytes now.
    func inboxIsFull(_ index: Int, _ connection: AsyncConnection, byteCount: Int) {
        self.pauseReading(index, for: .application)
        let details = self.details(of: index)
        details.inboxByteCount = byteCount
        details.fullInbox = connection
        self.chargeMemory(of: index)
    }

    /// An async handler takes its messages again.
    func inboxHasRoom(_ id: ConnectionID) {
        guard let index = self.index(of: id) else { return }
        self.resumeReading(index, from: .application)
        let details = self.details(of: index)
        details.inboxByteCount = 0
        details.fullInbox = nil
        self.chargeMemory(of: index)
    }

    // MARK: - What is decoded later

    /// Bytes that messages may inflate to before others have their turn; the rest of what was received with them waits, and so does all
    /// of it while an async handler takes no more.
    static let inflatedAtOnceMax = 1 << 20

    /// Keeps what is not decoded now, if anything; it goes on when its peer may be read, in this tick or the next.
    func postponeDecoding(_ bytes: borrowing RawSpan, of index: Int) {
        guard !bytes.isEmpty else { return }
        self.stash(bytes, on: index)
        self.pauseReading(index, for: .undecoded)
        if unsafe self.slots.pointer(index).pointee.readingPauses == .undecoded {
            self.undecoded.append(self.id(of: index))
        }
    }

    /// Decodes what was left for later, of each connection as much as may be at once.
    func decodePostponed() {
        guard !self.undecoded.isEmpty else { return }
        let connections = self.undecoded
        self.undecoded = []
        for id in connections {
            guard let index = self.index(of: id),
                unsafe self.slots.pointer(index).pointee.readingPauses == .undecoded
            else { continue }
            self.decodePostponed(index)
        }
    }

    private func decodePostponed(_ index: Int) {
        let slot = unsafe self.slots.pointer(index)
        guard let details = unsafe slot.pointee.details else { return }
        var stash = details.stash
        details.stash = []
        unsafe slot.pointee.readingPauses.remove(.undecoded)
        if unsafe slot.pointee.phase == .open {
            var span = stash.mutableSpan
            var bytes = unsafe span.mutableBytes
            self.receivePostponedFrames(&bytes, on: index)
        }
        self.chargeMemory(of: index)
        if unsafe slot.pointee.readingPauses.isEmpty { self.io.setReading(true, on: index) }
        // A transport may have told of it once, and for all.
        guard details.endsBehindStash, !self.isUndecoded(index) else { return }
        details.endsBehindStash = false
        self.readingEnded(index)
    }

    /// Whether what a transport hands on now stands behind what is not decoded yet.
    @inline(__always)
    func isUndecoded(_ index: Int) -> Bool {
        unsafe self.slots.pointer(index).pointee.readingPauses.contains(.undecoded)
    }
}
