#if NIO
#if canImport(Glibc)
internal import Glibc
#elseif canImport(Darwin)
internal import Darwin
#elseif canImport(Musl)
internal import Musl
#endif
public import NIOCore
public import NIOPosix
internal import NIOSSL
public import Starling

/// Opens connections to other servers on SwiftNIO's event loops, and TLS by swift-nio-ssl.
///
/// For clients and broker links on platforms without `NativeConnector`, and in processes that have NIO's loops already.
public struct NIOConnector: Connector {
    private let group: any EventLoopGroup

    /// Makes a connector.
    ///
    /// - Parameter group: The event loops that carry the streams; the process's own by default. It is not shut down.
    public init(group: any EventLoopGroup = MultiThreadedEventLoopGroup.singleton) {
        self.group = group
    }

    /// Opens a connection.
    ///
    /// Behind a proxy, TLS to an address instead of a name needs ``/Starling/ConnectTLS/serverName``: the other end's address
    /// is the proxy's.
    public func connect(
        to target: ConnectTarget,
        options: ConnectOptions
    ) async throws(TransportError) -> any ByteStream {
        let deadline = ContinuousClock.now + options.timeout
        let tls = try options.tls.map { tls throws(TransportError) in try Self.context(tls, target) }
        let first = options.proxy.map { ConnectTarget.tcp(host: $0.host, port: $0.port) } ?? target
        let stream = try await self.open(first, for: target, options.timeout)
        let timer = Task { [weak stream] in
            try await Task.sleep(until: deadline)
            stream?.close(TransportError("cannot connect to \(target): no answer within \(options.timeout)"))
        }
        defer { timer.cancel() }
        if let proxy = options.proxy { try await proxy.openTunnel(to: target, over: stream) }
        if let tls {
            try await stream.startTLS(
                tls,
                serverName: options.tls?.serverName ?? target.host,
                checksServerName: options.tls?.checksServerName ?? true
            )
        }
        return stream
    }

    /// Connects the socket; all addresses of a name are tried.
    private func open(
        _ address: ConnectTarget,
        for target: ConnectTarget,
        _ timeout: Duration
    ) async throws(TransportError) -> NIOStream {
        let input = NIOStreamInput(target)
        let timeAmount = TimeAmount(timeout)
        let bootstrap = ClientBootstrap(group: self.group)
            .connectTimeout(timeAmount)
            .channelOption(.autoRead, value: false)
            .channelOption(.allowRemoteHalfClosure, value: true)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(NIOStreamHandler(input))
                }
            }
        let attempt: EventLoopFuture<any Channel>
        switch address.base {
        case .tcp(let host, let port):
            attempt = bootstrap.channelOption(.tcpOption(.tcp_nodelay), value: 1)
                .channelOption(.socketOption(.so_keepalive), value: 1)
                .connect(host: host, port: port)
        case .unix(let path):
            guard path.utf8.count <= 107 else {
                throw TransportError(
                    "cannot connect to '\(path)': a Unix socket's path has at most 107 bytes"
                )
            }
            attempt = bootstrap.connect(unixDomainSocketPath: path)
        }
        // The first outcome counts: NIO looks a name up for as long as the system's resolver takes.
        let outcome = self.group.any().makePromise(of: (any Channel).self)
        attempt.cascade(to: outcome)
        let timer = self.group.any().scheduleTask(in: timeAmount) {
            outcome.fail(
                TransportError("cannot connect to \(target): no answer within \(timeout)")
            )
        }
        defer { timer.cancel() }
        do {
            let channel = try await withTaskCancellationHandler {
                try await outcome.futureResult.get()
            } onCancel: {
                outcome.fail(TransportError("cannot connect to \(target): the task was cancelled"))
            }
            return NIOStream(channel, input)
        } catch {
            attempt.whenSuccess { $0.close(promise: nil) }
            throw Self.describe(error, target, address)
        }
    }

    private static func describe(
        _ error: any Error,
        _ target: ConnectTarget,
        _ address: ConnectTarget
    ) -> TransportError {
        if let error = error as? TransportError { return error }
        if let error = error as? NIOConnectionError, error.connectionErrors.isEmpty {
            let reason = error.dnsAError ?? error.dnsAAAAError
            return TransportError(
                "cannot resolve '\(error.host)': \(reason.map { "\($0)" } ?? "the name has no address")"
            )
        }
        let last = (error as? NIOConnectionError)?.connectionErrors.last?.error ?? error
        return TransportError("cannot connect to \(target): \(Self.reason(last))")
    }

    /// What went wrong, in the system's words if they are the system's.
    static func reason(_ error: any Error) -> String {
        guard let error = error as? IOError else { return "\(error)" }
        return unsafe String(cString: strerror(error.errnoCode))
    }

    private static func context(
        _ options: ConnectTLS,
        _ target: ConnectTarget
    ) throws(TransportError) -> NIOSSLContext {
        var configuration = TLSConfiguration.makeClientConfiguration()
        configuration.minimumTLSVersion = .tlsv12
        if !options.checksServerName { configuration.certificateVerification = .noHostnameVerification }
        var file = ""
        do {
            if let roots = options.trustRootsFile {
                file = roots
                configuration.trustRoots = .certificates(try NIOSSLCertificate.fromPEMFile(roots))
            }
            switch (options.certificateFile, options.privateKeyFile) {
            case (let certificate?, let key?):
                file = certificate
                configuration.certificateChain = try NIOSSLCertificate.fromPEMFile(certificate).map {
                    .certificate($0)
                }
                file = key
                configuration.privateKey = .privateKey(try NIOSSLPrivateKey(file: key, format: .pem))
            case (nil, nil): break
            case (_?, nil), (nil, _?):
                throw TransportError("cannot connect to \(target): a certificate and its key belong together")
            }
            return try NIOSSLContext(configuration: configuration)
        } catch let error as TransportError {
            throw error
        } catch {
            let place = file.isEmpty ? "" : " '\(file)':"
            throw TransportError("cannot connect to \(target): TLS:\(place) \(error)")
        }
    }
}
#endif
