internal import StarlingCore
internal import StarlingDeflate

extension ConnectionDriver {
    func subscribe(_ index: Int, to topic: Topic) -> Bool {
        let slot = unsafe self.slots.pointer(index)
        guard unsafe slot.pointee.phase == .open, unsafe slot.pointee.closing.isOpen,
            let endpoint = unsafe slot.pointee.endpoint
        else {
            return false
        }
        guard unsafe slot.pointee.subscriptions.count < endpoint.configuration.subscriptionsMax else {
            return false
        }
        if endpoint.topics.subscribe(index, to: topic, in: self.slots) == true {
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

    func beginSubscription(_ id: ConnectionID, to topic: Topic) -> SubscriptionOutcome {
        guard self.isOpen(id), let index = self.index(of: id),
            let endpoint = unsafe self.slots.pointer(index).pointee.endpoint
        else { return .closed }
        return self.subscribe(index, to: topic) ? .subscribed(endpoint.hub) : .tooMany
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
        for (publication, endpoint) in batch { self.deliver(publication, self.endpoints[endpoint]) }
    }

    /// Frames a publication once, compresses it once for each way that subscribers want it, and adds it to all of them
    /// by reference.
    private func deliver(_ publication: Publication, _ endpoint: LoopEndpoint) {
        guard let entry = endpoint.topics.subscribers(of: publication.topic) else { return }
        let opcode = publication.message.kind.opcode
        let topic = entry.number
        var plain: OutboundSegment?
        var compressed: [(windowBits: Int, segment: OutboundSegment)] = []
        self.counts.publicationsDelivered &+= 1
        self.counts.messagesSent &+= UInt64(entry.subscribers.count)
        for subscriber in entry.subscribers {
            let index = Int(subscriber)
            let slot = unsafe self.slots.pointer(index)
            guard unsafe slot.pointee.closing.isOpen else { continue }
            var segment: OutboundSegment?
            if unsafe slot.pointee.flags.contains(.compressing),
                let deflate = unsafe slot.pointee.details?.deflate
            {
                let bits = deflate.agreed.serverMaxWindowBits
                if deflate.keepsContext {
                    // A window of its own: the bytes are different for each such connection.
                    if let bytes = self.compress(publication.message.bytes, for: deflate, index) {
                        segment = unsafe self.published.encode(
                            opcode,
                            bytes.span.bytes,
                            isCompressed: true,
                            topic: topic
                        )
                        self.compressors.recycle(bytes)
                    }
                } else if let known = compressed.first(where: { $0.windowBits == bits }) {
                    segment = known.segment
                } else if let bytes = self.compressors.deflate(publication.message.bytes, for: deflate) {
                    let made = unsafe self.published.encode(
                        opcode,
                        bytes.span.bytes,
                        isCompressed: true,
                        topic: topic
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
                        publication.message.bytes,
                        isCompressed: false,
                        topic: topic
                    )
                }
                segment = plain
            }
            if let segment { self.append(segment, to: index, endpoint) }
        }
    }

    /// Adds a publication to a subscriber's outbound buffer, or does with it what the policy for slow consumers says.
    private func append(_ segment: OutboundSegment, to index: Int, _ endpoint: LoopEndpoint) {
        let slot = unsafe self.slots.pointer(index)
        let outbound = endpoint.configuration.outbound
        if unsafe slot.pointee.flags.contains(.writeBlocked), outbound.slowConsumerPolicy == .conflate,
            unsafe slot.pointee.outbound.removeOldestPublication(ofTopic: segment.topic) != nil
        {
            self.counts.slowConsumerConflations &+= 1
        }
        // What the peer would take at once is no backlog.
        if unsafe slot.pointee.outbound.byteCount + segment.byteCount > outbound.byteCountMax {
            self.flush(index)
        }
        if unsafe slot.pointee.outbound.byteCount + segment.byteCount > outbound.byteCountMax {
            switch outbound.slowConsumerPolicy.base {
            case .disconnect: return self.disconnectSlowConsumer(index)
            case .dropNewest, .conflate:
                self.counts.slowConsumerDrops &+= 1
                return
            case .dropOldest:
                while unsafe slot.pointee.outbound.byteCount + segment.byteCount > outbound.byteCountMax {
                    self.counts.slowConsumerDrops &+= 1
                    guard unsafe slot.pointee.outbound.removeOldestPublication() != nil else { return }
                }
            }
        }
        unsafe slot.pointee.outbound.append(segment, merging: !endpoint.keepsPublicationsApart)
        self.markDirty(index)
        if unsafe slot.pointee.outbound.byteCount > outbound.highWatermark {
            unsafe slot.pointee.flags.insert(.aboveHighWatermark)
        }
    }
}
