import Starling
import StarlingCore
import StarlingTesting
import Testing

/// What a task asks of a connection from another thread than its loop's: the tests', which is in no tick.
@Suite struct SendFromElsewhereTests {
    @Test("A message that can never fit is refused, and those that fit go out")
    func tooBig() async throws {
        let (client, socket) = try self.connect { $0.outbound.byteCountMax = 1000 }
        let tooBig = Message.binary([UInt8](repeating: 1, count: 1001))
        #expect(
            await self.failure { () throws(WebSocketError) in try await socket.send(tooBig) }
                == .messageTooBig
        )
        #expect(socket.trySend(tooBig) == .dropped)
        let fits = Message.binary([UInt8](repeating: 2, count: 1000))
        try await socket.send(fits)
        #expect(client.takeMessages() == [fits.byteArray])
        #expect(socket.trySend(fits) == .sent)
        #expect(client.takeMessages() == [fits.byteArray])
    }

    @Test(
        "A message that was accepted, and for which others have left no room, ends the connection with 1013",
        arguments: [SlowConsumerPolicy.disconnect, .skip]
    )
    func overrun(_ policy: SlowConsumerPolicy) async throws {
        let (client, socket) = try self.connect { $0.outbound.slowConsumerPolicy = policy }
        client.server.limitOutput(of: client.connection, to: 0)
        #expect(socket.trySend(.binary([UInt8](repeating: 1, count: 250_000))) == .sent)
        #expect(socket.trySend(.binary([UInt8](repeating: 2, count: 900_000))) == .sent)
        #expect(socket.trySend("no more on its way") == .dropped)
        client.server.advance(by: .milliseconds(1))
        client.server.limitOutput(of: client.connection, to: nil)
        client.server.advance(by: .milliseconds(1))
        #expect(client.takeTexts() == [closedWith1013])
        client.send(.close, [3, 245])
        #expect(socket.closure?.cause == .slowConsumer)
        #expect(await self.failure { () throws(WebSocketError) in try await socket.send("late") } == .closed)
    }

    @Test("Below the high watermark the longest message is taken, whatever waits")
    func longest() async throws {
        let (client, socket) = try self.connect { $0.outbound.byteCountMax = 100_000 }
        client.server.limitOutput(of: client.connection, to: 0)
        try await socket.send(.binary([UInt8](repeating: 1, count: 10_000)))
        client.server.advance(by: .milliseconds(1))
        try await socket.send(.binary([UInt8](repeating: 2, count: 100_000)))
        client.server.advance(by: .milliseconds(1))
        // Now it would have to wait.
        #expect(socket.trySend("more") == .dropped)
        client.server.limitOutput(of: client.connection, to: nil)
        client.server.advance(by: .milliseconds(1))
        #expect(client.server.takeOutput(of: client.connection).count == 10_004 + 100_010)
    }

    @Test(
        "A ping whose task is cancelled waits no longer, and the pong that comes later harms nothing",
        .timeLimit(.minutes(1))
    )
    func cancelledPing() async throws {
        let (client, socket) = try self.connect { _ in }
        let ping = Task { await self.failure { () throws(WebSocketError) in _ = try await socket.ping() } }
        var frames: [[UInt8]] = []
        while frames.isEmpty {
            await Task.yield()
            client.server.advance(by: .milliseconds(1))
            frames = client.takeFrames()
        }
        #expect(frames.first?.first == 0x89)
        ping.cancel()
        #expect(await client.server.waiting { await ping.value } == .cancelled)
        client.send(.pong, Array(frames[0].dropFirst()))
        try await socket.send("goes on")
        #expect(client.takeMessages() == [Array("goes on".utf8)])
        let early = Task {
            // Cancelled before it asks.
            unsafe withUnsafeCurrentTask { unsafe $0?.cancel() }
            return await self.failure { () throws(WebSocketError) in _ = try await socket.ping() }
        }
        #expect(await client.server.waiting { await early.value } == .cancelled)
        #expect(client.takeFrames().isEmpty)
    }

    @Test(
        "Senders that wait together all send, though the first fills the buffer again",
        .timeLimit(.minutes(1))
    )
    func together() async throws {
        let (client, socket) = try self.connect { _ in }
        client.server.limitOutput(of: client.connection, to: 0)
        let big = Message.binary([UInt8](repeating: 1, count: 70_000))
        try await socket.send(big)
        client.server.advance(by: .milliseconds(1))
        let senders = (0..<3).map { _ in
            Task { await self.failure { () throws(WebSocketError) in try await socket.send(big) } }
        }
        // Each time only one more message goes out: whoever is first fills the buffer for the others.
        var byteCount = 0
        for _ in 0..<400 where byteCount < 4 * 70_010 {
            client.server.limitOutput(of: client.connection, to: 70_010)
            for _ in 0..<10 {
                await Task.yield()
                client.server.advance(by: .milliseconds(1))
            }
            byteCount += client.server.takeOutput(of: client.connection).count
            client.server.limitOutput(of: client.connection, to: 0)
        }
        for sender in senders { #expect(await client.server.waiting { await sender.value } == nil) }
        #expect(byteCount == 4 * 70_010)
    }

    // MARK: - The connection

    private func connect(
        _ configure: (inout EndpointConfiguration) -> Void
    ) throws -> (Client, WebSocket) {
        var configuration = EndpointConfiguration()
        configuration.deflate = nil
        configuration.timeouts.pingInterval = nil
        configure(&configuration)
        let sockets = Lock<WebSocket?>(nil)
        let endpoint = WebSocketEndpoint(configuration: configuration) { socket in
            sockets.withLock { $0 = socket }
            for try await _ in socket {}
        }
        let client = try Client(EmbeddedTransport { WebSocketRoute("/", endpoint) })
        #expect(client.takeStatus() == 101)
        return (client, try #require(sockets.withLock { $0 }))
    }

    private func failure(
        _ work: @Sendable () async throws(WebSocketError) -> Void
    ) async -> WebSocketError.Code? {
        do throws(WebSocketError) {
            try await work()
            return nil
        } catch {
            return error.code
        }
    }
}

extension Client {
    /// The payloads of the messages that have come, once the loop has had a tick.
    fileprivate func takeMessages() -> [[UInt8]] {
        self.server.advance(by: .milliseconds(1))
        return self.takeFrames().map { Array($0.dropFirst()) }
    }
}
