internal import Logging
internal import StarlingCore

/// A hand-off of this driver's connections to another process, while it lasts.
struct HandoffInProgress {
    /// The connections whose records have been made.
    var exported: Set<Int> = []
    /// Those among them that were waiting for their peers to take bytes before.
    var wereBlocked: Set<Int> = []
    /// Those that have come to hold too much since.
    var overrun: Set<Int> = []
    /// What was asked of them since.
    var late: [Int: LateOrders] = [:]
    var lateByteCount = 0
    /// Whether more may be asked of them; otherwise they are gone, as far as anybody can tell.
    var takesOrders = true

    /// Bytes that may be sent to a loop's connections while they are between two processes; more is dropped, and its sender
    /// told.
    static let lateByteCountMax = 16 << 20
}

/// What was asked of a connection while it is between two processes, in its order.
struct LateOrders {
    private(set) var orders: [LateOrder] = []
    /// Bytes of messages that wait with the others in its outbound buffer.
    private(set) var byteCount = 0
    /// Whether a close was the last.
    private(set) var isClosing = false

    mutating func append(_ order: LateOrder) {
        self.orders.append(order)
        switch order {
        case .send(let message): self.byteCount += message.byteCount
        case .close: self.isClosing = true
        }
    }
}

/// A topic of an endpoint.
package struct HandoffTopic: Hashable, Sendable {
    let endpoint: Int
    let topic: Topic
}

/// Connections leave for another process.
///
/// The transport stops reading and accepting, and calls in this order: ``beginHandoff()``, then ticks until
/// ``isAtRest``, then ``exportConnections(where:)``; and once the other process has all it needs ``takeLateOrders()`` and
/// ``finishHandoff(of:)``. ``abandonHandoff()`` undoes everything at any time before. From the export on, nothing is read from
/// or written to the connections of which there are records.
extension ConnectionDriver {
    /// The topics with a history of which nothing has come live yet, so that nobody knows where their subscribers are.
    package func topicsWithoutPosition() -> Set<HandoffTopic> {
        var topics: Set<HandoffTopic> = []
        for endpoint in self.endpoints where endpoint.hub.history != nil && endpoint.hub.spansProcesses {
            for entry in endpoint.topics.list where entry.lastPosition == nil {
                topics.insert(HandoffTopic(endpoint: endpoint.index, topic: entry.topic))
            }
        }
        return topics
    }

    /// Says where those topics were, some time before the hand-off begins; nil for those without a history.
    ///
    /// The subscribers of one of which nothing is said stay: nobody could tell what they miss.
    package func notePositions(_ positions: [HandoffTopic: StreamPosition?]) {
        for (topic, position) in positions {
            let entry = self.endpoints[topic.endpoint].topics.subscribers(of: topic.topic)
            entry?.basePosition = position
            entry?.hasNoHistory = position == nil
        }
    }

    /// Deadlines stop, and the bodies of connections that can go are told to return.
    package func beginHandoff() {
        guard self.handoff == nil else { return }
        self.handoff = HandoffInProgress()
    }

    /// Whether every body has returned that was told to; tells those that were not.
    package var isAtRest: Bool {
        EventLoop.withCurrent(self) {
            var isAtRest = true
            for index in 0..<self.slots.usedCapacity {
                guard let handoff = self.handoffCallbacks(of: index) else { continue }
                let context = ConnectionContext(self, index)
                handoff.suspend(context)
                if !handoff.isAtRest(context) { isAtRest = false }
            }
            return isAtRest
        }
    }

    /// Makes the records of all connections that can go; between two ticks.
    ///
    /// - Parameter isFree: Whether the transport can do without a connection.
    /// - Returns: The records, by the connections' numbers here.
    package func exportConnections(where isFree: (Int) -> Bool = { _ in true }) -> [ConnectionRecord] {
        EventLoop.withCurrent(self) {
            // What has reached this loop before belongs into the records.
            while !self.publications.isEmpty { self.fanOut() }
            var records: [ConnectionRecord] = []
            for index in 0..<self.slots.usedCapacity {
                guard unsafe self.slots.pointer(index).pointee.phase != .free, isFree(index),
                    let bytes = self.export(index)
                else { continue }
                let slot = unsafe self.slots.pointer(index)
                self.handoff?.exported.insert(index)
                if unsafe slot.pointee.flags.contains(.writeBlocked) {
                    self.handoff?.wereBlocked.insert(index)
                }
                // Nothing is written to a connection that takes no bytes.
                unsafe slot.pointee.flags.insert(.writeBlocked)
                if unsafe slot.pointee.phase == .open { unsafe slot.pointee.phase = .leaving }
                records.append(ConnectionRecord(index: index, bytes: bytes))
            }
            return records
        }
    }

    /// What was asked of connections since their records were made; from now on they are gone for everybody.
    package func takeLateOrders() -> [ConnectionRecord] {
        for index in self.handoff?.exported ?? [] { self.depart(index, true) }
        // What was handed over before counts.
        EventLoop.withCurrent(self) { self.takeMail() }
        self.handoff?.takesOrders = false
        guard let handoff = self.handoff else { return [] }
        var late = handoff.late
        for index in handoff.overrun where late[index]?.isClosing != true {
            // Something for it has been dropped.
            late[index, default: LateOrders()].append(
                .close(.tryAgainLater, reason: "too much was sent at once")
            )
        }
        return late.map { index, late in
            ConnectionRecord(index: index, bytes: ConnectionRecord.write(late.orders))
        }
    }

    /// The other process has these connections: forgets them, and goes on with the others.
    ///
    /// They are closed through ``ConnectionIO/close(_:)``, which must not end their streams.
    package func finishHandoff(of indices: [Int]) {
        EventLoop.withCurrent(self) {
            for index in indices where unsafe self.slots.pointer(index).pointee.phase != .free {
                self.forget(index)
            }
        }
        self.abandonHandoff()
    }

    /// The other process does not take the connections that are left: they go on here.
    package func abandonHandoff() {
        guard let handoff = self.handoff else { return }
        EventLoop.withCurrent(self) {
            self.handoff = nil
            let kept = handoff.exported.sorted().filter {
                unsafe self.slots.pointer($0).pointee.phase != .free
            }
            for index in kept { self.takeBack(index, handoff) }
            for index in 0..<self.slots.usedCapacity {
                self.handoffCallbacks(of: index)?.resume(ConnectionContext(self, index))
            }
            // Not before: bodies of connections that are closed at once go on too.
            for index in kept {
                for order in handoff.late[index]?.orders ?? [] { self.perform(order, index) }
                if handoff.overrun.contains(index) { self.disconnectSlowConsumer(index) }
            }
        }
    }

    /// Keeps what is sent to a connection that is between two processes, as long as its outbound buffer has room for it there.
    func sendLate(_ kind: MessageView.Kind, _ bytes: RawSpan, to index: Int) -> SendResult {
        let slot = unsafe self.slots.pointer(index)
        guard self.takesLateOrders(index), let outbound = unsafe slot.pointee.endpoint?.outbound else {
            return .dropped
        }
        let lateByteCount = self.handoff?.late[index]?.byteCount ?? 0
        let before = unsafe slot.pointee.outbound.byteCount + lateByteCount
        let waiting = before + bytes.byteCount
        guard outbound.hasRoom(for: bytes.byteCount, behind: before) else {
            return self.refuseSend(of: bytes.byteCount, to: index)
        }
        let all = (self.handoff?.lateByteCount ?? 0) + Inbox.messageByteCount + bytes.byteCount
        guard all <= HandoffInProgress.lateByteCountMax else { return .dropped }
        self.handoff?.lateByteCount = all
        self.keep(.send(Message(kind, copying: bytes)), for: index)
        if waiting > outbound.highWatermark { unsafe slot.pointee.flags.insert(.aboveHighWatermark) }
        return unsafe slot.pointee.flags.contains(.aboveHighWatermark) ? .buffered : .sent
    }

    /// Keeps a close for a connection that is between two processes, whatever there is already; it is the last.
    func closeLate(_ index: Int, _ code: CloseCode, reason: String) {
        if self.takesLateOrders(index) { self.keep(.close(code, reason: reason), for: index) }
    }

    /// Whether something can be asked of a connection because it is between two processes.
    func takesLateOrders(_ index: Int) -> Bool {
        unsafe self.slots.pointer(index).pointee.phase == .leaving && self.handoff?.takesOrders == true
            && self.handoff?.late[index]?.isClosing != true
    }

    /// A body has returned because it was told to.
    func bodySuspended(_ connection: AsyncConnection, mustGoOn: Bool) {
        self.taskCount -= 1
        self.stragglers[connection.id] = nil
        guard mustGoOn, let index = self.index(of: connection.id) else { return }
        self.handoffCallbacks(of: index)?.resume(ConnectionContext(self, index))
    }

    // MARK: -

    /// What an open connection's endpoint can do for a hand-off; nil for all others.
    private func handoffCallbacks(of index: Int) -> HandoffCallbacks? {
        let slot = unsafe self.slots.pointer(index)
        guard unsafe slot.pointee.phase == .open, unsafe slot.pointee.flags.contains(.opened),
            unsafe slot.pointee.closing.isOpen
        else { return nil }
        return unsafe slot.pointee.endpoint?.callbacks.handoff
    }

    /// A connection's record; nil if it cannot go.
    private func export(_ index: Int) -> [UInt8]? {
        let slot = unsafe self.slots.pointer(index)
        guard unsafe slot.pointee.flags.isDisjoint(with: [.finishAfterFlush, .ending, .inputEnded]) else {
            return nil
        }
        var writer = ByteWriter()
        switch unsafe slot.pointee.phase {
        case .http:
            guard unsafe slot.pointee.outbound.isEmpty, let details = unsafe slot.pointee.details else {
                return nil
            }
            writer.write(ConnectionRecord.Kind.http.rawValue)
            self.writeAddressAndAges(of: index, to: &writer)
            writer.write(details.headReader.heldBytes)
            return writer.bytes
        case .open:
            let context = ConnectionContext(self, index)
            guard let endpoint = unsafe slot.pointee.endpoint, let handoff = self.handoffCallbacks(of: index),
                handoff.isAtRest(context),
                unsafe slot.pointee.subscriptions.allSatisfy({
                    $0.entry.recovering[UInt32(index)] == nil
                        && self.isPlaceKnown(of: index, in: $0.entry, endpoint)
                })
            else { return nil }
            self.gatherMissed(index, endpoint)
            // It was closed if it could not be told of what is lost to it.
            // What is not decoded yet because nobody takes it stays with what is.
            guard unsafe slot.pointee.closing.isOpen, !self.isUndecoded(index) else { return nil }
            do {
                let state = try handoff.export(context)
                writer.write(ConnectionRecord.Kind.open.rawValue)
                writer.write(endpoint.path)
                self.writeAddressAndAges(of: index, to: &writer)
                self.writeOpen(index, to: &writer)
                writer.write(state)
                return writer.bytes
            } catch {
                self.server.logger.debug(
                    "a connection cannot be handed off",
                    metadata: [
                        LoggingKeys.connection: "\(self.id(of: index))", LoggingKeys.error: "\(error)",
                    ]
                )
                return nil
            }
        case .free, .connecting, .deciding, .leaving, .lingering: return nil
        }
    }

    /// Whether a subscription can go on from where it is: with a history there must be a position to read it from.
    private func isPlaceKnown(of index: Int, in entry: TopicEntry, _ endpoint: LoopEndpoint) -> Bool {
        guard endpoint.hub.history != nil, endpoint.hub.spansProcesses, !entry.hasNoHistory else {
            return true
        }
        return entry.position(of: UInt32(index)) != nil
    }

    /// Says to senders on other threads whether a connection has gone.
    private func depart(_ index: Int, _ hasDeparted: Bool) {
        let slot = unsafe self.slots.pointer(index)
        guard unsafe slot.pointee.phase == .leaving else { return }
        unsafe slot.pointee.endpoint?.callbacks.handoff?.depart(ConnectionContext(self, index), hasDeparted)
    }

    private func writeAddressAndAges(of index: Int, to writer: inout ByteWriter) {
        let slot = unsafe self.slots.pointer(index)
        let address = unsafe slot.pointee.address
        writer.write(address.host)
        writer.write(Int(address.port))
        unsafe self.writeAge(since: slot.pointee.openedAt, to: &writer)
        unsafe self.writeAge(since: slot.pointee.waitingSince, to: &writer)
        unsafe self.writeAge(since: slot.pointee.lastReceivedAt, to: &writer)
        unsafe writer.write(slot.pointee.bytesReceived)
        unsafe writer.write(slot.pointee.bytesSent)
    }

    private func writeAge(since instant: LoopInstant, to writer: inout ByteWriter) {
        writer.write(UInt64((self.now - instant).hundredths))
    }

    private func writeOpen(_ index: Int, to writer: inout ByteWriter) {
        let slot = unsafe self.slots.pointer(index)
        let details = unsafe slot.pointee.details
        writer.write(details?.path ?? "")
        writer.write(details?.subprotocol) { $0.write($1) }
        writer.write(details?.user) { $0.write($1) }
        writer.write(details?.pendingPong) { $0.write($1) }
        writer.write(self.deflate(of: index)) { $1.write(to: &$0) }
        unsafe self.writeAge(since: slot.pointee.lastMessageAt, to: &writer)
        unsafe self.writeAge(since: slot.pointee.pingedAt, to: &writer)
        unsafe writer.write(slot.pointee.flags.contains(.awaitingPong))
        unsafe writer.write(slot.pointee.flags.contains(.aboveHighWatermark))
        unsafe writer.write(UInt64(slot.pointee.messagesReceived))
        unsafe slot.pointee.codec.writePartialInput(to: &writer)

        let subscriptions = unsafe slot.pointee.subscriptions
        writer.write(subscriptions.count)
        for subscription in subscriptions {
            writer.write(subscription.entry.topic.name)
            writer.write(subscription.policy.number)
            writer.write(subscription.entry.position(of: UInt32(index))) { writer, position in
                writer.write(position.epoch)
                writer.write(position.offset)
            }
        }
        unsafe slot.pointee.outbound.write(to: &writer)
    }

    /// The connection is another process' now.
    func forget(_ index: Int) {
        let slot = unsafe self.slots.pointer(index)
        if unsafe slot.pointee.flags.contains(.opened), let endpoint = unsafe slot.pointee.endpoint {
            unsafe slot.pointee.flags.remove(.opened)
            self.counts.openConnections &-= 1
            self.unsubscribeFromAll(index)
            unsafe slot.pointee.cause = .serverDraining
            endpoint.callbacks.handoff?.discard(ConnectionContext(self, index))
        }
        self.leaveTable(index)
    }

    /// The connection has stayed: it is served again.
    private func takeBack(_ index: Int, _ handoff: HandoffInProgress) {
        let slot = unsafe self.slots.pointer(index)
        self.depart(index, false)
        if unsafe slot.pointee.phase == .leaving { unsafe slot.pointee.phase = .open }
        // Nobody could answer, or take anything, meanwhile.
        self.restartSilence(of: index)
        if !handoff.wereBlocked.contains(index) { self.writable(index) }
        self.scheduleDeadline(index)
    }

    func perform(_ order: LateOrder, _ index: Int) {
        switch order {
        case .send(let message):
            // As for what another thread has handed over: its sender believes it to be on its way.
            if self.send(message.kind, message.bytes, to: index) == .dropped {
                self.disconnectSlowConsumer(index)
            }
        case .close(let code, let reason):
            self.close(index, code, reason: reason, cause: .applicationClosed)
        }
    }

    private func keep(_ order: LateOrder, for index: Int) {
        self.handoff?.late[index, default: LateOrders()].append(order)
    }
}

extension TopicEntry {
    /// Up to where a subscriber has had everything; nil if nobody has said so far.
    func position(of subscriber: UInt32) -> StreamPosition? {
        if let cursor = self.backlog?.cursors[subscriber] { return cursor.position }
        return self.ahead[subscriber]?.cursor ?? self.lastPosition ?? self.basePosition
    }
}
