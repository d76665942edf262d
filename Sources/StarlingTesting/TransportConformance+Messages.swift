internal import HTTPTypes
internal import Starling
internal import StarlingCore

/// Handshakes and messages.
extension TransportConformance {
    @Sendable func echoes() async throws {
        try await self.withServer(self.echo) { server in
            let peer = try await server.open()
            try await peer.send("größer")
            try await peer.expectNext(.text("größer"))
            try await peer.send(.binary, [0, 1, 255])
            try await peer.expectNext(.binary([0, 1, 255]))
            try await peer.send(.text, Array("two ".utf8), isFinal: false)
            try await peer.send(.ping, [7])
            try await peer.expectNext(.pong([7]))
            try await peer.send(.continuation, Array("parts".utf8))
            try await peer.expectNext(.text("two parts"))
            try await peer.finish()
        }
        try await self.withServer(WebSocketEndpoint(handler: EchoHandler())) { server in
            let peer = try await server.open()
            try await peer.send("callback")
            try await peer.expectNext(.text("callback"))
            try await peer.finish()
        }
    }

    @Sendable func keepsAlive() async throws {
        try await self.withServer(self.echo) { server in
            let peer = try await server.connect()
            for _ in 0..<3 {
                try await peer.stream.write(ConformancePeer.request("/page", upgrades: false))
                let page = try await peer.readResponse()
                try expect(
                    page.head.status.code == 200 && page.body == "a page\n",
                    "the page is \(page.body)"
                )
            }
            // Two at once, and the upgrade behind them.
            try await peer.stream.write(
                ConformancePeer.request("/health", upgrades: false)
                    + ConformancePeer.request("/page", upgrades: false)
                    + ConformancePeer.request("/", upgrades: true)
            )
            let health = try await peer.readResponse().body
            let page = try await peer.readResponse().body
            try expect(health == "ok\n" && page == "a page\n", "the answers are '\(health)' and '\(page)'")
            try await peer.readUpgrade()
            try await peer.send("still there")
            try await peer.expectNext(.text("still there"))
            try await peer.finish()
        }
    }

    @Sendable func takesFramesWithRequest() async throws {
        let deciding = WebSocketEndpoint(
            authenticate: { _ -> UpgradeDecision<Void> in
                for _ in 0..<10 { await Task.yield() }
                return .accept()
            }
        ) { socket, _ in
            for try await message in socket { try await socket.send(message) }
        }
        for endpoint in [self.echo, WebSocketEndpoint(handler: EchoHandler()), deciding] {
            try await self.withServer(endpoint) { server in
                let peer = try await server.connect()
                var bytes = ConformancePeer.request("/", upgrades: true)
                for number in 0..<20 { bytes += ConformancePeer.frame(.text, Array("\(number)".utf8)) }
                bytes += ConformancePeer.closeFrame(1000)
                try await peer.stream.write(bytes)
                try await peer.readUpgrade()
                for number in 0..<20 { try await peer.expectNext(.text("\(number)")) }
                try await peer.expectNext(.close(1000))
                try await peer.expectEnd()
            }
        }
    }

    @Sendable func takesSplitBytes() async throws {
        try await self.withServer(self.echo) { server in
            let bytes =
                ConformancePeer.request("/", upgrades: true)
                + ConformancePeer.frame(.text, Array("first".utf8), isFinal: false)
                + ConformancePeer.frame(.ping, [1, 2, 3])
                + ConformancePeer.frame(.continuation, Array(" message".utf8))
                + ConformancePeer.frame(.binary, [UInt8](repeating: 9, count: 200))
                + ConformancePeer.closeFrame(1000)
            func check(_ parts: [[UInt8]]) async throws {
                let peer = try await server.connect()
                for part in parts where !part.isEmpty {
                    try await peer.stream.write(part)
                    await Task.yield()
                }
                try await peer.readUpgrade()
                try await peer.expectNext(.pong([1, 2, 3]))
                try await peer.expectNext(.text("first message"))
                try await peer.expectNext(.binary([UInt8](repeating: 9, count: 200)))
                try await peer.expectNext(.close(1000))
                try await peer.expectEnd()
            }
            try await check(bytes.map { [$0] })
            for offset in stride(from: 1, to: bytes.count, by: 3) {
                try await check([Array(bytes[..<offset]), Array(bytes[offset...])])
            }
        }
    }

    @Sendable func carriesEverySize() async throws {
        try await self.withServer(self.echo) { server in
            let peer = try await server.open()
            let stream = peer.stream
            for size in [0, 1, 125, 126, 4096, 16384, 65535, 65536, 100_000, 1_000_000, 3_000_000] {
                let payload = (0..<size).map { UInt8(truncatingIfNeeded: $0 / 7) }
                // Both directions at once, because neither side need hold so much.
                async let writing: Void = stream.write(ConformancePeer.frame(.binary, payload))
                let event = try await peer.next()
                try await writing
                try expect(event == .binary(payload), "\(size) bytes came back as \(event)")
            }
            try await peer.finish()
        }
    }

    @Sendable func refuses() async throws {
        let endpoint = WebSocketEndpoint(
            authenticate: { _ -> UpgradeDecision<Void> in
                await Task.yield()
                return .refuse(.forbidden, headerFields: [.retryAfter: "7"], body: "not today")
            }
        ) { _, _ in }
        try await self.withServer(endpoint) { server in
            let peer = try await server.connect()
            try await peer.stream.write(ConformancePeer.request("/", upgrades: true))
            let (head, body) = try await peer.readResponse()
            try expect(head.status.code == 403, "a refusal was answered with \(head.status.code)")
            try expect(
                head.headerFields[.retryAfter] == "7" && body == "not today",
                "a refusal lost its words"
            )
            try await peer.expectEnd()
        }
    }

    @Sendable func refusesNonsense() async throws {
        try await self.withServer(self.echo) { server in
            let malformed = try await server.connect()
            try await malformed.stream.write(Array("no request at all\r\n\r\n".utf8))
            let status = try await malformed.readResponse().head.status.code
            try expect(status == 400, "nonsense was answered with \(status)")
            try await malformed.expectEnd()

            let unmasked = try await server.open()
            try await unmasked.stream.write([0x81, 1, UInt8(ascii: "x")])
            try await unmasked.expectNext(.close(1002))
            try await unmasked.expectEnd()
        }
    }

    // MARK: - Many

    @Sendable func carriesMany() async throws {
        try await self.withServer(self.echo) { server in
            try await withThrowingTaskGroup(of: Void.self) { group in
                for number in 0..<200 {
                    group.addTask {
                        let peer = try await server.open()
                        for round in 0..<5 {
                            try await peer.send("\(number) \(round)")
                            try await peer.expectNext(.text("\(number) \(round)"))
                        }
                        try await peer.finish()
                    }
                }
                try await group.waitForAll()
            }
            try await server.waitForCount(0)
        }
    }

    @Sendable func fansOut() async throws {
        struct Handler: ConnectionHandler {
            mutating func opened(_ connection: inout Connection<Self>, userData: Void) {
                connection.subscribe(to: "news")
            }
            mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {
                connection.publish(message, to: "news")
            }
        }
        try await self.withServer(WebSocketEndpoint(handler: Handler())) { server in
            // On however many loops there are.
            var peers: [ConformancePeer] = []
            for _ in 0..<24 { peers.append(try await server.open()) }
            try await server.waitForCount(24)
            for number in 0..<50 { try await peers[0].send("\(number)") }
            for peer in peers {
                for number in 0..<50 { try await peer.expectNext(.text("\(number)")) }
            }
        }
    }

    @Sendable func wakes() async throws {
        try await self.withServer(self.echo) { server in
            let peers = [try await server.open(), try await server.open(), try await server.open()]
            try await server.waitForCount(3)
            for number in 0..<20 {
                let count = await server.registry.sendToAll(.text("\(number)"))
                try expect(count == 3, "\(count) of 3 connections were sent to")
                for peer in peers { try await peer.expectNext(.text("\(number)")) }
            }
        }
    }
}
