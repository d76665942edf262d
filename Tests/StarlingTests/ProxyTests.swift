import HTTPTypes
import Starling
import StarlingCore
import StarlingTesting
import Testing

@Suite struct ProxyTests {
    private let key = Array("a key of 16 bytes or more".utf8)

    @Test("HMAC-SHA256 is that of RFC 4231, cases 1, 2 and 6")
    func hmac() {
        func hex(_ bytes: [UInt8]) -> String {
            bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
        }
        #expect(
            hex(HMACSHA256.code(of: Array("Hi There".utf8), key: [UInt8](repeating: 0x0B, count: 20)))
                == "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
        )
        #expect(
            hex(HMACSHA256.code(of: Array("what do ya want for nothing?".utf8), key: Array("Jefe".utf8)))
                == "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        )
        let text = "Test Using Larger Than Block-Size Key - Hash Key First"
        #expect(
            hex(HMACSHA256.code(of: Array(text.utf8), key: [UInt8](repeating: 0xAA, count: 131)))
                == "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        )
    }

    @Test(
        "The client is the last address that no trusted proxy has",
        arguments: [
            ("198.51.100.7", "203.0.113.9", "198.51.100.7"),
            ("10.0.0.1", "203.0.113.9", "203.0.113.9"),
            ("10.0.0.1", "1.1.1.1, 203.0.113.9, 10.2.3.4", "203.0.113.9"),
            ("10.0.0.1", "spoofed, 203.0.113.9:4711", "203.0.113.9"),
            ("10.0.0.1", "unknown", "10.0.0.1"),
            ("10.0.0.1", "203.0.113.9, unknown, 10.0.0.2", "10.0.0.2"),
            ("10.0.0.1", "", "10.0.0.1"),
            ("2001:db8::1", "[2001:db9::7]:99", "2001:db9::7"),
            ("", "203.0.113.9", "203.0.113.9"),
            ("10.0.0.1", "10.0.0.5, 10.0.0.6", "10.0.0.5"),
            ("10.0.0.1", "203.0.113.9\0.evil", "10.0.0.1"),
        ]
    )
    func forwardedFor(_ peer: String, _ field: String, _ expected: String) throws {
        let proxies = try TrustedProxies(["10.0.0.0/8", "2001:db8::/32", "unix"])
        let fields: HTTPFields = [HTTPField.Name("X-Forwarded-For")!: field]
        #expect(proxies.client(of: RemoteAddress(host: peer, port: 1), fields).host == expected)
        #expect(TrustedProxies.none.client(of: RemoteAddress(host: peer, port: 1), fields).host == peer)
    }

    @Test("Forwarded is read as RFC 7239 has it, and the other field is not looked at")
    func forwarded() throws {
        let proxies = try TrustedProxies(["127.0.0.1"], source: .forwarded)
        let peer = RemoteAddress(host: "127.0.0.1", port: 1)
        let fields: HTTPFields = [
            HTTPField.Name("Forwarded")!: #"for=1.1.1.1, By=x;For="[2001:db8:cafe::17]:4711";proto=https"#,
            HTTPField.Name("X-Forwarded-For")!: "9.9.9.9",
        ]
        #expect(proxies.client(of: peer, fields) == RemoteAddress(host: "2001:db8:cafe::17", port: 4711))
    }

    @Test(
        "A range that makes no sense is named",
        arguments: ["", "10.0.0", "10.0.0.0/33", "::/129", "a/8", "10.0.0.1/"]
    )
    func invalidRange(_ text: String) {
        let error = #expect(throws: InvalidAddressRange.self) { try TrustedProxies([text]) }
        #expect(error?.description.contains("'\(text)'") == true)
    }

    @Test("An upgrade sees the client behind the proxy, and so do the registry and the limit per address")
    func upgrade() async throws {
        var configuration = ServerConfiguration()
        configuration.trustedProxies = try TrustedProxies(["192.0.2.0/24"])
        configuration.connectionsPerAddressMax = 2
        let endpoint = WebSocketEndpoint(
            authenticate: { UpgradeDecision.accept(user: $0.remoteAddress.host) },
            { socket, _ in for try await _ in socket {} }
        )
        let server = EmbeddedTransport(configuration: configuration) { WebSocketRoute("/", endpoint) }
        func status(_ client: String) throws -> Int? {
            try Client(server, fields: ["X-Forwarded-For: \(client)"]).takeStatus()
        }
        for _ in 0..<2 { #expect(try status("203.0.113.1") == 101) }
        #expect(try status("203.0.113.1") == 429)
        // Others come by the same proxy as before.
        for number in 2..<6 { #expect(try status("203.0.113.\(number)") == 101) }
        let registry = server.registry
        let entries = await server.waiting { await registry.connections(ofUser: "203.0.113.1") }
        #expect(entries.map(\.remoteAddress.host) == ["203.0.113.1", "203.0.113.1"])
    }

    @Test("A node's cookie is a hit there, a miss elsewhere, and nothing if it was touched")
    func affinity() async throws {
        func server(_ node: String) -> EmbeddedTransport {
            var configuration = ServerConfiguration()
            configuration.affinity = SessionAffinity(node: node, key: self.key)
            let endpoint = WebSocketEndpoint { socket in for try await _ in socket {} }
            return EmbeddedTransport(configuration: configuration) {
                MetricsRoute("/metrics")
                WebSocketRoute("/", endpoint)
            }
        }
        /// The cookie that is set, without its attributes.
        func cookie(_ server: EmbeddedTransport, with given: String? = nil) throws -> String? {
            let client = try Client(server, fields: given.map { ["Cookie: a=b; \($0)"] } ?? [])
            let head = String(decoding: server.takeOutput(of: client.connection), as: UTF8.self)
            #expect(head.hasPrefix("HTTP/1.1 101"))
            let line = head.split(separator: "\r\n").first { $0.lowercased().hasPrefix("set-cookie: ") }
            if let line {
                #expect(line.hasSuffix("; Path=/; HttpOnly; SameSite=Lax; Max-Age=86400; Secure"))
            }
            return line.map { String($0.dropFirst(12).prefix { $0 != ";" }) }
        }
        let (one, two) = (server("one"), server("two"))
        let first = try #require(try cookie(one))
        #expect(first.hasPrefix("starling_node=one."))
        #expect(try cookie(one, with: first) == nil)
        let second = try #require(try cookie(two, with: first))
        #expect(second.hasPrefix("starling_node=two."))
        // The session stays, so that a balancer that hashes it goes on as before.
        #expect(first.split(separator: ".")[1] == second.split(separator: ".")[1])
        for bad in [first + "0", first.replacing("one", with: "two"), "starling_node=..", "starling_node=x"] {
            #expect(try cookie(two, with: bad)?.split(separator: ".")[1] != first.split(separator: ".")[1])
        }
        func figure(_ name: String, of server: EmbeddedTransport) async throws -> String? {
            let connection = try #require(server.connect())
            server.receive(Array("GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n".utf8), on: connection)
            await server.waiting {}
            let text = String(decoding: server.takeOutput(of: connection), as: UTF8.self)
            return text.split(separator: "\n").first { $0.hasPrefix(name + " ") }.map {
                String($0.dropFirst(name.count + 1))
            }
        }
        #expect(try await figure("starling_affinity_hits_total", of: one) == "1")
        #expect(try await figure("starling_affinity_misses_total", of: one) == "0")
        #expect(try await figure("starling_affinity_misses_total", of: two) == "1")
    }

    @Test("Codes that differ anywhere are different, whatever follows")
    func codes() {
        let code = HMACSHA256.code(of: [1, 2, 3], key: [UInt8](repeating: 7, count: 32))
        #expect(HMACSHA256.isSame(code, code))
        #expect(!HMACSHA256.isSame(code, Array(code.dropLast())))
        for index in code.indices {
            for bit in 0..<8 {
                var changed = code
                changed[index] ^= 1 << bit
                #expect(!HMACSHA256.isSame(changed, code))
            }
        }
        // A difference that a later byte of all ones would have hidden.
        #expect(!HMACSHA256.isSame([0x00, 0xFF], [0x0F, 0xFF]))
    }
}
