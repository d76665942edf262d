#if os(Linux)
import Foundation
import Glibc
import HTTPTypes
import Starling
import StarlingCore
import StarlingNative
import TestSupport
import Testing

/// The client against our own server, and against listeners that say what no server of ours would.
@Suite struct WebSocketClientTests {
    private let client = WebSocketClient(connector: NativeConnector())

    @Test("Messages of every size come back", arguments: [true, false])
    func echo(deflates: Bool) async throws {
        try await self.withServer { url in
            var configuration = ClientConfiguration()
            if !deflates { configuration.deflate = nil }
            configuration.limits.messageBytesMax = 4 << 20
            configuration.outbound.byteCountMax = 4 << 20
            try await self.client.connect(to: "\(url)/echo", configuration: configuration) { socket in
                var replies = socket.makeAsyncIterator()
                for size in [0, 1, 125, 126, 1000, 65535, 65536, 1_000_000] {
                    let message = Message.binary((0..<size).map { UInt8(truncatingIfNeeded: $0) })
                    try await socket.send(message)
                    let reply = try await replies.next()
                    #expect(reply?.byteArray == message.byteArray)
                }
                try await socket.send("größer")
                let answer = try await replies.next()
                #expect(answer?.text == "größer")
                _ = try await socket.ping()
            }
        }
    }

    @Test(
        "What the body returns is returned, and the server sees 1000; what it throws is thrown, and it sees 1001"
    )
    func results() async throws {
        try await self.withServer { url in
            let seven = try await self.client.connect(to: "\(url)/closes") { _ in 7 }
            #expect(seven == 7)
            struct Mistake: Error {}
            await #expect(throws: Mistake.self) {
                try await self.client.connect(to: "\(url)/closes") { _ in throw Mistake() }
            }
            try await self.client.connect(to: "\(url)/closes?report") { socket in
                var messages = socket.makeAsyncIterator()
                var codes: [String?] = []
                for _ in 0..<2 { codes.append(try await messages.next()?.text) }
                #expect(Set(codes) == ["1000", "1001"])
            }
        }
    }

    @Test("A close of the server ends the iteration, and its code and reason can be read")
    func closure() async throws {
        try await self.withServer { url in
            try await self.client.connect(to: "\(url)/farewell") { socket in
                for try await _ in socket { Issue.record("a message that nobody sent") }
                let closure = try #require(socket.closure)
                #expect(closure.code == CloseCode(rawValue: 4001))
                #expect(closure.reason == "retry in 3 s")
                #expect(closure.cause == .peerClosed)
                #expect(socket.trySend(.text("late")) == .dropped)
            }
        }
    }

    @Test("Header fields and subprotocols reach the server, and its choice comes back")
    func headerFields() async throws {
        try await self.withServer { url in
            var configuration = ClientConfiguration()
            configuration.headerFields[.authorization] = "Bearer 1"
            configuration.subprotocols = ["b.v2", "b.v1"]
            try await self.client.connect(to: "\(url)/who?name=Ann%20B", configuration: configuration) {
                socket in
                #expect(socket.subprotocol == "b.v1")
                var messages = socket.makeAsyncIterator()
                let answer = try await messages.next()
                #expect(answer?.text == "Bearer 1, Ann B")
            }
        }
    }

    @Test("A refusal carries the response")
    func refusal() async throws {
        try await self.withServer { url in
            let error = await #expect(throws: ConnectError.self) {
                try await self.client.connect(to: "\(url)/forbidden") { _ in }
            }
            #expect(error?.code == .refused)
            #expect(error?.response?.status.code == 403)
            #expect(error?.response?.headerFields[.retryAfter] == "7")
            #expect(error.map { String(decoding: $0.body, as: UTF8.self) } == "not today")
        }
    }

    @Test("Over TLS the certificate and the name are checked; a Unix socket and a TCP port serve alike")
    func transports() async throws {
        let path = "/tmp/starling-client-\(UUID().uuidString.prefix(8)).sock"
        try await self.withServer(on: .unix(path: path)) { _ in
            try await self.client.connect(to: "ws+unix:\(path):/echo") { socket in
                try await socket.send("x")
                var messages = socket.makeAsyncIterator()
                let reply = try await messages.next()
                #expect(reply?.text == "x")
            }
        }
        try await self.withServer(tls: try TLSTestCertificates.server()) { url in
            let secure = url.replacing("ws://127.0.0.1", with: "wss://localhost")
            var configuration = ClientConfiguration()
            let error = await #expect(throws: ConnectError.self) {
                try await self.client.connect(to: "\(secure)/echo", configuration: configuration) { _ in }
            }
            #expect(error?.code == .unreachable)
            configuration.tls.trustRootsFile = try TLSTestCertificates.path("root.pem")
            try await self.client.connect(to: "\(secure)/echo", configuration: configuration) { socket in
                try await socket.send("secret")
                var messages = socket.makeAsyncIterator()
                let answer = try await messages.next()
                #expect(answer?.text == "secret")
            }
        }
    }

    @Test(
        "A URL that cannot be used is refused with a reason",
        arguments: [
            "localhost:80", "ftp://h/", "ws://", "ws://h:0/", "ws://h:99999/", "ws://h/#f", "ws://u:p@h/",
            "ws://[::1/",
            "ws://höst/", "ws+unix:",
        ]
    )
    func invalidURLs(url: String) async throws {
        let error = await #expect(throws: ConnectError.self) {
            try await self.client.connect(to: url) { _ in }
        }
        #expect(error?.code == .invalidURL)
        #expect(error?.description.contains(url) == true)
    }

    @Test(
        "Answers that are no handshake end the attempt with an error that says why",
        arguments: [
            (
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                    + "Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n",
                ConnectError.Code.invalidResponse
            ),
            ("HTTP/1.1 101 Switching Protocols\r\n\r\n", .invalidResponse),
            ("SSH-2.0-OpenSSH\r\n\r\n", .invalidResponse),
            ("", .connectionLost),
            ("HTTP/1.1 101", .connectionLost),
            ("HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwait\r\n0\r\n\r\n", .refused),
            ("HTTP/1.0 404 Not Found\r\n\r\nnothing", .refused),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno",
                .refused
            ),
        ]
    )
    func answers(answer: String, code: ConnectError.Code) async throws {
        let listener = try ScriptedServer { _ in (Array(answer.utf8), nil) }
        let error = await #expect(throws: ConnectError.self) {
            try await self.client.connect(to: "ws://127.0.0.1:\(listener.port)/") { _ in }
        }
        #expect(error?.code == code)
        if code == .refused { #expect(error?.body.isEmpty == false) }
    }

    @Test("Without an answer the attempt ends at the deadline, and when its task is cancelled")
    func deadlines() async throws {
        // The kernel accepts, and nobody answers.
        let listener = try TLSTestListener()
        var configuration = ClientConfiguration()
        configuration.handshakeTimeout = .milliseconds(100)
        let error = await #expect(throws: ConnectError.self) {
            try await self.client.connect(
                to: "ws://127.0.0.1:\(listener.port)/",
                configuration: configuration
            ) { _ in }
        }
        #expect(error?.code == .timedOut)
        let attempt = Task {
            try await self.client.connect(to: "ws://127.0.0.1:\(listener.port)/") { _ in }
        }
        attempt.cancel()
        // Before the connection stands it is the connector's error, after that the handshake's.
        await #expect(throws: ConnectError.self) { try await attempt.value }
        // A connector that does not look at the task: the cancellation is there before the handshake begins. (The listener's queue
        // holds eight.)
        let deaf = WebSocketClient(connector: DeafConnector())
        for _ in 0..<4 {
            let early = Task { try await deaf.connect(to: "ws://127.0.0.1:\(listener.port)/") { _ in } }
            early.cancel()
            let error = await #expect(throws: ConnectError.self) { try await early.value }
            #expect(error?.code == .cancelled)
        }
    }

    @Test("Redirects are followed only when allowed, and at most so often")
    func redirects() async throws {
        try await self.withServer { url in
            var configuration = ClientConfiguration()
            let error = await #expect(throws: ConnectError.self) {
                try await self.client.connect(to: "\(url)/moved", configuration: configuration) { _ in }
            }
            #expect(error?.code == .refused)
            configuration.redirectsMax = 1
            try await self.client.connect(to: "\(url)/moved", configuration: configuration) { socket in
                try await socket.send("found")
                var messages = socket.makeAsyncIterator()
                let answer = try await messages.next()
                #expect(answer?.text == "found")
            }
            let loop = await #expect(throws: ConnectError.self) {
                try await self.client.connect(to: "\(url)/circle", configuration: configuration) { _ in }
            }
            #expect(loop?.code == .tooManyRedirects)
        }
    }

    /// The answer of a server that sends its client elsewhere.
    private static func redirect(to location: String) -> [UInt8] {
        Array("HTTP/1.1 307 Moved\r\nLocation: \(location)\r\nContent-Length: 0\r\n\r\n".utf8)
    }

    @Test("No redirect leads from TLS to plain bytes, nor to a Unix socket of the client's machine")
    func weakerRedirects() async throws {
        let root = try TLSTestCertificates.path("root.pem")
        try await self.withServer(tls: try TLSTestCertificates.server()) { url in
            var configuration = ClientConfiguration()
            configuration.redirectsMax = 1
            configuration.tls.trustRootsFile = root
            let secure = url.replacing("ws://127.0.0.1", with: "wss://localhost")
            let error = await #expect(throws: ConnectError.self) {
                try await self.client.connect(to: "\(secure)/weaker", configuration: configuration) { _ in }
            }
            #expect(error?.code == .tooManyRedirects)
            #expect(error?.response?.status.code == 307)
        }
        let path = "/tmp/starling-client-\(UUID().uuidString.prefix(8)).sock"
        try await self.withServer(on: .unix(path: path)) { _ in
            var configuration = ClientConfiguration()
            configuration.redirectsMax = 1
            let listener = try ScriptedServer { _ in (Self.redirect(to: "ws+unix:\(path):/echo"), nil) }
            let error = await #expect(throws: ConnectError.self) {
                try await self.client.connect(
                    to: "ws://127.0.0.1:\(listener.port)/",
                    configuration: configuration
                ) { _ in Issue.record("a server has sent its client to a Unix socket") }
            }
            #expect(error?.code == .tooManyRedirects)
            // A path on the same socket is no other place.
            try await self.client.connect(to: "ws+unix:\(path):/moved", configuration: configuration) {
                socket in
                try await socket.send("found")
                var messages = socket.makeAsyncIterator()
                let answer = try await messages.next()
                #expect(answer?.text == "found")
            }
        }
    }

    @Test("Another host is not told Authorization and Cookie; another path of the same one is")
    func credentialsOnRedirect() async throws {
        var configuration = ClientConfiguration()
        configuration.redirectsMax = 1
        configuration.headerFields[.authorization] = "Bearer 1"
        configuration.headerFields[.cookie] = "session=1"
        configuration.headerFields[.acceptLanguage] = "de"
        for isSameHost in [true, false] {
            let requests = Requests()
            @Sendable func answer(_ head: [UInt8], _ answer: [UInt8]) -> ([UInt8], UInt16?) {
                requests.texts.withLock { $0.append(String(decoding: head, as: UTF8.self)) }
                return (answer, nil)
            }
            let refusal = Array("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n".utf8)
            let other = isSameHost ? nil : try ScriptedServer { answer($0, refusal) }
            let goal = other.map { "ws://localhost:\($0.port)/next" } ?? "/next"
            let first = try ScriptedServer(connections: isSameHost ? 2 : 1) { head in
                let isFirst = head.starts(with: Array("GET / ".utf8))
                return answer(head, isFirst ? Self.redirect(to: goal) : refusal)
            }
            let error = await #expect(throws: ConnectError.self) {
                try await self.client.connect(
                    to: "ws://127.0.0.1:\(first.port)/",
                    configuration: configuration
                ) { _ in }
            }
            #expect(error?.code == .refused && error?.response?.status.code == 403)
            let heads = requests.texts.withLock { $0 }
            try #require(heads.count == 2)
            #expect(heads[1].hasPrefix("GET /next "))
            for field in ["Authorization: Bearer 1\r\n", "Cookie: session=1\r\n"] {
                #expect(heads[0].contains(field))
                #expect(heads[1].contains(field) == isSameHost, "\(field) on the way to \(heads[1])")
            }
            #expect(heads.allSatisfy { $0.contains("Accept-Language: de\r\n") })
        }
    }

    @Test("Who says nothing is given up at the deadline: in a TLS handshake, as a proxy, and behind one")
    func connectTimeout() async throws {
        // The kernel accepts, and nobody answers.
        let silent = try TLSTestListener()
        let port = Int(silent.port)
        var direct = ClientConfiguration()
        direct.connectTimeout = .milliseconds(500)
        var proxied = direct
        proxied.proxy = HTTPProxy(host: "127.0.0.1", port: port)
        let tunnel = try ScriptedServer { _ in (Array("HTTP/1.1 200 OK\r\n\r\n".utf8), silent.port) }
        var tunnelled = direct
        tunnelled.proxy = HTTPProxy(host: "127.0.0.1", port: tunnel.port)
        for (url, configuration) in [
            ("wss://localhost:\(port)/", direct), ("ws://localhost:1/", proxied),
            ("wss://localhost:1/", tunnelled),
        ] {
            let error = await #expect(throws: ConnectError.self) {
                try await self.client.connect(to: url, configuration: configuration) { _ in }
            }
            #expect(error?.code == .unreachable)
            #expect(error?.description.contains("no answer within 0.5 seconds") == true, "\(url)")
        }
    }

    @Test("Through an HTTP proxy, which may refuse")
    func proxy() async throws {
        try await self.withServer { url in
            let target = UInt16(url.split(separator: ":").last ?? "") ?? 0
            let requests = Requests()
            let proxy = try ScriptedServer(connections: 2) { head in
                let text = String(decoding: head, as: UTF8.self)
                requests.texts.withLock { $0.append(text) }
                return text.contains("Proxy-Authorization: Basic eA==")
                    ? (Array("HTTP/1.1 200 OK\r\n\r\n".utf8), target)
                    : (Array("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n".utf8), nil)
            }
            var configuration = ClientConfiguration()
            configuration.proxy = HTTPProxy(host: "127.0.0.1", port: proxy.port)
            let error = await #expect(throws: ConnectError.self) {
                try await self.client.connect(to: "\(url)/echo", configuration: configuration) { _ in }
            }
            #expect(error?.description.contains("407") == true)
            configuration.proxy?.headerFields[.proxyAuthorization] = "Basic eA=="
            try await self.client.connect(to: "\(url)/echo", configuration: configuration) { socket in
                try await socket.send("through")
                var messages = socket.makeAsyncIterator()
                let answer = try await messages.next()
                #expect(answer?.text == "through")
            }
            #expect(
                requests.texts.withLock { $0.last?.hasPrefix("CONNECT 127.0.0.1:\(target) HTTP/1.1\r\n") }
                    == true
            )
        }
    }

    @Test("TLS goes through an HTTP proxy's tunnel, and it is the server whose name is checked")
    func proxyWithTLS() async throws {
        try await self.withServer(tls: try TLSTestCertificates.server()) { url in
            let target = UInt16(url.split(separator: ":").last ?? "") ?? 0
            let requests = Requests()
            // Whatever the name, it brings its client to the same server.
            let proxy = try ScriptedServer(connections: 2) { head in
                requests.texts.withLock { $0.append(String(decoding: head, as: UTF8.self)) }
                return (Array("HTTP/1.1 200 OK\r\n\r\n".utf8), target)
            }
            var configuration = ClientConfiguration()
            configuration.tls.trustRootsFile = try TLSTestCertificates.path("root.pem")
            configuration.proxy = HTTPProxy(host: "127.0.0.1", port: proxy.port)
            configuration.headerFields[.authorization] = "Bearer 1"
            try await self.client.connect(to: "wss://localhost:\(target)/echo", configuration: configuration)
            {
                socket in
                try await socket.send("through")
                var messages = socket.makeAsyncIterator()
                let answer = try await messages.next()
                #expect(answer?.text == "through")
            }
            let error = await #expect(throws: ConnectError.self) {
                try await self.client.connect(to: "wss://other.invalid/echo", configuration: configuration) {
                    _ in
                }
            }
            #expect(error?.code == .unreachable)
            #expect(error?.description.contains("certificate") == true)
            let heads = requests.texts.withLock { $0 }
            #expect(heads.first?.hasPrefix("CONNECT localhost:\(target) HTTP/1.1\r\n") == true)
            #expect(heads.last?.hasPrefix("CONNECT other.invalid:443 HTTP/1.1\r\n") == true)
            // What is for the server is not for the proxy.
            #expect(heads.allSatisfy { !$0.contains("Bearer") })
        }
    }

    @Test("Both ends push 64 MiB at once through small buffers, and nothing is lost")
    func pressure() async throws {
        try await self.withServer { url in
            let count = 1024
            try await self.client.connect(to: "\(url)/echo") { socket in
                try await withThrowingTaskGroup(of: Int.self) { group in
                    group.addTask {
                        for number in 0..<count {
                            let message = [UInt8](
                                repeating: UInt8(truncatingIfNeeded: number),
                                count: 64 << 10
                            )
                            try await socket.send(.binary(message))
                        }
                        return 0
                    }
                    group.addTask {
                        var received = 0
                        for try await message in socket {
                            #expect(message.byteCount == 64 << 10)
                            #expect(message.byteArray.first == UInt8(truncatingIfNeeded: received))
                            received += 1
                            if received == count { break }
                        }
                        return received
                    }
                    var sum = 0
                    for try await received in group { sum += received }
                    #expect(sum == count)
                }
            }
        }
    }

    // MARK: - Support

    /// A server with everything that the tests ask for, at `ws://127.0.0.1:…`.
    private func withServer(
        on endpoint: NativeTransport.Endpoint = .tcp(host: "127.0.0.1", port: 0),
        tls: TLSContext? = nil,
        _ body: @escaping @Sendable (String) async throws -> Void
    ) async throws {
        let (addresses, continuation) = AsyncStream.makeStream(of: String.self)
        let transport = NativeTransport(endpoint, eventLoops: 1, tls: tls) { continuation.yield($0) }
        var configuration = EndpointConfiguration()
        configuration.limits.messageBytesMax = 4 << 20
        configuration.outbound.byteCountMax = 4 << 20
        let echo = WebSocketEndpoint(configuration: configuration) { socket in
            for try await message in socket { try await socket.send(message) }
        }
        let codes = Codes()
        let server = WebSocketServer(transport: transport) {
            WebSocketRoute("/echo", echo)
            WebSocketRoute(
                "/closes",
                WebSocketEndpoint(
                    authenticate: { .accept($0.head.path?.hasSuffix("report") == true) },
                    { socket, reports in
                        if reports {
                            for code in codes.seen.withLock({ $0 }) {
                                try await socket.send("\(code.rawValue)")
                            }
                        }
                        for try await _ in socket {}
                        if let code = socket.closure?.code { codes.seen.withLock { $0.append(code) } }
                    }
                )
            )
            WebSocketRoute(
                "/farewell",
                WebSocketEndpoint { socket in
                    await socket.close(CloseCode(rawValue: 4001), reason: "retry in 3 s")
                }
            )
            WebSocketRoute(
                "/who",
                WebSocketEndpoint(
                    authenticate: { request in
                        let field = request.headerFields[.authorization] ?? ""
                        return .accept("\(field), \(request[query: "name"] ?? "")", subprotocol: "b.v1")
                    },
                    { socket, text in try await socket.send(text) }
                )
            )
            WebSocketRoute(
                "/forbidden",
                WebSocketEndpoint(
                    authenticate: { _ -> UpgradeDecision<Void> in
                        .refuse(.forbidden, headerFields: [.retryAfter: "7"], body: "not today")
                    },
                    { _, _ in }
                )
            )
            HTTPRoute("/moved") { _ in
                HTTPReply(.init(code: 307), headerFields: [.location: "/echo"])
            }
            HTTPRoute("/weaker") { _ in
                HTTPReply(.init(code: 307), headerFields: [.location: "ws://127.0.0.1:1/echo"])
            }
            HTTPRoute("/circle") { _ in
                HTTPReply(.init(code: 302), headerFields: [.location: "/circle"])
            }
        }
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await server.run() }
            for await address in addresses {
                try await body("ws://\(address)")
                break
            }
            server.beginShutdown()
            try await group.waitForAll()
        }
    }
}

/// Connects whether or not the task is cancelled.
private struct DeafConnector: Connector {
    func connect(to target: ConnectTarget, options: ConnectOptions) async throws(TransportError)
        -> any ByteStream
    {
        let attempt = Task.detached { () -> Result<any ByteStream, TransportError> in
            do throws(TransportError) {
                return .success(try await NativeConnector().connect(to: target, options: options))
            } catch {
                return .failure(error)
            }
        }
        return try await attempt.value.get()
    }
}

private final class Requests: Sendable {
    let texts = Lock<[String]>([])
}

private final class Codes: Sendable {
    let seen = Lock<[CloseCode]>([])
}
#endif
