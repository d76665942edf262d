import Starling
import StarlingCore
import StarlingTesting
import Testing

@Suite struct MemoryBudgetTests {
    private static func server(heldBytesMax: Int, _ endpoint: WebSocketEndpoint) -> EmbeddedTransport {
        var configuration = ServerConfiguration()
        configuration.heldBytesMax = heldBytesMax
        return EmbeddedTransport(configuration: configuration) { WebSocketRoute("/", endpoint) }
    }

    private static func open(_ server: EmbeddedTransport) throws -> Client {
        let client = try Client(server)
        #expect(client.takeStatus() == 101)
        return client
    }

    private static let closeTryAgainLater: [UInt8] = [0x88, 0x03, 0xF5]

    @Test("Who comes to hold too much of a message is told to come back; the others go on")
    func unfinishedMessages() throws {
        let server = Self.server(heldBytesMax: 100_000, WebSocketEndpoint(handler: EchoHandler()))
        let message = Client.frame(.binary, [UInt8](repeating: 7, count: 60_000))
        let first = try Self.open(server)
        let second = try Self.open(server)
        let third = try Self.open(server)
        server.receive(Array(message.dropLast()), on: first.connection)
        #expect(first.takeFrames().isEmpty)
        server.receive(Array(message.dropLast()), on: second.connection)
        #expect(second.takeFrames().map { $0.prefix(3) } == [Self.closeTryAgainLater[...]])
        third.send(.text, Array("still here".utf8))
        #expect(third.takeFrames().count == 1)
        server.receive([message[message.count - 1]], on: first.connection)
        #expect(server.takeOutput(of: first.connection).count == 60_004)
        // What the first held is free again.
        server.receive(Array(message.dropLast()), on: third.connection)
        #expect(third.takeFrames().isEmpty)
    }

    @Test("Peers that read nothing are shed, and an upgrade is refused while there is no room")
    func waitingOutput() throws {
        let server = Self.server(heldBytesMax: 10_000, WebSocketEndpoint(handler: RoomHandler()))
        let slow = try Self.open(server)
        let fast = try Self.open(server)
        server.limitOutput(of: slow.connection, to: 1000)
        for _ in 0..<20 { fast.send(.binary, [UInt8](repeating: 7, count: 1000)) }
        #expect(fast.takeFrames().count == 20)
        server.limitOutput(of: slow.connection, to: nil)
        #expect(slow.takeFrames().last?.prefix(3) == Self.closeTryAgainLater[...])

        // A frame that has begun must go out: its rest is kept, and there is no room until it does.
        let begun = try Self.open(server)
        server.limitOutput(of: begun.connection, to: 10)
        fast.send(.binary, [UInt8](repeating: 7, count: 12_000))
        let late = try Client(server)
        #expect(late.takeStatus() == 503)
        #expect(fast.takeFrames().count == 1)
        server.limitOutput(of: begun.connection, to: nil)
        #expect(begun.takeFrames().last?.prefix(3) == Self.closeTryAgainLater[...])
        _ = try Self.open(server)
    }

    @Test("A connection that is cut gives back what it held")
    func cut() throws {
        let server = Self.server(heldBytesMax: 100_000, WebSocketEndpoint(handler: EchoHandler()))
        let message = Client.frame(.binary, [UInt8](repeating: 7, count: 60_000))
        for _ in 0..<10 {
            let client = try Self.open(server)
            server.receive(Array(message.dropLast()), on: client.connection)
            #expect(client.takeFrames().isEmpty)
            server.endInput(of: client.connection)
            #expect(server.isClosed(client.connection))
        }
    }
}
