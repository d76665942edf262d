import Foundation
import Starling
import StarlingNative
import StarlingRedis
import StarlingTesting
import Testing

@Suite struct RedisTLSTests {
    /// The certificates of `Tests/certificates.sh`, in a directory of their own.
    private static func makeCertificates() throws -> URL {
        let directory = FileManager.default.temporaryDirectory
            .appending(path: "starling-redis-tls-\(UInt32.random(in: 0 ... .max))")
        let script = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .appending(path: "certificates.sh")
        let process = Process()
        process.executableURL = URL(filePath: "/usr/bin/env")
        process.arguments = ["bash", script.path, directory.path]
        try process.run()
        process.waitUntilExit()
        guard process.terminationStatus == 0 else { throw RedisProcessError("certificates.sh failed") }
        return directory
    }

    @Test("Over TLS it does the same; who is not trusted, or has another name, is not spoken to")
    func tls() async throws {
        let certificates = try Self.makeCertificates()
        defer { try? FileManager.default.removeItem(at: certificates) }
        @Sendable func file(_ name: String) -> String { certificates.appending(path: name).path }
        let port = try RedisProcess.freePort()
        let redis = try await RedisProcess([
            "--tls-port", "\(port)", "--tls-cert-file", file("server.pem"),
            "--tls-key-file", file("server-key.pem"), "--tls-ca-cert-file", file("root.pem"),
            "--tls-auth-clients", "yes",
        ])
        let good = ConnectTLS(
            trustRootsFile: file("root.pem"),
            certificateFile: file("client.pem"),
            privateKeyFile: file("client-key.pem")
        )
        @Sendable func broadcaster(
            _ tls: ConnectTLS,
            waitTimeout: Duration = .seconds(10)
        ) throws -> RedisBroadcaster {
            try makeBroadcaster(redis) { configuration in
                configuration.waitTimeout = waitTimeout
                configuration.servers = [RedisServer(.tcp(host: "127.0.0.1", port: port), tls: tls)]
            }
        }
        try await BroadcasterConformance { try broadcaster(good) }.run()

        var stranger = good
        stranger.trustRootsFile = file("stranger-root.pem")
        var otherName = good
        otherName.serverName = "elsewhere.example"
        for (tls, word) in [(stranger, "certificate"), (otherName, "certificate")] {
            try await withNodes([broadcaster(tls, waitTimeout: .seconds(1))]) { nodes in
                let error = await #expect(throws: BroadcastError.self) {
                    try await nodes[0].broadcaster.publish("x", to: "plain")
                }
                #expect(error?.message.contains(word) == true, "\(String(describing: error))")
            }
        }
    }
}
