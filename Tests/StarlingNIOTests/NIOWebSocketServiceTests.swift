#if NIO
import HTTPTypes
import NIOCore
import NIOHTTP1
import NIOPosix
import NIOSSL
import Starling
import StarlingCore
import StarlingNIO
import StarlingTesting
import Synchronization
import TestSupport
import Testing

/// Endpoints in a server that runs NIO already, entered by each of the three ways.
@Suite(.serialized) struct NIOWebSocketServiceTests {
    enum Way: String, CaseIterable, Sendable {
        case pipeline, upgrader, typedUpgrader
    }

    @Test("An upgrade opens, and the other server keeps its own pages", arguments: Way.allCases)
    func upgrades(way: Way) async throws {
        try await self.withServer(way) { server in
            let peer = try await server.connect()
            try await peer.upgrade("/echo")
            try await peer.send("hello")
            try await peer.expectNext(.text("hello"))
            let payload = (0..<1_000_000).map { UInt8(truncatingIfNeeded: $0) }
            let stream = peer.stream
            async let writing: Void = stream.write(ConformancePeer.frame(.binary, payload))
            try await peer.expectNext(.binary(payload))
            try await writing
            try await peer.finish()

            let visitor = try await server.connect()
            try await visitor.stream.write(ConformancePeer.request("/", upgrades: false))
            #expect(try await visitor.readResponse().body == "a page of /\n")
        }
    }

    @Test("Over the other server's TLS", arguments: Way.allCases)
    func tls(way: Way) async throws {
        try await self.withServer(way, isEncrypted: true) { server in
            let peer = try await server.connect()
            try await peer.stream.write(ConformancePeer.request("/", upgrades: false))
            #expect(try await peer.readResponse().body == "a page of /\n")
            try await peer.upgrade("/echo")
            try await peer.send("secret")
            try await peer.expectNext(.text("secret"))
            try await peer.finish()
        }
    }

    @Test("An upgrade works after earlier requests of the connection", arguments: Way.allCases)
    func afterRequests(way: Way) async throws {
        try await self.withServer(way) { server in
            let peer = try await server.connect()
            for path in ["/one", "/two"] {
                try await peer.stream.write(ConformancePeer.request(path, upgrades: false))
                #expect(try await peer.readResponse().body == "a page of \(path)\n")
            }
            // The last ones at once with the upgrade and a message: all are answered, in order.
            try await peer.stream.write(
                ConformancePeer.request("/three", upgrades: false)
                    + ConformancePeer.request("/four", upgrades: false)
                    + ConformancePeer.request("/echo", upgrades: true)
                    + ConformancePeer.frame(.text, Array("first".utf8))
            )
            #expect(try await peer.readResponse().body == "a page of /three\n")
            #expect(try await peer.readResponse().body == "a page of /four\n")
            try await peer.readUpgrade()
            try await peer.expectNext(.text("first"))
            try await peer.send("second")
            try await peer.expectNext(.text("second"))
            try await peer.finish()
        }
    }

    @Test("Frames that come with the request are handled, in order", arguments: Way.allCases)
    func framesWithRequest(way: Way) async throws {
        try await self.withServer(way) { server in
            for path in ["/echo", "/members?name=ann"] {
                let peer = try await server.connect()
                var bytes = ConformancePeer.request(path, upgrades: true)
                for number in 0..<20 { bytes += ConformancePeer.frame(.text, Array("\(number)".utf8)) }
                bytes += ConformancePeer.closeFrame(1000)
                try await peer.stream.write(bytes)
                try await peer.readUpgrade()
                for number in 0..<20 { try await peer.expectNext(.text("\(number)")) }
                try await peer.expectNext(.close(1000))
                try await peer.expectEnd()
            }
        }
    }

    @Test("Bytes may be split anywhere", arguments: Way.allCases)
    func splitBytes(way: Way) async throws {
        try await self.withServer(way) { server in
            let bytes =
                ConformancePeer.request("/echo", upgrades: true)
                + ConformancePeer.frame(.text, Array("one".utf8)) + ConformancePeer.closeFrame(1000)
            for offset in stride(from: 1, to: bytes.count, by: 5) {
                let peer = try await server.connect()
                for part in [bytes[..<offset], bytes[offset...]] {
                    try await peer.stream.write(Array(part))
                    await Task.yield()
                }
                try await peer.readUpgrade()
                try await peer.expectNext(.text("one"))
                try await peer.expectNext(.close(1000))
                try await peer.expectEnd()
            }
        }
    }

    @Test("The endpoint refuses with its own words, and checks the origin", arguments: Way.allCases)
    func refusals(way: Way) async throws {
        try await self.withServer(way) { server in
            func answer(_ path: String, _ fields: [String] = []) async throws -> (HTTPResponse, String) {
                let peer = try await server.connect()
                try await peer.stream.write(ConformancePeer.request(path, upgrades: true, fields))
                let answer = try await peer.readResponse()
                try await peer.expectEnd()
                return answer
            }
            let (forbidden, body) = try await answer("/members?name=mallory")
            #expect(forbidden.status.code == 403)
            #expect(forbidden.headerFields[.retryAfter] == "7")
            #expect(body == "not today")
            #expect(try await answer("/echo", ["Origin: https://elsewhere"]).0.status.code == 403)
            // A key too many, a version that nobody speaks, a failing decision.
            let twice = try await answer("/echo", ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="])
            #expect(twice.0.status.code == 400)
            // What NIO's parser lets pass, and Starling's does not.
            #expect(try await answer("/echo", ["Host: again"]).0.status.code == 400)
            let long = "X-Long: " + String(repeating: "x", count: 20_000)
            #expect(try await answer("/echo", [long]).0.status.code == 431)
            #expect(try await answer("/members?name=nobody").0.status.code == 500)
            let accepted = try await server.connect()
            try await accepted.stream.write(ConformancePeer.request("/members?name=ann", upgrades: true))
            try await accepted.readUpgrade()
            #expect(await server.sockets.registry.connections(ofUser: "ann").count == 1)
            try await accepted.finish()
        }
    }

    @Test(
        "Upgrades at other paths, and plain requests at ours, stay with the other server",
        arguments: Way.allCases
    )
    func others(way: Way) async throws {
        try await self.withServer(way) { server in
            for (path, upgrades) in [("/elsewhere", true), ("/echo", false)] {
                let peer = try await server.connect()
                try await peer.stream.write(ConformancePeer.request(path, upgrades: upgrades))
                let (head, body) = try await peer.readResponse()
                if way == .typedUpgrader, upgrades {
                    #expect(head.status.code == 404)
                } else {
                    #expect(body == "a page of \(path)\n")
                }
            }
            // On any request but the first the pipeline makes no difference.
            let peer = try await server.connect()
            for (path, upgrades) in [("/one", false), ("/elsewhere", true)] {
                try await peer.stream.write(ConformancePeer.request(path, upgrades: upgrades))
                #expect(try await peer.readResponse().body == "a page of \(path)\n")
            }
        }
    }

    @Test("The limit of connections holds, and counts WebSockets alone", arguments: Way.allCases)
    func limits(way: Way) async throws {
        var configuration = ServerConfiguration()
        configuration.connectionsMax = 1
        try await self.withServer(way, configuration) { server in
            let first = try await server.connect()
            try await first.upgrade("/echo")
            let second = try await server.connect()
            try await second.stream.write(ConformancePeer.request("/", upgrades: false))
            #expect(try await second.readResponse().head.status.code == 200)
            try await second.stream.write(ConformancePeer.request("/echo", upgrades: true))
            let (head, _) = try await second.readResponse()
            #expect(head.status.code == 503)
            #expect(head.headerFields[.retryAfter] != nil)
            try await second.expectEnd()
            try await first.finish()
        }
    }

    @Test(
        "A peer's end and loss reach the handler, and a close by the other server's hand says 1001",
        arguments: Way.allCases
    )
    func ends(way: Way) async throws {
        try await self.withServer(way) { server in
            let gone = try await server.connect()
            try await gone.upgrade("/echo")
            gone.stream.close()
            while server.sockets.registry.count != 0 { try await Task.sleep(for: .milliseconds(2)) }

            let polite = try await server.connect()
            try await polite.upgrade("/echo")
            try await polite.stream.write(
                ConformancePeer.frame(.text, [0x78]) + ConformancePeer.closeFrame(4002)
            )
            (polite.stream as? any HalfClosableStream)?.endWriting()
            try await polite.expectNext(.text("x"))
            try await polite.expectNext(.close(4002))
            try await polite.expectEnd()

            // Its `close`, and the word by which a server that shuts down asks its channels to go.
            let ways: [@Sendable (any Channel) -> Void] = [
                { $0.close(promise: nil) },
                { $0.pipeline.fireUserInboundEventTriggered(ChannelShouldQuiesceEvent()) },
            ]
            for end in ways {
                let closed = try await server.connect()
                try await closed.upgrade("/echo")
                while server.sockets.registry.count != 1 { try await Task.sleep(for: .milliseconds(2)) }
                if let channel = server.channels.newest.withLock({ $0 }) { end(channel) }
                try await closed.expectNext(.close(1001))
                try await closed.stream.write(ConformancePeer.closeFrame(1001))
                try await closed.expectEnd()
            }
        }
    }

    @Test("A shutdown of the service says 1001, while the other server goes on", arguments: Way.allCases)
    func shutdown(way: Way) async throws {
        try await self.withServer(way) { server in
            let peer = try await server.connect()
            try await peer.upgrade("/echo")
            while server.sockets.registry.count != 1 { try await Task.sleep(for: .milliseconds(2)) }
            server.sockets.beginShutdown()
            try await peer.expectNext(.close(1001))
            try await peer.stream.write(ConformancePeer.closeFrame(1001))
            try await peer.expectEnd()
            let late = try await server.connect()
            try await late.stream.write(ConformancePeer.request("/", upgrades: false))
            #expect(try await late.readResponse().head.status.code == 200)
            try await late.stream.write(ConformancePeer.request("/echo", upgrades: true))
            #expect(try await late.readResponse().head.status.code == 503)
            try await late.expectEnd()
        }
    }

    // MARK: - Another server

    /// A server of NIO's own kind, for one test.
    private struct Server: Sendable {
        let sockets: NIOWebSocketService
        let port: Int
        let options: ConnectOptions
        let channels: Channels

        func connect() async throws -> ConformancePeer {
            ConformancePeer(
                try await NIOConnector().connect(
                    to: .tcp(host: "localhost", port: self.port),
                    options: self.options
                )
            )
        }
    }

    private final class Channels: Sendable {
        let newest = Mutex<(any Channel)?>(nil)
    }

    private func withServer(
        _ way: Way,
        _ configuration: ServerConfiguration = ServerConfiguration(),
        isEncrypted: Bool = false,
        _ body: @escaping @Sendable (Server) async throws -> Void
    ) async throws {
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 2)
        var configuration = configuration
        configuration.drainSpread = .zero
        let sockets = NIOWebSocketService(group: group, configuration: configuration) {
            WebSocketRoute("/echo", Self.echo)
            WebSocketRoute("/members", Self.members)
        }
        let tls = isEncrypted ? try NIOTestTLS.server() : nil
        let channels = Channels()
        let listener = try await ServerBootstrap(group: group)
            .serverChannelOption(.backlog, value: 256)
            .childChannelInitializer { channel in
                channels.newest.withLock { $0 = channel }
                return channel.eventLoop.makeCompletedFuture {
                    if let tls {
                        try channel.pipeline.syncOperations.addHandler(NIOSSLServerHandler(context: tls))
                    }
                    try Self.setUp(channel, way, sockets)
                }
            }
            .bind(host: "127.0.0.1", port: 0).get()
        var options = ConnectOptions()
        if isEncrypted { options.tls = ConnectTLS(trustRootsFile: try TLSTestCertificates.path("root.pem")) }
        let server = Server(
            sockets: sockets,
            port: listener.localAddress?.port ?? 0,
            options: options,
            channels: channels
        )
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            tasks.addTask { try await sockets.run() }
            try await body(server)
            sockets.beginShutdown()
            try await tasks.waitForAll()
        }
        try await listener.close()
        try await group.shutdownGracefully()
    }

    private static func setUp(_ channel: any Channel, _ way: Way, _ sockets: NIOWebSocketService) throws {
        let pipeline = channel.pipeline.syncOperations
        switch way {
        case .pipeline:
            try sockets.configureHTTPServerPipeline(of: channel)
            try pipeline.addHandler(Pages())
        case .upgrader:
            try pipeline.configureHTTPServerPipeline(
                withServerUpgrade: (upgraders: [sockets.upgrader], completionHandler: { _ in })
            )
            try pipeline.addHandler(sockets.makeUpgradeHandler())
            try pipeline.addHandler(Pages())
        case .typedUpgrader:
            let result = try pipeline.configureUpgradableHTTPServerPipeline(
                configuration: NIOUpgradableHTTPServerPipelineConfiguration(
                    upgradeConfiguration: NIOTypedHTTPServerUpgradeConfiguration(
                        upgraders: [sockets.typedUpgrader { _ in true }],
                        notUpgradingCompletionHandler: { channel in
                            channel.eventLoop.makeCompletedFuture {
                                let pipeline = channel.pipeline.syncOperations
                                try pipeline.addHandler(sockets.makeUpgradeHandler())
                                try pipeline.addHandler(Pages())
                                return false
                            }
                        }
                    )
                )
            )
            result.whenFailure { _ in channel.close(promise: nil) }
        }
    }

    private static let echo = WebSocketEndpoint { socket in
        for try await message in socket { try await socket.send(message) }
    }

    private static let members = WebSocketEndpoint(
        authenticate: { request -> UpgradeDecision<String> in
            struct Failure: Error {}
            for _ in 0..<5 { await Task.yield() }
            switch request[query: "name"] {
            case "mallory"?: return .refuse(.forbidden, headerFields: [.retryAfter: "7"], body: "not today")
            case "nobody"?, nil: throw Failure()
            case let name?: return .accept(name, user: name)
            }
        }
    ) { socket, _ in
        for try await message in socket { try await socket.send(message) }
    }
}

/// The other server's handler: a page for every path, some time after the request.
private final class Pages: ChannelInboundHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias OutboundOut = HTTPServerResponsePart

    private var path = ""

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        switch self.unwrapInboundIn(data) {
        case .head(let head): self.path = head.uri
        case .body: break
        case .end:
            let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
            let body = "a page of \(self.path)\n"
            context.eventLoop.execute {
                let (handler, context) = bound.value
                handler.answer(body, context)
            }
        }
    }

    private func answer(_ body: String, _ context: ChannelHandlerContext) {
        var head = HTTPResponseHead(version: .http1_1, status: .ok)
        head.headers.add(name: "content-length", value: "\(body.utf8.count)")
        context.write(self.wrapOutboundOut(.head(head)), promise: nil)
        context.write(self.wrapOutboundOut(.body(.byteBuffer(ByteBuffer(string: body)))), promise: nil)
        context.writeAndFlush(self.wrapOutboundOut(.end(nil)), promise: nil)
    }
}
#endif
