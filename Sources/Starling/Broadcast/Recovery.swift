/// A subscriber that is being brought up to date from the history, as its loop sees it.
///
/// Live publications wait here meanwhile. They are a convenience, not a promise: if too many bytes come together they are
/// let go, and read from the history like the rest.
final class Recovery {
    private(set) var pending: [Publication] = []
    private var byteCount = 0
    /// Whether live publications were let go, so that ``pending`` says nothing about what came before it.
    private var hasOverflown = false
    private var presenceByteCount = 0
    /// How many of ``pending`` were there before the history was read last.
    private var pendingBeforeRead = 0
    /// Whether presence events were let go, which cannot be made good.
    private(set) var isLost = false
    /// Whether it was made with a connection that came from another process; any other one is a later one.
    let isResumed: Bool

    /// Bytes of live publications that may wait for one subscriber, and of presence events.
    static let byteCountMax = 256 << 10

    init(isResumed: Bool = false) {
        self.isResumed = isResumed
    }

    func append(_ publication: Publication) {
        switch publication.notice {
        case .gap: return self.letGo()
        case .presence(let event):
            // No history has them.
            self.presenceByteCount += 64 + event.member.id.utf8.count + event.member.info.utf8.count
            if self.presenceByteCount > Self.byteCountMax { self.isLost = true }
        case nil:
            self.byteCount += publication.message.byteCount
            if self.byteCount > Self.byteCountMax { return self.letGo() }
        }
        if !self.isLost { self.pending.append(publication) }
    }

    /// Lets publications go, this one included, and keeps presence events.
    private func letGo() {
        self.pending.removeAll { if case .presence = $0.notice { false } else { true } }
        self.byteCount = 0
        self.pendingBeforeRead = 0
        self.hasOverflown = true
    }

    /// What to do when everything up to `cursor` has been sent, and `newest` was the newest in the history at the time.
    func next(after cursor: StreamPosition, newest: StreamPosition) -> Step {
        // The history is in another epoch than what had come live before it was asked: that epoch is over.
        if self.pendingBeforeRead > 0, newest.epoch == cursor.epoch {
            let current = self.pending.prefix(self.pendingBeforeRead).filter { publication in
                publication.position.map { $0.epoch == cursor.epoch } ?? true
            }
            self.pending.replaceSubrange(..<self.pendingBeforeRead, with: current)
        }
        self.pendingBeforeRead = self.pending.count
        if let first = self.pending.lazy.compactMap(\.position).first {
            let isConnected = first.epoch == cursor.epoch && first.offset <= cursor.offset + 1
            guard isConnected else { return .readOn }
            return .finish(
                self.pending.filter { $0.position.map { $0.offset > cursor.offset } ?? true }
            )
        }
        if self.hasOverflown {
            self.hasOverflown = false
            return .readOn
        }
        return cursor == newest ? .finish(self.pending) : .readOn
    }

    enum Step {
        /// The history has more.
        case readOn
        /// These live publications close the gap; from now on the subscriber is served like any other.
        case finish([Publication])
    }
}

@available(*, unavailable) extension Recovery: Sendable {}
