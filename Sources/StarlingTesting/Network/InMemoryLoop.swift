internal import Dispatch
internal import Starling

/// An event loop of a server on an ``InMemoryNetwork``: a driver whose ticks run on a serial queue.
///
/// Sendable because everything mutable but `inbox` is touched only inside a tick, and ticks run on `queue`, one after the
/// other.
final class InMemoryLoop: ConnectionIO, @unchecked Sendable {
    private struct Inbox {
        var links: [InMemoryLink] = []
        var isTickDue = false
        var isEnded = false
    }

    private let queue = DispatchQueue(label: "starling.in-memory")
    private let server: ServerContext
    private let inbox = Lock(Inbox())
    private let onStopListening: @Sendable () -> Void

    /// Until the server has drained.
    private var driver: ConnectionDriver?
    private let start = ContinuousClock.now
    private var timerDue: ContinuousClock.Instant?
    private var finished: CheckedContinuation<Void, Never>?
    private var links: [Int: InMemoryLink] = [:]
    private var numbers: [ObjectIdentifier: Int] = [:]
    private var paused: Set<Int> = []
    /// Links with more to read than a tick takes, or that are read again.
    private var pending: [InMemoryLink] = []

    private static let readByteCountMax = 64 << 10
    /// Then others get the queue's thread.
    private static let ticksInARowMax = 16

    /// Makes a loop, and its driver.
    init(index: Int, server: ServerContext, onStopListening: @escaping @Sendable () -> Void) {
        self.server = server
        self.onStopListening = onStopListening
        let wakeup = Wakeup()
        let loop = EventLoop(index: index) { wakeup.call() }
        self.driver = ConnectionDriver(loop: loop, server: server, io: self)
        wakeup.set { [weak self] in self?.wake() }
    }

    /// The way from the event loop to its owner, which is made after it.
    private final class Wakeup: Sendable {
        private let action = Lock<(@Sendable () -> Void)?>(nil)

        func set(_ action: @escaping @Sendable () -> Void) { self.action.withLock { $0 = action } }
        func call() { self.action.withLock { $0 }?() }
    }

    /// Serves until the driver has drained.
    func run() async {
        await withCheckedContinuation { finished in
            self.queue.async {
                // Clients come as soon as the network listens: a short life may be over by now.
                guard self.driver != nil else { return finished.resume() }
                self.finished = finished
                self.tick()
            }
        }
    }

    /// Something has happened on a link, its beginning included; any thread.
    func notify(_ link: InMemoryLink) {
        let (mustWake, isEnded) = self.inbox.withLock { inbox in
            guard !inbox.isEnded else { return (false, true) }
            inbox.links.append(link)
            defer { inbox.isTickDue = true }
            return (!inbox.isTickDue, false)
        }
        if isEnded { link.closeByServer() }
        if mustWake { self.queue.async { self.tick() } }
    }

    private func wake() {
        self.queue.async { self.tick() }
    }

    // MARK: - Ticks

    private func tick() {
        guard let driver = self.driver else { return }
        var mustContinue = true
        var rounds = 0
        while mustContinue, rounds < Self.ticksInARowMax {
            rounds += 1
            let links = self.takePending()
            driver.beginTick(at: (ContinuousClock.now - self.start).wholeNanoseconds)
            driver.withCurrent { for link in links { self.serve(link, driver) } }
            mustContinue = driver.endTick() || !self.pending.isEmpty
        }
        if driver.isFinished, !mustContinue {
            self.finish(driver)
        } else if mustContinue {
            self.wake()
        } else {
            let milliseconds = driver.prepareToSleep()
            if milliseconds == 0 {
                self.wake()
            } else if milliseconds > 0 {
                self.setTimer(.milliseconds(Int(milliseconds)))
            }
        }
    }

    /// What is to be looked at, each link once.
    private func takePending() -> [InMemoryLink] {
        let arrived = self.inbox.withLock { inbox in
            inbox.isTickDue = false
            defer { inbox.links = [] }
            return inbox.links
        }
        defer { self.pending = [] }
        var seen: Set<ObjectIdentifier> = []
        return (self.pending + arrived).filter { seen.insert(ObjectIdentifier($0)).inserted }
    }

    private func serve(_ link: InMemoryLink, _ driver: ConnectionDriver) {
        guard let index = self.numbers[ObjectIdentifier(link)] ?? self.accept(link, driver),
            self.links[index] === link
        else { return }
        if link.isReset { return driver.failed(index) }
        if link.takeRoom() {
            driver.writable(index)
            guard self.links[index] === link else { return }
        }
        guard !self.paused.contains(index) else { return }
        switch link.readByServer(atMost: Self.readByteCountMax) {
        case .bytes(var bytes):
            var span = bytes.mutableSpan
            var rest = unsafe span.mutableBytes
            driver.received(&rest, on: index)
            self.pending.append(link)
        case .end: driver.readingEnded(index)
        case .broken: driver.failed(index)
        case .nothing: break
        }
    }

    /// Nil for a connection that the server refuses, or that was closed before.
    private func accept(_ link: InMemoryLink, _ driver: ConnectionDriver) -> Int? {
        // What a client still does on a link that the server has closed does not make it a new one.
        guard !link.isClosedByServer else { return nil }
        guard let index = driver.accept(from: link.clientAddress) else {
            let response = self.server.fullResponse
            _ = unsafe link.writeByServer(response.span.bytes)
            link.closeByServer()
            return nil
        }
        self.links[index] = link
        self.numbers[ObjectIdentifier(link)] = index
        return index
    }

    private func setTimer(_ interval: Duration) {
        let due = ContinuousClock.now + interval
        if let timerDue = self.timerDue, timerDue <= due { return }
        self.timerDue = due
        self.queue.asyncAfter(deadline: .now() + .nanoseconds(Int(interval.wholeNanoseconds))) {
            [weak self] in
            guard let self, self.timerDue == due else { return }
            self.timerDue = nil
            self.tick()
        }
    }

    private func finish(_ driver: ConnectionDriver) {
        let late = self.inbox.withLock { inbox in
            inbox.isEnded = true
            defer { inbox.links = [] }
            return inbox.links
        }
        for link in late { link.closeByServer() }
        self.driver = nil
        driver.finish()
        self.finished?.resume()
        self.finished = nil
    }

    // MARK: - What the driver asks

    func write(_ bytes: RawSpan, to connection: Int) -> WriteResult {
        self.links[connection]?.writeByServer(bytes) ?? .failed
    }

    func setReading(_ isOn: Bool, on connection: Int) {
        if isOn {
            self.paused.remove(connection)
            if let link = self.links[connection] { self.pending.append(link) }
        } else {
            self.paused.insert(connection)
        }
    }

    func shutdownWriting(_ connection: Int) {
        self.links[connection]?.endByServer()
    }

    func close(_ connection: Int) {
        guard let link = self.links.removeValue(forKey: connection) else { return }
        self.paused.remove(connection)
        self.numbers[ObjectIdentifier(link)] = nil
        link.closeByServer()
    }

    func stopListening() {
        self.onStopListening()
    }
}
