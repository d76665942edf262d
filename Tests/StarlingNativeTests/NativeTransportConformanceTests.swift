#if os(Linux)
import Glibc
import Starling
import StarlingNative
import StarlingTesting
import TestSupport
import Testing

/// What every transport must do, of this one.
@Suite(.serialized) struct NativeTransportConformanceTests {
    @Test("Over TCP", .timeLimit(.minutes(10)))
    func tcp() async throws {
        try await self.check(tls: nil)
    }

    @Test("Over TLS", .timeLimit(.minutes(10)))
    func tls() async throws {
        try await self.check(tls: try TLSTestCertificates.server())
    }

    @Test("Over a Unix socket", .timeLimit(.minutes(10)))
    func unix() async throws {
        let path = "/tmp/starling-conformance-\(getpid()).sock"
        let conformance = TransportConformance(connector: NativeConnector()) { _ in
            .unix(path: path)
        } makeTransport: { onListening in
            NativeTransport(.unix(path: path), eventLoops: 2, onListening: onListening)
        }
        let checks = try await conformance.run()
        #expect(checks.count == 20)
    }

    private func check(tls: TLSContext?) async throws {
        var options = ConnectOptions()
        if tls != nil { options.tls = ConnectTLS(trustRootsFile: try TLSTestCertificates.path("root.pem")) }
        let conformance = TransportConformance(connector: NativeConnector(), options: options) { address in
            .tcp(host: "127.0.0.1", port: Int(address.split(separator: ":").last ?? "") ?? 0)
        } makeTransport: { onListening in
            NativeTransport(host: "127.0.0.1", port: 0, eventLoops: 2, tls: tls, onListening: onListening)
        }
        let checks = try await conformance.run()
        #expect(checks.count == 20)
    }
}
#endif
