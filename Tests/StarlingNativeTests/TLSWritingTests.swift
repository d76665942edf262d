#if os(Linux)
import Dispatch
import Glibc
import Starling
import StarlingCore
import StarlingNative
import TestSupport
import Testing

/// What becomes of records that a socket does not take at once.
@Suite(.serialized) struct TLSWritingTests {
    @Test(
        "A peer that reads late gets every byte in its order, and then the end, also if it has closed already",
        .timeLimit(.minutes(1)),
        arguments: [false, true]
    )
    func late(closesAtOnce: Bool) async throws {
        let seen = try await self.flood(count: 300, byteCountMax: 32 << 20, closesAtOnce: closesAtOnce)
        #expect(seen.sent == 300)
        #expect(seen.received == 300)
        #expect(seen.closeCode == .normalClosure)
        #expect(seen.end == .closed)
    }

    @Test(
        "A peer that is given up for its slowness gets what was on its way, and is told why",
        .timeLimit(.minutes(1))
    )
    func givenUp() async throws {
        let seen = try await self.flood(count: 10_000, byteCountMax: 256 << 10)
        #expect(seen.received > 0)
        #expect(seen.received < seen.sent)
        #expect(seen.closeCode == .tryAgainLater)
        #expect(seen.end == .closed)
    }

    @Test("Peers that are written to together, and stop to read, get every byte too", .timeLimit(.minutes(1)))
    func together() async throws {
        let (opened, opening) = AsyncStream.makeStream(of: Void.self)
        let (server, task, port) = try await self.serve(Silent(asked: opening))
        let mayRead = DispatchGroup()
        mayRead.enter()
        let peers = (0..<8).map { _ in
            Task {
                try await blocking {
                    try Self.runPeer(port, closesAtOnce: false, payload: Self.shortPayload) {
                        _ = mayRead.wait(timeout: .now() + 30)
                    }
                }
            }
        }
        var asked = opened.makeAsyncIterator()
        for _ in peers { await asked.next() }
        // Each goes to all of them in one batch, until nothing more fits for one.
        var sent = 0
        while await server.registry.sendToAll(.binary(Self.shortPayload(sent))) == peers.count { sent += 1 }
        mayRead.leave()
        await server.registry.closeAll(.normalClosure)
        for peer in peers {
            let (received, closeCode, end) = try await peer.value
            // Of those whose buffer was full the rest is given up.
            #expect(closeCode == .normalClosure ? received >= sent : received <= sent)
            #expect(closeCode == .normalClosure || closeCode == .tryAgainLater)
            #expect(end == .closed)
        }
        #expect(sent > 1000)
        server.beginShutdown()
        try await task.value
    }

    /// Together they want more records than are sent at once.
    @Test("Peers that want short records get whole messages, written to together", .timeLimit(.minutes(1)))
    func shortRecords() async throws {
        let (server, task, port) = try await self.serve(Silent(asked: AsyncStream.makeStream().continuation))
        let clients = try (0..<90).map { _ in
            try TLSTestProcess(
                "openssl",
                [
                    "s_client", "-connect", "127.0.0.1:\(port)", "-maxfraglen", "512", "-quiet",
                    "-nocommands",
                    "-CAfile", try TLSTestCertificates.path("root.pem"),
                ]
            )
        }
        for client in clients { try client.say(Self.request) }
        try await eventually("all are upgraded") { server.registry.count == clients.count }
        let text = String(repeating: "x", count: 4000) + "the end"
        #expect(await server.registry.sendToAll(.text(text)) == clients.count)
        for client in clients { #expect(try client.hear("the end").contains(text)) }
        server.beginShutdown()
        try await task.value
    }

    @Test("An answer goes out also if the end of the stream came with the request", .timeLimit(.minutes(1)))
    func endBehindRequest() async throws {
        let (server, task, port) = try await self.serve(Silent(asked: AsyncStream.makeStream().continuation))
        for _ in 0..<30 {
            let answer = try await blocking {
                let socket = try TLSTestListener.connect(port: port)
                let client = try TLSTestEndpoint(
                    TLSTestCertificates.client(),
                    socket,
                    serverName: "localhost"
                )
                guard try client.handshake() == .done else { throw TLSTestFailure("no handshake") }
                _ = client.write("GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n".utf8)
                _ = client.session.shutdown()
                return try client.receive().text
            }
            #expect(answer.hasPrefix("HTTP/1.1 404"))
        }
        server.beginShutdown()
        try await task.value
    }

    // MARK: - The server

    private static let request = """
        GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n
        """

    private struct Silent: ConnectionHandler {
        let asked: AsyncStream<Void>.Continuation

        mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {
            self.asked.yield()
        }
    }

    private static func shortPayload(_ number: Int) -> [UInt8] {
        let start = number % 256
        return Array(self.countingBytes[start..<start + 500 + number % 500])
    }

    private static let countingBytes = (0..<1500).map { UInt8(truncatingIfNeeded: $0) }

    /// Sends messages of many sizes as an answer to one, until one is dropped, and then closes.
    private struct Flood: ConnectionHandler {
        let count: Int
        let sent: AsyncStream<Int>.Continuation

        mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {
            var number = 0
            while number < self.count {
                let payload = TLSWritingTests.payload(number)
                if unsafe connection.send(.binary, payload.span.bytes) == .dropped { break }
                number += 1
            }
            if number == self.count { connection.close(.normalClosure) }
            self.sent.yield(number)
        }
    }

    private static func payload(_ number: Int) -> [UInt8] {
        let byteCount = [20, 5_000, 16_380, 40_000, 100, 70_000][number % 6] + number % 7
        return (0..<byteCount).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ number) }
    }

    private func serve<Handler: ConnectionHandler>(
        _ handler: Handler,
        byteCountMax: Int = 1 << 20,
        _ memory: MemoryBudget = .process
    ) async throws -> (WebSocketServer<NativeTransport>, Task<Void, any Error>, port: UInt16)
    where Handler.UserData == Void {
        let (addresses, listening) = AsyncStream.makeStream(of: String.self)
        var configuration = ServerConfiguration()
        configuration.memory = memory
        // Some peers never answer a close frame.
        configuration.drainTimeout = .seconds(2)
        var endpoint = EndpointConfiguration()
        endpoint.outbound.byteCountMax = byteCountMax
        // A window that is always full makes TCP slow.
        endpoint.timeouts.closeTimeout = .seconds(50)
        let transport = NativeTransport(
            host: "127.0.0.1",
            port: 0,
            eventLoops: 1,
            tls: try TLSTestCertificates.server()
        ) { listening.yield($0) }
        let server = WebSocketServer(transport: transport, configuration: configuration) {
            WebSocketRoute("/", WebSocketEndpoint(configuration: endpoint, handler: handler))
        }
        let task = Task { try await server.run() }
        var iterator = addresses.makeAsyncIterator()
        let port = try #require(await iterator.next()?.split(separator: ":").last.flatMap { UInt16($0) })
        return (server, task, port)
    }

    // MARK: - The peer

    private struct Seen: Sendable {
        var sent = 0
        var received = 0
        var closeCode: CloseCode?
        var end: TLSReadResult?
    }

    private func flood(count: Int, byteCountMax: Int, closesAtOnce: Bool = false) async throws -> Seen {
        let (sent, sending) = AsyncStream.makeStream(of: Int.self)
        let memory = MemoryBudget(byteCountMax: 64 << 20)
        let flood = Flood(count: count, sent: sending)
        let (server, task, port) = try await self.serve(flood, byteCountMax: byteCountMax, memory)

        let (asked, asking) = AsyncStream.makeStream(of: Void.self)
        let peer = Task {
            try await blocking {
                try Self.runPeer(port, closesAtOnce: closesAtOnce) { asking.yield() }
            }
        }
        for await _ in asked { break }
        var seen = Seen()
        for await number in sent {
            seen.sent = number
            break
        }
        let (received, closeCode, end) = try await peer.value
        (seen.received, seen.closeCode, seen.end) = (received, closeCode, end)
        try await eventually("the connection is gone") { server.registry.count == 0 }
        try await eventually("nothing is held for it") { memory.byteCount == 0 }
        server.beginShutdown()
        try await task.value
        return seen
    }

    /// Asks, lets the server write against a small window for a while, and reads everything.
    private static func runPeer(
        _ port: UInt16,
        closesAtOnce: Bool,
        payload: (Int) -> [UInt8] = Self.payload,
        isAsked: () -> Void
    ) throws -> (received: Int, CloseCode?, TLSReadResult) {
        let socket = try TLSTestListener.connect(port: port)
        var window: Int32 = 64 << 10
        // An integer is passed with its size.
        unsafe setsockopt(
            socket.descriptor,
            SOL_SOCKET,
            SO_RCVBUF,
            &window,
            socklen_t(MemoryLayout<Int32>.size)
        )
        let client = try TLSTestEndpoint(TLSTestCertificates.client(), socket, serverName: "localhost")
        guard try client.handshake() == .done else { throw TLSTestFailure("no handshake") }
        var output = Array(Self.request.utf8)
        let key = MaskingKey(rawValue: 0x0102_0304)
        unsafe FrameCodec.encode(.text, Array("go".utf8).span.bytes, maskingKey: key, into: &output)
        var close: [UInt8] = []
        FrameCodec.encode(.close, RawSpan(), maskingKey: key, into: &close)
        if closesAtOnce { output += close }
        guard client.write(output) == .bytes(output.count) else { throw TLSTestFailure("cannot ask") }
        isAsked()

        var codec = FrameCodec(role: .client)
        var input: [UInt8] = []
        var isUpgraded = false
        var received = 0
        var closeCode: CloseCode?
        while true {
            let (result, bytes) = client.read(atMost: 3_000)
            switch result {
            case .wantsRead: try socket.wait(for: POLLIN)
            case .wantsWrite: try socket.wait(for: POLLOUT)
            case .closed, .eof, .failed: return (received, closeCode, result)
            case .bytes:
                input += bytes
                if !isUpgraded {
                    guard let end = input.firstRange(of: Array("\r\n\r\n".utf8)) else { continue }
                    input.removeFirst(end.upperBound)
                    isUpgraded = true
                }
                var span = input.mutableSpan
                var frames = unsafe span.mutableBytes
                decoding: while true {
                    switch try codec.next(in: &frames) {
                    case .message(let message):
                        let bytes = unsafe message.bytes.withUnsafeBytes { unsafe Array($0) }
                        guard closeCode == nil, bytes == payload(received) else {
                            throw TLSTestFailure("message \(received) is not what was sent")
                        }
                        received += 1
                    case .close(let code, _):
                        closeCode = code
                        if !closesAtOnce { _ = client.write(close) }
                    case .ping: continue
                    case .pong: continue
                    case .needsMoreBytes: break decoding
                    }
                }
                input = []
            }
        }
    }
}
#endif
