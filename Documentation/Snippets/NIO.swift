#if NIO
import NIOCore
import NIOHTTP1
import NIOPosix
import ServiceLifecycle
import Starling
import StarlingNIO

/// In the doc comment of `NIOTransport`.
func serveOnNIO(_ echo: WebSocketEndpoint) async throws {
    try await WebSocketServer(transport: NIOTransport(port: 8080)) {
        WebSocketRoute("/echo", echo)
    }.run()
}

func connectOnNIO() async throws {
    let client = WebSocketClient(connector: NIOConnector())
    try await client.connect(to: "wss://example.com/chat") { socket in
        try await socket.send("Hello")
    }
}

final class MyHTTPHandler: ChannelInboundHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias OutboundOut = HTTPServerResponsePart
}

/// In the doc comment of `NIOWebSocketService`.
func mount(_ chat: WebSocketEndpoint, _ group: any EventLoopGroup) async throws {
    let sockets = NIOWebSocketService(group: group) { WebSocketRoute("/chat", chat) }
    let bootstrap = ServerBootstrap(group: group).childChannelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
            try sockets.configureHTTPServerPipeline(of: channel)
            try channel.pipeline.syncOperations.addHandler(MyHTTPHandler())
        }
    }
    let listener = try await bootstrap.bind(host: "0.0.0.0", port: 8080).get()
    try await sockets.run()
    try await listener.close()
}
#endif
