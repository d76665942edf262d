#if NIO
internal import Logging
internal import NIOCore
internal import Starling

/// What happens on a channel.
enum NIOConnectionEvent {
    /// There is a connection; with the request that it begins with, if somebody else has read it.
    case began(RemoteAddress, ForeignRequest?)
    /// The handler in front has read the PROXY protocol's header to its end, or to where it is none.
    case proxyHeaderEnded(ProxyHeaderReader.Progress)
    case received(ByteBuffer)
    case inputEnded
    case writable
    case lost
    /// Somebody else wants the channel closed.
    case closeAsked
}

/// The last handler of a connection's channel: it tells the loop what happens, and does what the loop asks.
///
/// On the channel's event loop alone. Where a server of somebody else's has handlers behind it, they see nothing more of
/// the connection but its end, and cannot write to it.
final class NIOConnection: ChannelDuplexHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundIn = Any
    typealias OutboundOut = ByteBuffer

    private enum Output {
        case open
        /// The end is asked for, and NIO still holds bytes.
        case ending
        case ended
    }

    private let loop: NIOLoop
    /// The request that it begins with, if an upgrade handler has read it.
    private let request: ForeignRequest?
    /// Whether one that is too many may be told so: not before a TLS handshake.
    private let mayBeAnswered: Bool
    private var context: ChannelHandlerContext?
    /// The driver's number for it; nil before it is accepted and after it is over.
    var index: Int?
    private var hasBegun = false
    private var isOver = false
    private var isTurnedAway = false
    private var isReading = true
    private var output = Output.open
    private var closesWhenOutputEnds = false
    /// The driver was told that the channel takes no more.
    private var isBlocked = false
    /// Bytes that NIO was given and not told to write.
    ///
    /// Counted here, because a TLS handler holds them back and the channel does not know of them.
    private var unflushedByteCount = 0

    /// Bytes handed to NIO at a time, and before a flush.
    private static let writeByteCountMax = 64 << 10
    /// How long a connection that is over may still take the bytes that NIO holds for it.
    private static let lastBytesTimeout = TimeAmount.seconds(10)
    /// How long one that is turned away may take to send its request, which must be read before the close: unread bytes
    /// would turn it into a reset, which may destroy the response on its way.
    private static let turnAwayTimeout = TimeAmount.milliseconds(250)

    init(_ loop: NIOLoop, request: ForeignRequest? = nil, mayBeAnswered: Bool = true) {
        self.loop = loop
        self.request = request
        self.mayBeAnswered = mayBeAnswered
    }

    // MARK: - From NIO

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        if context.channel.isActive { self.begin(context) }
    }

    func channelActive(context: ChannelHandlerContext) {
        self.begin(context)
    }

    private func begin(_ context: ChannelHandlerContext) {
        guard !self.hasBegun else { return }
        self.hasBegun = true
        self.loop.report(.began(RemoteAddress(context.remoteAddress), self.request), of: self)
        // A handler behind this one may hold reads back.
        if self.request != nil, self.isReading { context.read() }
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        if self.isTurnedAway { return context.close(promise: nil) }
        guard !self.isOver else { return }
        self.loop.report(.received(self.unwrapInboundIn(data)), of: self)
    }

    func proxyHeaderEnded(_ progress: ProxyHeaderReader.Progress) {
        guard !self.isOver else { return }
        self.loop.report(.proxyHeaderEnded(progress), of: self)
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        // A handler behind this one may hold reads back.
        if self.request != nil, self.isReading { context.read() }
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        guard self.isBlocked, context.channel.isWritable else { return }
        self.isBlocked = false
        self.loop.report(.writable, of: self)
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if event is ChannelShouldQuiesceEvent {
            // The other server shuts down, and waits for all its channels.
            if !self.isOver { self.loop.report(.closeAsked, of: self) }
        } else if case .inputClosed? = event as? ChannelEvent {
            if self.isTurnedAway { return context.close(promise: nil) }
            if !self.isOver { self.loop.report(.inputEnded, of: self) }
        }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        self.loop.server.logger.debug("a channel broke", metadata: [LoggingKeys.error: "\(error)"])
        self.lost()
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.lost()
        context.fireChannelInactive()
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        self.lost()
        self.context = nil
    }

    private func lost() {
        guard !self.isOver else { return }
        self.isOver = true
        self.loop.report(.lost, of: self)
    }

    // MARK: - From handlers behind it

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        promise?.fail(ChannelError.outputClosed)
    }

    func flush(context: ChannelHandlerContext) {}

    func read(context: ChannelHandlerContext) {
        if self.isReading { context.read() }
    }

    func close(context: ChannelHandlerContext, mode: CloseMode, promise: EventLoopPromise<Void>?) {
        guard !self.isOver, self.hasBegun else { return context.close(mode: mode, promise: promise) }
        if let promise { context.channel.closeFuture.cascade(to: promise) }
        self.loop.report(.closeAsked, of: self)
    }

    // MARK: - From the loop

    var needsFlush: Bool {
        self.unflushedByteCount > 0
    }

    /// Hands bytes to NIO as long as it wants them; they go out with the next flush.
    func write(_ bytes: RawSpan) -> WriteResult {
        guard let context = self.context, context.channel.isActive else { return .failed }
        var written = 0
        while written < bytes.byteCount {
            if !context.channel.isWritable || self.unflushedByteCount >= Self.writeByteCountMax {
                self.flush()
                guard context.channel.isActive else { return .failed }
                guard context.channel.isWritable else {
                    self.isBlocked = true
                    break
                }
            }
            let count = min(Self.writeByteCountMax, bytes.byteCount - written)
            var buffer = context.channel.allocator.buffer(capacity: count)
            buffer.writeBytes(bytes.extracting(written..<(written + count)))
            context.write(self.wrapOutboundOut(buffer), promise: nil)
            self.unflushedByteCount += count
            written += count
        }
        return .wrote(written)
    }

    func flush() {
        guard self.unflushedByteCount > 0 else { return }
        self.unflushedByteCount = 0
        self.context?.flush()
    }

    /// Switches reading; what NIO reads at the same moment still comes, 256 KiB at most.
    func setReading(_ isOn: Bool) {
        self.isReading = isOn
        // A channel that is closed meanwhile refuses, and is read no more anyway.
        try? self.context?.channel.syncOptions?.setOption(.autoRead, value: isOn)
        if isOn { self.context?.read() }
    }

    /// Ends our direction, behind all that is written.
    func endOutput() {
        guard let context = self.context, self.output == .open else { return }
        self.flush()
        self.output = .ending
        let promise = context.eventLoop.makePromise(of: Void.self)
        promise.futureResult.assumeIsolated().whenComplete { _ in
            self.output = .ended
            if self.closesWhenOutputEnds { self.context?.close(promise: nil) }
        }
        context.close(mode: .output, promise: promise)
    }

    /// The driver knows it no more.
    func close() {
        self.index = nil
        self.isOver = true
        guard let context = self.context else { return }
        self.flush()
        switch self.output {
        case .open, .ended: context.close(promise: nil)
        case .ending:
            // The kernel would go on sending what it has; so does NIO, for a while.
            self.closesWhenOutputEnds = true
            self.closeSoon(context, Self.lastBytesTimeout)
        }
    }

    /// There is no room for it: says so, if it can be said, and ends.
    func turnAway(_ response: [UInt8]) {
        self.isOver = true
        guard let context = self.context else { return }
        guard self.mayBeAnswered else { return context.close(promise: nil) }
        self.isTurnedAway = true
        var buffer = context.channel.allocator.buffer(capacity: response.count)
        buffer.writeBytes(response)
        context.writeAndFlush(self.wrapOutboundOut(buffer), promise: nil)
        context.close(mode: .output, promise: nil)
        self.closeSoon(context, Self.turnAwayTimeout)
    }

    /// The server has drained: whoever comes now comes too late.
    func serverIsGone() {
        guard !self.isOver else { return }
        self.turnAway(self.loop.server.fullResponse)
    }

    private func closeSoon(_ context: ChannelHandlerContext, _ timeout: TimeAmount) {
        let channel = context.channel
        context.eventLoop.scheduleTask(in: timeout) { channel.close(promise: nil) }
    }
}

extension RemoteAddress {
    /// Where a channel's peer is; an IPv4 client of a dual-stack listener is an IPv4 client.
    init(_ address: SocketAddress?) {
        // Family and port come first, in IPv6 a flow label too: `sockaddr_in` and `sockaddr_in6`, on every platform.
        let place: Range<Int>
        switch address {
        case .v4: place = 4..<8
        case .v6: place = 8..<24
        case .unixDomainSocket, nil:
            self = .unknown
            return
        }
        let port = UInt16(clamping: address?.port ?? 0)
        // The address stands where it is during the call, with as many bytes as its family has.
        let remote = unsafe address?.withSockAddr { pointer, byteCount in
            let bytes = unsafe UnsafeRawBufferPointer(start: pointer, count: byteCount)[place]
            return unsafe RemoteAddress(
                bytes: RawSpan(_unsafeBytes: UnsafeRawBufferPointer(rebasing: bytes)),
                port: port
            )
        }
        self = remote ?? .unknown
    }
}
#endif
