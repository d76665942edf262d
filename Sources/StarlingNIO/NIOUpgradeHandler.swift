#if NIO
internal import NIOCore
internal import NIOHTTP1
internal import Starling
internal import StarlingCore

/// Takes upgrades to endpoints out of the requests of a connection, whichever request of it that is.
///
/// It waits until all earlier requests are answered; then it takes NIO's handlers for HTTP out of the pipeline, and puts a
/// ``NIOConnection`` into its own place.
final class NIOUpgradeHandler: ChannelDuplexHandler, RemovableChannelHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias InboundOut = HTTPServerRequestPart
    typealias OutboundIn = HTTPServerResponsePart
    typealias OutboundOut = HTTPServerResponsePart

    private enum State {
        case passing
        /// The head of an upgrade has come, and its end not yet.
        case upgradeBegan(NIOHTTP1.HTTPRequestHead)
        /// Earlier requests are not answered yet.
        case waiting(NIOHTTP1.HTTPRequestHead)
        case handedOver
    }

    private let server: ForeignServer
    private var state = State.passing
    private var unansweredCount = 0

    init(_ server: ForeignServer) {
        self.server = server
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        switch self.state {
        case .passing:
            if case .head(let head) = self.unwrapInboundIn(data) {
                if self.server.takes(head) {
                    self.state = .upgradeBegan(head)
                    return
                }
                self.unansweredCount += 1
            }
            context.fireChannelRead(data)
        case .upgradeBegan(let head):
            // There is no body: a request with one is no upgrade.
            guard case .end = self.unwrapInboundIn(data) else { return }
            self.state = .waiting(head)
            self.handOverIfPossible(context)
        case .waiting, .handedOver:
            // NIO's decoder stops behind an upgrade.
            break
        }
    }

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        if case .end = self.unwrapOutboundIn(data) { self.unansweredCount -= 1 }
        context.write(data, promise: promise)
        if case .waiting = self.state, self.unansweredCount == 0 {
            // Not in the middle of the other server's call.
            let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
            context.eventLoop.execute {
                let (handler, context) = bound.value
                handler.handOverIfPossible(context)
            }
        }
    }

    private func handOverIfPossible(_ context: ChannelHandlerContext) {
        guard case .waiting(let head) = self.state, self.unansweredCount == 0, context.channel.isActive else {
            return
        }
        self.state = .handedOver
        context.flush()
        do {
            let connection = try self.server.connection(context.channel, head)
            let pipeline = context.pipeline.syncOperations
            // The peer may end its direction behind its close frame, and is answered all the same.
            try context.channel.syncOptions?.setOption(.allowRemoteHalfClosure, value: true)
            pipeline.removeIfPresent(IdleStateHandler.self)
            pipeline.removeIfPresent(HTTPServerProtocolErrorHandler.self)
            pipeline.removeIfPresent(NIOHTTPResponseHeadersValidator.self)
            pipeline.removeIfPresent(HTTPServerPipelineHandler.self)
            pipeline.removeIfPresent(HTTPResponseEncoder.self)
            // Before this handler, which could make nothing of its bytes.
            try pipeline.addHandler(connection, position: .before(self))
            pipeline.removeHandler(context: context, promise: nil)
            // Last, because it passes on what it has read behind the request.
            pipeline.removeIfPresent(ByteToMessageHandler<HTTPRequestDecoder>.self)
        } catch {
            context.fireErrorCaught(error)
            context.close(promise: nil)
        }
    }
}

extension ChannelPipeline.SynchronousOperations {
    /// Removes the handler of a type; at once, except for a decoder that is just decoding.
    fileprivate func removeIfPresent<Handler: RemovableChannelHandler>(_ type: Handler.Type) {
        guard let context = try? self.context(handlerType: type) else { return }
        self.removeHandler(context: context, promise: nil)
    }
}

// MARK: - NIO's own upgrade handlers

/// How NIO's upgrade handlers hand a connection over: they write 101, whatever the endpoint will say, and then let go.
///
/// Their 101 goes nowhere. What the client gets is the endpoint's answer, which may come later and may be a refusal.
struct UpgradeHandOver: Sendable {
    let server: ForeignServer

    func prepare(_ channel: any Channel, _ fields: HTTPHeaders) -> EventLoopFuture<HTTPHeaders> {
        channel.eventLoop.makeCompletedFuture {
            let pipeline = channel.pipeline.syncOperations
            let encoder = try pipeline.handler(type: HTTPResponseEncoder.self)
            try pipeline.addHandler(ResponseGate(), position: .before(encoder))
            return fields
        }
    }

    func finish(
        _ channel: any Channel,
        _ head: NIOHTTP1.HTTPRequestHead,
        after handler: (any ChannelHandler)?
    ) throws {
        let pipeline = channel.pipeline.syncOperations
        pipeline.removeHandler(context: try pipeline.context(handlerType: ResponseGate.self), promise: nil)
        try channel.syncOptions?.setOption(.allowRemoteHalfClosure, value: true)
        let connection = try self.server.connection(channel, head)
        if let handler {
            try pipeline.addHandler(connection, position: .after(handler))
        } else {
            try pipeline.addHandler(connection)
        }
    }
}

/// Drops what NIO's upgrade handler writes.
private final class ResponseGate: ChannelOutboundHandler, RemovableChannelHandler {
    typealias OutboundIn = ByteBuffer

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        promise?.succeed()
    }
}

struct NIOUpgrader: HTTPServerProtocolUpgrader, Sendable {
    let supportedProtocol = "websocket"
    let requiredUpgradeHeaders: [String] = []
    private let handOver: UpgradeHandOver

    init(_ server: ForeignServer) {
        self.handOver = UpgradeHandOver(server: server)
    }

    func buildUpgradeResponse(
        channel: any Channel,
        upgradeRequest: NIOHTTP1.HTTPRequestHead,
        initialResponseHeaders: HTTPHeaders
    ) -> EventLoopFuture<HTTPHeaders> {
        guard self.handOver.server.takes(upgradeRequest) else {
            return channel.eventLoop.makeFailedFuture(
                TransportError("no endpoint takes an upgrade at '\(upgradeRequest.uri)'")
            )
        }
        return self.handOver.prepare(channel, initialResponseHeaders)
    }

    func upgrade(
        context: ChannelHandlerContext,
        upgradeRequest: NIOHTTP1.HTTPRequestHead
    ) -> EventLoopFuture<Void> {
        let channel = context.channel
        let handler = context.handler
        do {
            try self.handOver.finish(channel, upgradeRequest, after: handler)
            return context.eventLoop.makeSucceededVoidFuture()
        } catch {
            return context.eventLoop.makeFailedFuture(error)
        }
    }
}

struct NIOTypedUpgrader<UpgradeResult: Sendable>: NIOTypedHTTPServerProtocolUpgrader, Sendable {
    let supportedProtocol = "websocket"
    let requiredUpgradeHeaders: [String] = []
    private let handOver: UpgradeHandOver
    private let result: @Sendable (any Channel) -> UpgradeResult

    init(_ server: ForeignServer, _ result: @escaping @Sendable (any Channel) -> UpgradeResult) {
        self.handOver = UpgradeHandOver(server: server)
        self.result = result
    }

    func buildUpgradeResponse(
        channel: any Channel,
        upgradeRequest: NIOHTTP1.HTTPRequestHead,
        initialResponseHeaders: HTTPHeaders
    ) -> EventLoopFuture<HTTPHeaders> {
        // Whatever it is: NIO's typed handler has forgotten a request that no upgrader takes.
        self.handOver.prepare(channel, initialResponseHeaders)
    }

    func upgrade(
        channel: any Channel,
        upgradeRequest: NIOHTTP1.HTTPRequestHead
    ) -> EventLoopFuture<UpgradeResult> {
        channel.eventLoop.makeCompletedFuture {
            let handler = try? channel.pipeline.syncOperations.handler(
                type: NIOTypedHTTPServerUpgradeHandler<UpgradeResult>.self
            )
            try self.handOver.finish(channel, upgradeRequest, after: handler)
            return self.result(channel)
        }
    }
}

// MARK: - Requests

extension NIOHTTP1.HTTPRequestHead {
    /// Whether it asks for a WebSocket, so that NIO's decoder stops behind it; the other rules are the handshake's.
    ///
    /// A request with a body does not: servers may answer one as if it asked for nothing (RFC 9110 §7.8).
    var asksForWebSocket: Bool {
        self.headers[canonicalForm: "upgrade"].contains { $0.lowercased() == "websocket" }
            && self.headers[canonicalForm: "connection"].contains { $0.lowercased() == "upgrade" }
            && !self.headers.contains(name: "transfer-encoding")
            && self.headers["content-length"].allSatisfy { $0 == "0" }
    }
}

extension ForeignRequest {
    /// Puts a request that NIO has parsed to Starling's own, stricter rules.
    init(_ head: NIOHTTP1.HTTPRequestHead, _ limits: Limits) {
        var lines = ["\(head.method.rawValue) \(head.uri) HTTP/\(head.version.major).\(head.version.minor)"]
        for (name, value) in head.headers { lines.append("\(name): \(value)") }
        let isOneHead = lines.allSatisfy { line in line.utf8.allSatisfy { $0 != 0x0A && $0 != 0x0D } }
        let bytes = Array((lines + ["", ""]).joined(separator: "\r\n").utf8)
        do throws(HandshakeError) {
            guard isOneHead else { throw HandshakeError(.malformedHead) }
            guard bytes.count <= limits.headBytesMax else { throw HandshakeError(.headTooLarge) }
            self = .valid(try StarlingCore.HTTPRequestHead(parsing: bytes, limits: limits))
        } catch {
            self = .invalid(error)
        }
    }
}
#endif
