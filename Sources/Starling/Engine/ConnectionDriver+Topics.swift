internal import StarlingCore
internal import StarlingDeflate

extension ConnectionDriver {
    func subscribe(_ index: Int, to topic: Topic, _ policy: SlowConsumerPolicy? = nil) -> Bool {
        let slot = unsafe self.slots.pointer(index)
        guard unsafe slot.pointee.phase == .open, unsafe slot.pointee.closing.isOpen,
            let endpoint = unsafe slot.pointee.endpoint
        else {
            return false
        }
        guard
            unsafe slot.pointee.subscriptions.count < endpoint.configuration.subscriptionsMax
                || endpoint.topics.isSubscribed(index, to: topic, in: self.slots)
        else { return false }
        let policy = policy ?? endpoint.outbound.slowConsumerPolicy
        if endpoint.topics.subscribe(index, to: topic, policy, in: self.slots) == true {
            endpoint.hub.addInterest(in: topic, of: self.loop)
        }
        return true
    }

    func unsubscribe(_ index: Int, from topic: Topic) {
        guard let endpoint = unsafe self.slots.pointer(index).pointee.endpoint else { return }
        if endpoint.topics.unsubscribe(index, from: topic, in: self.slots) == true {
            endpoint.hub.removeInterest(in: topic, of: self.loop)
        }
    }

    func unsubscribe(_ id: ConnectionID, from topic: Topic) {
        if let index = self.index(of: id) { self.unsubscribe(index, from: topic) }
    }

    /// What a connection is subscribed to.
    func topics(of index: Int) -> Set<Topic> {
        unsafe Set(self.slots.pointer(index).pointee.subscriptions.map(\.entry.topic))
    }

    func beginSubscription(
        _ id: ConnectionID,
        to topic: Topic,
        _ policy: SlowConsumerPolicy?
    ) -> SubscriptionOutcome {
        guard let index = self.index(of: id), self.isServed(index),
            let endpoint = unsafe self.slots.pointer(index).pointee.endpoint
        else { return .closed }
        return self.subscribe(index, to: topic, policy) ? .subscribed(endpoint.hub) : .tooMany
    }

    // MARK: - From a position on

    /// Subscribes, with live publications held back until ``continueRecovery(_:of:_:after:newest:)`` says that it is finished.
    ///
    /// A subscription that there was begins anew. One that came from another process and was `resumed` goes on with what is held back
    /// for it already, or not at all.
    func beginRecovery(
        _ id: ConnectionID,
        to topic: Topic,
        _ policy: SlowConsumerPolicy?,
        resumed: UInt64? = nil
    ) -> RecoveryOutcome {
        guard let index = self.index(of: id), self.isServed(index),
            let endpoint = unsafe self.slots.pointer(index).pointee.endpoint
        else { return .closed }
        if let resumed {
            return self.isRecovering(id, topic, resumed) ? .began(endpoint.hub, recovery: resumed) : .closed
        }
        // Not unsubscribed first: the hub would see a topic without subscribers.
        let isSubscribed = endpoint.topics.isSubscribed(index, to: topic, in: self.slots)
        if isSubscribed, let policy {
            _ = endpoint.topics.subscribe(index, to: topic, policy, in: self.slots)
        }
        guard isSubscribed || self.subscribe(index, to: topic, policy) else { return .tooMany }
        guard let entry = endpoint.topics.subscribers(of: topic) else { return .closed }
        entry.forget(UInt32(index))
        let recovery = self.makeRecovery()
        entry.recovering[UInt32(index)] = recovery
        return .began(endpoint.hub, recovery: recovery.number)
    }

    func makeRecovery() -> Recovery {
        self.recoveryCount += 1
        return Recovery(number: self.recoveryCount)
    }

    /// Whether a subscription is still being brought up to date, and not ended or begun anew by others.
    func isRecovering(_ id: ConnectionID, _ topic: Topic, _ number: UInt64) -> Bool {
        guard let index = self.index(of: id), let endpoint = unsafe self.slots.pointer(index).pointee.endpoint
        else { return false }
        return endpoint.topics.subscribers(of: topic)?.recovering[UInt32(index)]?.number == number
    }

    /// Ends a subscription that could not be brought up to date, unless it has ended or begun anew meanwhile, and the connection too
    /// if the peer believes to be subscribed.
    func giveUpRecovery(_ number: UInt64, of topic: Topic, _ id: ConnectionID, isHalfTold: Bool) {
        guard self.isRecovering(id, topic, number), let index = self.index(of: id) else { return }
        self.unsubscribe(index, from: topic)
        if isHalfTold { self.closeForGap(index) }
    }

    /// Sends publications of the history until the outbound buffer is above its high watermark; how many were taken.
    ///
    /// Nil if the connection is closing.
    func replay(_ publications: ArraySlice<Publication>, to id: ConnectionID) -> Int? {
        guard let index = self.index(of: id), let endpoint = unsafe self.slots.pointer(index).pointee.endpoint
        else { return nil }
        let format = unsafe self.slots.pointer(index).pointee.format
        for (count, publication) in publications.enumerated() {
            guard let message = endpoint.format(publication, format) else { continue }
            switch self.send(message.kind, message.bytes, to: index) {
            case .sent: continue
            case .buffered: return count + 1
            case .dropped: return nil
            }
        }
        return publications.count
    }

    /// Goes on with a recovery that has sent everything up to `cursor`: finished if what waits connects to it.
    func continueRecovery(
        _ number: UInt64,
        of topic: Topic,
        _ id: ConnectionID,
        after cursor: StreamPosition?,
        newest: StreamPosition?
    ) -> RecoveryProgress {
        guard let index = self.index(of: id), self.isServed(index),
            let endpoint = unsafe self.slots.pointer(index).pointee.endpoint
        else { return .ended }
        guard let entry = endpoint.topics.subscribers(of: topic),
            let recovery = entry.recovering[UInt32(index)], recovery.number == number
        else { return .replaced }
        if recovery.isLost {
            self.closeForGap(index)
            return .ended
        }
        var waiting = recovery.pending
        // A topic without a history: nothing connects, and what waits is all there is.
        if let cursor, let newest {
            switch recovery.next(after: cursor, newest: newest) {
            case .readOn: return .readOn
            case .finish(let publications): waiting = publications
            }
            entry.broughtUp(UInt32(index), to: cursor)
        }
        let format = unsafe self.slots.pointer(index).pointee.format
        for publication in waiting {
            guard let message = endpoint.format(publication, format) else { continue }
            guard self.send(message.kind, message.bytes, to: index) != .dropped else { return .ended }
        }
        entry.recovering[UInt32(index)] = nil
        return .finished
    }

    /// Tells one subscriber of a gap, or sends it away; false if it is gone.
    func reportGap(_ gap: TopicGap, to id: ConnectionID) -> Bool {
        guard let index = self.index(of: id), let endpoint = unsafe self.slots.pointer(index).pointee.endpoint
        else { return false }
        return self.tellGap(gap, to: index, endpoint)
    }

    func unsubscribeFromAll(_ index: Int) {
        let slot = unsafe self.slots.pointer(index)
        guard let endpoint = unsafe slot.pointee.endpoint else { return }
        while let subscription = unsafe slot.pointee.subscriptions.popLast() {
            let topic = subscription.entry.topic
            if endpoint.topics.remove(subscription, in: self.slots) {
                endpoint.hub.removeInterest(in: topic, of: self.loop)
            }
        }
        unsafe slot.pointee.subscriptions = []
    }

    /// Delivers the publications of this tick to their subscribers' outbound buffers.
    func fanOut() {
        guard !self.publications.isEmpty else { return }
        let batch = self.publications
        self.publications = []
        for (publication, endpoint) in batch { self.deliverTraced(publication, self.endpoints[endpoint]) }
    }

    func deliver(_ publication: Publication, _ endpoint: LoopEndpoint) {
        guard let entry = endpoint.topics.subscribers(of: publication.topic) else { return }
        self.counts.publicationsDelivered &+= 1
        for format in entry.formats { self.deliver(publication, endpoint, entry, format) }
        // Not before: who falls behind at this one has had what came before it.
        if let position = publication.position { entry.lastPosition = position }
        if entry.backlog != nil { self.keep(publication, entry, endpoint) }
    }

    /// Frames a publication once for the subscribers of a format, compresses it once for each way that they want it, and
    /// adds it to all of them by reference.
    private func deliver(
        _ publication: Publication,
        _ endpoint: LoopEndpoint,
        _ entry: TopicEntry,
        _ format: UInt8
    ) {
        guard let message = self.message(for: publication, endpoint, entry, format) else { return }
        let isOnlyFormat = entry.formats.count == 1
        let opcode = message.kind.opcode
        var plain: OutboundSegment?
        var compressed: [(windowBits: Int, segment: OutboundSegment)] = []
        for subscriber in entry.subscribers {
            let index = Int(subscriber)
            let slot = unsafe self.slots.pointer(index)
            guard unsafe slot.pointee.closing.isOpen else { continue }
            guard unsafe isOnlyFormat || slot.pointee.format == format else { continue }
            if !entry.recovering.isEmpty, let recovery = entry.recovering[subscriber] {
                recovery.append(publication)
                continue
            }
            if unsafe !slot.pointee.flags.isDisjoint(with: [.writeBlocked, .behind]),
                self.isHeldBack(publication, from: index, entry)
            {
                continue
            }
            if !entry.ahead.isEmpty, entry.hasHad(publication, subscriber) { continue }
            // Little is gathered for one connection: what its peer does not take now waits in the ring. Asked before anything is
            // compressed, which a window that is kept would remember.
            if unsafe slot.pointee.outbound.byteCount + message.bytes.byteCount
                > endpoint.outbound.highWatermark,
                self.mustHoldBack(publication, from: index, entry)
            {
                continue
            }
            var gainsWindow = false
            var segment: OutboundSegment?
            if unsafe slot.pointee.flags.contains(.compressing),
                let deflate = self.deflate(of: index)
            {
                let bits = deflate.windowBits
                if deflate.keepsContext {
                    // A window of its own: the bytes are different for each such connection.
                    let hadWindow = deflate.hasWindow
                    if let bytes = self.compress(message.bytes, for: deflate, index) {
                        gainsWindow = !hadWindow
                        segment = unsafe self.published.encode(
                            opcode,
                            bytes.span.bytes,
                            isCompressed: true
                        )
                        self.compressors.recycle(bytes)
                    }
                } else if let known = compressed.first(where: { $0.windowBits == bits }) {
                    segment = known.segment
                } else if let bytes = self.compressors.deflate(message.bytes, for: deflate) {
                    let made = unsafe self.published.encode(
                        opcode,
                        bytes.span.bytes,
                        isCompressed: true
                    )
                    compressed.append((bits, made))
                    segment = made
                    self.compressors.recycle(bytes)
                }
            }
            if segment == nil {
                if plain == nil {
                    plain = self.published.encode(
                        opcode,
                        message.bytes,
                        isCompressed: false
                    )
                }
                segment = plain
            }
            guard let segment else { continue }
            self.counts.messagesSent &+= 1
            unsafe slot.pointee.outbound.append(segment)
            self.markDirty(index)
            if gainsWindow { self.chargeMemory(of: index) }
        }
    }

    /// What subscribers are sent; nil for nothing.
    private func message(
        for publication: Publication,
        _ endpoint: LoopEndpoint,
        _ entry: TopicEntry,
        _ format: UInt8
    ) -> Message? {
        switch publication.notice {
        case nil, .presence: endpoint.format(publication, format)
        case .gap: self.gapMessage(for: publication, endpoint, entry, format)
        }
    }

    /// What tells of a gap; nil if subscribers are to be sent away instead, which is done then.
    private func gapMessage(
        for publication: Publication,
        _ endpoint: LoopEndpoint,
        _ entry: TopicEntry,
        _ format: UInt8
    ) -> Message? {
        guard let newest = publication.position else { return nil }
        let gap = TopicGap(topic: publication.topic, newest: newest)
        if let message = endpoint.formats[Int(format)].gap?(gap) { return message }
        // A copy: closing takes subscribers out of the list.
        for subscriber in Array(entry.subscribers)
        where unsafe self.slots.pointer(Int(subscriber)).pointee.format == format {
            if let recovery = entry.recovering[subscriber] {
                recovery.append(publication)
            } else if self.isHeldBack(publication, from: Int(subscriber), entry) {
                continue
            } else if !entry.hasHad(publication, subscriber) {
                self.closeForGap(Int(subscriber))
            }
        }
        return nil
    }

    func closeForGap(_ index: Int) {
        let slot = unsafe self.slots.pointer(index)
        guard unsafe slot.pointee.closing.isOpen else { return }
        self.fail(
            index,
            .tryAgainLater,
            reason: "publications were lost: subscribe anew",
            cause: .publicationsLost
        )
    }
}
