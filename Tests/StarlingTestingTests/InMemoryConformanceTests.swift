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
}
