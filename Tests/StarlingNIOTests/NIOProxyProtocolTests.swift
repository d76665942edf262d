#if NIO
import Glibc
import HTTPTypes
import NIOPosix
import NIOSSL
import Starling
import TestSupport
import Testing

@testable import StarlingNIO

/// Proxies that speak the PROXY protocol, and what an accepted socket is set to.
@Suite struct NIOProxyProtocolTests {
    private static let text = Array("PROXY TCP4 203.0.113.9 127.0.0.1 4711 80\r\n".utf8)
    private static let binary: [UInt8] = [
        0x0D, 0x0A, 0x0D, 0x0A, 0x00, 0x0D, 0x0A, 0x51, 0x55, 0x49, 0x54, 0x0A, 0x21, 0x11, 0, 12, 203, 0,
        113, 9,
        127, 0, 0, 1, 0x12, 0x67, 0, 80,
    ]
    private static let request = Array(
        ("GET / HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            + "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n").utf8
    )

    @Test("The header is taken from proxies, whole or in pieces, and the address is the client's")
    func header() async throws {
        for header in [Self.text, Self.binary] {
            let pieces = [
                [header + Self.request], [header, Self.request],
                [Array(header.prefix(5)), header.dropFirst(5) + Self.request],
            ]
            for pieces in pieces {
                #expect(try await self.answer(trusting: "127.0.0.0/8", to: pieces) == "203.0.113.9:4711")
            }
            let single = header.map { [$0] } + [Self.request]
            #expect(try await self.answer(trusting: "127.0.0.1", to: single) == "203.0.113.9:4711")
        }
    }

    @Test("A connection without a header, with a wrong one, or from elsewhere is ended")
    func refusals() async throws {
        #expect(try await self.answer(trusting: "127.0.0.1", to: [Self.request]) == nil)
        #expect(try await self.answer(trusting: "127.0.0.1", to: [Array("PROXX".utf8), Self.request]) == nil)
        for pieces in [[Self.binary, Self.request], [Self.binary + Self.request]] {
            #expect(try await self.answer(trusting: "10.0.0.0/8", to: pieces) == nil)
        }
        // Where no proxy is trusted, a header is no request.
        let answer = try await self.answer(trusting: nil, to: [Self.text, Self.request])
        #expect(answer != "203.0.113.9:4711")
    }

    @Test("An IPv4 client of a listener for IPv6 is an IPv4 client, and a trusted proxy if its range is one")
    func dualStack() async throws {
        let request = [Self.request]
        for (client, host) in [("127.0.0.1", "127.0.0.1:"), ("::1", "[::1]:")] {
            let address = try await self.serve(trusting: nil, at: "::", tls: nil) { port in
                try await Self.exchange(request, port, at: client)
            }
            #expect(address?.hasPrefix(host) == true, "\(address ?? "nothing") for \(client)")
        }
        let told = try await self.serve(trusting: "127.0.0.0/8", at: "::", tls: nil) { port in
            try await Self.exchange([Self.binary] + request, port)
        }
        #expect(told == "203.0.113.9:4711")
    }

    @Test("The header comes before TLS, in one piece with it or not", arguments: [true, false])
    func overTLS(inPieces: Bool) async throws {
        let address = try await self.serve(trusting: "127.0.0.1", tls: NIOTestTLS.server()) { port in
            let connected = try await NIOConnector().connect(
                to: .tcp(host: "127.0.0.1", port: port),
                options: ConnectOptions()
            )
            let stream = try #require(connected as? NIOStream)
            defer { stream.close() }
            let header = Self.binary
            let split = inPieces ? 7 : 0
            if inPieces { try await stream.write(Array(header.prefix(split))) }
            try await stream.write(Array(header.dropFirst(split)))
            var client = TLSConfiguration.makeClientConfiguration()
            client.trustRoots = .file(try TLSTestCertificates.path("root.pem"))
            try await stream.startTLS(
                try NIOSSLContext(configuration: client),
                serverName: "localhost",
                checksServerName: true
            )
            try await stream.write(Self.request)
            return try await Self.lastLine(from: stream)
        }
        #expect(address == "203.0.113.9:4711")
    }

    @Test("An accepted socket has 128 KiB at most that the kernel cannot send yet")
    func unsentBytes() async throws {
        let endpoint = WebSocketEndpoint(
            authenticate: { request in
                let byteCount = Self.unsentByteCountMax(ofPeerAt: request.remoteAddress.port)
                return UpgradeDecision<Void>.refuse(.forbidden, body: "\(byteCount ?? -1)")
            },
            { _, _ in }
        )
        let answer = try await self.serve(endpoint, ServerConfiguration(), tls: nil) { port in
            try await Self.exchange([Self.request], port)
        }
        #expect(answer == "131072")
    }

    // MARK: - Helpers

    /// What the kernel is told about the socket of this process that is connected to a port.
    private static func unsentByteCountMax(ofPeerAt port: UInt16) -> CInt? {
        for descriptor in 3..<CInt(4096) {
            var address = sockaddr_in()
            var size = socklen_t(MemoryLayout<sockaddr_in>.size)
            // The kernel writes `size` bytes at most; an address of another family has another first field.
            let result = unsafe withUnsafeMutablePointer(to: &address) { pointer in
                unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    unsafe getpeername(descriptor, $0, &size)
                }
            }
            guard result == 0, address.sin_family == sa_family_t(AF_INET), address.sin_port.bigEndian == port
            else {
                continue
            }
            var value: CInt = 0
            var valueSize = socklen_t(MemoryLayout<CInt>.size)
            // `value` has room for `valueSize` bytes.
            guard unsafe getsockopt(descriptor, CInt(IPPROTO_TCP), TCP_NOTSENT_LOWAT, &value, &valueSize) == 0
            else { return nil }
            return value
        }
        return nil
    }

    private func answer(trusting range: String?, to pieces: [[UInt8]]) async throws -> String? {
        try await self.serve(trusting: range, tls: nil) { port in try await Self.exchange(pieces, port) }
    }

    /// The last line of the answer; nil if the connection is ended without one.
    private static func exchange(
        _ pieces: [[UInt8]],
        _ port: Int,
        at host: String = "127.0.0.1"
    ) async throws -> String? {
        let stream = try await NIOConnector().connect(
            to: .tcp(host: host, port: port),
            options: ConnectOptions()
        )
        defer { stream.close() }
        // The connection may be ended before all is written.
        for piece in pieces { try? await stream.write(piece) }
        return try await Self.lastLine(from: stream)
    }

    private static func lastLine(from stream: any ByteStream) async throws -> String? {
        var answer: [UInt8] = []
        while let bytes = try? await stream.read() { answer += bytes }
        return String(decoding: answer, as: UTF8.self).split(separator: "\r\n").last.map { String($0) }
    }

    /// A server that answers each upgrade with the address that it comes from, during `body`.
    private func serve<Result: Sendable>(
        trusting range: String?,
        at host: String = "127.0.0.1",
        tls: NIOSSLContext?,
        _ body: (Int) async throws -> Result
    ) async throws -> Result {
        var configuration = ServerConfiguration()
        if let range { configuration.trustedProxies = try TrustedProxies([range], source: .proxyProtocol) }
        let endpoint = WebSocketEndpoint(
            authenticate: { UpgradeDecision<Void>.refuse(.forbidden, body: "\($0.remoteAddress)") },
            { _, _ in }
        )
        return try await self.serve(endpoint, configuration, at: host, tls: tls, body)
    }

    private func serve<Result: Sendable>(
        _ endpoint: WebSocketEndpoint,
        _ configuration: ServerConfiguration,
        at host: String = "127.0.0.1",
        tls: NIOSSLContext?,
        _ body: (Int) async throws -> Result
    ) async throws -> Result {
        let (addresses, listening) = AsyncStream.makeStream(of: String.self)
        let transport = NIOTransport(host: host, port: 0, tls: tls) { listening.yield($0) }
        let server = WebSocketServer(transport: transport, configuration: configuration) {
            WebSocketRoute("/", endpoint)
        }
        let running = Task {
            defer { listening.finish() }
            try await server.run()
        }
        var iterator = addresses.makeAsyncIterator()
        let port = try #require(await iterator.next()?.split(separator: ":").last.flatMap { Int($0) })
        do {
            let result = try await body(port)
            server.beginShutdown()
            try await running.value
            return result
        } catch {
            server.beginShutdown()
            try? await running.value
            throw error
        }
    }
}
#endif
