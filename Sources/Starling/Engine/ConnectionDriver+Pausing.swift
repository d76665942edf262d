/// Why a connection is not read.
struct ReadingPauses: OptionSet {
    let rawValue: UInt8
    /// The application has not decided yet, or does not take its messages.
    static let application = ReadingPauses(rawValue: 1 << 0)
    /// Memory is scarce.
    static let memory = ReadingPauses(rawValue: 1 << 1)
    /// The peer has sent more than it may, and has to wait for that.
    static let rate = ReadingPauses(rawValue: 1 << 2)
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
        if unsafe slot.pointee.readingPauses.isEmpty { self.io.setReading(true, on: index) }
    }

    /// Reads the connection whatever there was against it: it ends, and what comes now is only looked at for that.
    func readToTheEnd(_ index: Int) {
        unsafe self.resumeReading(index, from: self.slots.pointer(index).pointee.readingPauses)
    }

    /// An async handler does not take its messages.
    func inboxIsFull(_ index: Int, byteCount: Int) {
        self.pauseReading(index, for: .application)
        self.details(of: index).inboxByteCount = byteCount
        self.chargeMemory(of: index)
    }

    /// An async handler takes its messages again.
    func inboxHasRoom(_ id: ConnectionID) {
        guard let index = self.index(of: id) else { return }
        self.resumeReading(index, from: .application)
        self.details(of: index).inboxByteCount = 0
        self.chargeMemory(of: index)
    }
}
