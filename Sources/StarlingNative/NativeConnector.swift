#if os(Linux)
internal import CStarlingLinux
internal import Glibc
public import Starling

/// Opens connections to other servers with Linux's own means, and TLS by OpenSSL.
///
/// All streams of a process share one thread, which waits for them and does nothing else: it is started by the first
/// connection and stays.
public struct NativeConnector: Connector {
    /// Makes a connector.
    public init() {}

    /// Opens a connection.
    public func connect(
        to target: ConnectTarget,
        options: ConnectOptions
    ) async throws(TransportError) -> any ByteStream {
        let deadline = ContinuousClock.now + options.timeout
        let tls = try options.tls.map { tls throws(TransportError) in try Self.context(tls, target) }
        let first = options.proxy.map { ConnectTarget.tcp(host: $0.host, port: $0.port) } ?? target
        let addresses = try await Self.resolve(first, deadline, options.timeout)
        var failure = TransportError("cannot connect to \(target): the name has no address")
        for (number, address) in addresses.enumerated() {
            // One that does not answer leaves the others their part of the time.
            let now = ContinuousClock.now
            let left = addresses.count - number
            let end = left == 1 ? deadline : now + (deadline - now) / left
            do {
                return try await Self.open(address, target, tls, options, until: end, isLast: end == deadline)
            } catch {
                failure = error
                if Task.isCancelled || .now >= deadline { break }
            }
        }
        throw failure
    }

    private static func open(
        _ address: SocketAddress,
        _ target: ConnectTarget,
        _ tls: TLSContext?,
        _ options: ConnectOptions,
        until end: ContinuousClock.Instant,
        isLast: Bool
    ) async throws(TransportError) -> any ByteStream {
        let stream = try NativeStream(address, target)
        let timer = Task { [weak stream] in
            try await Task.sleep(until: end)
            let time = isLast ? "\(options.timeout)" : "an address' part of \(options.timeout)"
            stream?.close(TransportError("cannot connect to \(target): no answer within \(time)"))
        }
        defer { timer.cancel() }
        try await stream.finishConnecting()
        if let proxy = options.proxy { try await proxy.openTunnel(to: target, over: stream) }
        if let tls { try await stream.startTLS(tls, serverName: options.tls?.serverName ?? target.host) }
        return stream
    }

    private static func context(
        _ options: ConnectTLS,
        _ target: ConnectTarget
    ) throws(TransportError) -> TLSContext {
        var configuration = TLSConfiguration.client(
            trustRoots: options.trustRootsFile.map { .pem(.file($0)) } ?? .system
        )
        configuration.checksServerName = options.checksServerName
        configuration.applicationProtocols = []
        switch (options.certificateFile, options.privateKeyFile) {
        case (let certificate?, let key?):
            configuration.identity = TLSIdentity(certificateChain: .file(certificate), privateKey: .file(key))
        case (nil, nil): break
        case (_?, nil), (nil, _?):
            throw TransportError("cannot connect to \(target): a certificate and its key belong together")
        }
        do {
            return try TLSContext(configuration)
        } catch {
            throw TransportError("cannot connect to \(target): \(error.message)")
        }
    }

    // MARK: - Names

    /// Looks a name up, on a thread of its own: the system's resolver blocks.
    private static func resolve(
        _ target: ConnectTarget,
        _ deadline: ContinuousClock.Instant,
        _ timeout: Duration
    ) async throws(TransportError) -> [SocketAddress] {
        switch target.base {
        case .unix(let path): return [try SocketAddress(path: path)]
        case .tcp(let host, let port):
            let answer = Answer()
            let timer = Task {
                try await Task.sleep(until: deadline)
                answer.give(
                    .failure(TransportError("cannot resolve '\(host)': no answer within \(timeout)"))
                )
            }
            defer { timer.cancel() }
            if !Thread.start({ answer.give(SocketAddress.resolve(host, port)) }) {
                answer.give(
                    .failure(TransportError("cannot resolve '\(host)': no thread is left for the question"))
                )
            }
            let result = await withTaskCancellationHandler {
                await withCheckedContinuation { answer.wait($0) }
            } onCancel: {
                answer.give(.failure(TransportError("cannot connect to \(target): the task was cancelled")))
            }
            return try result.get()
        }
    }

    /// The first of several answers.
    private final class Answer: Sendable {
        typealias Value = Result<[SocketAddress], TransportError>

        private struct State {
            var value: Value?
            var waiter: CheckedContinuation<Value, Never>?
        }
        private let state = Lock(State())

        func give(_ value: Value) {
            let waiter: CheckedContinuation<Value, Never>? = self.state.withLock { state in
                guard state.value == nil else { return nil }
                state.value = value
                defer { state.waiter = nil }
                return state.waiter
            }
            waiter?.resume(returning: value)
        }

        func wait(_ waiter: CheckedContinuation<Value, Never>) {
            let value: Value? = self.state.withLock { state in
                if state.value == nil { state.waiter = waiter }
                return state.value
            }
            if let value { waiter.resume(returning: value) }
        }
    }
}

/// An address as the kernel takes it.
struct SocketAddress: Sendable {
    let family: Int32
    let bytes: [UInt8]

    /// A Unix socket's.
    init(path: String) throws(TransportError) {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        guard path.utf8.count < MemoryLayout.size(ofValue: address.sun_path) else {
            throw TransportError("cannot connect to '\(path)': a Unix socket's path has at most 107 bytes")
        }
        // The path was just measured.
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: path.utf8) }
        self.family = AF_UNIX
        self.bytes = unsafe withUnsafeBytes(of: &address) { unsafe Array($0) }
    }

    private init(family: Int32, bytes: [UInt8]) {
        self.family = family
        self.bytes = bytes
    }

    /// All addresses of a name, in the order in which they are to be tried.
    static func resolve(_ host: String, _ port: Int) -> Result<[SocketAddress], TransportError> {
        var hints = unsafe addrinfo()
        unsafe hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        var found: UnsafeMutablePointer<addrinfo>?
        let result = unsafe getaddrinfo(host, String(port), &hints, &found)
        guard result == 0 else {
            let reason = unsafe String(cString: gai_strerror(result))
            return .failure(TransportError("cannot resolve '\(host)': \(reason)"))
        }
        defer { unsafe freeaddrinfo(found) }
        var addresses: [SocketAddress] = []
        var next = unsafe found
        // The list is the resolver's until it is freed, and each address as long as it says.
        while let entry = unsafe next {
            let bytes = unsafe UnsafeRawBufferPointer(
                start: entry.pointee.ai_addr,
                count: Int(entry.pointee.ai_addrlen)
            )
            unsafe addresses.append(SocketAddress(family: entry.pointee.ai_family, bytes: Array(bytes)))
            unsafe next = entry.pointee.ai_next
        }
        return .success(addresses)
    }

    func withPointer<Value>(_ body: (UnsafePointer<sockaddr>, socklen_t) -> Value) -> Value {
        // The bytes are an address of `family`, and live through the call.
        unsafe self.bytes.withUnsafeBytes { bytes in
            guard let base = bytes.baseAddress else { preconditionFailure("an address has no bytes") }
            return unsafe body(base.assumingMemoryBound(to: sockaddr.self), socklen_t(bytes.count))
        }
    }
}
#endif
