internal import HTTPTypes
internal import Logging
internal import StarlingCore
internal import StarlingDeflate

extension ConnectionDriver {
    /// A connection was accepted.
    ///
    /// - Parameters:
    ///   - address: Where it comes from.
    ///   - handshakeByteCount: What the transport charges to ``MemoryBudget`` for a handshake of its own, such as TLS'; those under
    ///     way may hold a quarter of it together.
    /// - Returns: The number that the transport and this driver know it by from now on, or nil if it must be closed at once, after
    ///   ``ServerContext/fullResponse``: the server, or the address, has too many.
    public func accept(from address: RemoteAddress, handshakeByteCount: Int = 0) -> Int? {
        if let cause = self.reasonNotToAccept(address, handshakeByteCount) {
            self.counts.refusals[cause] += 1
            self.logNotAccepted(address, cause)
            return nil
        }
        guard let index = self.slots.allocate() else {
            self.server.admission.releaseConnection(from: address)
            self.counts.refusals[.serverFull] += 1
            self.logNotAccepted(address, .serverFull)
            return nil
        }
        let slot = unsafe self.slots.pointer(index)
        unsafe slot.pointee.phase = .http
        unsafe slot.pointee.flags = [.admitted]
        unsafe slot.pointee.details = ConnectionDetails(
            headReader: HTTPHeadReader(limits: self.server.configuration.headLimits)
        )
        unsafe slot.pointee.address = address
        unsafe slot.pointee.openedAt = self.now
        unsafe slot.pointee.waitingSince = self.now
        unsafe slot.pointee.lastReceivedAt = self.now
        self.counts.accepted &+= 1
        self.scheduleDeadline(index)
        return index
    }

    /// Why a connection gets no number; nil if it is counted in.
    private func reasonNotToAccept(_ address: RemoteAddress, _ handshakeByteCount: Int) -> RefusalCause? {
        if self.drain != nil { return .draining }
        guard self.server.memory.hasRoom(forHandshake: handshakeByteCount) else { return .memory }
        return self.server.admission.admitConnection(from: address)
    }

    /// Says why a connection got no number; the one log of its end.
    private func logNotAccepted(_ address: RemoteAddress, _ cause: RefusalCause) {
        self.server.logger.debug(
            "connection closed",
            metadata: [
                LoggingKeys.remoteAddress: "\(address)",
                LoggingKeys.closedBy: "\(CloseCause.refused.closedBy)",
                LoggingKeys.cause: "\(CloseCause.refused)",
                LoggingKeys.reason: "\(cause)",
                LoggingKeys.ageSeconds: "0.0",
                LoggingKeys.bytesReceived: "0",
                LoggingKeys.bytesSent: "0",
                LoggingKeys.bufferedBytes: "0",
            ]
        )
    }

    /// Whether a transport must read a PROXY protocol header before it hands a connection's bytes on.
    ///
    /// It then calls ``proxied(_:for:)``.
    public var expectsProxyProtocol: Bool {
        self.server.configuration.trustedProxies.expectsProxyProtocol
    }

    /// A proxy has said whom a connection is for; nil if for nobody, as with its own health checks.
    ///
    /// False if the connection must be ended: it does not come from a trusted proxy, or the client has too many.
    public func proxied(_ index: Int, for client: RemoteAddress?) -> Bool {
        let peer = unsafe self.slots.pointer(index).pointee.address
        guard self.server.configuration.trustedProxies.contains(peer.host) else {
            self.counts.refusals[.malformed] += 1
            return false
        }
        guard let client, !self.move(index, to: client) else { return true }
        self.counts.refusals[.connectionsPerAddress] += 1
        return false
    }

    /// A transport has read a proxy's header to its end, or to where it is none; whether the connection goes on.
    package func proxyHeaderEnded(_ progress: ProxyHeaderReader.Progress, on index: Int) -> Bool {
        if case .complete(let client) = progress, self.proxied(index, for: client) { return true }
        self.failed(
            index,
            .refused,
            reason: "no valid PROXY protocol header, or too many connections of its client"
        )
        return false
    }

    /// Notes the client behind a proxy; false if it has too many connections.
    private func move(_ index: Int, to client: RemoteAddress) -> Bool {
        let slot = unsafe self.slots.pointer(index)
        guard unsafe client != slot.pointee.address else { return true }
        guard unsafe self.server.admission.moveConnection(from: slot.pointee.address, to: client) else {
            return false
        }
        unsafe slot.pointee.address = client
        return true
    }

    /// The transport accepts nothing for a while, because descriptors or memory are used up.
    public func acceptPaused(_ reason: String) {
        self.counts.acceptPauses &+= 1
        self.server.logger.warning("accepting pauses", metadata: [LoggingKeys.reason: "\(reason)"])
    }

    /// Reads requests until one upgrades the connection, or must be waited for.
    func receiveHead(_ bytes: inout MutableRawSpan, on index: Int) {
        let slot = unsafe self.slots.pointer(index)
        while unsafe slot.pointee.phase == .http, unsafe !slot.pointee.flags.contains(.finishAfterFlush),
            !bytes.isEmpty
        {
            guard let details = unsafe slot.pointee.details else { return }
            do throws(HandshakeError) {
                guard let head = try details.headReader.read(from: &bytes) else { return }
                try self.route(
                    HTTPRequestHead(parsing: head, limits: self.server.configuration.headLimits),
                    on: index
                )
                if unsafe slot.pointee.phase == .deciding { details.requestByteCount = head.count }
            } catch {
                self.refuse(index, error)
            }
        }
        switch unsafe slot.pointee.phase {
        case .open: self.receiveFrames(&bytes, on: index)
        case .deciding: self.stash(bytes.bytes, on: index)
        case .http, .connecting, .leaving, .lingering, .free: break
        }
    }

    /// Keeps what arrived behind a request that is being decided.
    ///
    /// Reading is paused, so that it is one buffer at most.
    func stash(_ bytes: RawSpan, on index: Int) {
        guard !bytes.isEmpty else { return }
        let details = self.details(of: index)
        unsafe bytes.withUnsafeBytes { unsafe details.stash.append(contentsOf: $0) }
    }

    func route(_ head: HTTPRequestHead, on index: Int) throws(HandshakeError) {
        let path = UpgradeRequest.split(head.request.path ?? "/").path
        guard let number = self.server.routes.firstIndex(where: { $0.matches(path) }) else {
            self.respond(index, .text("There is nothing at this path.\n", status: .notFound), to: head)
            return
        }
        switch self.server.routes[number].target {
        case .webSocket:
            try self.beginUpgrade(
                head,
                path: path,
                endpoint: self.server.endpointIndex(ofRoute: number),
                on: index
            )
        case .http(let reply):
            guard head.request.method == .get || head.request.method == .head else {
                throw HandshakeError(.methodNotAllowed)
            }
            self.decide(index)
            let server = self.server
            self.startDecision(index) {
                let response = await reply(head, server)
                return { driver, index in
                    driver.respond(index, response, to: head)
                    driver.resumeAfterDecision(index)
                }
            }
        }
    }

    // MARK: - Upgrades

    private func beginUpgrade(
        _ head: HTTPRequestHead,
        path: Substring,
        endpoint number: Int,
        on index: Int
    ) throws(HandshakeError) {
        let endpoint = self.endpoints[number]
        self.details(of: index).upgradeSpan = unsafe .begin(
            head.request,
            path: path,
            from: self.slots.pointer(index).pointee.address
        )
        let handshake = try Handshake(head)
        guard endpoint.configuration.origins.allows(head.request) else {
            return self.refuse(index, .text("This origin may not connect.\n", status: .forbidden), .origin)
        }
        guard self.drain == nil else {
            return self.refuse(index, self.shutsDown, .draining)
        }
        guard !self.server.memory.isFull else {
            return self.refuseForMemory(index)
        }
        // The time may be long until its turn comes: what can be told of it now is told now.
        let isDecided = self.server.endpoint(number).authenticate != nil
        let verdict = self.server.admission.requestUpgrade(at: self.now, isDecided: isDecided)
        if case .refuse(let delay) = verdict {
            return self.refuse(index, self.tooManyUpgrades(delay), .upgradeRate)
        }
        let slot = unsafe self.slots.pointer(index)
        let details = self.details(of: index)
        unsafe slot.pointee.endpoint = endpoint
        details.handshake = handshake
        // A connection that has had a response before is not accountable for the time until it asked again.
        let isFirst = unsafe slot.pointee.waitingSince == slot.pointee.openedAt
        details.handshakeBeganAt = unsafe isFirst ? slot.pointee.openedAt : self.now
        if self.server.routes[self.server.routeIndex(ofEndpoint: number)].isWildcard {
            details.path = String(path)
        }
        if verdict == .wait {
            self.awaitTurn(index, isDecided: isDecided)
        } else {
            self.proceedWithUpgrade(index)
        }
    }

    /// An upgrade's turn has come: the application decides about it, or it is accepted.
    func proceedWithUpgrade(_ index: Int) {
        let slot = unsafe self.slots.pointer(index)
        guard let details = unsafe slot.pointee.details, let handshake = details.handshake,
            let endpoint = unsafe slot.pointee.endpoint
        else { preconditionFailure("an upgrade's turn came that had not begun") }
        let authenticate = self.server.endpoint(endpoint.index).authenticate
        // From here on the connection is this client's: it is upgraded, or ends.
        let client = unsafe self.server.configuration.trustedProxies.client(
            of: slot.pointee.address,
            handshake.request.headerFields
        )
        guard self.move(index, to: client) else {
            if authenticate != nil { self.server.admission.decided() }
            return self.refuse(
                index,
                .text("Too many connections from this address.\n", status: .tooManyRequests),
                .connectionsPerAddress
            )
        }
        guard let authenticate else {
            self.open(index, userData: nil, user: nil, subprotocol: nil, headerFields: [:])
            return
        }
        self.decide(index)
        let request = unsafe UpgradeRequest(
            head: handshake.request,
            subprotocols: handshake.subprotocols,
            remoteAddress: slot.pointee.address
        )
        let logger = self.server.logger
        let admission = self.server.admission
        let span = details.upgradeSpan
        self.startDecision(index) {
            let decision: UpgradeDecision<any Sendable>
            do {
                if let span {
                    decision = try await span.run { try await authenticate(request) }
                } else {
                    decision = try await authenticate(request)
                }
            } catch {
                // One that nobody waits for any more has failed for that.
                if !Task.isCancelled {
                    logger.error("authenticate failed", metadata: [LoggingKeys.error: "\(error)"])
                }
                decision = .refuse(.internalServerError, body: "The server could not decide.\n")
            }
            admission.decided()
            return { driver, index in
                switch decision.base {
                case .accept(let data, let user, let subprotocol, let fields):
                    driver.open(
                        index,
                        userData: data,
                        user: user,
                        subprotocol: subprotocol,
                        headerFields: fields
                    )
                case .refuse(let reply): driver.refuse(index, reply, .application)
                }
                driver.resumeAfterDecision(index)
            }
        }
    }

    /// Pauses the connection until the application has decided, or its turn has come.
    func decide(_ index: Int) {
        let slot = unsafe self.slots.pointer(index)
        unsafe slot.pointee.phase = .deciding
        unsafe slot.pointee.waitingSince = self.now
        self.pauseReading(index, for: .application)
        self.scheduleDeadline(index)
    }

    /// Runs the application's decision as a task on this loop, and what follows from it in one of its ticks.
    private func startDecision(
        _ index: Int,
        _ decide: @escaping @Sendable () async -> @Sendable (ConnectionDriver, Int) -> Void
    ) {
        let id = self.id(of: index)
        self.taskCount += 1
        let loop = self.loop
        self.decisions[id] = Task(executorPreference: loop) {
            let proceed = await decide()
            loop.post(
                .perform { driver in
                    guard let driver else { return }
                    driver.taskCount -= 1
                    driver.decisions[id] = nil
                    // The peer may have gone, or the time may be up.
                    guard let index = driver.index(of: id),
                        unsafe driver.slots.pointer(index).pointee.phase == .deciding
                    else { return }
                    unsafe driver.slots.pointer(index).pointee.phase = .http
                    proceed(driver, index)
                }
            )
        }
    }

    /// Nobody waits for a decision any more; what the application asks for it may be given up.
    func cancelDecision(of index: Int) {
        if !self.decisions.isEmpty { self.decisions[self.id(of: index)]?.cancel() }
    }

    /// Goes on with the bytes that arrived while the application decided.
    func resumeAfterDecision(_ index: Int) {
        let slot = unsafe self.slots.pointer(index)
        unsafe slot.pointee.waitingSince = self.now
        unsafe slot.pointee.details?.requestByteCount = 0
        self.resumeReading(index, from: .application)
        self.scheduleDeadline(index)
        if unsafe slot.pointee.chargedByteCount > 0 { self.chargeMemory(of: index) }
        guard let details = unsafe slot.pointee.details, !details.stash.isEmpty else {
            return self.dropDetailsIfPossible(index)
        }
        var stash = details.stash
        details.stash = []
        var span = stash.mutableSpan
        var bytes = unsafe span.mutableBytes
        switch unsafe slot.pointee.phase {
        case .open: self.receiveFrames(&bytes, on: index)
        case .http: self.receiveHead(&bytes, on: index)
        case .deciding, .connecting, .leaving, .lingering, .free: break
        }
        if self.isUndecoded(index) { self.chargeMemory(of: index) }
        self.dropDetailsIfPossible(index)
    }

    /// Answers with 101 and opens the WebSocket.
    private func open(
        _ index: Int,
        userData: (any Sendable)?,
        user: String?,
        subprotocol: String?,
        headerFields: HTTPFields
    ) {
        let slot = unsafe self.slots.pointer(index)
        guard let details = unsafe slot.pointee.details, let handshake = details.handshake,
            let endpoint = unsafe slot.pointee.endpoint
        else { preconditionFailure("an upgrade was decided that had not begun") }
        // The shutdown may have begun while the application decided.
        guard self.drain == nil else { return self.refuse(index, self.shutsDown, .draining) }
        if let user {
            guard self.server.admission.admitUser(user) else {
                return self.refuse(
                    index,
                    .text("Too many connections of this user.\n", status: .tooManyRequests),
                    .connectionsPerUser
                )
            }
            details.user = user
            self.users[user, default: []].append(UInt32(index))
            self.server.configuration.cluster?.came(user)
        }
        let subprotocol =
            subprotocol
            ?? endpoint.configuration.subprotocols.first { handshake.subprotocols.contains($0.name) }?.name
        var extensions: String?
        if let configuration = endpoint.configuration.deflate {
            do throws(PermessageDeflate.NegotiationError) {
                let answer = try PermessageDeflate.accept(
                    offers: handshake.extensionOffers,
                    preferences: configuration.preferences
                )
                extensions = answer?.response
                if let answer {
                    self.agree(
                        on: ConnectionDeflate(
                            agreed: answer.agreed,
                            configuration: configuration,
                            role: .server
                        ),
                        index
                    )
                }
            } catch {
                return self.refuse(index, HandshakeError(.malformedHead))
            }
        }
        do throws(HandshakeError) {
            var headerFields = headerFields
            if let affinity = self.server.configuration.affinity {
                let request = UpgradeRequest(head: handshake.request)
                let outcome = affinity.outcome(of: request[cookie: affinity.cookieName])
                self.counts.count(outcome)
                if let field = affinity.field(after: outcome) { headerFields.append(field) }
            }
            let response = try handshake.response(
                subprotocol: subprotocol,
                extensions: extensions,
                headerFields: headerFields
            )
            self.appendBytes(response.serialized(), to: index)
        } catch {
            self.server.logger.error(
                "authenticate chose a subprotocol that cannot be used",
                metadata: [LoggingKeys.error: "\(error)"]
            )
            return self.refuse(index, error)
        }
        details.handshake = nil
        details.subprotocol = subprotocol
        unsafe slot.pointee.format = endpoint.formatNumber(ofSubprotocol: subprotocol)
        details.userData = userData
        self.becomeOpen(index, endpoint)
    }

    /// The handshake is done, on either end: from now on the connection carries frames.
    func becomeOpen(_ index: Int, _ endpoint: LoopEndpoint) {
        let slot = unsafe self.slots.pointer(index)
        let details = self.details(of: index)
        unsafe slot.pointee.phase = .open
        unsafe slot.pointee.waitingSince = self.now
        unsafe slot.pointee.lastMessageAt = self.now
        unsafe slot.pointee.codec = FrameCodec(settings: endpoint.codecSettings)
        if self.deflate(of: index) != nil {
            unsafe slot.pointee.codec.permitsCompression = true
            unsafe slot.pointee.flags.insert(.compressing)
        }
        unsafe slot.pointee.flags.insert(.opened)
        self.io.opened(index)
        details.upgradeSpan?.end(status: 101)
        details.upgradeSpan = nil
        self.counts.opened &+= 1
        self.counts.openConnections &+= 1
        if let began = details.handshakeBeganAt {
            self.statistics.handshakes.record(
                nanoseconds: UInt64((self.now - began).hundredths) * 10_000_000
            )
        }
        if let interval = endpoint.pingInterval {
            unsafe slot.pointee.pingedAt = self.now + self.spread(interval) - interval
        }
        self.scheduleDeadline(index)
        endpoint.callbacks.opened(ConnectionContext(self, index))
        self.dropDetailsIfPossible(index)
    }

    /// A fifth of an interval to all of it: connections that were made together are not pinged together.
    private func spread(_ interval: LoopInterval) -> LoopInterval {
        guard interval.hundredths > 5 else { return interval }
        return LoopInterval(
            hundredths: self.server.surroundings.random(interval.hundredths / 5...interval.hundredths)
        )
    }

    private func dropDetailsIfPossible(_ index: Int) {
        let slot = unsafe self.slots.pointer(index)
        if unsafe slot.pointee.phase == .open, let details = unsafe slot.pointee.details, !details.isNeeded {
            unsafe slot.pointee.details = nil
        }
    }

    // MARK: - Responses

    /// Answers plain HTTP; the connection is kept if both sides want it.
    func respond(_ index: Int, _ reply: HTTPReply, to head: HTTPRequestHead) {
        // A client of HTTP/1.0 would have to be told that it is kept; it can do without.
        let unread = unsafe self.slots.pointer(index).pointee.outbound.byteCount
        let keeps =
            head.keepsConnection && head.isHTTP11 && self.drain == nil && unread <= Self.responseByteCountMax
        self.counts.httpResponses &+= 1
        self.appendBytes(
            reply.serialized(keepsConnection: keeps, isHeadRequest: head.request.method == .head),
            to: index
        )
        guard keeps else { return self.finishAfterFlush(index, cause: .responded) }
        // The next request has a deadline of its own.
        unsafe self.slots.pointer(index).pointee.waitingSince = self.now
        self.scheduleDeadline(index)
    }

    /// Bytes of responses that may wait for a peer that asks for more; the response to a further request is the last.
    static let responseByteCountMax = 64 << 10

    /// The bytes received are no request, and the transport can tell why: answers with 400 and ends the stream.
    public func refuse(_ index: Int, malformed reason: String) {
        self.refuse(index, .text("\(reason)\n", status: .badRequest), .malformed)
    }

    /// The connection cannot be used and its transport has written its last word: ends our direction, and lets the peer
    /// read that word before the connection is closed.
    ///
    /// - Parameters:
    ///   - index: The connection.
    ///   - cause: Why, for logs and metrics.
    ///   - reason: The same for humans; made only if it is logged.
    public func finishUnusable(
        _ index: Int,
        _ cause: CloseCause = .connectionLost,
        reason: @autoclosure () -> String = ""
    ) {
        let slot = unsafe self.slots.pointer(index)
        unsafe slot.pointee.cause = cause
        self.noteReason(reason(), on: index)
        self.finishStream(index)
    }

    /// Refuses a request that is not valid, or no handshake.
    func refuse(_ index: Int, _ error: HandshakeError) {
        let (response, body) = Handshake.refusal(for: error)
        self.refuse(
            index,
            HTTPReply(response.status, headerFields: response.headerFields, body: Array(body.utf8)),
            RefusalCause(error)
        )
    }

    func refuse(_ index: Int, _ reply: HTTPReply, _ cause: RefusalCause) {
        self.counts.refusals[cause] += 1
        let address = unsafe self.slots.pointer(index).pointee.address
        self.server.logger.debug(
            "handshake refused",
            metadata: [
                LoggingKeys.connection: "\(self.id(of: index))",
                LoggingKeys.cause: "\(cause)",
                LoggingKeys.status: "\(reply.status.code)",
                LoggingKeys.remoteAddress: "\(address)",
            ]
        )
        unsafe self.slots.pointer(index).pointee.phase = .http
        self.noteReason("\(cause)", on: index)
        if let span = unsafe self.slots.pointer(index).pointee.details?.upgradeSpan {
            span.end(status: reply.status.code, refusal: cause)
            self.details(of: index).upgradeSpan = nil
        }
        self.appendBytes(reply.serialized(keepsConnection: false, isHeadRequest: false), to: index)
        self.finishAfterFlush(index, cause: cause.closeCause)
    }

    /// Refuses a request for which there is no memory.
    func refuseForMemory(_ index: Int) {
        let reply = Self.busy("The server is out of memory.\n", retryAfter: self.randomRetryDelay())
        self.refuse(index, reply, .memory)
    }

    /// What a client is told that comes while the server shuts down: to come back when the others that are here do.
    var shutsDown: HTTPReply {
        let longest = LoopInterval(self.server.configuration.drainRetryDelayMax).wholeSeconds
        let delay = self.server.surroundings.random(1...max(1, longest))
        return Self.busy("The server shuts down.\n", retryAfter: delay)
    }

    /// When to ask again for what nobody knows when it will be there.
    func randomRetryDelay() -> UInt32 {
        self.server.surroundings.random(1...Self.blindRetryDelayMax)
    }

    /// Refused clients that cannot be told better are spread over so many seconds.
    static let blindRetryDelayMax: UInt32 = 5

    /// 503, and the seconds after which to ask again.
    static func busy(_ text: String, retryAfter seconds: UInt32) -> HTTPReply {
        var reply = HTTPReply.text(text, status: .serviceUnavailable)
        reply.headerFields[.retryAfter] = String(seconds)
        return reply
    }
}
