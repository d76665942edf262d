#if NIO
internal import NIOCore
internal import NIOSSL
internal import NIOTLS
internal import Starling

/// A connection of a client, as bytes in both directions.
final class NIOStream: HalfClosableStream {
    private let channel: any Channel
    private let input: NIOStreamInput

    init(_ channel: any Channel, _ input: NIOStreamInput) {
        self.channel = channel
        self.input = input
    }

    deinit {
        self.close()
    }

    func startTLS(
        _ context: NIOSSLContext,
        serverName: String?,
        checksServerName: Bool
    ) async throws(TransportError) {
        // SNI knows names only; an address is compared with the one that the socket is connected to.
        let isAddress = serverName.map { (try? SocketAddress(ipAddress: $0, port: 0)) != nil } ?? false
        let name = isAddress ? nil : serverName
        let channel = self.channel
        let input = self.input
        let added = channel.eventLoop.submit {
            let handler = try NIOSSLClientHandler(context: context, serverHostname: name)
            input.beginHandshake(expectedName: checksServerName ? name : nil)
            try channel.pipeline.syncOperations.addHandler(handler, position: .first)
            channel.read()
        }
        do {
            try await added.get()
        } catch {
            throw self.close(TransportError("cannot connect to \(self.input.target): TLS: \(error)"))
        }
        try await self.waiting { await self.input.waitForHandshake() }
    }

    func read() async throws(TransportError) -> [UInt8]? {
        while true {
            switch self.input.take() {
            case .bytes(let bytes): return bytes
            case .end: return nil
            case .failed(let error): throw error
            case .nothing:
                try await self.waiting { await self.input.waitForBytes { self.channel.read() } }
            }
        }
    }

    func write(_ bytes: [UInt8]) async throws(TransportError) {
        guard !bytes.isEmpty else { return }
        if let failure = self.input.failure { throw failure }
        let written = self.channel.eventLoop.makePromise(of: Void.self)
        self.channel.writeAndFlush(ByteBuffer(bytes: bytes), promise: written)
        do {
            try await withTaskCancellationHandler {
                try await written.futureResult.get()
            } onCancel: {
                self.close(self.cancellation)
            }
        } catch {
            throw self.close(self.input.broken(NIOConnector.reason(error)))
        }
    }

    /// Waits for something that ends when the stream does.
    private func waiting(_ body: () async -> Void) async throws(TransportError) {
        await withTaskCancellationHandler {
            await body()
        } onCancel: {
            self.close(self.cancellation)
        }
        if Task.isCancelled { throw self.close(self.cancellation) }
        if let failure = self.input.failure { throw failure }
    }

    private var cancellation: TransportError {
        TransportError("the connection to \(self.input.target) was closed: its task was cancelled")
    }

    func endWriting() {
        self.channel.close(mode: .output, promise: nil)
    }

    func close() {
        self.close(TransportError("the connection to \(self.input.target) was closed"))
    }

    /// Ends the stream, unless it has ended; returns why it has.
    @discardableResult
    func close(_ reason: TransportError) -> TransportError {
        let failure = self.input.fail(reason)
        self.channel.close(promise: nil)
        return failure
    }
}

/// What has arrived on a stream, between its channel and its reader.
final class NIOStreamInput: Sendable {
    private struct State {
        var bytes: [UInt8] = []
        var hasEnded = false
        var failure: TransportError?
        var reader: CheckedContinuation<Void, Never>?
        var isHandshaking = false
        var expectedName: String?
        var handshaker: CheckedContinuation<Void, Never>?
    }

    enum Outcome {
        case bytes([UInt8])
        case end
        case failed(TransportError)
        case nothing
    }

    let target: ConnectTarget
    private let state = Lock(State())
    private static let readByteCountMax = 256 << 10

    init(_ target: ConnectTarget) {
        self.target = target
    }

    var failure: TransportError? {
        self.state.withLock(\.failure)
    }

    func broken(_ reason: String) -> TransportError {
        TransportError("the connection to \(self.target) broke: \(reason)")
    }

    // MARK: - For the reader

    func take() -> Outcome {
        self.state.withLock { state in
            // What has arrived counts first, and so does a proper end.
            if state.bytes.isEmpty {
                if let failure = state.failure { return .failed(failure) }
                return state.hasEnded ? .end : .nothing
            }
            // More may be there only where NIO has read up to the end of the stream.
            guard state.bytes.count > Self.readByteCountMax else {
                defer { state.bytes = [] }
                return .bytes(state.bytes)
            }
            defer { state.bytes.removeFirst(Self.readByteCountMax) }
            return .bytes(Array(state.bytes.prefix(Self.readByteCountMax)))
        }
    }

    func waitForBytes(_ ask: () -> Void) async {
        await withCheckedContinuation { continuation in
            let mustGoOn = self.state.withLock { state in
                if !state.bytes.isEmpty || state.hasEnded || state.failure != nil { return true }
                state.reader = continuation
                return false
            }
            if mustGoOn { continuation.resume() } else { ask() }
        }
    }

    func waitForHandshake() async {
        await withCheckedContinuation { continuation in
            let mustGoOn = self.state.withLock { state in
                if !state.isHandshaking || state.failure != nil { return true }
                state.handshaker = continuation
                return false
            }
            if mustGoOn { continuation.resume() }
        }
    }

    // MARK: - For the channel

    func beginHandshake(expectedName: String?) {
        self.state.withLock { state in
            state.isHandshaking = true
            state.expectedName = expectedName
        }
    }

    /// The handshake is done: checks whether the server is the one that was meant.
    func finishHandshake(_ certificate: NIOSSLCertificate?) {
        self.change { state in
            if let name = state.expectedName, certificate?.isFor(name) != true {
                state.failure = TransportError(
                    "cannot connect to \(self.target): TLS: the server's certificate is not for '\(name)'"
                )
            }
            state.isHandshaking = false
        }
    }

    func append(_ buffer: ByteBuffer) {
        self.state.withLock { $0.bytes.append(contentsOf: buffer.readableBytesView) }
    }

    /// A round of reading is over: whether another one is wanted.
    func readingPaused() -> Bool {
        let wantsMore = self.state.withLock {
            $0.isHandshaking || $0.reader != nil && $0.bytes.isEmpty && !$0.hasEnded
        }
        if !wantsMore { self.change { _ in } }
        return wantsMore
    }

    func end() {
        self.change { $0.hasEnded = true }
    }

    /// Notes why nothing goes any more; the first reason counts, and is returned.
    @discardableResult
    func fail(_ reason: TransportError) -> TransportError {
        self.change { state in
            if state.failure == nil { state.failure = reason }
        }
        return self.failure ?? reason
    }

    /// Fails unless the stream has ended properly.
    func lose(_ reason: String) {
        let error = self.state.withLock { state in
            state.isHandshaking
                ? TransportError("cannot connect to \(self.target): TLS: \(reason)") : self.broken(reason)
        }
        self.change { state in
            if state.failure == nil, !state.hasEnded { state.failure = error }
        }
    }

    /// Changes the state, and wakes whoever need not wait any more.
    private func change(_ body: (inout State) -> Void) {
        let (reader, handshaker) = self.state.withLock { state in
            body(&state)
            var woken: (CheckedContinuation<Void, Never>?, CheckedContinuation<Void, Never>?) = (nil, nil)
            if !state.bytes.isEmpty || state.hasEnded || state.failure != nil {
                swap(&woken.0, &state.reader)
            }
            if !state.isHandshaking || state.failure != nil { swap(&woken.1, &state.handshaker) }
            return woken
        }
        reader?.resume()
        handshaker?.resume()
    }
}

/// The last handler of a stream's channel; it does not keep the stream alive.
final class NIOStreamHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private let input: NIOStreamInput

    init(_ input: NIOStreamInput) {
        self.input = input
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        self.input.append(self.unwrapInboundIn(data))
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        if self.input.readingPaused() { context.read() }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case .handshakeCompleted? = event as? TLSUserEvent {
            let handler = try? context.pipeline.syncOperations.handler(type: NIOSSLClientHandler.self)
            self.input.finishHandshake(handler?.peerCertificate)
        }
        if case .inputClosed? = event as? ChannelEvent { self.input.end() }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        self.input.lose(NIOConnector.reason(error))
        context.close(promise: nil)
    }

    func channelInactive(context: ChannelHandlerContext) {
        // Anything but the end of both directions was an error before.
        self.input.end()
    }
}

extension NIOSSLCertificate {
    /// Whether a name is among the certificate's (RFC 6125 §6.4: a `*` may stand for the whole first label).
    ///
    /// Checked here as well, because NIOSSL also takes a certificate for the address that the name has led to: with a
    /// forged answer to the question for the name, that is anybody's.
    fileprivate func isFor(_ name: String) -> Bool {
        let name = name.lowercased().split(separator: ".")
        return self._subjectAlternativeNames().contains { entry in
            guard entry.nameType == .dnsName else { return false }
            let pattern = unsafe entry.contents.withUnsafeBufferPointer { bytes in
                unsafe String(decoding: bytes, as: UTF8.self)
            }.lowercased().split(separator: ".")
            guard pattern.count == name.count, pattern.dropFirst() == name.dropFirst() else { return false }
            return pattern.first == name.first || pattern.first == "*" && pattern.count > 2
        }
    }
}
#endif
