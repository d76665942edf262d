#if os(Linux)
internal import CStarlingLinux
internal import Glibc
internal import Starling

/// One thread's sockets: waits for them, and tells the driver what happens on them.
///
/// Epoll: one receive per readable connection and wake-up, into one buffer for all of them. Plain connections are
/// edge-triggered, which saves the kernel a second look at each; TLS connections, of which OpenSSL may leave a part of what has
/// come in the socket, are level-triggered.
@safe final class NativeLoop: ConnectionIO {
    static let wakeupToken: UInt64 = .max
    static let lobbyToken: UInt64 = .max - 1
    /// One for each listener, downwards.
    static let listenerTokens = (UInt64.max - 65)...(UInt64.max - 2)
    static let eventCount = 512
    /// Accepting is cheap, and what the kernel has no room for comes back a second later, or three, or seven: it is done soon.
    static let acceptsPerTick = 1024
    /// What a new connection asks for is not cheap: those who are there must not wait for many of them in one tick.
    static let arrivalsPerTick = 64
    /// Accepted connections that wait for that; further ones wait in the kernel.
    static let arrivalsMax = 16_384
    /// Holds a 64 KiB message with its header, several times over.
    static let receiveByteCount = 256 << 10
    /// How long accepting pauses when the process has no descriptors left.
    static let acceptPauseNanoseconds: UInt64 = 250_000_000

    let epoll = Epoll()
    let lobby = Epoll()
    let wakeup: Int32
    let tls: TLSContext?
    let server: ServerContext
    var listeners: [Listener]
    private let hot: UnsafeMutablePointer<HotState>
    let events = UnsafeMutableBufferPointer<starling_event>.allocate(capacity: NativeLoop.eventCount)
    let receiveBuffer = UnsafeMutableRawBufferPointer.allocate(
        byteCount: NativeLoop.receiveByteCount,
        alignment: 64
    )
    var acceptResumesAt: UInt64?
    /// Connections that were accepted and are not looked at yet, in order.
    var arrivals = Deque<(descriptor: Int32, address: RemoteAddress)>()
    /// The connection that is accepted and read before epoll knows it.
    var unwatched: Int?
    /// Sends for many connections at once; nil where every write is a system call of its own.
    let ring: OpaquePointer?
    /// Where the sessions write; nil without TLS.
    let sink: TLSSink?
    let sends = UnsafeMutableBufferPointer<starling_batched_send>.allocate(capacity: NativeLoop.batchMax)

    /// Whether nothing is accepted, read or written, because connections go to another process or come from one.
    ///
    /// What happens on the sockets stays in the epoll, and is told when it is over.
    var isPaused: Bool
    /// Whether another process still serves, and this one waits for what it has.
    var isTakingOver: Bool
    /// Whether the loop ends although the server goes on: what it was to take over has failed.
    var mustEnd = false

    /// Runs a loop on the calling thread until the server has drained.
    static func run(
        index: Int,
        listeners: [Listener],
        tls: TLSContext?,
        server: ServerContext,
        remote: LoopRemote,
        isPaused: Bool,
        batchesWrites: Bool
    ) {
        let wakeup = remote.wakeup
        let loop = EventLoop(index: index) { starling_eventfd_signal(wakeup) }
        let io = NativeLoop(
            wakeup: wakeup,
            listeners: listeners,
            tls: tls,
            server: server,
            isPaused: isPaused,
            batchesWrites: batchesWrites
        )
        let driver = ConnectionDriver(loop: loop, server: server, io: io)
        let start = Syscalls.monotonicNanoseconds()
        var mustContinue = false
        // One that pauses is waited for by another process, though it may have nothing itself.
        while io.isPaused || !driver.isFinished, !io.mustEnd {
            mustContinue =
                io.isPaused
                ? io.pausedTick(driver, since: start, mayWait: !mustContinue)
                : io.tick(driver, since: start, mayWait: !mustContinue)
            // It may have left tasks to run and bytes to write, which no socket will tell of.
            if remote.perform(io, driver) { mustContinue = true }
        }
        remote.close()
        driver.finish()
    }

    private init(
        wakeup: Int32,
        listeners: [Listener],
        tls: TLSContext?,
        server: ServerContext,
        isPaused: Bool,
        batchesWrites: Bool
    ) {
        self.wakeup = wakeup
        self.tls = tls
        self.server = server
        self.listeners = listeners
        self.isPaused = isPaused
        self.isTakingOver = isPaused
        unsafe self.hot = .allocate(capacity: 1)
        unsafe self.hot.initialize(to: HotState(speaksTLS: tls != nil))
        self.sink = tls.map { _ in TLSSink() }
        unsafe self.ring = batchesWrites ? Self.makeRing(server) : nil
        let canWatch =
            self.epoll.add(wakeup, Self.wakeupToken, starling_trigger_level)
            && self.epoll.add(self.lobby.descriptor, Self.lobbyToken, starling_trigger_level)
        precondition(canWatch, "the kernel has no room for an event loop (fs.epoll.max_user_watches)")
        for number in self.listeners.indices { self.watchListener(number) }
    }

    deinit {
        self.stopListening()
        self.epoll.close()
        self.lobby.close()
        // The wake-up descriptor stays open: a task that outlives the loop may still signal it, and must not hit a
        // descriptor that means something else by then. It is one per loop of a server's life.
        if let ring = unsafe self.ring { unsafe starling_send_ring_close(ring) }
        unsafe self.hot.deinitialize(count: 1)
        unsafe self.hot.deallocate()
        unsafe self.sends.deallocate()
        unsafe self.events.deallocate()
        unsafe self.receiveBuffer.deallocate()
    }

    // MARK: - A tick

    private func tick(_ driver: ConnectionDriver, since start: UInt64, mayWait: Bool) -> Bool {
        var timeout = driver.prepareToSleep()
        if !mayWait || !self.pending.isEmpty || !self.arrivals.isEmpty { timeout = 0 }
        if self.acceptResumesAt != nil, timeout < 0 || timeout > 100 { timeout = 100 }
        let count = unsafe self.epoll.wait(for: self.events, milliseconds: timeout)
        let now = Syscalls.monotonicNanoseconds()
        driver.beginTick(at: now - start)
        self.resumeAccepting(at: now)
        driver.withCurrent {
            self.readPending(driver)
            var isLobbyReady = false
            for position in 0..<count {
                let event = unsafe self.events[position]
                switch event.token {
                case Self.listenerTokens: self.acceptConnections(ofToken: event.token, driver, now)
                case Self.wakeupToken: starling_eventfd_clear(self.wakeup)
                case Self.lobbyToken: isLobbyReady = true
                default: self.handle(event, driver)
                }
            }
            if isLobbyReady { self.attendNewcomers(driver) }
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

    /// What has happened on a connection.
    func handle(_ event: starling_event, _ driver: ConnectionDriver) {
        // One that ended earlier in this tick, or its successor in the slot, is not meant.
        guard let index = self.connections.index(ofToken: event.token) else { return }
        let connection = unsafe self.connections.pointer(index)
        if !self.proxyHeaders.isEmpty, !self.readProxyHeader(index, driver) { return }
        if event.writable, !self.continueSending(index, driver) { return }
        let isHandshaking = unsafe connection.pointee.flags.contains(.handshaking)
        if isHandshaking, !self.continueHandshake(index, driver) { return }
        if unsafe event.writable || connection.pointee.flags.contains(.retriesWriteOnRead) {
            unsafe connection.pointee.flags.remove(.retriesWriteOnRead)
            if !self.hasRest(index) { driver.writable(index) }
        }
        if event.hung_up { unsafe connection.pointee.flags.insert(.hungUp) }
        if event.readable || event.ended || event.hung_up {
            self.read(index, driver, again: event.ended || event.hung_up)
        }
    }

    // MARK: - What the driver asks

    func write(_ bytes: RawSpan, to index: Int) -> WriteResult {
        if self.connections.isEncrypted(index) { return self.writeEncrypted(RawSpan(), bytes, to: index) }
        return unsafe bytes.withUnsafeBytes { unsafe self.sendAsIs($0, to: index) }
    }

    /// Sends bytes as they are.
    func sendAsIs(_ bytes: UnsafeRawBufferPointer, to index: Int) -> WriteResult {
        let descriptor = unsafe self.connections.pointer(index).pointee.descriptor
        let count = unsafe starling_send(descriptor, bytes.baseAddress, bytes.count)
        return self.wrote(count, of: bytes.count, to: index)
    }

    func writeTogether(_ head: RawSpan, _ body: RawSpan, to index: Int) -> WriteResult? {
        let connection = unsafe self.connections.pointer(index)
        if self.connections.isEncrypted(index) { return self.writeEncrypted(head, body, to: index) }
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

    func setReading(_ isOn: Bool, on index: Int) {
        let connection = unsafe self.connections.pointer(index)
        guard unsafe connection.pointee.flags.contains(.reading) != isOn else { return }
        unsafe connection.pointee.flags.set(.reading, isOn)
        self.updateInterest(index)
        if isOn, unsafe connection.pointee.flags.contains(.hasPending) {
            unsafe connection.pointee.flags.remove(.hasPending)
            self.pending.append(index)
        }
    }

    func setWriting(_ isOn: Bool, _ index: Int) {
        let connection = unsafe self.connections.pointer(index)
        guard unsafe connection.pointee.flags.contains(.writing) != isOn else { return }
        unsafe connection.pointee.flags.set(.writing, isOn)
        self.updateInterest(index)
    }

    func shutdownWriting(_ index: Int) {
        let connection = unsafe self.connections.pointer(index)
        guard self.endEncryption(of: index) else {
            unsafe connection.pointee.flags.insert(.shutdownOwed)
            return
        }
        _ = unsafe shutdown(connection.pointee.descriptor, Int32(SHUT_WR))
    }

    func close(_ index: Int) {
        if self.connections.isOpen(index) {
            self.setHandshaking(false, index)
            self.forgetRest(of: index)
        }
        // Closing the descriptor takes it out of epoll too.
        guard let descriptor = self.connections.close(index) else { return }
        if !self.proxyHeaders.isEmpty { self.proxyHeaders[index] = nil }
        _ = Glibc.close(descriptor)
    }

    // MARK: - The hot path's state

    /// What is touched for every event, in memory of its own, as in the driver: a class's stored properties are checked for
    /// exclusive access each time.
    private struct HotState: ~Copyable {
        var connections: NativeConnections
        /// Connections to be read again, of which epoll will not speak: OpenSSL holds decrypted bytes, the receive buffer was
        /// full, or the end stands behind the bytes.
        var pending: [Int] = []
        /// What connections have said of the PROXY protocol that have not said all of it.
        var proxyHeaders: [Int: ProxyHeaderReader] = [:]

        init(speaksTLS: Bool) {
            self.connections = NativeConnections(speakTLS: speaksTLS)
        }
    }

    // The memory lives as long as the loop, and only its thread touches it. None of these is held across a call that could
    // touch the same one again.

    var connections: NativeConnections {
        _read { yield unsafe self.hot.pointee.connections }
        _modify { yield unsafe &self.hot.pointee.connections }
    }
    var pending: [Int] {
        _read { yield unsafe self.hot.pointee.pending }
        _modify { yield unsafe &self.hot.pointee.pending }
    }
    var proxyHeaders: [Int: ProxyHeaderReader] {
        _read { yield unsafe self.hot.pointee.proxyHeaders }
        _modify { yield unsafe &self.hot.pointee.proxyHeaders }
    }
}
#endif
