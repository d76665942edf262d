import Starling
import StarlingCore
import StarlingTesting
import Testing

/// What is asked of a connection while it is between two processes.
@Suite struct HandoffLateOrderTests {
    /// A client whose connection another process is offered, and its socket.
    private static func exported(
        _ configure: (inout EndpointConfiguration) -> Void = { _ in }
    ) throws -> (Client, WebSocket) {
        let (client, socket) = try Self.connected(configure)
        #expect(client.server.exportConnections().count == 1)
        return (client, socket)
    }

    private static func connected(
        _ configure: (inout EndpointConfiguration) -> Void = { _ in }
    ) throws -> (Client, WebSocket) {
        let sockets = Lock<WebSocket?>(nil)
        var configuration = EndpointConfiguration()
        configuration.deflate = nil
        configure(&configuration)
        let server = EmbeddedTransport {
            WebSocketRoute(
                "/",
                .resumable(configuration: configuration) { socket in
                    sockets.withLock { $0 = socket }
                    for try await _ in socket {}
                }
            )
        }
        let client = try Client(server)
        #expect(client.takeStatus() == 101)
        return (client, try #require(sockets.withLock { $0 }))
    }

    private static func message(_ byteCount: Int) -> Message {
        .binary([UInt8](repeating: 7, count: byteCount))
    }

    @Test("A sender on another thread is told that the connection has gone as soon as it has")
    func departed() async throws {
        let (client, socket) = try Self.exported()
        #expect(socket.trySend("goes along") == .sent)
        #expect(client.server.driver.takeLateOrders().count == 1)
        #expect(socket.trySend("too late") == .dropped)
        await #expect(throws: WebSocketError.self) { try await socket.send("too late") }
        // The other process fails, and the connection is back.
        client.server.failHandOff()
        #expect(socket.trySend("here again") == .sent)
        client.server.advance(by: .milliseconds(1))
        #expect(client.takeFrames() == ["goes along", "here again"].map { [0x81] + Array($0.utf8) })
    }

    @Test(
        "What is sent has the bounds of the outbound buffer",
        arguments: [SlowConsumerPolicy.disconnect, .skip]
    )
    func bounds(_ policy: SlowConsumerPolicy) throws {
        let (client, socket) = try Self.exported {
            $0.outbound.byteCountMax = 1000
            $0.outbound.highWatermark = 500
            $0.outbound.lowWatermark = 100
            $0.outbound.slowConsumerPolicy = policy
        }
        let results = client.server.driver.withCurrent {
            (1...3).map { _ in socket.trySend(Self.message(400)) }
        }
        #expect(results == [.sent, .buffered, .dropped])
        client.server.failHandOff()
        let frames = client.takeFrames()
        #expect(frames.prefix(2).map(\.count) == [401, 401])
        if policy == .disconnect {
            #expect(frames.last?.prefix(3) == [0x88, 3, 245])
        } else {
            #expect(frames.count == 2)
            #expect(client.server.driver.withCurrent { socket.trySend("low again") } == .sent)
        }
    }

    @Test("What there is no room for in the next process is not dropped in silence")
    func noRoom() throws {
        let (client, socket) = try Self.connected()
        let next = EmbeddedTransport {
            WebSocketRoute(
                "/",
                .resumable(configuration: Self.small) { socket in
                    for try await _ in socket {}
                }
            )
        }
        let numbers = client.server.handOff(to: next) {
            #expect(socket.trySend(Self.message(400)) == .sent)
        }
        let number = try #require(numbers[client.connection])
        let frame = Client(server: next, connection: number).takeFrames().first
        #expect(frame?.prefix(3) == [0x88, 3, 245])
    }

    private static var small: EndpointConfiguration {
        var configuration = EndpointConfiguration()
        configuration.deflate = nil
        configuration.outbound.byteCountMax = 300
        return configuration
    }

    @Test("A close is kept when nothing else is, and is the last")
    func close() async throws {
        let (client, socket) = try Self.exported { $0.outbound.byteCountMax = 64 << 20 }
        // Each takes 128 bytes beside its own.
        let byteCount = (16 << 20) - 128
        #expect(client.server.driver.withCurrent { socket.trySend(Self.message(byteCount)) } == .buffered)
        #expect(client.server.driver.withCurrent { socket.trySend("more") } == .dropped)
        await client.server.waiting { await socket.close(.goingAway, reason: "bye") }
        await client.server.waiting { await socket.close(.normalClosure, reason: "again") }
        #expect(client.server.driver.withCurrent { socket.trySend("behind it") } == .dropped)
        client.server.failHandOff()
        let output = client.server.takeOutput(of: client.connection)
        #expect(output.count == byteCount + 10 + 7)
        #expect(output.suffix(7) == [0x88, 5, 3, 233] + Array("bye".utf8))
    }

    @Test("What the registry sends to all, and closes, reaches connections between two processes")
    func registry() async throws {
        let (client, _) = try Self.exported()
        let registry = client.server.registry
        #expect(await client.server.waiting { await registry.sendToAll("to all") } == 1)
        #expect(await client.server.waiting { await registry.closeAll(.goingAway) } == 1)
        client.server.failHandOff()
        #expect(client.takeFrames() == [[0x81] + Array("to all".utf8), [0x88, 3, 233]])
    }
}
