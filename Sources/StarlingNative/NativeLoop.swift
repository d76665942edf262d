#if os(Linux)
internal import CStarlingLinux
internal import Glibc
internal import Logging
internal import Starling

/// One thread's sockets: waits for them, and tells the driver what happens on them.
///
/// Epoll: one receive per readable connection and wake-up, into one buffer for all of them. Plain connections are
/// edge-triggered, which saves the kernel a second look at each; TLS connections, of which OpenSSL takes a record at a time,
/// are level-triggered.
@safe final class NativeLoop: ConnectionIO {
    private static let wakeupToken: UInt64 = .max
    /// One for each listener, downwards.
    private static let listenerTokens = (UInt64.max - 64)...(UInt64.max - 1)
    private static let eventCount = 512
    /// Accepting is cheap, and what the kernel has no room for comes back a second later, or three, or seven: it is done soon.
    private static let acceptsPerTick = 1024
    /// What a new connection asks for is not cheap: those who are there must not wait for many of them in one tick.
    private static let arrivalsPerTick = 64
    /// Accepted connections that wait for that; further ones wait in the kernel.
    private static let arrivalsMax = 16_384
    /// Holds a 64 KiB message with its header, several times over.
    private static let receiveByteCount = 256 << 10
    /// How long accepting pauses when the process has no descriptors left.
    private static let acceptPauseNanoseconds: UInt64 = 250_000_000

    private let epoll: Int32
    private let wakeup: Int32
    private let tls: TLSContext?
    private let server: ServerContext
    private var listeners: [Listener]
    private var connections = NativeConnections()
    private let events = UnsafeMutableBufferPointer<starling_event>.allocate(capacity: NativeLoop.eventCount)
    private let receiveBuffer = UnsafeMutableRawBufferPointer.allocate(
        byteCount: NativeLoop.receiveByteCount,
        alignment: 64
    )
    private var acceptResumesAt: UInt64?
    /// Connections that were accepted and are not looked at yet, in order.
    private var arrivals = Deque<(descriptor: Int32, address: RemoteAddress)>()
    /// Connections to be read again, of which epoll will not speak: OpenSSL holds decrypted bytes, the receive buffer was
    /// full, or the end stands behind the bytes.
    private var pending: [Int] = []
    /// What connections have said of the PROXY protocol that have not said all of it.
    private var proxyHeaders: [Int: ProxyHeaderReader] = [:]

    /// Whether nothing is accepted, read or written, because connections go to another process or come from one.
    ///
    /// What happens on the sockets stays in the epoll, and is told when it is over.
    private var isPaused: Bool
    /// Whether the loop ends although the server goes on: what it was to take over has failed.
    private var mustEnd = false

    /// Runs a loop on the calling thread until the server has drained.
    static func run(
        index: Int,
        listeners: [Listener],
        tls: TLSContext?,
        server: ServerContext,
        remote: LoopRemote,
        isPaused: Bool
    ) {
        let wakeup = remote.wakeup
        let loop = EventLoop(index: index) { starling_eventfd_signal(wakeup) }
        let io = NativeLoop(
            wakeup: wakeup,
            listeners: listeners,
            tls: tls,
            server: server,
            isPaused: isPaused
        )
        let driver = ConnectionDriver(loop: loop, server: server, io: io)
        let start = Syscalls.monotonicNanoseconds()
        var mustContinue = false
        while !driver.isFinished, !io.mustEnd {
            mustContinue =
                io.isPaused
                ? io.pausedTick(driver, since: start, mayWait: !mustContinue)
                : io.tick(driver, since: start, mayWait: !mustContinue)
            remote.perform(io, driver)
        }
        remote.close()
        driver.finish()
    }

    private init(
        wakeup: Int32,
        listeners: [Listener],
        tls: TLSContext?,
        server: ServerContext,
        isPaused: Bool
    ) {
        self.epoll = starling_epoll_create()
        precondition(self.epoll >= 0, "no descriptor is left for an event loop")
        self.wakeup = wakeup
        self.tls = tls
        self.server = server
        self.listeners = listeners
        self.isPaused = isPaused
        _ = starling_epoll_control(
            self.epoll,
            0,
            wakeup,
            Self.wakeupToken,
            true,
            false,
            starling_trigger_level
        )
        for number in self.listeners.indices { self.watchListener(number) }
    }

    deinit {
        self.stopListening()
        _ = Glibc.close(self.epoll)
        // The wake-up descriptor stays open: a task that outlives the loop may still signal it, and must not hit a
        // descriptor that means something else by then. It is one per loop of a server's life.
        unsafe self.events.deallocate()
        unsafe self.receiveBuffer.deallocate()
    }

    // MARK: - A tick

    private func tick(_ driver: ConnectionDriver, since start: UInt64, mayWait: Bool) -> Bool {
        var timeout = driver.prepareToSleep()
        if !mayWait || !self.pending.isEmpty || !self.arrivals.isEmpty { timeout = 0 }
        if self.acceptResumesAt != nil, timeout < 0 || timeout > 100 { timeout = 100 }
        let count = unsafe Int(
            starling_epoll_wait(self.epoll, self.events.baseAddress, Int32(Self.eventCount), timeout)
        )
        let now = Syscalls.monotonicNanoseconds()
        driver.beginTick(at: now - start)
        self.resumeAccepting(at: now)
        driver.withCurrent {
            self.readPending(driver)
            // A negative count is an interrupted wait: nothing is ready.
            for position in 0..<max(0, count) { unsafe self.handle(self.events[position], driver, now) }
            self.takeArrivals(driver)
        }
        let mustContinue = driver.endTick()
        driver.tickTook(nanoseconds: Syscalls.monotonicNanoseconds() - now)
        return mustContinue
    }

    /// A tick without sockets: mail, tasks, and what the transport is asked.
    private func pausedTick(_ driver: ConnectionDriver, since start: UInt64, mayWait: Bool) -> Bool {
        let timeout = mayWait ? driver.prepareToSleep() : 0
        if Syscalls.wait(for: POLLIN, on: self.wakeup, milliseconds: timeout) {
            starling_eventfd_clear(self.wakeup)
        }
        driver.beginTick(at: Syscalls.monotonicNanoseconds() - start)
        return driver.endTick()
    }

    private func handle(_ event: starling_event, _ driver: ConnectionDriver, _ now: UInt64) {
        switch event.token {
        case Self.listenerTokens: self.acceptConnections(Int(Self.wakeupToken - event.token) - 1, driver, now)
        case Self.wakeupToken: starling_eventfd_clear(self.wakeup)
        default:
            let index = Int(event.token & 0xFFFF_FFFF)
            // A connection that ended earlier in this tick, or its successor in the slot, is not meant.
            guard self.connections.isCurrent(index, UInt32(event.token >> 32)) else { return }
            let connection = unsafe self.connections.pointer(index)
            if !self.proxyHeaders.isEmpty, !self.readProxyHeader(index, driver) { return }
            if unsafe connection.pointee.isHandshaking, !self.continueHandshake(index, driver) { return }
            if unsafe event.writable || connection.pointee.retriesWriteOnRead {
                unsafe connection.pointee.retriesWriteOnRead = false
                self.setWriting(false, index)
                driver.writable(index)
                if unsafe connection.pointee.retriesReadOnWrite {
                    unsafe connection.pointee.retriesReadOnWrite = false
                    self.pending.append(index)
                }
            }
            if event.hung_up { unsafe connection.pointee.isHungUp = true }
            if event.readable || event.ended || event.hung_up {
                self.read(index, driver, again: event.ended || event.hung_up)
            }
        }
    }

    // MARK: - Accepting

    private func watchListener(_ number: Int) {
        let listener = self.listeners[number]
        _ = starling_epoll_control(
            self.epoll,
            0,
            listener.descriptor,
            Self.wakeupToken - UInt64(number) - 1,
            true,
            false,
            listener.isShared ? starling_trigger_exclusive : starling_trigger_level
        )
    }

    private func acceptConnections(_ number: Int, _ driver: ConnectionDriver, _ now: UInt64) {
        guard self.listeners.indices.contains(number) else { return }
        // Of a listener that loops share each takes what it can begin with, so that the others get some too.
        let most = self.listeners[number].isShared ? Self.arrivalsPerTick : Self.acceptsPerTick
        for _ in 0..<most {
            guard self.listeners.indices.contains(number), self.arrivals.count < Self.arrivalsMax else {
                return
            }
            let listener = self.listeners[number]
            var storage = sockaddr_storage()
            var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
            let descriptor = unsafe starling_accept(listener.descriptor, &storage, &length)
            if descriptor < 0 {
                switch -descriptor {
                case EAGAIN: return
                case EMFILE, ENFILE, ENOBUFS, ENOMEM:
                    // The connection stays in the kernel's queue, where level-triggered epoll would report it again
                    // and again: look away for a while.
                    unsafe self.pauseAccepting(String(cString: strerror(-descriptor)), at: now, driver)
                    return
                default: continue
                }
            }
            self.arrivals.append((descriptor, Syscalls.remoteAddress(storage)))
        }
    }

    /// Begins to listen to connections that were accepted, a few per tick.
    private func takeArrivals(_ driver: ConnectionDriver) {
        var left = Self.arrivalsPerTick
        while left > 0, !self.arrivals.isEmpty {
            let arrival = self.arrivals.removeFirst()
            self.accepted(arrival.descriptor, arrival.address, driver)
            left -= 1
        }
    }

    private func accepted(_ descriptor: Int32, _ address: RemoteAddress, _ driver: ConnectionDriver) {
        guard let index = driver.accept(from: address) else { return self.turnAway(descriptor) }
        let generation = self.connections.open(index, descriptor)
        if driver.expectsProxyProtocol { self.proxyHeaders[index] = ProxyHeaderReader() }
        if let tls = self.tls {
            do {
                unsafe self.connections.pointer(index).pointee.tls = try TLSSession(
                    tls,
                    descriptor: descriptor
                )
                unsafe self.connections.pointer(index).pointee.isHandshaking = true
            } catch {
                driver.failed(index)
                return
            }
        }
        let token = UInt64(generation) << 32 | UInt64(index)
        let trigger = self.tls == nil ? starling_trigger_edge : starling_trigger_level
        if starling_epoll_control(self.epoll, 0, descriptor, token, true, false, trigger) != 0 {
            driver.failed(index)
        }
    }

    /// Ends a connection that there is no room for; nothing is kept of it, so that a flood of them costs little.
    private func turnAway(_ descriptor: Int32) {
        // Over TLS a response would need a handshake first.
        if self.tls == nil {
            _ = unsafe self.server.fullResponse.withUnsafeBytes {
                unsafe send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
            }
            _ = shutdown(descriptor, Int32(SHUT_WR))
            // Unread bytes would turn the close into a reset, which may destroy the response on its way.
            _ = unsafe recv(descriptor, self.receiveBuffer.baseAddress, Self.receiveByteCount, 0)
        }
        _ = Glibc.close(descriptor)
    }

    /// Answers those that nobody has looked at, or even accepted: closing the listener would reset them.
    private func turnAwayWaiting(_ listener: Listener) {
        while !self.arrivals.isEmpty { self.turnAway(self.arrivals.removeFirst().descriptor) }
        for _ in 0..<Listener.backlog {
            var storage = sockaddr_storage()
            var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
            let descriptor = unsafe starling_accept(listener.descriptor, &storage, &length)
            guard descriptor >= 0 else { return }
            self.turnAway(descriptor)
        }
    }

    private func pauseAccepting(_ reason: String, at now: UInt64, _ driver: ConnectionDriver) {
        guard !self.listeners.isEmpty, self.acceptResumesAt == nil else { return }
        for listener in self.listeners { self.forget(listener.descriptor) }
        self.acceptResumesAt = now + Self.acceptPauseNanoseconds
        driver.acceptPaused(reason)
    }

    private func resumeAccepting(at now: UInt64) {
        guard let time = self.acceptResumesAt, now >= time else { return }
        self.acceptResumesAt = nil
        for number in self.listeners.indices { self.watchListener(number) }
    }

    func stopListening() {
        self.closeListeners(areGone: true)
    }

    /// Listens no more; `areGone` says that nobody else has the listeners.
    private func closeListeners(areGone: Bool) {
        let listeners = self.listeners
        self.listeners = []
        for listener in listeners {
            // Closing alone does not take it out of the epoll if another process has it too.
            if self.acceptResumesAt == nil { self.forget(listener.descriptor) }
            if areGone { self.turnAwayWaiting(listener) }
            // A Unix socket's listener is every loop's; the file is removed when the last one has ended.
            if !listener.isShared { _ = Glibc.close(listener.descriptor) }
        }
        self.acceptResumesAt = nil
    }

    /// Takes a descriptor out of the epoll.
    private func forget(_ descriptor: Int32) {
        _ = starling_epoll_control(self.epoll, 2, descriptor, 0, false, false, starling_trigger_level)
    }

    // MARK: - To another process, and from one

    /// Accepts on one more listener.
    func add(_ listener: Listener) {
        self.listeners.append(listener)
        if self.acceptResumesAt == nil { self.watchListener(self.listeners.count - 1) }
    }

    /// Neither accepts, nor reads nor writes, until ``resume(_:)``.
    func pause(_ driver: ConnectionDriver) {
        self.isPaused = true
        // They can go as well as others.
        while !self.arrivals.isEmpty {
            let arrival = self.arrivals.removeFirst()
            self.accepted(arrival.descriptor, arrival.address, driver)
        }
        driver.beginHandoff()
    }

    /// Goes on with what is there.
    func resume(_ driver: ConnectionDriver) {
        driver.abandonHandoff()
        self.isPaused = false
    }

    /// The connections that can go, with their descriptors, which stay this loop's.
    func export(_ driver: ConnectionDriver) -> [(record: ConnectionRecord, descriptor: Int32)] {
        let records = driver.exportConnections { index in
            // A session's keys, and a PROXY header of which a part has come, are nobody else's.
            unsafe self.connections.isOpen(index) && self.connections.pointer(index).pointee.tls == nil
                && self.proxyHeaders[index] == nil
        }
        return records.map { unsafe ($0, self.connections.pointer($0.index).pointee.descriptor) }
    }

    /// Another process has the listeners and these connections.
    func letGo(of indices: [Int], _ driver: ConnectionDriver) {
        self.closeListeners(areGone: false)
        for index in indices where self.connections.isOpen(index) {
            // As for a listener: it is not the last descriptor of the socket that is closed here.
            unsafe self.forget(self.connections.pointer(index).pointee.descriptor)
        }
        driver.finishHandoff(of: indices)
        self.isPaused = false
    }

    /// Makes a connection that another process still has; its number, or nil if it cannot be made.
    ///
    /// The descriptor is this loop's from now on.
    func adopt(_ record: ConnectionRecord, _ descriptor: Int32, _ driver: ConnectionDriver) -> Int? {
        let index: Int
        do {
            index = try driver.restore(record)
        } catch {
            self.server.logger.info("not taken over", metadata: [LoggingKeys.error: "\(error)"])
            _ = Glibc.close(descriptor)
            return nil
        }
        let generation = self.connections.open(index, descriptor)
        let isReading = driver.isReading(index)
        unsafe self.connections.pointer(index).pointee.isReading = isReading
        let token = UInt64(generation) << 32 | UInt64(index)
        if starling_epoll_control(self.epoll, 0, descriptor, token, isReading, false, starling_trigger_edge)
            != 0
        {
            driver.abandonTakeover(of: [index])
            return nil
        }
        return index
    }

    /// The other process has let go: serves its connections, with what was asked of them too late for their records.
    func begin(_ indices: [Int], _ orders: [Int: [UInt8]], _ driver: ConnectionDriver) {
        for index in indices { driver.beginServing(index, orders[index]) }
        self.isPaused = false
    }

    /// The other process keeps its connections: forgets them, and ends.
    func abandon(_ driver: ConnectionDriver) {
        driver.abandonTakeover(of: nil)
        self.mustEnd = true
    }

    // MARK: - The PROXY protocol

    /// Goes on with a proxy's header, if the connection still waits for one; whether it does not any more.
    ///
    /// Looks first and takes then, because what is behind the header may be TLS.
    private func readProxyHeader(_ index: Int, _ driver: ConnectionDriver) -> Bool {
        guard self.proxyHeaders[index] != nil else { return true }
        let descriptor = unsafe self.connections.pointer(index).pointee.descriptor
        let room = min(Self.receiveByteCount, ProxyHeaderReader.byteCountMax)
        let count = unsafe recv(descriptor, self.receiveBuffer.baseAddress, room, Int32(MSG_PEEK))
        guard count > 0 else {
            if count == 0 || errno != EAGAIN && errno != EINTR { driver.failed(index) }
            return false
        }
        // The first `count` bytes were just received.
        let bytes = unsafe Array(self.receiveBuffer[..<count])
        guard let (taken, progress) = self.proxyHeaders[index]?.take(bytes) else { return true }
        _ = unsafe recv(descriptor, self.receiveBuffer.baseAddress, taken, 0)
        switch progress {
        case .incomplete: return false
        case .complete(let client):
            self.proxyHeaders[index] = nil
            if driver.proxied(index, for: client) { return true }
        case .invalid: break
        }
        self.proxyHeaders[index] = nil
        driver.failed(
            index,
            .refused,
            reason: "no valid PROXY protocol header, or too many connections of its client"
        )
        return false
    }

    // MARK: - Reading

    /// Reads once; `again` says that there is more behind what arrived.
    private func read(_ index: Int, _ driver: ConnectionDriver, again: Bool = false) {
        let connection = unsafe self.connections.pointer(index)
        guard unsafe connection.pointee.isReading || connection.pointee.isHungUp else { return }
        if unsafe connection.pointee.tls != nil { return self.readEncrypted(index, driver) }
        let count = unsafe starling_receive(
            connection.pointee.descriptor,
            self.receiveBuffer.baseAddress,
            Self.receiveByteCount
        )
        if count > 0 {
            // Fewer bytes than asked for are all there are.
            if unsafe again || count == Self.receiveByteCount || connection.pointee.isHungUp {
                self.pending.append(index)
            }
            self.deliver(count, to: index, driver)
        } else if count == 0 {
            self.ended(index, driver)
        } else if errno == EINTR {
            self.pending.append(index)
        } else if errno != EAGAIN {
            driver.failed(index)
        }
    }

    private func deliver(_ count: Int, to index: Int, _ driver: ConnectionDriver) {
        // The first `count` bytes were just received, and nobody else uses the buffer during the call.
        var bytes = unsafe MutableRawSpan(
            _unsafeBytes: UnsafeMutableRawBufferPointer(rebasing: self.receiveBuffer[..<count])
        )
        driver.received(&bytes, on: index)
    }

    /// The peer's direction has ended: there is nothing more to be told of, until the connection is closed.
    private func ended(_ index: Int, _ driver: ConnectionDriver) {
        self.setReading(false, on: index)
        driver.readingEnded(index)
    }

    // MARK: - TLS

    /// Goes on with a handshake; whether it is done.
    private func continueHandshake(_ index: Int, _ driver: ConnectionDriver) -> Bool {
        let connection = unsafe self.connections.pointer(index)
        guard let result = unsafe connection.pointee.tls?.handshake() else { return true }
        switch result {
        case .done:
            unsafe connection.pointee.isHandshaking = false
            self.setWriting(false, index)
            // Data may have come with the handshake's last flight; epoll will not speak of it.
            if unsafe connection.pointee.tls?.hasBufferedInput == true { self.pending.append(index) }
            return true
        case .wantsRead: self.setWriting(false, index)
        case .wantsWrite: self.setWriting(true, index)
        case .failed(let failure): self.handshakeFailed(failure, index, driver)
        }
        return false
    }

    /// Ends a connection whose TLS has sent its alert: gracefully, because a reset could destroy the alert on its way.
    private func handshakeFailed(_ failure: TLSFailure, _ index: Int, _ driver: ConnectionDriver) {
        let connection = unsafe self.connections.pointer(index)
        // What still comes is for nobody, and is thrown away as plain bytes.
        unsafe connection.pointee.tls = nil
        unsafe connection.pointee.isHandshaking = false
        self.setWriting(false, index)
        switch failure.kind {
        case .connectionLost: driver.failed(index, reason: "TLS: \(failure)")
        // Nothing was sent, and somebody who typed `http:` for `https:` can read this.
        case .plaintext: driver.refuse(index, malformed: "This port speaks TLS: use https or wss.")
        default: driver.finishUnusable(index, .tlsFailed, reason: "TLS: \(failure)")
        }
    }

    private func readEncrypted(_ index: Int, _ driver: ConnectionDriver) {
        let connection = unsafe self.connections.pointer(index)
        guard unsafe !connection.pointee.isHandshaking,
            let result = unsafe connection.pointee.tls?.read(into: self.receiveBuffer)
        else { return }
        switch result {
        case .bytes(let count):
            let generation = unsafe connection.pointee.generation
            self.deliver(count, to: index, driver)
            // OpenSSL may hold more that is already decrypted, of which epoll will not speak.
            if self.connections.isCurrent(index, generation),
                unsafe connection.pointee.tls?.hasBufferedInput == true
            {
                self.pending.append(index)
            }
        case .wantsRead: break
        case .wantsWrite:
            // The answer to a key update must go out first. Then nothing need arrive for the read to go on.
            unsafe connection.pointee.retriesReadOnWrite = true
            self.setWriting(true, index)
        case .closed, .eof: self.ended(index, driver)
        case .failed: driver.failed(index)
        }
    }

    private func readPending(_ driver: ConnectionDriver) {
        guard !self.pending.isEmpty else { return }
        let indices = self.pending
        self.pending = []
        for index in indices where self.connections.isOpen(index) {
            let connection = unsafe self.connections.pointer(index)
            if unsafe connection.pointee.isReading || connection.pointee.isHungUp {
                self.read(index, driver, again: true)
            } else {
                unsafe self.connections.pointer(index).pointee.hasPending = true
            }
        }
    }

    // MARK: - What the driver asks

    func write(_ bytes: RawSpan, to index: Int) -> WriteResult {
        let connection = unsafe self.connections.pointer(index)
        if unsafe connection.pointee.tls != nil { return self.writeEncrypted(bytes, to: index) }
        let count = unsafe bytes.withUnsafeBytes { buffer in
            unsafe starling_send(connection.pointee.descriptor, buffer.baseAddress, buffer.count)
        }
        return self.wrote(count, of: bytes.byteCount, to: index)
    }

    func writeTogether(_ head: RawSpan, _ body: RawSpan, to index: Int) -> WriteResult? {
        let connection = unsafe self.connections.pointer(index)
        // A TLS record is made of one buffer.
        if unsafe connection.pointee.tls != nil { return nil }
        let count = unsafe head.withUnsafeBytes { head in
            unsafe body.withUnsafeBytes { body in
                unsafe starling_send_together(
                    connection.pointee.descriptor,
                    head.baseAddress,
                    head.count,
                    body.baseAddress,
                    body.count
                )
            }
        }
        return self.wrote(count, of: head.byteCount + body.byteCount, to: index)
    }

    /// What a system call that sends has returned, with `errno` still as it left it.
    private func wrote(_ count: Int, of byteCount: Int, to index: Int) -> WriteResult {
        if count == byteCount { return .wrote(count) }
        if count < 0, errno != EAGAIN && errno != EINTR { return .failed }
        self.setWriting(true, index)
        return .wrote(max(0, count))
    }

    private func writeEncrypted(_ bytes: RawSpan, to index: Int) -> WriteResult {
        let connection = unsafe self.connections.pointer(index)
        var written = 0
        // A record holds 16 KiB: several are written, until the socket takes no more.
        while written < bytes.byteCount {
            let rest = bytes.extracting(droppingFirst: written)
            let result = unsafe rest.withUnsafeBytes { unsafe connection.pointee.tls?.write($0) }
            switch result {
            case .bytes(let count): written += count
            case .wantsWrite:
                self.setWriting(true, index)
                return .wrote(written)
            case .wantsRead:
                unsafe connection.pointee.retriesWriteOnRead = true
                return .wrote(written)
            case .failed, nil: return .failed
            }
        }
        return .wrote(written)
    }

    func setReading(_ isOn: Bool, on index: Int) {
        let connection = unsafe self.connections.pointer(index)
        guard unsafe connection.pointee.isReading != isOn else { return }
        unsafe connection.pointee.isReading = isOn
        self.updateInterest(index)
        if isOn, unsafe connection.pointee.hasPending {
            unsafe connection.pointee.hasPending = false
            self.pending.append(index)
        }
    }

    private func setWriting(_ isOn: Bool, _ index: Int) {
        let connection = unsafe self.connections.pointer(index)
        guard unsafe connection.pointee.isWriting != isOn else { return }
        unsafe connection.pointee.isWriting = isOn
        self.updateInterest(index)
    }

    private func updateInterest(_ index: Int) {
        let connection = unsafe self.connections.pointer(index)
        _ = unsafe starling_epoll_control(
            self.epoll,
            1,
            connection.pointee.descriptor,
            UInt64(connection.pointee.generation) << 32 | UInt64(index),
            connection.pointee.isReading,
            connection.pointee.isWriting,
            self.tls == nil ? starling_trigger_edge : starling_trigger_level
        )
    }

    func shutdownWriting(_ index: Int) {
        let connection = unsafe self.connections.pointer(index)
        // Best effort: a peer that misses the notify sees the stream's end.
        _ = unsafe connection.pointee.tls?.shutdown()
        _ = unsafe shutdown(connection.pointee.descriptor, Int32(SHUT_WR))
    }

    func close(_ index: Int) {
        // Closing the descriptor takes it out of epoll too.
        guard let descriptor = self.connections.close(index) else { return }
        if !self.proxyHeaders.isEmpty { self.proxyHeaders[index] = nil }
        _ = Glibc.close(descriptor)
    }
}

/// What this transport keeps of a connection.
struct NativeConnection: ~Copyable {
    var descriptor: Int32 = -1
    var generation: UInt32 = 0
    var isReading = true
    var isWriting = false
    var isHandshaking = false
    /// The peer is gone: what it sent is read whether or not reading is on.
    var isHungUp = false
    /// A TLS write waits for something to read.
    var retriesWriteOnRead = false
    /// A TLS read waits for the socket to take bytes.
    var retriesReadOnWrite = false
    /// Decrypted bytes wait for reading to go on.
    var hasPending = false
    var tls: TLSSession?
}

/// The loop's connections by the driver's numbers, in blocks that never move.
@safe struct NativeConnections: ~Copyable {
    private static let blockCount = 256
    private var blocks: [UnsafeMutablePointer<NativeConnection>] = unsafe []

    deinit {
        for index in unsafe self.blocks.indices {
            let block = unsafe self.blocks[index]
            unsafe block.deinitialize(count: Self.blockCount)
            unsafe block.deallocate()
        }
    }

    /// The connection of a number that was opened: blocks up to it exist and stay where they are.
    func pointer(_ index: Int) -> UnsafeMutablePointer<NativeConnection> {
        unsafe self.blocks[index >> 8] + (index & 0xFF)
    }

    func isCurrent(_ index: Int, _ generation: UInt32) -> Bool {
        unsafe self.isOpen(index) && self.pointer(index).pointee.generation == generation
    }

    func isOpen(_ index: Int) -> Bool {
        unsafe index >> 8 < self.blocks.count && self.pointer(index).pointee.descriptor >= 0
    }

    /// Takes a number into use; returns its new generation.
    mutating func open(_ index: Int, _ descriptor: Int32) -> UInt32 {
        while unsafe index >> 8 >= self.blocks.count {
            let block = UnsafeMutablePointer<NativeConnection>.allocate(capacity: Self.blockCount)
            for offset in 0..<Self.blockCount { unsafe (block + offset).initialize(to: NativeConnection()) }
            unsafe self.blocks.append(block)
        }
        // The top two generations would collide with the tokens of listener and wake-up.
        let generation = unsafe (self.pointer(index).pointee.generation &+ 1) & 0x7FFF_FFFF
        unsafe self.pointer(index).pointee = NativeConnection(descriptor: descriptor, generation: generation)
        return generation
    }

    /// Gives a number back; returns its descriptor, to be closed.
    mutating func close(_ index: Int) -> Int32? {
        guard self.isOpen(index) else { return nil }
        let connection = unsafe self.pointer(index)
        let descriptor = unsafe connection.pointee.descriptor
        let generation = unsafe connection.pointee.generation
        unsafe connection.pointee = NativeConnection(descriptor: -1, generation: generation)
        return descriptor
    }
}
#endif
