import Starling
import StarlingCore
import StarlingTesting
import TestSupport
import Testing

/// Bodies that are told to return for a hand-off, and return late, or whose connection ends meanwhile.
@Suite struct HandoffBodyTests {
    private let gate = Latch()
    private let seen = Lock<[String]>([])

    /// A client that has sent three messages to a body that waits with the first, whatever it is told.
    private func lateBody() throws -> Client {
        let (gate, seen) = (self.gate, self.seen)
        var configuration = ServerConfiguration()
        configuration.drainSpread = .zero
        let server = EmbeddedTransport(configuration: configuration) {
            WebSocketRoute(
                "/",
                .resumable { socket in
                    for try await message in socket {
                        let text = message.text ?? ""
                        seen.withLock { $0.append(text) }
                        if text == "a" { await gate.pass() }
                        socket.trySend(message)
                    }
                }
            )
        }
        let client = try Client(server)
        #expect(client.takeStatus() == 101)
        for text in ["a", "b", "c"] { client.send(.text, Array(text.utf8)) }
        return client
    }

    private func openGate(_ client: Client) {
        self.gate.open()
        client.server.advance(by: .milliseconds(1))
    }

    @Test("What a late body has not taken comes before what arrives later, and to one body after the other")
    func order() throws {
        let client = try self.lateBody()
        #expect(client.server.exportConnections().isEmpty)
        client.server.failHandOff()
        client.send(.text, Array("d".utf8))
        #expect(self.seen.withLock { $0 } == ["a"])
        self.openGate(client)
        #expect(self.seen.withLock { $0 } == ["a", "b", "c", "d"])
        #expect(client.takeFrames() == ["a", "b", "c", "d"].map { [0x81] + Array($0.utf8) })
    }

    @Test(
        "What a late body has not taken is not lost if the connection is drained meanwhile",
        arguments: [true, false]
    )
    func drain(returnsFirst: Bool) throws {
        let client = try self.lateBody()
        client.server.failHandOff()
        client.server.beginShutdown()
        #expect(client.takeFrames().last?.prefix(3) == [0x88, 3, 233])
        if returnsFirst { self.openGate(client) }
        client.send(.close, [3, 233])
        self.openGate(client)
        #expect(self.seen.withLock { $0 } == ["a", "b", "c"])
        client.server.endInput(of: client.connection)
        #expect(client.server.isFinished)
    }

    /// A client of a body that writes down when it begins and ends, which is told to return, and has.
    private func atRest(_ sockets: Lock<[WebSocket]> = Lock([])) throws -> Client {
        let seen = self.seen
        let server = EmbeddedTransport {
            WebSocketRoute(
                "/",
                .resumable { socket in
                    sockets.withLock { $0.append(socket) }
                    seen.withLock { $0.append(socket.isResumed ? "resumed" : "begun") }
                    defer { seen.withLock { $0.append("ended") } }
                    for try await _ in socket {}
                }
            )
        }
        let client = try Client(server)
        #expect(client.takeStatus() == 101)
        server.driver.beginHandoff()
        while !server.driver.isAtRest { server.advance(by: .milliseconds(1)) }
        #expect(self.seen.withLock { $0 } == ["begun", "ended"])
        return client
    }

    @Test("The end of a connection whose body is at rest is told to the next body")
    func end() throws {
        let client = try self.atRest()
        client.server.endInput(of: client.connection)
        client.server.failHandOff()
        #expect(self.seen.withLock { $0 } == ["begun", "ended", "resumed", "ended"])
        client.server.beginShutdown()
        #expect(client.server.isFinished)
    }

    @Test("What a body has left in its inbox is the next one's, if the connection ends while it returns")
    func endOnTheWayOut() throws {
        let (gate, seen) = (self.gate, self.seen)
        let server = EmbeddedTransport {
            WebSocketRoute(
                "/",
                .resumable { socket in
                    seen.withLock { $0.append(socket.isResumed ? "resumed" : "begun") }
                    for try await message in socket { seen.withLock { $0.append(message.text ?? "") } }
                    if !socket.isResumed { await gate.pass() }
                    let leavesTheRest = socket.mustReturn
                    seen.withLock { $0.append(leavesTheRest ? "returned" : "ended") }
                }
            )
        }
        let client = try Client(server)
        #expect(client.takeStatus() == 101)
        server.driver.beginHandoff()
        // Asked for more than once, as a transport does.
        for _ in 0..<3 {
            #expect(!server.driver.isAtRest)
            server.advance(by: .milliseconds(1))
        }
        client.send(.text, Array("late".utf8))
        client.send(.close, [3, 232])
        server.endInput(of: client.connection)
        #expect(seen.withLock { $0 } == ["begun"])
        self.openGate(client)
        #expect(seen.withLock { $0 } == ["begun", "returned", "resumed", "late", "ended"])
        server.failHandOff()
        server.beginShutdown()
        #expect(server.isFinished)
    }

    @Test("The body of a connection that is closed while it is between two processes goes on if it stays")
    func close() async throws {
        let sockets = Lock<[WebSocket]>([])
        let client = try self.atRest(sockets)
        #expect(client.server.exportConnections().count == 1)
        let socket = try #require(sockets.withLock { $0 }.first)
        await client.server.waiting { await socket.close(.goingAway) }
        client.server.failHandOff()
        #expect(self.seen.withLock { $0 } == ["begun", "ended", "resumed"])
        #expect(client.takeFrames() == [[0x88, 3, 233]])
        client.send(.close, [3, 233])
        #expect(self.seen.withLock { $0 } == ["begun", "ended", "resumed", "ended"])
    }
}
