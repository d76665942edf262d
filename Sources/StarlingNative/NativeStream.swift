#if os(Linux)
internal import CStarlingLinux
internal import Glibc
internal import Starling

/// A socket that this process has connected.
///
/// Every system call on the descriptor is made with the lock held, and none of them blocks; so none can meet a descriptor
/// that was closed meanwhile and means something else.
final class NativeStream: HalfClosableStream {
    private struct State {
        var descriptor: Int32
        /// Why nothing goes any more; nil while it does.
        var failure: TransportError?
        var tls: TLSBox?
        var waiters: [Waiter] = []
        /// Whether epoll knows the descriptor.
        var isWatched = false
    }

    private struct Waiter {
        let direction: Direction
        let continuation: CheckedContinuation<Void, Never>
    }

    private enum Direction {
        case reading, writing
    }

    /// What a call that must not block has said.
    private enum Outcome<Value: Sendable>: Sendable {
        case done(Value)
        case wait(Direction)
        case failed(TransportError)
    }

    /// A session has one owner, the stream's state.
    private final class TLSBox {
        var session: TLSSession

        init(_ session: consuming TLSSession) {
            self.session = session
        }
    }

    private static let readByteCountMax = 64 << 10

    private let target: ConnectTarget
    private let poller: StreamPoller
    private let token: UInt64
    private let state: Lock<State>

    /// Begins to connect.
    init(_ address: SocketAddress, _ target: ConnectTarget) throws(TransportError) {
        guard let poller = StreamPoller.shared else {
            throw TransportError(
                "cannot connect to \(target): no descriptor, or no thread, is left to wait with"
            )
        }
        self.poller = poller
        let descriptor = socket(
            address.family,
            Int32(SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue),
            0
        )
        guard descriptor >= 0 else {
            throw TransportError("cannot connect to \(target): \(Syscalls.lastError)")
        }
        if address.family != AF_UNIX {
            var one: Int32 = 1
            let size = socklen_t(MemoryLayout<Int32>.size)
            unsafe setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &one, size)
            unsafe setsockopt(descriptor, SOL_SOCKET, SO_KEEPALIVE, &one, size)
        }
        let result = unsafe address.withPointer { unsafe Glibc.connect(descriptor, $0, $1) }
        if result != 0, errno != EINPROGRESS {
            let reason = Syscalls.lastError
            _ = Glibc.close(descriptor)
            throw TransportError("cannot connect to \(target): \(reason)")
        }
        self.target = target
        self.token = self.poller.makeToken()
        self.state = Lock(State(descriptor: descriptor))
        self.poller.add(self, self.token)
    }

    deinit {
        self.close()
    }

    // MARK: - Connecting

    func finishConnecting() async throws(TransportError) {
        // Writable once the connection stands or has failed. A Unix socket is connected at once, and writable too.
        try await self.wait(for: .writing)
        let failure: Int32 = self.state.withLock { state in
            var failure: Int32 = 0
            var size = socklen_t(MemoryLayout<Int32>.size)
            unsafe getsockopt(state.descriptor, SOL_SOCKET, SO_ERROR, &failure, &size)
            return failure
        }
        guard failure == 0 else {
            let reason = unsafe String(cString: strerror(failure))
            throw self.close(TransportError("cannot connect to \(self.target): \(reason)"))
        }
    }

    func startTLS(_ context: TLSContext, serverName: String?) async throws(TransportError) {
        try await self.perform { state in
            do throws(TLSError) {
                let session = try TLSSession(context, descriptor: state.descriptor, serverName: serverName)
                state.tls = TLSBox(session)
                return .done(())
            } catch {
                return .failed(TransportError("cannot connect to \(self.target): \(error.message)"))
            }
        }
        try await self.perform { state in
            guard let tls = state.tls else { preconditionFailure("a handshake without a session") }
            switch tls.session.handshake() {
            case .done: return .done(())
            case .wantsRead: return .wait(.reading)
            case .wantsWrite: return .wait(.writing)
            case .failed(let failure):
                return .failed(TransportError("cannot connect to \(self.target): TLS: \(failure)"))
            }
        }
    }

    // MARK: - Bytes

    func read() async throws(TransportError) -> [UInt8]? {
        try await self.perform { state in
            var outcome = Outcome<[UInt8]?>.wait(.reading)
            let bytes = unsafe [UInt8](unsafeUninitializedCapacity: Self.readByteCountMax) { buffer, count in
                // At most the capacity is written, and `count` says how much was.
                unsafe (outcome, count) = self.receive(UnsafeMutableRawBufferPointer(buffer), &state)
            }
            if case .done = outcome, !bytes.isEmpty { return .done(bytes) }
            return outcome
        }
    }

    private func receive(
        _ buffer: UnsafeMutableRawBufferPointer,
        _ state: inout State
    ) -> (Outcome<[UInt8]?>, Int) {
        if let tls = state.tls {
            switch unsafe tls.session.read(into: buffer) {
            case .bytes(let count): return (.done([]), count)
            case .wantsRead: return (.wait(.reading), 0)
            case .wantsWrite: return (.wait(.writing), 0)
            case .closed: return (.done(nil), 0)
            case .eof: return (.failed(self.broken("it ended without a close_notify")), 0)
            case .failed(let failure): return (.failed(self.broken("TLS: \(failure)")), 0)
            }
        }
        let count = unsafe recv(state.descriptor, buffer.baseAddress, buffer.count, 0)
        if count > 0 { return (.done([]), count) }
        if count == 0 { return (.done(nil), 0) }
        return errno == EAGAIN || errno == EINTR
            ? (.wait(.reading), 0) : (.failed(self.broken(Syscalls.lastError)), 0)
    }

    func write(_ bytes: [UInt8]) async throws(TransportError) {
        var written = 0
        while written < bytes.count {
            let start = written
            written += try await self.perform { state in
                unsafe bytes.withUnsafeBytes { buffer in
                    // After TLS asked to wait, the next call begins with the same bytes: `start` has not moved.
                    unsafe self.send(UnsafeRawBufferPointer(rebasing: buffer[start...]), &state)
                }
            }
        }
    }

    private func send(_ buffer: UnsafeRawBufferPointer, _ state: inout State) -> Outcome<Int> {
        if let tls = state.tls {
            switch unsafe tls.session.write(buffer) {
            case .bytes(let count): return .done(count)
            case .wantsRead: return .wait(.reading)
            case .wantsWrite: return .wait(.writing)
            case .failed(let failure): return .failed(self.broken("TLS: \(failure)"))
            }
        }
        let count = unsafe Glibc.send(state.descriptor, buffer.baseAddress, buffer.count, Int32(MSG_NOSIGNAL))
        if count >= 0 { return .done(count) }
        return errno == EAGAIN || errno == EINTR
            ? .wait(.writing) : .failed(self.broken(Syscalls.lastError))
    }

    private func broken(_ reason: String) -> TransportError {
        TransportError("the connection to \(self.target) broke: \(reason)")
    }

    // MARK: - The end

    func endWriting() {
        self.state.withLock { state in
            guard state.failure == nil else { return }
            if let tls = state.tls { _ = tls.session.shutdown() }
            _ = shutdown(state.descriptor, Int32(SHUT_WR))
        }
    }

    func close() {
        self.close(TransportError("the connection to \(self.target) was closed"))
    }

    /// Ends the stream, unless it has ended; returns why it has.
    @discardableResult
    func close(_ reason: TransportError) -> TransportError {
        let (failure, waiters): (TransportError, [Waiter]) = self.state.withLock { state in
            if let failure = state.failure { return (failure, []) }
            state.failure = reason
            if let tls = state.tls { _ = tls.session.shutdown() }
            state.tls = nil
            // Takes it out of epoll too.
            _ = Glibc.close(state.descriptor)
            state.descriptor = -1
            defer { state.waiters = [] }
            return (reason, state.waiters)
        }
        self.poller.remove(self.token)
        for waiter in waiters { waiter.continuation.resume() }
        return failure
    }

    // MARK: - Waiting

    /// Makes a call that does not block, again and again, until it has done something.
    private func perform<Value: Sendable>(
        _ call: (inout State) -> Outcome<Value>
    ) async throws(TransportError) -> Value {
        while true {
            let outcome: Outcome<Value> = self.state.withLock { state in
                if let failure = state.failure { return .failed(failure) }
                return call(&state)
            }
            switch outcome {
            case .done(let value): return value
            case .wait(let direction): try await self.wait(for: direction)
            case .failed(let failure): throw self.close(failure)
            }
        }
    }

    private func wait(for direction: Direction) async throws(TransportError) {
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let (mustGoOn, failure): (Bool, TransportError?) = self.state.withLock { state in
                    guard state.failure == nil, !Task.isCancelled else { return (true, nil) }
                    state.waiters.append(Waiter(direction: direction, continuation: continuation))
                    return (false, self.watch(&state))
                }
                if mustGoOn { continuation.resume() }
                // Resumes all that wait, this one too.
                if let failure { self.close(failure) }
            }
        } onCancel: {
            self.close(TransportError("the connection to \(self.target) was closed: its task was cancelled"))
        }
        if Task.isCancelled {
            throw self.close(TransportError("the connection to \(self.target) was closed"))
        }
        if let failure = self.state.withLock(\.failure) { throw failure }
    }

    /// Asks to be told once, of what the waiters wait for; an error if the system has no room to watch one more.
    private func watch(_ state: inout State) -> TransportError? {
        let isReading = state.waiters.contains { $0.direction == .reading }
        let isWriting = state.waiters.contains { $0.direction == .writing }
        let error = self.poller.watch(
            state.descriptor,
            self.token,
            isNew: !state.isWatched,
            reading: isReading,
            writing: isWriting
        )
        guard error == 0 else {
            return TransportError("the connection to \(self.target) cannot be waited for: error \(error)")
        }
        state.isWatched = true
        return nil
    }

    /// Something is possible again; on the poller's thread.
    func isReady(reading: Bool, writing: Bool) {
        let (ready, failure): ([Waiter], TransportError?) = self.state.withLock { state in
            guard state.failure == nil else { return ([], nil) }
            let ready = state.waiters.filter { $0.direction == .reading ? reading : writing }
            state.waiters.removeAll { $0.direction == .reading ? reading : writing }
            return (ready, state.waiters.isEmpty ? nil : self.watch(&state))
        }
        if let failure { self.close(failure) }
        for waiter in ready { waiter.continuation.resume() }
    }
}

/// The thread that waits for all streams of the process.
@safe final class StreamPoller: Sendable {
    private static let made = Lock<StreamPoller?>(nil)

    /// The process' one, made when it is first needed; nil while the system has no descriptor or thread for it.
    static var shared: StreamPoller? {
        self.made.withLock { made in
            if made == nil { made = StreamPoller() }
            return made
        }
    }

    private struct Registry {
        var streams: [UInt64: Weak] = [:]
        var lastToken: UInt64 = 0
    }

    private struct Weak {
        weak var stream: NativeStream?
    }

    private let epoll: Int32
    private let registry = Lock(Registry())

    private init?() {
        self.epoll = starling_epoll_create()
        guard self.epoll >= 0 else { return nil }
        // It waits for ever where nothing happens; the process does not wait for it.
        guard Thread.start({ self.run() }) else {
            _ = Glibc.close(self.epoll)
            return nil
        }
    }

    func makeToken() -> UInt64 {
        self.registry.withLock { registry in
            registry.lastToken += 1
            return registry.lastToken
        }
    }

    func add(_ stream: NativeStream, _ token: UInt64) {
        self.registry.withLock { $0.streams[token] = Weak(stream: stream) }
    }

    func remove(_ token: UInt64) {
        self.registry.withLock { _ = $0.streams.removeValue(forKey: token) }
    }

    /// With the stream's lock held, so that the descriptor is open; 0, or the system's error.
    func watch(_ descriptor: Int32, _ token: UInt64, isNew: Bool, reading: Bool, writing: Bool) -> Int32 {
        starling_epoll_once(self.epoll, isNew, descriptor, token, reading, writing)
    }

    private func run() {
        let events = UnsafeMutableBufferPointer<starling_event>.allocate(capacity: 256)
        while true {
            // As many events as there is space for; -1: until something happens.
            let count = unsafe Int(starling_epoll_wait(self.epoll, events.baseAddress, 256, -1))
            for index in 0..<max(0, count) {
                let event = unsafe events[index]
                let stream = self.registry.withLock { $0.streams[event.token]?.stream }
                stream?.isReady(
                    reading: event.readable || event.hung_up,
                    writing: event.writable || event.hung_up
                )
            }
        }
    }
}
#endif
