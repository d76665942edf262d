import NIOCore
import NIOHTTP1
import NIOPosix
import NIOWebSocket

/// A plain NIOWebSocket server on one event loop: the peer that Starling's figures are compared with.
///
/// It is written as NIO's own documentation suggests: the typed upgrader, one channel handler per connection,
/// and a flush when a read is complete rather than after every frame. `/subscribe/T` and `/publish/T` are the
/// two ends of topic T; every other path echoes.
///
/// Usage: `NIOWebSocketPeer [--port N]`. Port 0, the default, lets the kernel choose; the choice is printed as
/// `listening on PORT`. It serves 127.0.0.1 until it is terminated.
@main
enum NIOWebSocketPeer {
    /// The largest frame accepted: the upgrader's own default of 16 KiB is below the largest benchmark message.
    private static let frameBytesMax = 1 << 20

    static func main() async throws {
        let port = try portArgument()
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let loop = group.next()
        let rooms = try await loop.submit { NIOLoopBound(Rooms(), eventLoop: loop) }.get()

        let listener = try await ServerBootstrap(group: group)
            .serverChannelOption(.backlog, value: 4096)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelOption(.tcpOption(.tcp_nodelay), value: 1)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    _ = try channel.pipeline.syncOperations.configureUpgradableHTTPServerPipeline(
                        configuration: .init(
                            upgradeConfiguration: .init(
                                upgraders: [upgrader(rooms: rooms)],
                                notUpgradingCompletionHandler: { channel in channel.close() }
                            )
                        )
                    )
                }
            }
            .bind(host: "127.0.0.1", port: port)
            .get()

        print("listening on \(listener.localAddress?.port ?? 0)")
        flushStandardOutput()
        try await listener.closeFuture.get()
    }

    private static func upgrader(rooms: NIOLoopBound<Rooms>) -> NIOTypedWebSocketServerUpgrader<Void> {
        NIOTypedWebSocketServerUpgrader(
            maxFrameSize: self.frameBytesMax,
            shouldUpgrade: { channel, _ in channel.eventLoop.makeSucceededFuture([:]) },
            upgradePipelineHandler: { channel, head in
                channel.eventLoop.makeCompletedFuture {
                    let pipeline = channel.pipeline.syncOperations
                    let parts = head.uri.split(separator: "/")
                    switch parts.first {
                    case "subscribe": try pipeline.addHandler(SubscribeHandler(room: rooms.value[parts[1]]))
                    case "publish": try pipeline.addHandler(PublishHandler(room: rooms.value[parts[1]]))
                    default: try pipeline.addHandler(EchoHandler())
                    }
                }
            }
        )
    }

    private static func portArgument() throws -> Int {
        let arguments = CommandLine.arguments.dropFirst()
        if arguments.isEmpty { return 0 }
        guard arguments.count == 2, arguments.first == "--port",
            let port = arguments.last.flatMap({ UInt16($0) })
        else { throw UsageError() }
        return Int(port)
    }
}

/// The command line was not understood.
struct UsageError: Error, CustomStringConvertible {
    var description: String { "usage: NIOWebSocketPeer [--port N]" }
}
