import StarlingCore
import StarlingTesting
import Testing

@testable import Starling

@Suite struct CatchUpMemoryTests {
    @Test("Of a history a peer that takes a little now and then keeps no page, and gets everything in order")
    func trickle() async throws {
        let room = Room { $0.outbound.highWatermark = 300 }
        let slow = try room.subscriber("/h=recover")
        room.server.limitOutput(of: slow.connection, to: 0)
        for number in 1...300 { try await room.publish(numbered(number), to: "h") }
        let found = room.server.driver.endpoints[0].topics.subscribers(of: "h")
        let entry = try #require(found)
        var (rest, texts): ([UInt8], [String]) = ([], [])
        var hasRead = false
        for _ in 0..<2000 where texts.count < 300 {
            room.server.limitOutput(of: slow.connection, to: 50)
            for _ in 0..<4 {
                room.settle()
                await room.server.waiting {}
            }
            texts += slow.takeTexts(rest: &rest)
            guard let cursor = entry.backlog?.cursors[UInt32(slow.connection)] else { continue }
            if cursor.isRecovering { hasRead = true }
            if case .page(let publications, _, _) = cursor.reading {
                try #require(publications.isEmpty, "it keeps \(publications.count) publications")
            }
        }
        #expect(hasRead)
        #expect(numbers(texts) == Array(1...300))
        #expect(room.memory.byteCount == 0)
    }

    @Test("A peer is not silent whose messages wait because they are not read")
    func idleWhilePaused() async throws {
        let gate = AsyncStream<Void>.makeStream()
        var configuration = EndpointConfiguration()
        configuration.timeouts.idleTimeout = .seconds(20)
        configuration.timeouts.pingInterval = nil
        configuration.inboundByteCountMax = 1000
        let endpoint = WebSocketEndpoint(configuration: configuration) { socket in
            for await _ in gate.stream { break }
            for try await _ in socket {}
        }
        let client = try Client(EmbeddedTransport { WebSocketRoute("/", endpoint) })
        #expect(client.takeStatus() == 101)
        client.send(.binary, [UInt8](repeating: 1, count: 2000))
        #expect(!client.server.isReading(client.connection))
        client.server.advance(by: .seconds(50))
        #expect(client.takeFrames().isEmpty)
        gate.continuation.yield()
        while !client.server.isReading(client.connection) { await client.server.waiting {} }
        client.server.advance(by: .seconds(41))
        #expect(client.takeFrames().first?.prefix(3) == [0x88, 3, 233])
    }
}
