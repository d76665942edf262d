internal import StarlingCore

/// Subscribers that have fallen behind, and how they catch up.
///
/// A subscriber that takes no bytes is given no publications: it gets a cursor in the topic's ring. When it takes bytes again
/// it is sent what the ring has, a portion per tick, so that those who keep up are not kept waiting. What the ring has
/// given up meanwhile is dealt with as the subscription's ``SlowConsumerPolicy`` says.
extension ConnectionDriver {
    /// Publications that are read from a history at once for a subscriber that catches up.
    static let backlogPageCountMax = 64
    /// Subscribers of a loop that may be served from histories at once; others wait their turn.
    static let backlogReadingsMax = 16

    /// Whether a publication waits in the ring for this subscriber, since it cannot be written or has not caught up.
    func isHeldBack(_ publication: Publication, from index: Int, _ entry: TopicEntry) -> Bool {
        let slot = unsafe self.slots.pointer(index)
        if unsafe slot.pointee.flags.contains(.behind), entry.backlog?.cursors[UInt32(index)] != nil {
            return true
        }
        guard unsafe slot.pointee.flags.contains(.writeBlocked) else { return false }
        self.fallBehind(index, missing: publication, entry)
        return true
    }

    /// Writes what has been gathered for a subscriber; whether the publication must wait, since the peer takes no more.
    func mustHoldBack(_ publication: Publication, from index: Int, _ entry: TopicEntry) -> Bool {
        let slot = unsafe self.slots.pointer(index)
        self.flush(index)
        guard unsafe slot.pointee.closing.isOpen else { return true }
        guard unsafe slot.pointee.flags.contains(.writeBlocked) else { return false }
        self.fallBehind(index, missing: publication, entry)
        return true
    }

    /// Gives a subscriber a cursor, from this publication on.
    func fallBehind(_ index: Int, missing publication: Publication, _ entry: TopicEntry) {
        let slot = unsafe self.slots.pointer(index)
        let policy = unsafe slot.pointee.subscriptions.first { $0.entry === entry }?.policy ?? .disconnect
        let backlog = entry.backlog ?? TopicBacklog(budget: self.server.memory)
        entry.backlog = backlog
        // Everything before this publication has been sent to it; what is before a gap is only known if something was sent.
        let before = publication.notice == nil ? publication.position?.before : nil
        let position = entry.position(of: UInt32(index)) ?? before
        backlog.add(UInt32(index), after: position, policy)
        unsafe slot.pointee.flags.insert(.behind)
        self.counts.slowConsumers &+= 1
    }

    /// Puts a publication that is delivered into the topic's ring, if somebody is behind.
    func keep(_ publication: Publication, _ entry: TopicEntry, _ endpoint: LoopEndpoint) {
        guard let backlog = entry.backlog else { return }
        backlog.append(publication, at: self.now) { endpoint.configuration.conflationKey?($0) ?? "" }
        self.trim(backlog, endpoint)
        for subscriber in backlog.passedForGood() { self.disconnectSlowConsumer(Int(subscriber)) }
    }

    func trim(_ backlog: TopicBacklog, _ endpoint: LoopEndpoint) {
        let outbound = endpoint.outbound
        let oldest = LoopInstant(hundredths: self.now.hundredths &- endpoint.backlogAgeMax.hundredths)
        let byteCountMax =
            self.server.memory.isScarce
            ? outbound.backlogByteCountMax / Self.scarceBacklogDivisor : outbound.backlogByteCountMax
        backlog.trim(byteCountMax: byteCountMax, arrivedBefore: oldest)
    }

    /// Above the soft limit of memory, rings are so many times smaller.
    static let scarceBacklogDivisor: Int = 8

    // MARK: - Catching up

    /// Has a connection caught up in this tick, or the next.
    func scheduleCatchUp(_ index: Int) {
        let slot = unsafe self.slots.pointer(index)
        guard unsafe slot.pointee.flags.contains(.behind), unsafe !slot.pointee.flags.contains(.catchingUp)
        else { return }
        unsafe slot.pointee.flags.insert(.catchingUp)
        self.catchingUp.append(UInt32(index))
    }

    /// Sends each connection that takes bytes again a portion of what it has missed.
    func continueCatchingUp() {
        guard !self.catchingUp.isEmpty else { return }
        let indices = self.catchingUp
        self.catchingUp = []
        for index in indices {
            let slot = unsafe self.slots.pointer(Int(index))
            guard unsafe slot.pointee.flags.contains(.catchingUp) else { continue }
            unsafe slot.pointee.flags.remove(.catchingUp)
            self.catchUp(Int(index))
        }
    }

    private func catchUp(_ index: Int) {
        let slot = unsafe self.slots.pointer(index)
        guard unsafe slot.pointee.phase == .open, unsafe slot.pointee.closing.isOpen,
            let endpoint = unsafe slot.pointee.endpoint
        else { return }
        // What still waits from before comes first.
        self.flush(index)
        var isBehind = false
        var mayGoOn = false
        let count = unsafe slot.pointee.subscriptions.count
        for offset in 0..<count {
            // Not always the same topic first.
            let place = (offset + Int(truncatingIfNeeded: self.counts.ticks)) % count
            let entry = unsafe slot.pointee.subscriptions[place].entry
            guard let backlog = entry.backlog, backlog.cursors[UInt32(index)] != nil else { continue }
            let outcome = self.catchUp(index, entry, backlog, endpoint)
            guard unsafe slot.pointee.closing.isOpen else { return }
            switch outcome {
            case .upToDate: continue
            case .waiting: isBehind = true
            case .more:
                isBehind = true
                mayGoOn = true
            }
        }
        self.flush(index)
        if unsafe slot.pointee.flags.contains(.writeBlocked) { self.letGoOfPages(index) }
        if !isBehind {
            unsafe slot.pointee.flags.remove(.behind)
        } else if mayGoOn, unsafe !slot.pointee.flags.contains(.writeBlocked) {
            self.scheduleCatchUp(index)
        }
    }

    /// A page that a slow peer waited with would be a copy for each: what is left of it is read again.
    private func letGoOfPages(_ index: Int) {
        for subscription in unsafe self.slots.pointer(index).pointee.subscriptions {
            guard let backlog = subscription.entry.backlog, var cursor = backlog.cursors[UInt32(index)],
                case .page(let rest, _, _) = cursor.reading, !rest.isEmpty
            else { continue }
            cursor.reading = .none
            backlog.update(UInt32(index), cursor)
        }
    }

    private enum CatchUp {
        case upToDate
        /// The history is asked, or the connection takes no more.
        case waiting
        case more
    }

    /// Sends what a subscriber has missed of one topic, as much as there is room for in its outbound buffer.
    private func catchUp(
        _ index: Int,
        _ entry: TopicEntry,
        _ backlog: TopicBacklog,
        _ endpoint: LoopEndpoint
    ) -> CatchUp {
        let slot = unsafe self.slots.pointer(index)
        let subscriber = UInt32(index)
        self.trim(backlog, endpoint)
        guard var cursor = backlog.cursors[subscriber] else { return .upToDate }
        // A subscriber that begins anew from a position takes another way; it has no cursor any more.
        while true {
            // There was no memory for what it has just been sent.
            guard unsafe slot.pointee.closing.isOpen else { return .waiting }
            guard unsafe slot.pointee.outbound.byteCount < endpoint.outbound.highWatermark else {
                backlog.update(subscriber, cursor)
                return unsafe slot.pointee.flags.contains(.writeBlocked) ? .waiting : .more
            }
            if case .asked = cursor.reading { return .waiting }
            if self.deliverFromPage(&cursor, to: index, endpoint) { continue }
            if case .page(_, let newest, let askedAt) = cursor.reading {
                if let position = cursor.position,
                    let number = backlog.number(after: position, newest: newest, askedAt: askedAt)
                {
                    guard self.deliverPresence(before: number, cursor, backlog, to: index, endpoint) else {
                        return .waiting
                    }
                    cursor.next = number
                    cursor.reading = .none
                    cursor.isRecovering = false
                } else if let position = cursor.position {
                    // All of the page is sent, and the ring does not connect to it.
                    cursor = self.readHistory(index, entry.topic, after: position, backlog, cursor, endpoint)
                } else {
                    cursor.reading = .none
                }
                continue
            }
            if backlog.hasPassed(cursor) {
                let givenUp = backlog.givenUpCount
                guard let next = self.passed(index, entry, backlog, cursor, endpoint) else { return .waiting }
                cursor = next
                if case .asked = cursor.reading { return .waiting }
                guard unsafe slot.pointee.closing.isOpen else { return .waiting }
                // What it was told may have been too much for the memory, and made the ring give up more.
                if backlog.givenUpCount != givenUp { continue }
            }
            guard let missed = self.takeNext(backlog, &cursor) else { break }
            if !self.deliverMissed(missed, to: index, entry, endpoint) { return .waiting }
        }
        entry.endBacklog(of: subscriber)
        if let position = cursor.position { entry.broughtUp(subscriber, to: position) }
        return .upToDate
    }

    /// The next publication that a subscriber gets out of the ring; its cursor goes behind it, and what that passes over is counted.
    private func takeNext(_ backlog: TopicBacklog, _ cursor: inout TopicBacklog.Cursor) -> Publication? {
        while let missed = backlog.next(for: cursor) {
            if cursor.policy == .conflate {
                self.counts.slowConsumerConflations &+= missed.number - cursor.next
            }
            cursor.next = missed.number + 1
            if let position = missed.publication.position {
                // The history has brought it further than this.
                if let had = cursor.position, position.epoch == had.epoch, position.offset <= had.offset {
                    continue
                }
                cursor.position = position
            }
            return missed.publication
        }
        return nil
    }

    /// Sends a subscriber something out of the ring; false if it was closed instead.
    private func deliverMissed(
        _ publication: Publication,
        to index: Int,
        _ entry: TopicEntry,
        _ endpoint: LoopEndpoint
    ) -> Bool {
        if entry.hasHad(publication, UInt32(index)) { return true }
        guard case .gap = publication.notice, let newest = publication.position else {
            self.deliver(publication, to: index, endpoint)
            return true
        }
        return self.tellGap(TopicGap(topic: publication.topic, newest: newest), to: index, endpoint)
    }

    /// Sends a subscriber the next publication of its page of the history; false if it has none.
    private func deliverFromPage(
        _ cursor: inout TopicBacklog.Cursor,
        to index: Int,
        _ endpoint: LoopEndpoint
    ) -> Bool {
        guard case .page(var rest, let newest, let askedAt) = cursor.reading,
            let publication = rest.popFirst()
        else { return false }
        cursor.reading = .page(rest, newest: newest, askedAt: askedAt)
        cursor.position = publication.position ?? cursor.position
        self.deliver(publication, to: index, endpoint)
        return true
    }

    /// Sends a subscriber the presence events of the ring that it passes over, since it has had the publications there from the
    /// history, which has no such events; false if some are lost and it was closed for that.
    private func deliverPresence(
        before number: UInt64,
        _ cursor: TopicBacklog.Cursor,
        _ backlog: TopicBacklog,
        to index: Int,
        _ endpoint: LoopEndpoint
    ) -> Bool {
        guard self.isSentPresence(index, endpoint) else { return true }
        guard !self.closeForLostPresence(index, cursor, backlog, endpoint) else { return false }
        for event in backlog.presence(from: cursor.next, to: number) {
            self.deliver(event, to: index, endpoint)
        }
        return true
    }

    /// Closes a subscriber that presence events are lost to, which nothing can replace; false if none are.
    private func closeForLostPresence(
        _ index: Int,
        _ cursor: TopicBacklog.Cursor,
        _ backlog: TopicBacklog,
        _ endpoint: LoopEndpoint
    ) -> Bool {
        guard self.isSentPresence(index, endpoint), backlog.hasLostPresence(cursor) else { return false }
        self.counts.slowConsumerDisconnects &+= 1
        self.closeForGap(index)
        return true
    }

    /// Frames a publication for one subscriber.
    private func deliver(_ publication: Publication, to index: Int, _ endpoint: LoopEndpoint) {
        let slot = unsafe self.slots.pointer(index)
        guard let message = unsafe endpoint.format(publication, slot.pointee.format) else { return }
        self.appendMessage(message, to: index)
    }

    /// Tells one subscriber of a gap, or sends it away; false if it was sent away.
    func tellGap(_ gap: TopicGap, to index: Int, _ endpoint: LoopEndpoint) -> Bool {
        let format = unsafe Int(self.slots.pointer(index).pointee.format)
        guard let message = endpoint.formats[format].gap?(gap) else {
            self.closeForGap(index)
            return false
        }
        self.appendMessage(message, to: index)
        return true
    }

    /// Puts what a subscriber has missed into its outbound buffer, since it goes where no ring has it; but what can be read
    /// from a history there.
    func gatherMissed(_ index: Int, _ endpoint: LoopEndpoint) {
        let slot = unsafe self.slots.pointer(index)
        for subscription in unsafe slot.pointee.subscriptions {
            let entry = subscription.entry
            guard let backlog = entry.backlog, var cursor = backlog.cursors[UInt32(index)] else { continue }
            // No history has the presence events that wait for it.
            let isReadThere = cursor.position != nil && endpoint.hub.spansProcesses
            if isReadThere, !self.isSentPresence(index, endpoint) || !backlog.holdsPresence(for: cursor) {
                continue
            }
            while unsafe slot.pointee.closing.isOpen {
                if backlog.hasPassed(cursor) {
                    let givenUp = backlog.givenUpCount
                    let next = self.passed(index, entry, backlog, cursor, endpoint, mayRead: false)
                    guard let next, unsafe slot.pointee.closing.isOpen else { return }
                    cursor = next
                    if backlog.givenUpCount != givenUp { continue }
                }
                guard let missed = self.takeNext(backlog, &cursor) else { break }
                guard self.deliverMissed(missed, to: index, entry, endpoint) else { return }
            }
            backlog.update(UInt32(index), cursor)
        }
    }

    private func isSentPresence(_ index: Int, _ endpoint: LoopEndpoint) -> Bool {
        unsafe endpoint.formats[Int(self.slots.pointer(index).pointee.format)].presence != nil
    }

    // MARK: - What the ring has given up

    /// The ring has passed a subscriber: where it goes on, or nil if it was closed; `mayRead` says whether there is time to read a
    /// history.
    private func passed(
        _ index: Int,
        _ entry: TopicEntry,
        _ backlog: TopicBacklog,
        _ cursor: TopicBacklog.Cursor,
        _ endpoint: LoopEndpoint,
        mayRead: Bool = true
    ) -> TopicBacklog.Cursor? {
        guard !self.closeForLostPresence(index, cursor, backlog, endpoint) else { return nil }
        switch cursor.policy.base {
        case .disconnect:
            self.disconnectSlowConsumer(index)
            return nil
        case .conflate: return self.conflated(index, entry, backlog, cursor, endpoint)
        case .skip: return self.skipped(index, entry, backlog, cursor, endpoint)
        case .recover:
            guard mayRead, let position = cursor.position, endpoint.hub.history != nil else {
                return self.skipped(index, entry, backlog, cursor, endpoint)
            }
            return self.readHistory(index, entry.topic, after: position, backlog, cursor, endpoint)
        }
    }

    /// Only those publications are missing for which there are newer ones; unless there was no room for all keys.
    private func conflated(
        _ index: Int,
        _ entry: TopicEntry,
        _ backlog: TopicBacklog,
        _ cursor: TopicBacklog.Cursor,
        _ endpoint: LoopEndpoint
    ) -> TopicBacklog.Cursor? {
        guard let lost = backlog.lastKeptTrimmed, lost.number >= cursor.next else { return cursor }
        var next = cursor
        next.next = lost.number + 1
        next.lostCount = 0
        let superseded = next.next - cursor.next - cursor.lostCount
        return self.goOn(index, entry, from: cursor, to: next, lost.position, endpoint) {
            $0.slowConsumerDrops &+= cursor.lostCount
            $0.slowConsumerConflations &+= superseded
        }
    }

    /// Goes on with the oldest publication in the ring, and says so.
    private func skipped(
        _ index: Int,
        _ entry: TopicEntry,
        _ backlog: TopicBacklog,
        _ cursor: TopicBacklog.Cursor,
        _ endpoint: LoopEndpoint
    ) -> TopicBacklog.Cursor? {
        var next = cursor
        next.next = backlog.firstNumber
        next.reading = .none
        next.isRecovering = false
        let lostCount = backlog.passedCount(cursor)
        return self.goOn(index, entry, from: cursor, to: next, backlog.lastTrimmedPosition, endpoint) {
            $0.slowConsumerDrops &+= lostCount
        }
    }

    /// Tells a subscriber what it goes on without, if its topic has positions, and counts it; nil if it was sent away instead.
    private func goOn(
        _ index: Int,
        _ entry: TopicEntry,
        from cursor: TopicBacklog.Cursor,
        to next: TopicBacklog.Cursor,
        _ newest: StreamPosition?,
        _ endpoint: LoopEndpoint,
        count: (inout LoopCounts) -> Void
    ) -> TopicBacklog.Cursor? {
        var next = next
        if let newest {
            // The history has brought it further than what the ring has given up.
            if let had = cursor.position, had.epoch == newest.epoch, had.offset >= newest.offset {
                return next
            }
            let gap = TopicGap(topic: entry.topic, after: cursor.position, newest: newest)
            guard self.tellGap(gap, to: index, endpoint) else {
                self.counts.slowConsumerDisconnects &+= 1
                return nil
            }
            next.position = newest
        }
        self.counts.slowConsumerGaps &+= 1
        count(&self.counts)
        return next
    }

    // MARK: - From the history

    /// Asks for a page of the history; returns the cursor of a subscriber that waits for one.
    private func readHistory(
        _ index: Int,
        _ topic: Topic,
        after position: StreamPosition,
        _ backlog: TopicBacklog,
        _ cursor: TopicBacklog.Cursor,
        _ endpoint: LoopEndpoint
    ) -> TopicBacklog.Cursor {
        var cursor = cursor
        cursor.reading = .asked(atNumber: backlog.nextNumber)
        backlog.update(UInt32(index), cursor)
        let reading = BacklogReading(
            connection: self.id(of: index),
            topic: topic,
            position: position,
            endpoint: endpoint.index
        )
        if self.backlogReadings < Self.backlogReadingsMax {
            self.begin(reading)
        } else {
            self.waitingReadings.append(reading)
        }
        return cursor
    }

    private func begin(_ reading: BacklogReading) {
        guard let history = self.endpoints[reading.endpoint].hub.history else { return }
        self.backlogReadings += 1
        let loop = self.loop
        Task(executorPreference: loop) {
            let page = await reading.page(of: history)
            loop.post(.perform { $0?.historyArrived(page, reading) })
        }
    }

    private func historyArrived(_ page: TopicHistory?, _ reading: BacklogReading) {
        self.backlogReadings -= 1
        self.take(page, reading)
        while self.backlogReadings < Self.backlogReadingsMax, !self.waitingReadings.isEmpty {
            self.begin(self.waitingReadings.removeFirst())
        }
    }

    private func take(_ page: TopicHistory?, _ reading: BacklogReading) {
        guard let index = self.index(of: reading.connection),
            unsafe self.slots.pointer(index).pointee.closing.isOpen
        else { return }
        let endpoint = self.endpoints[reading.endpoint]
        guard let entry = endpoint.topics.subscribers(of: reading.topic), let backlog = entry.backlog,
            var cursor = backlog.cursors[UInt32(index)], cursor.position == reading.position,
            case .asked(let askedAt) = cursor.reading
        else { return }
        if let page, let newest = page.newest, page.isComplete,
            !(page.publications.isEmpty && newest == reading.position)
                || backlog.number(after: reading.position, newest: newest, askedAt: askedAt) != nil
        {
            if backlog.hasPassed(cursor), !cursor.isRecovering {
                self.counts.slowConsumerRecoveries &+= 1
                cursor.isRecovering = true
            }
            cursor.reading = .page(page.publications[...], newest: newest, askedAt: askedAt)
            // At least one, also if something else has filled the buffer again: it would be read for ever otherwise.
            _ = self.deliverFromPage(&cursor, to: index, endpoint)
            backlog.update(UInt32(index), cursor)
            if unsafe self.slots.pointer(index).pointee.flags.contains(.writeBlocked) {
                return self.letGoOfPages(index)
            }
        } else {
            // The history does not reach back so far, or has not what the ring has passed: go on with the ring.
            guard !self.closeForLostPresence(index, cursor, backlog, endpoint),
                let next = self.skipped(index, entry, backlog, cursor, endpoint),
                unsafe self.slots.pointer(index).pointee.closing.isOpen
            else { return }
            cursor = next
        }
        backlog.update(UInt32(index), cursor)
        self.scheduleCatchUp(index)
    }
}

extension StreamPosition {
    /// Where somebody stands who has had everything before the publication at this position.
    fileprivate var before: StreamPosition {
        StreamPosition(epoch: self.epoch, offset: max(1, self.offset) - 1)
    }
}

/// A page of a history that is asked for on behalf of a subscriber.
struct BacklogReading: Sendable {
    let connection: ConnectionID
    let topic: Topic
    let position: StreamPosition
    let endpoint: Int

    /// The page; nil if the broadcaster, which logs it, has failed, as if the history were lost.
    func page(of history: any HistoryBroadcaster) async -> TopicHistory? {
        try? await history.history(
            of: self.topic,
            after: self.position,
            countMax: ConnectionDriver.backlogPageCountMax
        )
    }
}
