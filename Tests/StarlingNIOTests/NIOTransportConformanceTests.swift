#if NIO
import Glibc
import NIOPosix
import NIOSSL
import Starling
import StarlingNIO
import StarlingTesting
import TestSupport
import Testing

/// What every transport must do, of this one, by the connector of the same kind.
@Suite(.serialized) struct NIOTransportConformanceTests {
    @Test("Over TCP", .timeLimit(.minutes(10)))
    func tcp() async throws {
        try await self.check(tls: nil)
    }

    @Test("Over TLS", .timeLimit(.minutes(10)))
    func tls() async throws {
        try await self.check(tls: try NIOTestTLS.server())
    }

    @Test("Over a Unix socket", .timeLimit(.minutes(10)))
    func unix() async throws {
        let path = "/tmp/starling-nio-conformance-\(getpid()).sock"
        let conformance = TransportConformance(connector: NIOConnector()) { _ in
            .unix(path: path)
        } makeTransport: { onListening in
            NIOTransport(.unix(path: path), onListening: onListening)
        }
        let checks = try await conformance.run()
        #expect(checks.count == 20)
    }

    private func check(tls: NIOSSLContext?) async throws {
        var options = ConnectOptions()
        if tls != nil { options.tls = ConnectTLS(trustRootsFile: try TLSTestCertificates.path("root.pem")) }
        let conformance = TransportConformance(connector: NIOConnector(), options: options) { address in
            .tcp(host: "127.0.0.1", port: Int(address.split(separator: ":").last ?? "") ?? 0)
        } makeTransport: { onListening in
            NIOTransport(host: "127.0.0.1", port: 0, tls: tls, onListening: onListening)
        }
        let checks = try await conformance.run()
        #expect(checks.count == 20)
    }
}

enum NIOTestTLS {
    /// A server with the certificate for localhost.
    static func server() throws -> NIOSSLContext {
        let configuration = TLSConfiguration.makeServerConfiguration(
            certificateChain: try NIOSSLCertificate.fromPEMFile(TLSTestCertificates.path("server.pem")).map {
                .certificate($0)
            },
            privateKey: .privateKey(
                try NIOSSLPrivateKey(file: TLSTestCertificates.path("server-key.pem"), format: .pem)
            )
        )
        return try NIOSSLContext(configuration: configuration)
    }
}
#endif
