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
    /// Whether presence events were let go, which cannot be made good.
    private(set) var isLost = false
    /// Up to where the subscriber was brought, once that is done.
    ///
    /// A history is read at another time than live publications arrive: what it had may still be on its way here.
    private var floor: StreamPosition?

    /// Bytes of live publications that may wait for one subscriber, and of presence events.
    static let byteCountMax = 256 << 10

    /// What is to be done with a live publication.
    enum Verdict {
        /// It waits here.
        case held
        /// The subscriber has it from the history.
        case known
        /// It is the subscriber's, and so is all that follows.
        case current
    }

    /// Looks at a live publication, or the notice of a gap.
    func receive(_ publication: Publication) -> Verdict {
        guard let floor = self.floor else {
            self.append(publication)
            return .held
        }
        // Presence has no place in a history: it is passed on, and says nothing about what follows.
        guard let position = publication.position else { return .current }
        return position.epoch == floor.epoch && position.offset <= floor.offset ? .known : .current
    }

    /// The subscriber has everything up to a position, and is served like any other from the next publication on.
    func finish(at position: StreamPosition) {
        self.floor = position
        self.pending = []
    }

    /// Whether the history is still being read.
    var isReading: Bool { self.floor == nil }

    private func append(_ publication: Publication) {
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
        self.hasOverflown = true
    }

    /// What to do when everything up to `cursor` has been sent, and `newest` was the newest in the history at the time.
    func next(after cursor: StreamPosition, newest: StreamPosition) -> Step {
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
