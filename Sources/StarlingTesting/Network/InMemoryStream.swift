public import Starling

/// A client's end of a connection on an ``InMemoryNetwork``.
///
/// Beside what every stream does, it can end one direction alone, and break.
public final class InMemoryStream: HalfClosableStream {
    private let link: InMemoryLink

    init(_ link: InMemoryLink) {
        self.link = link
    }

    deinit {
        self.link.closeByClient()
    }

    /// The next bytes, 256 KiB at most; nil when the server has ended its direction.
    ///
    /// Suspends until some are there. Cancelling the task closes the stream.
    public func read() async throws(TransportError) -> [UInt8]? {
        while true {
            switch self.link.readByClient() {
            case .bytes(let bytes): return bytes
            case .end: return nil
            case .broken(let why): throw TransportError(why)
            case .nothing: await self.wait { self.link.waitForBytes($0) }
            }
        }
    }

    /// Sends bytes.
    ///
    /// Suspends until the network's buffer has taken all of them. Cancelling the task closes the stream.
    public func write(_ bytes: [UInt8]) async throws(TransportError) {
        var rest = bytes[...]
        while true {
            rest = rest.dropFirst(try self.link.writeByClient(rest))
            if rest.isEmpty { return }
            await self.wait { self.link.waitForRoom($0) }
        }
    }

    /// Ends the client's direction; the server's may go on.
    ///
    /// What was written before still arrives. Does not suspend.
    public func endWriting() {
        self.link.endByClient()
    }

    /// Ends the connection, in both directions and at once.
    ///
    /// What was written before still arrives. Does not suspend.
    public func close() {
        self.link.closeByClient()
    }

    /// Breaks the connection for both ends; what was on its way is lost.
    ///
    /// Does not suspend.
    public func reset() {
        self.link.reset()
    }

    /// Ends the connection for this end alone: the server is not told, and sends into the void.
    func vanish() {
        self.link.vanish()
    }

    private func wait(_ begin: (CheckedContinuation<Void, Never>) -> Void) async {
        await withTaskCancellationHandler {
            await withCheckedContinuation { begin($0) }
        } onCancel: {
            self.link.closeByClient()
        }
    }
}

/// A connection: a bounded buffer for each direction.
///
/// The client's end waits in tasks, the server's is told through its event loop.
final class InMemoryLink: Sendable {
    enum ReadResult {
        case bytes([UInt8])
        case end
        case broken(String)
        case nothing
    }

    private struct Buffer {
        var bytes: [UInt8] = []
        /// Bytes at the front that are taken already.
        var head = 0
        var isEnded = false

        var count: Int { self.bytes.count - self.head }

        mutating func take(atMost countMax: Int) -> [UInt8] {
            let taken = Array(self.bytes[self.head...].prefix(countMax))
            self.head += taken.count
            if self.head == self.bytes.count {
                self.bytes.removeAll(keepingCapacity: true)
                self.head = 0
            } else if self.head > 64 << 10 {
                self.bytes.removeFirst(self.head)
                self.head = 0
            }
            return taken
        }
    }

    private struct State {
        var toServer = Buffer()
        var toClient = Buffer()
        var isReset = false
        var isClosedByClient = false
        /// Closed by a client of which the server hears nothing any more.
        var isVanished = false
        var isClosedByServer = false
        var reader: CheckedContinuation<Void, Never>?
        var writer: CheckedContinuation<Void, Never>?
        var isServerBlocked = false
        var isServerToldOfRoom = false

        mutating func takeWaiters() -> [CheckedContinuation<Void, Never>] {
            defer { (self.reader, self.writer) = (nil, nil) }
            return [self.reader, self.writer].compactMap(\.self)
        }
    }

    let clientAddress: RemoteAddress
    private let capacity: Int
    private let state = Lock(State())
    /// Tells the server's event loop that there is something to see.
    private let notify: @Sendable (InMemoryLink) -> Void

    private static let readByteCountMax = 256 << 10

    init(capacity: Int, from address: RemoteAddress, notify: @escaping @Sendable (InMemoryLink) -> Void) {
        self.capacity = capacity
        self.clientAddress = address
        self.notify = notify
    }

    // MARK: - The client's end

    func readByClient() -> ReadResult {
        let (result, mustNotify): (ReadResult, Bool) = self.state.withLock { state in
            if state.isReset { return (.broken("the connection was reset"), false) }
            if state.isClosedByClient { return (.broken("the stream is closed"), false) }
            if state.toClient.count > 0 {
                let bytes = state.toClient.take(atMost: Self.readByteCountMax)
                defer { state.isServerBlocked = false }
                if state.isServerBlocked { state.isServerToldOfRoom = true }
                return (.bytes(bytes), state.isServerBlocked)
            }
            return (state.toClient.isEnded ? .end : .nothing, false)
        }
        if mustNotify { self.notify(self) }
        return result
    }

    func waitForBytes(_ waiter: CheckedContinuation<Void, Never>) {
        let isReady = self.state.withLock { state in
            if state.isReset || state.isClosedByClient || state.toClient.count > 0 || state.toClient.isEnded {
                return true
            }
            precondition(state.reader == nil, "a stream is read by two tasks at once")
            state.reader = waiter
            return false
        }
        if isReady { waiter.resume() }
    }

    func writeByClient(_ bytes: ArraySlice<UInt8>) throws(TransportError) -> Int {
        let count = try self.state.withLock { state throws(TransportError) -> Int in
            if state.isReset { throw TransportError("the connection was reset") }
            if state.isClosedByClient || state.toServer.isEnded {
                throw TransportError("the stream is closed")
            }
            if state.isClosedByServer {
                // Its last word comes first, as on a socket, where a write goes out before the news of the close is there.
                if state.toClient.count > 0 { return bytes.count }
                throw TransportError("the server has closed the connection")
            }
            let count = min(bytes.count, self.capacity - state.toServer.count)
            state.toServer.bytes.append(contentsOf: bytes.prefix(count))
            return count
        }
        if count > 0 { self.notify(self) }
        return count
    }

    func waitForRoom(_ waiter: CheckedContinuation<Void, Never>) {
        let isReady = self.state.withLock { state in
            if state.isReset || state.isClosedByClient || state.isClosedByServer
                || state.toServer.count < self.capacity
            {
                return true
            }
            precondition(state.writer == nil, "a stream is written to by two tasks at once")
            state.writer = waiter
            return false
        }
        if isReady { waiter.resume() }
    }

    func endByClient() {
        self.state.withLock { $0.toServer.isEnded = true }
        self.notify(self)
    }

    func closeByClient() {
        let waiters: [CheckedContinuation<Void, Never>]? = self.state.withLock { state in
            guard !state.isClosedByClient else { return nil }
            state.isClosedByClient = true
            state.toServer.isEnded = true
            state.toClient = Buffer()
            return state.takeWaiters()
        }
        guard let waiters else { return }
        for waiter in waiters { waiter.resume() }
        self.notify(self)
    }

    func vanish() {
        let waiters = self.state.withLock { state in
            state.isClosedByClient = true
            state.isVanished = true
            state.toClient = Buffer()
            return state.takeWaiters()
        }
        for waiter in waiters { waiter.resume() }
    }

    func reset() {
        let waiters = self.state.withLock { state in
            state.isReset = true
            (state.toServer, state.toClient) = (Buffer(), Buffer())
            return state.takeWaiters()
        }
        for waiter in waiters { waiter.resume() }
        self.notify(self)
    }

    // MARK: - The server's end

    var isReset: Bool { self.state.withLock { $0.isReset } }
    var isClosedByServer: Bool { self.state.withLock { $0.isClosedByServer } }

    /// Whether the client has made room since a write was cut short; true once.
    func takeRoom() -> Bool {
        self.state.withLock { state in
            defer { state.isServerToldOfRoom = false }
            return state.isServerToldOfRoom
        }
    }

    func readByServer(atMost countMax: Int) -> ReadResult {
        let (result, writer): (ReadResult, CheckedContinuation<Void, Never>?) = self.state.withLock { state in
            if state.isReset { return (.broken("the connection was reset"), nil) }
            guard state.toServer.count > 0 else { return (state.toServer.isEnded ? .end : .nothing, nil) }
            defer { state.writer = nil }
            return (.bytes(state.toServer.take(atMost: countMax)), state.writer)
        }
        writer?.resume()
        return result
    }

    func writeByServer(_ bytes: RawSpan) -> WriteResult {
        let (result, reader): (WriteResult, CheckedContinuation<Void, Never>?) = self.state.withLock {
            state in
            guard !state.isReset, !state.isClosedByClient || state.isVanished, !state.isClosedByServer,
                !state.toClient.isEnded
            else { return (.failed, nil) }
            let count = min(bytes.byteCount, self.capacity - state.toClient.count)
            // Copied within the call that lends them.
            unsafe bytes.withUnsafeBytes { unsafe state.toClient.bytes.append(contentsOf: $0.prefix(count)) }
            state.isServerBlocked = count < bytes.byteCount
            defer { state.reader = nil }
            return (.wrote(count), state.reader)
        }
        reader?.resume()
        return result
    }

    func endByServer() {
        let reader = self.state.withLock { state in
            state.toClient.isEnded = true
            defer { state.reader = nil }
            return state.reader
        }
        reader?.resume()
    }

    func closeByServer() {
        let waiters = self.state.withLock { state in
            state.isClosedByServer = true
            state.toClient.isEnded = true
            state.toServer = Buffer()
            return state.takeWaiters()
        }
        for waiter in waiters { waiter.resume() }
    }
}
