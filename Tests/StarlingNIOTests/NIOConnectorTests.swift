#if NIO
import Glibc
import HTTPTypes
import NIOSSL
import Starling
import StarlingCore
import StarlingNIO
import TestSupport
import Testing

@Suite(.serialized) struct NIOConnectorTests {
    @Test("What every connector must do", arguments: ConnectorCheck.all)
    func check(_ check: ConnectorCheck) async throws {
        try await check.run(NIOConnector())
    }

    // MARK: - With our own server at the other end

    @Test("Over TLS the root, the name and the address are checked, and a client may show a certificate")
    func tls() async throws {
        let root = try TLSTestCertificates.path("root.pem")
        var configuration = TLSConfiguration.makeServerConfiguration(
            certificateChain: try NIOSSLCertificate.fromPEMFile(TLSTestCertificates.path("server.pem")).map {
                .certificate($0)
            },
            privateKey: .privateKey(
                try NIOSSLPrivateKey(file: TLSTestCertificates.path("server-key.pem"), format: .pem)
            )
        )
        configuration.trustRoots = .certificates(try NIOSSLCertificate.fromPEMFile(root))
        configuration.certificateVerification = .noHostnameVerification
        try await NIOTestServer.run(tls: try NIOSSLContext(configuration: configuration)) { port in
            func attempt(_ host: String, _ change: (inout ConnectTLS) -> Void) async throws -> String? {
                var tls = ConnectTLS(trustRootsFile: root)
                tls.certificateFile = try TLSTestCertificates.path("client.pem")
                tls.privateKeyFile = try TLSTestCertificates.path("client-key.pem")
                change(&tls)
                do throws(TransportError) {
                    let stream = try await NIOConnector().connect(
                        to: .tcp(host: host, port: port),
                        options: ConnectOptions(tls: tls)
                    )
                    try await stream.write(Array("GET /health HTTP/1.1\r\nHost: x\r\n\r\n".utf8))
                    let answer = String(decoding: try await stream.read() ?? [], as: UTF8.self)
                    return answer.contains("200") ? nil : "the answer was '\(answer)'"
                } catch {
                    return error.description
                }
            }
            let byName = try await attempt("localhost") { _ in }
            #expect(byName == nil)
            let byAddress = try await attempt("127.0.0.1") { _ in }
            #expect(byAddress == nil)
            #expect(try await attempt("127.0.0.1") { $0.serverName = "localhost" } == nil)
            let stranger = try await attempt("localhost") { $0.trustRootsFile = nil }
            #expect(stranger?.contains("TLS") == true)
            let misnamed = try await attempt("localhost") { $0.serverName = "chat.example" }
            #expect(misnamed?.contains("TLS") == true)
            #expect(
                try await attempt("localhost") {
                    $0.serverName = "chat.example"
                    $0.checksServerName = false
                } == nil
            )
            // TLS 1.3 tells a client only after its handshake that its certificate is missing.
            let anonymous = try await attempt("localhost") {
                $0.certificateFile = nil
                $0.privateKeyFile = nil
            }
            #expect(anonymous != nil)
        }
    }

    @Test("A WebSocket client works on it, in plain and over TLS, with big messages both ways")
    func client() async throws {
        for isEncrypted in [false, true] {
            try await NIOTestServer.run(tls: isEncrypted ? try NIOTestTLS.server() : nil) { port in
                var configuration = ClientConfiguration()
                configuration.tls.trustRootsFile = try TLSTestCertificates.path("root.pem")
                configuration.limits.messageBytesMax = 4 << 20
                configuration.outbound.byteCountMax = 4 << 20
                let scheme = isEncrypted ? "wss" : "ws"
                try await WebSocketClient(connector: NIOConnector()).connect(
                    to: "\(scheme)://localhost:\(port)/echo",
                    configuration: configuration
                ) { socket in
                    var replies = socket.makeAsyncIterator()
                    for size in [0, 1, 126, 65536, 1_000_000] {
                        let message = Message.binary((0..<size).map { UInt8(truncatingIfNeeded: $0) })
                        try await socket.send(message)
                        #expect(try await replies.next()?.byteArray == message.byteArray)
                    }
                    _ = try await socket.ping()
                }
            }
        }
    }

    @Test("Through an HTTP proxy's tunnel, and not through one that refuses")
    func proxy() async throws {
        try await NIOTestServer.run(tls: nil) { port in
            let requests = Lock<[String]>([])
            let proxy = try ScriptedServer(connections: 2) { head in
                let text = String(decoding: head, as: UTF8.self)
                requests.withLock { $0.append(text) }
                return text.contains("Proxy-Authorization: Basic eA==\r\n")
                    ? (Array("HTTP/1.1 200 OK\r\n\r\n".utf8), UInt16(port))
                    : (Array("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n".utf8), nil)
            }
            var configuration = ClientConfiguration()
            configuration.proxy = HTTPProxy(host: "127.0.0.1", port: proxy.port)
            let error = await #expect(throws: ConnectError.self) {
                try await Self.echo("through", "ws://localhost:\(port)/echo", configuration)
            }
            #expect(error?.description.contains("407") == true)
            configuration.proxy?.headerFields[.proxyAuthorization] = "Basic eA=="
            try await Self.echo("through", "ws://localhost:\(port)/echo", configuration)
            let heads = requests.withLock { $0 }
            #expect(heads.count == 2)
            #expect(heads.allSatisfy { $0.hasPrefix("CONNECT localhost:\(port) HTTP/1.1\r\n") })
        }
    }

    @Test("TLS goes through an HTTP proxy's tunnel, and it is the server whose name is checked")
    func proxyWithTLS() async throws {
        try await NIOTestServer.run(tls: try NIOTestTLS.server()) { port in
            let requests = Lock<[String]>([])
            // Whatever the name, it brings its client to the same server.
            let proxy = try ScriptedServer(connections: 2) { head in
                requests.withLock { $0.append(String(decoding: head, as: UTF8.self)) }
                return (Array("HTTP/1.1 200 OK\r\n\r\n".utf8), UInt16(port))
            }
            var configuration = ClientConfiguration()
            configuration.tls.trustRootsFile = try TLSTestCertificates.path("root.pem")
            configuration.proxy = HTTPProxy(host: "127.0.0.1", port: proxy.port)
            configuration.headerFields[.authorization] = "Bearer 1"
            try await Self.echo("through", "wss://localhost:\(port)/echo", configuration)
            let error = await #expect(throws: ConnectError.self) {
                try await Self.echo("astray", "wss://other.invalid/echo", configuration)
            }
            #expect(error?.code == .unreachable)
            #expect(error?.description.contains("certificate is not for 'other.invalid'") == true)
            let heads = requests.withLock { $0 }
            #expect(heads.first?.hasPrefix("CONNECT localhost:\(port) HTTP/1.1\r\n") == true)
            #expect(heads.last?.hasPrefix("CONNECT other.invalid:443 HTTP/1.1\r\n") == true)
            // What is for the server is not for the proxy.
            #expect(heads.allSatisfy { !$0.contains("Bearer") })
        }
    }

    /// Sends a text to a server that must send it back.
    private static func echo(_ text: String, _ url: String, _ configuration: ClientConfiguration) async throws
    {
        try await WebSocketClient(connector: NIOConnector()).connect(to: url, configuration: configuration) {
            socket in
            try await socket.send(.text(text))
            var messages = socket.makeAsyncIterator()
            let answer = try await messages.next()
            #expect(answer?.text == text)
        }
    }
}

/// A server of ours on NIO that echoes, for as long as a test needs it.
enum NIOTestServer {
    static func run(
        tls: NIOSSLContext?,
        _ body: @escaping @Sendable (Int) async throws -> Void
    ) async throws {
        let (addresses, listening) = AsyncStream.makeStream(of: String.self)
        var configuration = EndpointConfiguration()
        configuration.limits.messageBytesMax = 4 << 20
        configuration.outbound.byteCountMax = 4 << 20
        let echo = WebSocketEndpoint(configuration: configuration) { socket in
            for try await message in socket { try await socket.send(message) }
        }
        let transport = NIOTransport(host: "127.0.0.1", port: 0, tls: tls) { listening.yield($0) }
        let server = WebSocketServer(transport: transport) { WebSocketRoute("/echo", echo) }
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask {
                defer { listening.finish() }
                try await server.run()
            }
            for await address in addresses {
                try await body(Int(address.split(separator: ":").last ?? "") ?? 0)
                break
            }
            server.beginShutdown()
            try await group.waitForAll()
        }
    }
}
#endif
