internal import StarlingCore
internal import StarlingDeflate

/// A subscription that another process had, to be brought up to date.
struct ResumedSubscription {
    let topic: Topic
    let position: StreamPosition
    /// The recovery that holds live publications back for it.
    let recovery: UInt64
}

/// Connections come from another process.
///
/// The transport calls ``restore(_:)`` for each, and ``beginServing(_:_:)`` once the other process has let go. Until then nothing
/// is read from or written to them.
extension ConnectionDriver {
    /// Makes a connection from its record; returns its number.
    ///
    /// - Throws: If this server has no room or no endpoint for it, or cannot read it. The other process keeps it then.
    package func restore(_ record: ConnectionRecord) throws -> Int {
        try EventLoop.withCurrent(self) { () -> Result<Int, any Error> in
            var reader = ByteReader(record.bytes)
            do {
                switch ConnectionRecord.Kind(rawValue: try reader.readNumber()) {
                case .open: return .success(try self.restoreOpen(from: &reader))
                case .http: return .success(try self.restoreHTTP(from: &reader))
                case nil: throw ConnectionRecord.Unusable("of an unknown kind")
                }
            } catch {
                return .failure(error)
            }
        }.get()
    }

    /// Whether a connection that was restored is to be read from the start.
    package func isReading(_ index: Int) -> Bool {
        unsafe self.slots.pointer(index).pointee.readingPauses.isEmpty
    }

    /// The other process has let go of a connection: it is served from now on.
    ///
    /// `orders` is what was asked of it too late for its record.
    package func beginServing(_ index: Int, _ orders: [UInt8]? = nil) {
        EventLoop.withCurrent(self) {
            let slot = unsafe self.slots.pointer(index)
            self.restored.remove(index)
            self.restartSilence(of: index)
            self.writable(index)
            self.scheduleDeadline(index)
            self.chargeMemory(of: index)
            guard unsafe slot.pointee.phase == .open, let endpoint = unsafe slot.pointee.endpoint else {
                return
            }
            if let orders = try? orders.map({ try ConnectionRecord.readOrders($0) }) {
                for order in orders { self.perform(order, index) }
            }
            endpoint.callbacks.handoff?.begin(ConnectionContext(self, index))
            if let resumed = self.resumedSubscriptions.removeValue(forKey: index) {
                self.recover(resumed, index)
            }
        }
    }

    /// The other process keeps connections that were restored, all of them for nil: forgets them without a word.
    package func abandonTakeover(of indices: [Int]?) {
        EventLoop.withCurrent(self) {
            for index in indices ?? Array(0..<self.slots.usedCapacity)
            where unsafe self.slots.pointer(index).pointee.phase != .free {
                self.forget(index)
            }
        }
    }

    // MARK: -

    private func restoreHTTP(from reader: inout ByteReader) throws -> Int {
        let index = try self.restoreSlot(from: &reader)
        let details = ConnectionDetails(
            headReader: HTTPHeadReader(limits: self.server.configuration.headLimits)
        )
        unsafe self.slots.pointer(index).pointee.phase = .http
        unsafe self.slots.pointer(index).pointee.details = details
        do {
            var held = try reader.readBytes()
            var span = held.mutableSpan
            var bytes = unsafe span.mutableBytes
            guard try details.headReader.read(from: &bytes) == nil else {
                throw ConnectionRecord.Unusable("a whole head was left")
            }
        } catch {
            self.giveUp(index)
            throw error
        }
        return index
    }

    private func restoreOpen(from reader: inout ByteReader) throws -> Int {
        let path = try reader.readText()
        guard let endpoint = self.endpoints.first(where: { $0.path == path }),
            let handoff = endpoint.callbacks.handoff
        else { throw ConnectionRecord.Unusable("no endpoint for \(path) takes any") }
        let index = try self.restoreSlot(from: &reader)
        let slot = unsafe self.slots.pointer(index)
        unsafe slot.pointee.endpoint = endpoint
        unsafe slot.pointee.phase = .open
        do {
            try self.readOpen(index, endpoint, from: &reader)
            let state = try reader.readBytes()
            guard reader.isAtEnd else { throw ByteReader.Malformed() }
            try handoff.restore(ConnectionContext(self, index), state)
        } catch {
            self.giveUp(index)
            throw error
        }
        unsafe slot.pointee.flags.insert(.opened)
        self.counts.openConnections &+= 1
        if let details = unsafe slot.pointee.details, !details.isNeeded, details.pendingPong == nil {
            unsafe slot.pointee.details = nil
        }
        return index
    }

    /// A slot that is written to by nobody yet, with what all kinds of connections have.
    private func restoreSlot(from reader: inout ByteReader) throws -> Int {
        let address = RemoteAddress(host: try reader.readText(), port: try reader.read())
        let openedAt = try self.readInstant(from: &reader)
        let waitingSince = try self.readInstant(from: &reader)
        let lastReceivedAt = try self.readInstant(from: &reader)
        let (received, sent) = (try reader.readNumber(), try reader.readNumber())
        guard self.drain == nil, self.server.admission.admitConnection(from: address) == nil else {
            throw ConnectionRecord.Unusable("there is no room for it")
        }
        guard let index = self.slots.allocate() else {
            self.server.admission.releaseConnection(from: address)
            throw ConnectionRecord.Unusable("there is no room for it")
        }
        self.restored.insert(index)
        let slot = unsafe self.slots.pointer(index)
        unsafe slot.pointee.flags = [.admitted, .writeBlocked]
        unsafe slot.pointee.address = address
        unsafe slot.pointee.openedAt = openedAt
        unsafe slot.pointee.waitingSince = waitingSince
        unsafe slot.pointee.lastReceivedAt = lastReceivedAt
        unsafe slot.pointee.bytesReceived = received
        unsafe slot.pointee.bytesSent = sent
        return index
    }

    /// A moment of which the other process has written how long it was ago.
    private func readInstant(from reader: inout ByteReader) throws(ByteReader.Malformed) -> LoopInstant {
        LoopInstant(hundredths: self.now.hundredths &- (try reader.read() as UInt32))
    }

    private func readOpen(_ index: Int, _ endpoint: LoopEndpoint, from reader: inout ByteReader) throws {
        let slot = unsafe self.slots.pointer(index)
        let details = self.details(of: index)
        details.path = try reader.readText()
        details.subprotocol = try reader.readOptionalText()
        let user = try reader.readOptionalText()
        details.pendingPong = try reader.readOptionalBytes()
        unsafe slot.pointee.format = endpoint.formatNumber(ofSubprotocol: details.subprotocol)
        unsafe slot.pointee.codec = FrameCodec(settings: endpoint.codecSettings)
        if try reader.readFlag() {
            let deflate = try ConnectionDeflate(
                configuration: endpoint.configuration.deflate ?? DeflateConfiguration(),
                from: &reader
            )
            deflate.usedAt = self.now
            self.agree(on: deflate, index)
            unsafe slot.pointee.codec.permitsCompression = true
            unsafe slot.pointee.flags.insert(.compressing)
        }
        unsafe slot.pointee.lastMessageAt = try self.readInstant(from: &reader)
        unsafe slot.pointee.pingedAt = try self.readInstant(from: &reader)
        if try reader.readFlag() { unsafe slot.pointee.flags.insert(.awaitingPong) }
        if try reader.readFlag() { unsafe slot.pointee.flags.insert(.aboveHighWatermark) }
        unsafe slot.pointee.messagesReceived = UInt32(clamping: try reader.readNumber())
        unsafe try slot.pointee.codec.readPartialInput(from: &reader)
        try self.readSubscriptions(index, endpoint, from: &reader)
        unsafe slot.pointee.outbound = try OutboundQueue(from: &reader)
        if let user { try self.restoreUser(user, index) }
    }

    private func restoreUser(_ user: String, _ index: Int) throws {
        guard self.server.admission.admitUser(user) else {
            throw ConnectionRecord.Unusable("its user has too many connections")
        }
        self.details(of: index).user = user
        self.users[user, default: []].append(UInt32(index))
        self.server.configuration.cluster?.came(user)
    }

    private func readSubscriptions(
        _ index: Int,
        _ endpoint: LoopEndpoint,
        from reader: inout ByteReader
    ) throws {
        let count: Int = try reader.read()
        var resumed: [ResumedSubscription] = []
        for _ in 0..<count {
            let topic = Topic(try reader.readText())
            guard let policy = SlowConsumerPolicy(number: try reader.read()) else {
                throw ByteReader.Malformed()
            }
            let position = try reader.readOptional { reader throws(ByteReader.Malformed) in
                StreamPosition(epoch: try reader.readNumber(), offset: try reader.readNumber())
            }
            guard self.subscribe(index, to: topic, policy) else {
                throw ConnectionRecord.Unusable("it has too many subscriptions")
            }
            // A broker within the process is another one here: it has nothing that was published there.
            guard let position, endpoint.hub.history != nil, endpoint.hub.spansProcesses else { continue }
            // Live publications wait, until what came between is read.
            let recovery = self.makeRecovery()
            endpoint.topics.subscribers(of: topic)?.recovering[UInt32(index)] = recovery
            resumed.append(ResumedSubscription(topic: topic, position: position, recovery: recovery.number))
        }
        if !resumed.isEmpty { self.resumedSubscriptions[index] = resumed }
    }

    /// The connection could not be made after all.
    private func giveUp(_ index: Int) {
        self.unsubscribeFromAll(index)
        self.leaveTable(index)
    }

    /// Reads from the history what was published while a subscription was between two processes.
    private func recover(_ subscriptions: [ResumedSubscription], _ index: Int) {
        let connection = AsyncConnection(ConnectionContext(self, index), ownsSlot: false)
        self.recoveries[connection.id] = connection
        self.taskCount += 1
        let loop = self.loop
        Task(executorPreference: loop) {
            await ResumedSubscription.bringUp(subscriptions, connection)
            loop.post(
                .perform { driver in
                    driver?.recoveries[connection.id] = nil
                    driver?.taskCount -= 1
                }
            )
        }
    }
}

extension ResumedSubscription {
    /// Reads from the history what was published while subscriptions were between two processes.
    static func bringUp(
        _ subscriptions: [ResumedSubscription],
        _ connection: AsyncConnection
    ) async {
        for subscription in subscriptions {
            let isUpToDate = await subscription.bringUp(connection)
            if isUpToDate { continue }
            // Nothing is lost in silence.
            await connection.onLoop(orElse: ()) { driver in
                if let index = driver.index(of: connection.id) { driver.closeForGap(index) }
            }
            return
        }
    }

    /// False if publications are lost and the subscriber could not be told.
    private func bringUp(_ connection: AsyncConnection) async -> Bool {
        let recovery = SubscriptionRecovery(connection, self.topic, nil, nil, resumed: self.recovery)
        guard let outcome = try? await recovery.run(from: self.position) else {
            // What the next body has left, or begun anew, is its own.
            return await connection.onLoop(orElse: true) {
                !$0.isRecovering(connection.id, self.topic, self.recovery)
            }
        }
        guard !outcome.isRecovered, let newest = outcome.position else { return true }
        let gap = TopicGap(topic: self.topic, newest: newest)
        return await connection.onLoop(orElse: true) { $0.reportGap(gap, to: connection.id) }
    }
}
