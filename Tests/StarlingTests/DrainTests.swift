import Starling
import StarlingCore
import StarlingTesting
import Testing

/// What a shutdown says to those who are there, and to those who come.
@Suite struct DrainTests {
    private static func server(
        _ endpoint: WebSocketEndpoint = WebSocketEndpoint(handler: RoomHandler()),
        _ change: (inout ServerConfiguration) -> Void
    ) -> EmbeddedTransport {
        var configuration = ServerConfiguration()
        change(&configuration)
        return EmbeddedTransport(configuration: configuration) {
            HTTPRoute("/page") { _ in .text("a page\n") }
            WebSocketRoute("/", endpoint)
        }
    }

    private static func open(_ count: Int, _ server: EmbeddedTransport) throws -> [Client] {
        try (0..<count).map { _ in
            let client = try Client(server)
            #expect(client.takeStatus() == 101)
            return client
        }
    }

    /// The milliseconds of a close frame's hint, if one has arrived.
    private static func slot(of client: Client) -> Int? {
        guard let close = client.takeFrames().first(where: { $0[0] == 0x88 }) else { return nil }
        #expect(Array(close[1...2]) == [0x03, 0xE9])
        let reason = String(decoding: close[3...], as: UTF8.self)
        #expect(reason.hasPrefix("the server shuts down; retry in "))
        return reason.split(separator: " ").compactMap { Int($0) }.first
    }

    @Test("Connections go one after the other, evenly, and each has a slot of its own")
    func turns() throws {
        let server = Self.server {
            $0.drainSpread = .seconds(4)
            $0.drainTimeout = .seconds(10)
            $0.drainRetryDelayMax = .seconds(2)
        }
        let clients = try Self.open(100, server)
        server.beginShutdown()
        var slots: [Int] = []
        for quarter in 1...4 {
            server.advance(by: .seconds(1))
            slots += clients.compactMap(Self.slot)
            #expect(abs(slots.count - 25 * quarter) <= 2)
        }
        #expect(slots.count == 100)
        #expect(slots.allSatisfy { (0...2000).contains($0) })
        #expect(Set(slots).count > 50)
    }

    @Test("The pace is even where most of those who have been there are gone")
    func afterPeak() throws {
        let server = Self.server {
            $0.drainSpread = .seconds(4)
            $0.drainTimeout = .seconds(10)
        }
        let clients = try Self.open(1000, server)
        for client in clients.dropFirst(100) { server.endInput(of: client.connection) }
        server.advance(by: .milliseconds(10))
        server.beginShutdown()
        var toldCount = 0
        for quarter in 1...4 {
            server.advance(by: .seconds(1))
            toldCount += clients.prefix(100).compactMap(Self.slot).count
            #expect(abs(toldCount - 25 * quarter) <= 2)
        }
        #expect(toldCount == 100)
    }

    @Test("A client that reads slowly is told like the others, by its subprotocol too")
    func slowClient() throws {
        var configuration = EndpointConfiguration()
        configuration.deflate = nil
        configuration.outbound.byteCountMax = 2000
        configuration.subprotocols = [
            Subprotocol("p", publicationFormat: PublicationFormat()) { _ in
                .text("come back" + String(repeating: ".", count: 200))
            }
        ]
        let server = Self.server(WebSocketEndpoint(configuration: configuration, handler: EchoHandler())) {
            $0.drainSpread = .zero
        }
        let client = try Client(server, fields: ["Sec-WebSocket-Protocol: p"])
        #expect(client.takeStatus() == 101)
        server.limitOutput(of: client.connection, to: 10)
        client.send(.binary, [UInt8](repeating: 7, count: 1900))
        server.beginShutdown()
        server.advance(by: .milliseconds(100))
        server.limitOutput(of: client.connection, to: nil)
        server.advance(by: .milliseconds(10))
        // The message's header has four bytes here, as that of the answer has.
        let output = server.takeOutput(of: client.connection).dropFirst(1904)
        #expect(String(decoding: output.dropFirst(4).prefix(9), as: UTF8.self) == "come back")
        let close = output.dropFirst(4 + 209)
        #expect(Array(close.prefix(1) + close.dropFirst(2).prefix(2)) == [0x88, 0x03, 0xE9])
    }

    @Test(
        "Nobody is asked to come back after the deadline, and the last are told before it, whatever is configured"
    )
    func slotsFit() throws {
        let server = Self.server {
            $0.drainSpread = .seconds(60)
            $0.drainTimeout = .seconds(4)
            $0.drainRetryDelayMax = .seconds(60)
        }
        let clients = try Self.open(40, server)
        server.beginShutdown()
        var elapsed = 0
        var toldCount = 0
        while elapsed < 3100 {
            server.advance(by: .milliseconds(50))
            elapsed += 50
            for slot in clients.compactMap(Self.slot) {
                toldCount += 1
                #expect(elapsed - 50 + slot <= 4000)
            }
        }
        #expect(toldCount == 40)
    }

    @Test("Upgrades on connections that are kept get 503 and a time to come back")
    func keptConnection() throws {
        let server = Self.server { $0.drainRetryDelayMax = .seconds(3) }
        let kept = try Client(server, path: "/page")
        #expect(kept.takeStatus() == 200)
        server.beginShutdown()
        server.receive(Client.request("/"), on: kept.connection)
        let response = String(decoding: server.takeOutput(of: kept.connection), as: UTF8.self)
        #expect(response.hasPrefix("HTTP/1.1 503 "))
        let delay = response.split(separator: "\r\n").first { $0.lowercased().hasPrefix("retry-after: ") }
        #expect(["1", "2", "3"].contains(delay?.dropFirst(13)))
        #expect(server.isOutputEnded(of: kept.connection))
    }

    @Test("From its begin on `/ready` says 503, while those who are there go on until their turn")
    func readiness() throws {
        let server = Self.server {
            $0.drainSpread = .seconds(30)
            $0.drainTimeout = .seconds(60)
        }
        let clients = try Self.open(3, server)
        let kept = try (0..<3).map { _ in try #require(server.connect()) }
        func answer(_ path: String, on connection: Int) -> String {
            server.receive(Array("GET \(path) HTTP/1.1\r\nHost: example.com\r\n\r\n".utf8), on: connection)
            let response = String(decoding: server.takeOutput(of: connection), as: UTF8.self)
            return String(response.prefix { $0 != "\r\n" })
        }
        for connection in kept { #expect(answer("/ready", on: connection) == "HTTP/1.1 200 OK") }
        server.beginShutdown()
        #expect(answer("/ready", on: kept[0]) == "HTTP/1.1 503 Service Unavailable")
        #expect(answer("/health", on: kept[1]) == "HTTP/1.1 200 OK", "it is not ill")
        #expect(server.connect() == nil, "a probe that connects anew finds nobody")
        for client in clients { client.send(.text, Array("go on".utf8)) }
        // What each publishes, all of them get.
        #expect(clients.allSatisfy { $0.takeFrames().count == 3 })
        // An answered probe's connection is not kept.
        #expect(server.isOutputEnded(of: kept[0]))
        #expect(answer("/ready", on: kept[2]) == "HTTP/1.1 503 Service Unavailable")
    }

    @Test("An upgrade that was being decided when the shutdown began is refused, not cut later")
    func decidedTooLate() async throws {
        let gate = Gate()
        let endpoint = WebSocketEndpoint(
            authenticate: { _ -> UpgradeDecision<Void> in
                await gate.wait()
                return .accept()
            }
        ) { socket, _ in
            for try await _ in socket {}
        }
        let server = Self.server(endpoint) { $0.drainSpread = .seconds(1) }
        let client = try Client(server)
        server.beginShutdown()
        server.advance(by: .seconds(2))
        #expect(server.takeOutput(of: client.connection).isEmpty)
        await server.waiting { await gate.open() }
        server.advance(by: .milliseconds(100))
        #expect(client.takeStatus() == 503)
        server.endInput(of: client.connection)
        server.advance(by: .milliseconds(100))
        #expect(server.isFinished)
    }
}

/// Lets tasks wait for a test's word.
actor Gate {
    private var isOpen = false
    private var waiters: [CheckedContinuation<Void, Never>] = []

    func wait() async {
        guard !self.isOpen else { return }
        await withCheckedContinuation { self.waiters.append($0) }
    }

    func open() {
        self.isOpen = true
        for waiter in self.waiters { waiter.resume() }
        self.waiters = []
    }
}
