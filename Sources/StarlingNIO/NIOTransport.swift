#if NIO
#if canImport(Glibc)
internal import Glibc
#elseif canImport(Darwin)
internal import Darwin
#elseif canImport(Musl)
internal import Musl
#endif
internal import Logging
public import NIOCore
public import NIOPosix
public import NIOSSL
public import Starling

/// WebSockets on SwiftNIO's event loops: for processes that have them already, and for platforms without epoll.
///
/// Framing, limits, compression and deadlines are the same as on every transport. `NativeTransport` costs less per message
/// and per connection.
///
/// ```swift
/// try await WebSocketServer(transport: NIOTransport(port: 8080)) {
///     WebSocketRoute("/echo", echo)
/// }.run()
/// ```
public struct NIOTransport: Transport {
    /// Where to listen.
    public typealias Endpoint = ListenTarget

    let endpoint: Endpoint
    let group: any EventLoopGroup
    let tls: NIOSSLContext?
    let onListening: (@Sendable (String) -> Void)?

    /// Makes a transport that listens on a TCP port.
    ///
    /// - Parameters:
    ///   - host: An address or a name; all IPv4 addresses by default.
    ///   - port: 0 takes a free one; `onListening` says which.
    ///   - group: The event loops that carry the connections, 64 at most; the process's own by default. It is not shut down.
    ///   - tls: Encrypts every connection; nil for plain TCP.
    ///   - onListening: Called once with the address that the server listens on, `127.0.0.1:8080` for example.
    public init(
        host: String = "0.0.0.0",
        port: Int,
        group: any EventLoopGroup = MultiThreadedEventLoopGroup.singleton,
        tls: NIOSSLContext? = nil,
        onListening: (@Sendable (String) -> Void)? = nil
    ) {
        self.init(.tcp(host: host, port: port), group: group, tls: tls, onListening: onListening)
    }

    /// Makes a transport that listens on an endpoint.
    public init(
        _ endpoint: Endpoint,
        group: any EventLoopGroup = MultiThreadedEventLoopGroup.singleton,
        tls: NIOSSLContext? = nil,
        onListening: (@Sendable (String) -> Void)? = nil
    ) {
        self.endpoint = endpoint
        self.group = group
        self.tls = tls
        self.onListening = onListening
    }

    /// Listens, and serves until the server has drained.
    ///
    /// The event loops go on.
    ///
    /// - Throws: ``/Starling/TransportError`` if it cannot listen, or if the group has more than 64 event loops.
    public func serve(_ server: ServerContext) async throws {
        try Self.checkCount(of: self.group)
        let listening = self.group.any().makePromise(of: (any Channel).self)
        let loops = NIOLoops(self.group, server) {
            listening.futureResult.whenSuccess { $0.close(promise: nil) }
        }
        let channel: any Channel
        do {
            channel = try await self.listen(loops, expectsProxyProtocol: server.expectsProxyProtocol)
        } catch {
            listening.fail(error)
            server.beginDrain()
            await loops.finish()
            throw TransportError("cannot listen on \(self.endpoint): \(error)")
        }
        listening.succeed(channel)
        let address = self.description(of: channel.localAddress)
        server.startedListening()
        server.logger.info("listening", metadata: [LoggingKeys.localAddress: "\(address)"])
        self.onListening?(address)
        await loops.finish()
        try? await channel.closeFuture.get()
        if case .unix(let path) = self.endpoint.base {
            try? await NonBlockingFileIO(threadPool: .singleton).remove(
                path: path,
                eventLoop: self.group.any()
            ).get()
        }
    }

    static func checkCount(of group: any EventLoopGroup) throws(TransportError) {
        let count = group.makeIterator().reduce(0) { count, _ in count + 1 }
        guard count <= 64 else {
            throw TransportError(
                "a server has at most 64 event loops, and the group has \(count): give it a smaller group"
            )
        }
    }

    private func listen(_ loops: NIOLoops, expectsProxyProtocol: Bool) async throws -> any Channel {
        let tls = self.tls
        let bootstrap = ServerBootstrap(group: self.group)
            .serverChannelOption(.backlog, value: 4096)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .serverChannelOption(.maxMessagesPerRead, value: 64)
            .serverChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(AcceptPauser(loops.loop(of: channel)))
                }
            }
            .childChannelOption(.allowRemoteHalfClosure, value: true)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    let connection = NIOConnection(try loops.loop(of: channel), mayBeAnswered: tls == nil)
                    if expectsProxyProtocol {
                        try channel.pipeline.syncOperations.addHandler(NIOProxyHeaderHandler(connection))
                    }
                    if let tls {
                        try channel.pipeline.syncOperations.addHandler(NIOSSLServerHandler(context: tls))
                    }
                    try channel.pipeline.syncOperations.addHandler(connection)
                }
            }
        switch self.endpoint.base {
        case .tcp(let host, let port):
            return try await bootstrap.childChannelOption(.tcpOption(.tcp_nodelay), value: 1)
                .childChannelOption(
                    .tcpOption(.init(rawValue: CInt(TCP_NOTSENT_LOWAT))),
                    value: TCPLimits.unsentByteCountMax
                )
                .bind(host: host, port: port).get()
        case .unix(let path):
            // A socket file stays behind a process that was killed. If nobody answers there, it may go.
            let answer = try? await ClientBootstrap(group: self.group).connect(unixDomainSocketPath: path)
                .get()
            try? await answer?.close()
            return try await bootstrap.bind(
                unixDomainSocketPath: path,
                cleanupExistingSocketFile: answer == nil
            )
            .get()
        }
    }

    private func description(of address: SocketAddress?) -> String {
        switch self.endpoint.base {
        case .tcp: RemoteAddress(address).description
        case .unix(let path): path
        }
    }
}

/// Pauses accepting when it fails, for want of descriptors above all.
///
/// NIO's own pause begins only with the next read that a channel asks for; until then its selector reports the connections that
/// wait in the kernel's queue again and again.
private final class AcceptPauser: ChannelInboundHandler {
    typealias InboundIn = any Channel

    private let loop: NIOLoop
    private var isPaused = false

    private static let pause = TimeAmount.milliseconds(250)

    init(_ loop: NIOLoop) {
        self.loop = loop
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        guard error is IOError else { return context.fireErrorCaught(error) }
        guard !self.isPaused else { return }
        self.isPaused = true
        self.loop.acceptPaused("\(error)")
        // A listener that is closed meanwhile refuses, and accepts nothing anyway.
        try? context.channel.syncOptions?.setOption(.autoRead, value: false)
        context.eventLoop.assumeIsolated().scheduleTask(in: Self.pause) {
            self.isPaused = false
            try? context.channel.syncOptions?.setOption(.autoRead, value: true)
        }
    }
}
#endif
