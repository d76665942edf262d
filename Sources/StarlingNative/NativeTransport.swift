#if os(Linux)
internal import CStarlingLinux
internal import Glibc
internal import Logging
public import Starling

/// WebSockets on Linux's own event loops: one thread per core, epoll, and TLS by OpenSSL.
///
/// Each thread has a listener of its own for the same port (`SO_REUSEPORT`), and keeps the connections that the kernel
/// gives it.
///
/// ```swift
/// try await WebSocketServer(transport: NativeTransport(port: 8080)) {
///     WebSocketRoute("/echo", echo)
/// }.run()
/// ```
public struct NativeTransport: Transport {
    /// Where to listen.
    public typealias Endpoint = ListenTarget

    let endpoint: Endpoint
    let eventLoops: Int
    let tls: TLSContext?
    let handoff: Handoff?
    let onListening: (@Sendable (String) -> Void)?
    /// Whether writes to several connections are one system call, through an `io_uring`; true by default.
    ///
    /// Only where that can be had: Linux 6.1 and no seccomp profile or `kernel.io_uring_disabled` that forbids it, as Docker's
    /// default profile does. Otherwise every write is a system call of its own, and nothing else is different. Writes of more than
    /// 4 KiB, and a single one in a tick, go alone anyway.
    public var batchesWrites = true

    /// Makes a transport that listens on a TCP port.
    ///
    /// - Parameters:
    ///   - host: An address or a name; all IPv4 addresses by default.
    ///   - port: 0 takes a free one; `onListening` says which.
    ///   - eventLoops: Threads, 64 at most; one per core by default.
    ///   - tls: Encrypts every connection; nil for plain TCP. Keep it to reload certificates.
    ///   - handoff: Takes listeners and connections from a process that serves already, and gives them to the next one; nil
    ///     for neither.
    ///   - onListening: Called once with the address that the server listens on, `127.0.0.1:8080` for example.
    public init(
        host: String = "0.0.0.0",
        port: Int,
        eventLoops: Int? = nil,
        tls: TLSContext? = nil,
        handoff: Handoff? = nil,
        onListening: (@Sendable (String) -> Void)? = nil
    ) {
        self.init(
            .tcp(host: host, port: port),
            eventLoops: eventLoops,
            tls: tls,
            handoff: handoff,
            onListening: onListening
        )
    }

    /// Makes a transport that listens on an endpoint.
    public init(
        _ endpoint: Endpoint,
        eventLoops: Int? = nil,
        tls: TLSContext? = nil,
        handoff: Handoff? = nil,
        onListening: (@Sendable (String) -> Void)? = nil
    ) {
        let cores = max(1, sysconf(Int32(_SC_NPROCESSORS_ONLN)))
        self.endpoint = endpoint
        self.eventLoops = min(64, max(1, eventLoops ?? cores))
        self.tls = tls
        self.handoff = handoff
        self.onListening = onListening
    }

    /// Listens, and serves until the server has drained, or another process has taken over.
    ///
    /// The loops' threads end with it.
    public func serve(_ server: ServerContext) async throws {
        guard let handoff = self.handoff else {
            let listeners = try Listener.open(self.endpoint, count: self.eventLoops)
            let service = NativeService(self, server, listeners.map { [$0] })
            try await service.run(after: nil) {}
            return listeners[0].end(isHandedOff: false)
        }
        try await self.serve(server, HandoffPoint(handoff))
    }

    private func serve(_ server: ServerContext, _ point: HandoffPoint) async throws {
        defer { point.close() }
        let takeover: Takeover?
        let listeners: [Listener]
        switch try await Thread.run({ () throws(TransportError) in try Takeover.begin(point, self) }) {
        case .alone:
            takeover = nil
            listeners = try Listener.open(self.endpoint, count: self.eventLoops)
        case .behind:
            takeover = nil
            listeners = try await self.openListeners(within: point.handoff.timeout)
        case .takingOver(let found):
            takeover = found
            listeners = found.listeners
        }
        let service = NativeService(self, server, Listener.spread(listeners, over: self.eventLoops))
        let all = Lock(listeners)
        let endpoint = HandoffServer(point, server, loops: service.loops) {
            server.isDraining ? nil : HandoffOffer(self, all.withLock { $0 })
        }
        let waiting = Lock<Task<Void, Never>?>(nil)
        do throws(HandoffError) {
            try await service.run(after: takeover) {
                // Not before: what the kernel gave to them would be lost if the other process went on.
                for listener in service.fillUp(listeners[0]) { all.withLock { $0.append(listener) } }
                guard point.publish() else {
                    return server.logger.error(
                        "no other process can take over from this one",
                        metadata: [LoggingKeys.error: "\(Syscalls.lastError)"]
                    )
                }
                let task = Task { await Thread.run { endpoint.run() } }
                waiting.withLock { $0 = task }
            }
        } catch {
            throw Takeover.failure(point, error)
        }
        endpoint.stop()
        await waiting.withLock { $0 }?.value
        listeners[0].end(isHandedOff: endpoint.isHandedOff)
    }
}

extension NativeTransport {
    /// Opens listeners as soon as a process that shuts down has closed its own.
    private func openListeners(within timeout: Duration) async throws -> [Listener] {
        let deadline = ContinuousClock.now + timeout
        while true {
            do {
                return try Listener.open(self.endpoint, count: self.eventLoops)
            } catch {
                guard ContinuousClock.now < deadline else { throw error }
                try await Task.sleep(for: .milliseconds(20))
            }
        }
    }
}

/// The event loops of a server, while it runs.
struct NativeService: Sendable {
    let loops: [LoopRemote]
    private let transport: NativeTransport
    private let server: ServerContext
    private let listeners: [[Listener]]

    /// `listeners` are those of each loop.
    init(_ transport: NativeTransport, _ server: ServerContext, _ listeners: [[Listener]]) {
        self.transport = transport
        self.server = server
        self.listeners = listeners
        self.loops = listeners.map { _ in LoopRemote() }
    }

    /// Opens listeners for loops that have none, because the other process had fewer.
    func fillUp(_ first: Listener) -> [Listener] {
        var added: [Listener] = []
        for (loop, listeners) in zip(self.loops, self.listeners) where listeners.isEmpty {
            guard let listener = first.another(of: self.transport.endpoint) else { continue }
            added.append(listener)
            _ = loop.begin { io, _ in io.add(listener) }
        }
        return added
    }

    /// Runs the loops until the server has drained.
    ///
    /// - Parameters:
    ///   - takeover: Whose connections they serve first; nil for nobody's.
    ///   - serving: Called once the server serves.
    /// - Throws: If the other process goes on.
    func run(after takeover: Takeover?, serving: @Sendable () -> Void) async throws(HandoffError) {
        let (tls, server) = (self.transport.tls, self.server)
        let batchesWrites = self.transport.batchesWrites
        let failure: HandoffError? = await withTaskGroup(of: Void.self) { group in
            for (index, remote) in self.loops.enumerated() {
                let listeners = self.listeners[index]
                group.addTask {
                    await Thread.run {
                        NativeLoop.run(
                            index: index,
                            listeners: listeners,
                            tls: tls,
                            server: server,
                            remote: remote,
                            isPaused: takeover != nil,
                            batchesWrites: batchesWrites
                        )
                    }
                }
            }
            do throws(HandoffError) {
                if let takeover {
                    let loops = self.loops
                    try await Thread.run { () throws(HandoffError) in try takeover.complete(loops, server) }
                }
            } catch {
                for loop in self.loops { _ = loop.begin { $0.abandon($1) } }
                await group.waitForAll()
                takeover?.closeListeners(areLoopsGone: true)
                return error
            }
            let address = self.listeners[0][0].address
            server.startedListening()
            server.logger.info("listening", metadata: [LoggingKeys.localAddress: "\(address)"])
            self.transport.onListening?(address)
            serving()
            await group.waitForAll()
            return nil
        }
        if let failure { throw failure }
    }
}

/// A listening socket.
struct Listener: Sendable {
    let descriptor: Int32
    let address: String
    let isShared: Bool
    let path: String?
    /// The file at the path.
    private let file: FileIdentity?

    init(descriptor: Int32, address: String, isShared: Bool, path: String?) {
        self.descriptor = descriptor
        self.address = address
        self.isShared = isShared
        self.path = path
        self.file = path.flatMap { FileIdentity(path: $0) }
    }

    /// Connections that the kernel keeps until they are accepted; it keeps no more than `net.core.somaxconn`.
    static let backlog: Int32 = 4096

    /// Opens a listener for each loop: of its own for TCP, the same for all for a Unix socket.
    static func open(_ endpoint: ListenTarget, count: Int) throws(TransportError) -> [Listener] {
        switch endpoint.base {
        case .tcp(let host, let port):
            let first = try self.openTCP(host: host, port: port, joining: false)
            // With port 0 the others must share what the first one was given.
            let boundPort = Int(first.address.split(separator: ":").last ?? "") ?? port
            var listeners = [first]
            do throws(TransportError) {
                while listeners.count < count {
                    listeners.append(try self.openTCP(host: host, port: boundPort, joining: true))
                }
            } catch {
                for listener in listeners { _ = Glibc.close(listener.descriptor) }
                throw error
            }
            return listeners
        case .unix(let path):
            let listener = try self.openUnix(path: path)
            return Array(repeating: listener, count: count)
        }
    }

    /// One more listener on the same port; nil if there cannot be one.
    func another(of endpoint: ListenTarget) -> Listener? {
        guard case .tcp(let host, _) = endpoint.base,
            let port = Int(self.address.split(separator: ":").last ?? "")
        else { return nil }
        return try? Self.openTCP(host: host, port: port, joining: true)
    }

    /// Gives each loop its share of listeners that another process has opened, for as many loops as it has.
    static func spread(_ listeners: [Listener], over count: Int) -> [[Listener]] {
        if listeners[0].isShared { return Array(repeating: listeners, count: count) }
        var shares: [[Listener]] = Array(repeating: [], count: count)
        for (number, listener) in listeners.enumerated() { shares[number % count].append(listener) }
        return shares
    }

    /// Opens a listener for one loop; `joining` says that others of this server listen there already.
    static func openTCP(
        host: String,
        port: Int,
        joining: Bool
    ) throws(TransportError) -> Listener {
        var hints = unsafe addrinfo()
        unsafe hints.ai_flags = AI_PASSIVE
        unsafe hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        var found: UnsafeMutablePointer<addrinfo>?
        let result = unsafe getaddrinfo(host, String(port), &hints, &found)
        guard result == 0, let found = unsafe found else {
            throw TransportError(unsafe "cannot resolve '\(host)': \(String(cString: gai_strerror(result)))")
        }
        defer { unsafe freeaddrinfo(found) }
        let descriptor = unsafe socket(
            found.pointee.ai_family,
            Int32(SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue),
            0
        )
        guard descriptor >= 0 else { throw TransportError("cannot make a socket: \(Syscalls.lastError)") }
        var one: Int32 = 1
        let size = socklen_t(MemoryLayout<Int32>.size)
        unsafe setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &one, size)
        // The first one shares the port only once it is bound: otherwise a second server of the same user would share
        // it too, and take half of the first one's connections.
        if joining { unsafe setsockopt(descriptor, SOL_SOCKET, SO_REUSEPORT, &one, size) }
        // Accepted sockets inherit it: one system call less for each connection.
        unsafe setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &one, size)
        // Inherited too.
        var unsent = Int32(TCPLimits.unsentByteCountMax)
        unsafe setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_NOTSENT_LOWAT, &unsent, size)
        guard unsafe bind(descriptor, found.pointee.ai_addr, found.pointee.ai_addrlen) == 0,
            unsafe setsockopt(descriptor, SOL_SOCKET, SO_REUSEPORT, &one, size) == 0,
            listen(descriptor, Self.backlog) == 0
        else {
            let reason = Syscalls.lastError
            _ = Glibc.close(descriptor)
            throw TransportError("cannot listen on \(host):\(port): \(reason)")
        }
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        _ = unsafe withUnsafeMutableBytes(of: &storage) {
            unsafe getsockname(descriptor, $0.baseAddress?.assumingMemoryBound(to: sockaddr.self), &length)
        }
        return Listener(
            descriptor: descriptor,
            address: Syscalls.remoteAddress(storage).description,
            isShared: false,
            path: nil
        )
    }

    private static func openUnix(path: String) throws(TransportError) -> Listener {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        guard path.utf8.count < MemoryLayout.size(ofValue: address.sun_path) else {
            throw TransportError("cannot listen on '\(path)': a Unix socket's path has at most 107 bytes")
        }
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: path.utf8) }
        let descriptor = socket(
            AF_UNIX,
            Int32(SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue),
            0
        )
        guard descriptor >= 0 else { throw TransportError("cannot make a socket: \(Syscalls.lastError)") }
        func onAddress(_ call: (Int32, UnsafePointer<sockaddr>, socklen_t) -> Int32, _ socket: Int32) -> Bool
        {
            unsafe withUnsafeBytes(of: &address) { bytes in
                guard let base = bytes.baseAddress else { return false }
                return unsafe call(
                    socket,
                    base.assumingMemoryBound(to: sockaddr.self),
                    socklen_t(bytes.count)
                ) == 0
            }
        }
        // A socket file stays behind a process that was killed. If nobody answers there, it may go.
        if unsafe access(path, F_OK) == 0 {
            let probe = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
            let isAlive = unsafe onAddress(connect, probe)
            let isRefused = errno == ECONNREFUSED
            _ = Glibc.close(probe)
            if !isAlive, isRefused { unsafe unlink(path) }
        }
        guard unsafe onAddress(bind, descriptor), listen(descriptor, Self.backlog) == 0 else {
            let reason = Syscalls.lastError
            _ = Glibc.close(descriptor)
            throw TransportError("cannot listen on '\(path)': \(reason)")
        }
        return Listener(descriptor: descriptor, address: path, isShared: true, path: path)
    }

    /// All loops have ended: closes what is theirs together, and removes a Unix socket's file, unless another process has both.
    func end(isHandedOff: Bool) {
        // The file may be one that has come there since this process began to shut down. As long as the descriptor is open no other file
        // gets its number.
        if !isHandedOff, let path = self.path, FileIdentity(path: path) == self.file { unsafe unlink(path) }
        if self.isShared { _ = Glibc.close(self.descriptor) }
    }
}

/// A thread of our own: the pool's threads must not block.
enum Thread {
    private final class Work {
        let body: @Sendable () -> Void

        init(_ body: @escaping @Sendable () -> Void) {
            self.body = body
        }
    }

    /// Runs work that may block on a thread of its own.
    static func run<Success: Sendable, Failure: Error>(
        _ body: @escaping @Sendable () throws(Failure) -> Success
    ) async throws(Failure) -> Success {
        let result: Result<Success, Failure> = await withCheckedContinuation { continuation in
            let hasStarted = self.start {
                do throws(Failure) {
                    continuation.resume(returning: .success(try body()))
                } catch {
                    continuation.resume(returning: .failure(error))
                }
            }
            precondition(hasStarted, "no thread could be made for an event loop")
        }
        return try result.get()
    }

    /// Runs work on a thread of its own; false, with nothing done, if the system gives none.
    static func start(_ body: @escaping @Sendable () -> Void) -> Bool {
        let work = unsafe Unmanaged.passRetained(Work(body))
        var thread = pthread_t()
        let result = unsafe pthread_create(
            &thread,
            nil,
            { argument in
                guard let argument = unsafe argument else { return nil }
                // Retained by `start`, for this thread alone.
                let work = unsafe Unmanaged<Work>.fromOpaque(argument).takeRetainedValue()
                work.body()
                return nil
            },
            unsafe work.toOpaque()
        )
        guard result == 0 else {
            unsafe work.release()
            return false
        }
        pthread_detach(thread)
        return true
    }
}
#endif
