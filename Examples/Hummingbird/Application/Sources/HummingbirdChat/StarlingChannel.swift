import Hummingbird
import HummingbirdCore
import Logging
import NIOCore
import NIOHTTPTypes
import NIOHTTPTypesHTTP1
import StarlingNIO

extension HTTPServerBuilder {
    /// HTTP/1 with upgrades to the service's endpoints, in the place of `.http1()`.
    static func starling(_ sockets: NIOWebSocketService) -> HTTPServerBuilder {
        HTTPServerBuilder { StarlingChannel(responder: $0, sockets: sockets) }
    }
}

/// Hummingbird's `HTTP1Channel`, with Starling's handler behind NIO's.
struct StarlingChannel: ServerChildChannel, HTTPChannelHandler {
    typealias Value = NIOAsyncChannel<HTTPRequestPart, HTTPResponsePart>

    let responder: HTTPChannelHandler.Responder
    let sockets: NIOWebSocketService

    func setup(channel: any Channel, logger: Logger) -> EventLoopFuture<Value> {
        channel.eventLoop.makeCompletedFuture {
            // Hummingbird does pipelining and the handling of errors itself.
            try self.sockets.configureHTTPServerPipeline(
                of: channel,
                withPipeliningAssistance: false,
                withErrorHandling: false
            )
            try channel.pipeline.syncOperations.addHandler(HTTP1ToHTTPServerCodec(secure: false))
            // No idle timeout: it would hold for WebSockets too, which have Starling's own.
            try channel.pipeline.syncOperations.addHandler(HTTPConnectionStateHandler(logger: logger))
            return try NIOAsyncChannel(
                wrappingChannelSynchronously: channel,
                configuration: .init(isOutboundHalfClosureEnabled: true)
            )
        }
    }

    func handle(value: Value, logger: Logger) async {
        await self.handleHTTP(asyncChannel: value, logger: logger)
    }
}
