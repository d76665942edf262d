import Starling
import StarlingCore
import StarlingDeflate
import StarlingTesting
import Testing

/// Connections that another process has until it lets go of them.
@Suite struct HandoffTakeoverTests {
    /// Says something as soon as it has come.
    struct Greeter: HandoffConnectionHandler {
        mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {}

        mutating func takeOver(_ connection: inout Connection<Self>, from bytes: [UInt8]) throws {
            connection.send(String(repeating: "here ", count: 200))
        }
    }

    private static func server(
        _ memory: MemoryBudget = MemoryBudget(byteCountMax: 1 << 30),
        _ endpoint: WebSocketEndpoint? = nil
    ) -> EmbeddedTransport {
        var configuration = EndpointConfiguration()
        configuration.deflate?.preferences.serverNoContextTakeover = false
        configuration.timeouts.pingInterval = nil
        var server = ServerConfiguration()
        server.memory = memory
        return EmbeddedTransport(configuration: server) {
            WebSocketRoute(
                "/",
                endpoint ?? WebSocketEndpoint(configuration: configuration, handler: Greeter())
            )
        }
    }

    /// A connection that another server has made, and the old one still has.
    private static func restored(on next: EmbeddedTransport) throws -> Int {
        let old = Self.server()
        let client = try Client(old, fields: ["Sec-WebSocket-Extensions: permessage-deflate"])
        #expect(client.takeStatus() == 101)
        // The peer was waited for long ago.
        old.advance(by: .seconds(60))
        let number = try next.restore(try #require(old.exportConnections().first))
        next.adopt(number)
        return number
    }

    @Test("A deadline of one that has sent already is not served before it is")
    func deadlines() throws {
        let next = Self.server()
        let number = try Self.restored(on: next)
        next.advance(by: .seconds(1))
        #expect(!next.isClosed(number))
        next.beginServing(number)
        #expect(next.takeOutput(of: number).first == 0xC1)
        next.advance(by: .seconds(60))
        #expect(!next.isClosed(number))
    }

    @Test("While memory is scarce one that has sent already is not paused before the transport knows it")
    func scarceMemory() throws {
        let memory = MemoryBudget(byteCountMax: 1_000_000, scarceByteCount: 10)
        let next = Self.server(memory)
        let holder = try Client(next)
        next.receive(
            Array(Client.frame(.text, [UInt8](repeating: 65, count: 100)).dropLast()),
            on: holder.connection
        )
        #expect(memory.byteCount > 10)
        let number = try Self.restored(on: next)
        #expect(next.isReading(number))
        let before = memory.byteCount
        next.driver.abandonTakeover(of: [number])
        #expect(memory.byteCount == before)
    }

    @Test("What another process' body has not taken, and the begin of a request, are charged")
    func charged() throws {
        let memory = MemoryBudget(byteCountMax: 1_000_000)
        var configuration = EndpointConfiguration()
        configuration.inboundByteCountMax = 1000
        func server(_ memory: MemoryBudget) -> EmbeddedTransport {
            Self.server(
                memory,
                .resumable(configuration: configuration) { socket in
                    for try await _ in socket { try await Task.sleep(for: .seconds(60)) }
                }
            )
        }
        let old = server(MemoryBudget(byteCountMax: 1_000_000))
        let client = try Client(old)
        for _ in 0..<3 { client.send(.binary, [UInt8](repeating: 1, count: 900)) }
        #expect(!old.isReading(client.connection))
        let next = server(memory)
        let number = try #require(old.handOff(to: next)[client.connection])
        #expect(!next.isReading(number))
        #expect(memory.byteCount >= 1000)

        let head = try #require(old.connect())
        old.receive(Array(Client.request("/").prefix(40)), on: head)
        let before = memory.byteCount
        #expect(old.handOff(to: next)[head] != nil)
        #expect(memory.byteCount >= before + 40)
    }
}
