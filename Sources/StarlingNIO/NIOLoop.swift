#if NIO
internal import NIOCore
internal import Starling
internal import StarlingCore

/// The connections of one event loop of NIO: a driver, and its ticks.
///
/// A tick begins with the first thing that happens on one of the loop's channels and ends behind all that NIO's selector
/// found ready with it: many reads, tasks and publications go out as one write and one flush for each connection.
///
/// NIO may call back from within our own calls into it: a flush may find the channel broken, or writable again. The driver
/// is then in the middle of something, so such events wait until it is done.
///
/// Sendable because everything mutable is touched only on `eventLoop`: others reach it by `execute` and the driver's mailbox.
@safe final class NIOLoop: ConnectionIO, @unchecked Sendable {
    let eventLoop: any NIOCore.EventLoop
    let server: ServerContext
    /// Succeeds when the server has drained here.
    let finished: EventLoopPromise<Void>
    private let onStopListening: @Sendable () -> Void

    private let index: Int
    private var hasBegun = false
    private var driver: ConnectionDriver?
    private let start = NIODeadline.now()
    /// By the driver's numbers.
    private var connections: [NIOConnection?] = []
    /// Those with bytes that NIO has and was not told to write.
    private var unflushed: [NIOConnection] = []
    /// What happened while the driver was at work.
    private var deferred: [(connection: NIOConnection, event: NIOConnectionEvent)] = []
    /// Those whose input has ended in this tick.
    ///
    /// They hear of it in the next one, so that what came before the end is answered first.
    private var ended: [NIOConnection] = []
    private var isDriverAtWork = false
    private var isInTick = false
    private var tickStart = NIODeadline.now()
    private var hasTimer = false
    private var ticksInARow = 0

    /// What arrives is decoded here, in place: NIO's own buffers may be shared.
    private let receiveBuffer = UnsafeMutableRawBufferPointer.allocate(
        byteCount: NIOLoop.receiveByteCount,
        alignment: 64
    )
    private static let receiveByteCount = 64 << 10

    /// Ticks that follow each other at once; then the selector gets its turn, because NIO runs tasks until there are none.
    private static let ticksInARowMax = 4
    private static let turnOfSelector = TimeAmount.microseconds(100)

    /// Makes a loop; on any thread.
    init(
        _ eventLoop: any NIOCore.EventLoop,
        index: Int,
        server: ServerContext,
        onStopListening: @escaping @Sendable () -> Void
    ) {
        self.eventLoop = eventLoop
        self.server = server
        self.finished = eventLoop.makePromise()
        self.onStopListening = onStopListening
        self.index = index
        eventLoop.execute { self.begin() }
    }

    /// Makes the driver, unless a connection has come before and found none.
    private func begin() {
        guard !self.hasBegun else { return }
        self.hasBegun = true
        let eventLoop = self.eventLoop
        let loop = Starling.EventLoop(index: self.index) { [weak self] in
            guard let self else { return }
            eventLoop.execute { self.wake() }
        }
        self.driver = ConnectionDriver(loop: loop, server: self.server, io: self)
        // The first look at the mailbox: from now on whoever posts wakes the loop.
        eventLoop.execute { self.wake() }
    }

    deinit {
        unsafe self.receiveBuffer.deallocate()
    }

    // MARK: - Ticks

    /// Something has happened on a connection; on the loop's thread.
    func report(_ event: NIOConnectionEvent, of connection: NIOConnection) {
        self.eventLoop.preconditionInEventLoop()
        self.begin()
        guard let driver = self.driver else { return connection.serverIsGone() }
        if case .inputEnded = event {
            self.ended.append(connection)
            if !self.isInTick { self.goOn() }
            return
        }
        guard !self.isDriverAtWork else { return self.deferred.append((connection, event)) }
        if !self.isInTick {
            self.ticksInARow = 0
            self.beginTick(driver)
            // NIO runs it when it has served all channels that are ready now.
            self.eventLoop.execute { self.endTick() }
        }
        self.work {
            self.deliverDeferred(to: driver)
            driver.withCurrent { self.deliver(event, of: connection, to: driver) }
        }
    }

    /// Runs a whole tick: somebody has posted something, or a deadline may have come.
    private func wake() {
        guard let driver = self.driver, !self.isInTick else { return }
        self.beginTick(driver)
        self.endTick()
    }

    private func deliverEnds(to driver: ConnectionDriver) {
        guard !self.ended.isEmpty else { return }
        let ended = self.ended
        self.ended = []
        driver.withCurrent {
            for connection in ended {
                if let index = connection.index { driver.readingEnded(index) }
            }
        }
    }

    private func beginTick(_ driver: ConnectionDriver) {
        self.isInTick = true
        self.tickStart = .now()
        driver.beginTick(at: UInt64(max(0, (self.tickStart - self.start).nanoseconds)))
        self.work { self.deliverEnds(to: driver) }
    }

    private func endTick() {
        guard let driver = self.driver, self.isInTick else { return }
        var mustContinue = false
        self.work {
            self.deliverDeferred(to: driver)
            mustContinue = driver.endTick()
            // All that the tick has written; one system call for each connection.
            let connections = self.unflushed
            self.unflushed.removeAll(keepingCapacity: true)
            for connection in connections { connection.flush() }
        }
        driver.tickTook(nanoseconds: UInt64(max(0, (NIODeadline.now() - self.tickStart).nanoseconds)))
        self.isInTick = false
        guard !driver.isFinished else { return self.finish(driver) }
        let milliseconds = driver.prepareToSleep()
        if mustContinue || milliseconds == 0 || !self.deferred.isEmpty || !self.ended.isEmpty {
            self.goOn()
        } else if milliseconds > 0, !self.hasTimer {
            self.hasTimer = true
            self.eventLoop.scheduleTask(in: .milliseconds(Int64(milliseconds))) {
                self.hasTimer = false
                self.ticksInARow = 0
                self.wake()
            }
        }
    }

    private func goOn() {
        self.ticksInARow += 1
        if self.ticksInARow <= Self.ticksInARowMax {
            self.eventLoop.execute { self.wake() }
        } else {
            self.eventLoop.scheduleTask(in: Self.turnOfSelector) {
                self.ticksInARow = 0
                self.wake()
            }
        }
    }

    private func finish(_ driver: ConnectionDriver) {
        self.driver = nil
        driver.finish()
        let deferred = self.deferred
        self.deferred = []
        for (connection, _) in deferred { connection.serverIsGone() }
        self.finished.succeed()
    }

    private func work(_ body: () -> Void) {
        self.isDriverAtWork = true
        body()
        self.isDriverAtWork = false
    }

    private func deliverDeferred(to driver: ConnectionDriver) {
        guard !self.deferred.isEmpty else { return }
        let deferred = self.deferred
        self.deferred = []
        driver.withCurrent {
            for (connection, event) in deferred { self.deliver(event, of: connection, to: driver) }
        }
    }

    private func deliver(
        _ event: NIOConnectionEvent,
        of connection: NIOConnection,
        to driver: ConnectionDriver
    ) {
        if case .began(let address, let request) = event {
            return self.accept(connection, from: address, request, driver)
        }
        // A connection that ended earlier in this tick is not meant.
        guard let index = connection.index else { return }
        switch event {
        case .began, .inputEnded: preconditionFailure("an event was delivered that is served elsewhere")
        case .proxyHeaderEnded(let progress): _ = driver.proxyHeaderEnded(progress, on: index)
        case .received(let buffer): self.received(buffer, on: index, driver)
        case .writable: driver.writable(index)
        case .lost: driver.failed(index)
        case .closeAsked: driver.closeForTransport(index)
        }
    }

    private func accept(
        _ connection: NIOConnection,
        from address: RemoteAddress,
        _ request: ForeignRequest?,
        _ driver: ConnectionDriver
    ) {
        guard let index = driver.accept(from: address) else {
            return connection.turnAway(self.server.fullResponse)
        }
        while self.connections.count <= index { self.connections.append(nil) }
        self.connections[index] = connection
        connection.index = index
        if let request { driver.received(request, on: index) }
    }

    private func received(_ buffer: ByteBuffer, on index: Int, _ driver: ConnectionDriver) {
        var position = 0
        while position < buffer.readableBytes {
            let count = min(Self.receiveByteCount, buffer.readableBytes - position)
            // `count` bytes are copied to the beginning of the buffer, which is as long and used by nobody else.
            unsafe buffer.readableBytesSpan.extracting(position..<(position + count)).withUnsafeBytes {
                source in
                unsafe self.receiveBuffer.copyMemory(from: source)
            }
            position += count
            var bytes = unsafe MutableRawSpan(
                _unsafeBytes: UnsafeMutableRawBufferPointer(rebasing: self.receiveBuffer[..<count])
            )
            driver.received(&bytes, on: index)
        }
    }

    /// The listener accepts nothing for a while.
    func acceptPaused(_ reason: String) {
        self.driver?.acceptPaused(reason)
    }

    // MARK: - What the driver asks

    func write(_ bytes: RawSpan, to index: Int) -> WriteResult {
        guard let connection = self.connections[index] else { return .failed }
        if !connection.needsFlush { self.unflushed.append(connection) }
        return connection.write(bytes)
    }

    func setReading(_ isOn: Bool, on index: Int) {
        self.connections[index]?.setReading(isOn)
    }

    func shutdownWriting(_ index: Int) {
        self.connections[index]?.endOutput()
    }

    func close(_ index: Int) {
        self.connections[index]?.close()
        self.connections[index] = nil
    }

    func stopListening() {
        self.onStopListening()
    }
}

/// One ``NIOLoop`` for each event loop of a group.
struct NIOLoops: Sendable {
    private let loops: [ObjectIdentifier: NIOLoop]

    init(
        _ group: any EventLoopGroup,
        _ server: ServerContext,
        onStopListening: @escaping @Sendable () -> Void = {}
    ) {
        var loops: [ObjectIdentifier: NIOLoop] = [:]
        for (index, eventLoop) in group.makeIterator().enumerated() {
            loops[ObjectIdentifier(eventLoop)] = NIOLoop(
                eventLoop,
                index: index,
                server: server,
                onStopListening: onStopListening
            )
        }
        self.loops = loops
    }

    /// The loop that carries a channel of the group.
    func loop(of channel: any Channel) throws(TransportError) -> NIOLoop {
        guard let loop = self.loops[ObjectIdentifier(channel.eventLoop)] else {
            throw TransportError(
                "a channel is on an event loop that is not of the server's group: give both the same group"
            )
        }
        return loop
    }

    /// Any of them; on its own thread it may be asked for more.
    func loop(on eventLoop: any NIOCore.EventLoop) -> NIOLoop? {
        self.loops[ObjectIdentifier(eventLoop)]
    }

    /// Waits until the server has drained on all of them.
    func finish() async {
        // The promises never fail.
        for loop in self.loops.values { try? await loop.finished.futureResult.get() }
    }
}
#endif
