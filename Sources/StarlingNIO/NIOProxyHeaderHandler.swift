#if NIO
internal import NIOCore
internal import Starling

/// Reads a PROXY protocol header in front of everything else, TLS included, and then leaves the pipeline.
final class NIOProxyHeaderHandler: ChannelInboundHandler, RemovableChannelHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer

    private let connection: NIOConnection
    private var reader = ProxyHeaderReader()
    private var progress = ProxyHeaderReader.Progress.incomplete

    init(_ connection: NIOConnection) {
        self.connection = connection
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        switch self.progress {
        case .incomplete: break
        // Read by NIO before this handler has left.
        case .complete: return context.fireChannelRead(data)
        // What comes behind no header is nobody's.
        case .invalid: return
        }
        var buffer = self.unwrapInboundIn(data)
        let (count, progress) = self.reader.take(buffer.readableBytesView)
        guard progress != .incomplete else { return }
        self.progress = progress
        self.connection.proxyHeaderEnded(progress)
        guard progress != .invalid else { return }
        buffer.moveReaderIndex(forwardBy: count)
        if buffer.readableBytes > 0 { context.fireChannelRead(self.wrapInboundOut(buffer)) }
        context.pipeline.syncOperations.removeHandler(context: context, promise: nil)
    }
}
#endif
