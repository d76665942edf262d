import Starling
import StarlingCore
import StarlingTesting
import Testing

/// A publication that is longer than a socket's buffer.
@Suite struct BigPublicationTests {
    private static let publication = Self.publication(300_000)

    private static func publication(_ byteCount: Int) -> Message {
        .text(String(repeating: "x", count: byteCount))
    }

    @Test("However many have yet to write it, it is charged once", arguments: [100_000, 300_000])
    func once(byteCount: Int) async throws {
        let memory = MemoryBudget(byteCountMax: 1_000_000, scarceByteCount: 1_000_000)
        let room = Room(memory: memory)
        let clients = try (0..<50).map { _ in try room.subscriber("/t") }
        for client in clients { room.server.limitOutput(of: client.connection, to: byteCount / 4) }
        try await room.broadcaster.publish(Self.publication(byteCount), to: "t")
        room.settle()
        #expect(memory.byteCount > byteCount && memory.byteCount < byteCount + 100)
        for client in clients.dropLast() { room.server.limitOutput(of: client.connection, to: nil) }
        room.settle()
        #expect(memory.byteCount > byteCount)
        // Little is left of it for the last one.
        room.server.limitOutput(of: clients[49].connection, to: byteCount * 3 / 5)
        room.settle()
        room.server.limitOutput(of: clients[49].connection, to: nil)
        room.settle()
        #expect(memory.byteCount == 0)
        for client in clients {
            #expect(room.server.takeOutput(of: client.connection).count == byteCount + 10)
        }
    }

    @Test("Those who hold most of such publications are shed, and told so behind what they have begun")
    func shed() async throws {
        let memory = MemoryBudget(byteCountMax: 1_000_000, scarceByteCount: 1_000_000)
        let room = Room(memory: memory)
        let many = try (0..<20).map { _ in try room.subscriber("/t") }
        for client in many { room.server.limitOutput(of: client.connection, to: 80_000) }
        try await room.broadcaster.publish(Self.publication, to: "t")
        room.settle()
        // Each has one of its own.
        let alone = try (0..<3).map { try room.subscriber("/t\($0)") }
        for (number, client) in alone.enumerated() {
            room.server.limitOutput(of: client.connection, to: 80_000)
            try await room.broadcaster.publish(Self.publication, to: Topic("t\(number)"))
            room.settle()
        }
        // What they have begun comes first.
        for client in many + alone { room.server.limitOutput(of: client.connection, to: nil) }
        room.settle()
        let told = (many + alone).map { client in
            let output = room.server.takeOutput(of: client.connection)
            #expect(output.prefix(10).elementsEqual([0x81, 127, 0, 0, 0, 0, 0, 4, 0x93, 0xE0]))
            return output.dropFirst(300_010).prefix(1) == [0x88]
        }
        #expect(told.suffix(alone.count).filter { $0 }.count >= 1)
        #expect(memory.byteCount == 0)
    }
}
