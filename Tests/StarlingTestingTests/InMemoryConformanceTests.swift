import Starling
import StarlingTesting
import Testing

@Suite struct InMemoryConformanceTests {
    @Test("The in-memory transport does what every transport must", arguments: [1, 3])
    func conformance(eventLoops: Int) async throws {
        let network = InMemoryNetwork()
        let names = try await TransportConformance(connector: network.connector) {
            .tcp(host: $0, port: 80)
        } makeTransport: { onListening in
            network.transport(at: "server", eventLoops: eventLoops, onListening: onListening)
        }.run()
        #expect(names.count == 20, "\(names)")
    }

    @Test("The one check that needs half-closable streams is skipped with others, and no other check is")
    func skips() async throws {
        let network = InMemoryNetwork()
        let names = try await TransportConformance(connector: WholeConnector(base: network.connector)) {
            .tcp(host: $0, port: 80)
        } makeTransport: { onListening in
            network.transport(at: "server", onListening: onListening)
        }.run()
        #expect(names.count == 19, "\(names)")
        #expect(!names.contains("a peer that ends its direction is gone for the handler"))
    }
}

/// A connector of somebody's own, whose streams end both directions together.
private struct WholeConnector: Connector {
    let base: any Connector

    func connect(to target: ConnectTarget, options: ConnectOptions) async throws(TransportError)
        -> any ByteStream
    {
        WholeStream(try await self.base.connect(to: target, options: options))
    }
}

private final class WholeStream: ByteStream {
    private let base: any ByteStream

    init(_ base: any ByteStream) {
        self.base = base
    }

    func read() async throws(TransportError) -> [UInt8]? { try await self.base.read() }
    func write(_ bytes: [UInt8]) async throws(TransportError) { try await self.base.write(bytes) }
    func close() { self.base.close() }
}
