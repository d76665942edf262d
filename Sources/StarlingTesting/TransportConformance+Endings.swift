internal import HTTPTypes
internal import Starling
internal import StarlingCore

/// Limits, deadlines and ends.
extension TransportConformance {
    // MARK: - Back-pressure

    /// More than the buffers between two ends hold together, the kernel's included.
    private static let floodCount = 320
    private static let floodBytes = 64 << 10

    private static func flood(_ number: Int) -> [UInt8] {
        [UInt8](repeating: UInt8(truncatingIfNeeded: number), count: self.floodBytes)
    }

    @Sendable func limitsOutput() async throws {
        let sent = Counter()
        var configuration = EndpointConfiguration()
        configuration.deflate = nil
        configuration.timeouts.writeTimeout = .seconds(60)
        // A peer that reads nothing sees no ping.
        configuration.timeouts.pingInterval = nil
        let endpoint = WebSocketEndpoint(configuration: configuration) { socket in
            for number in 0..<Self.floodCount {
                try await socket.send(.binary(Self.flood(number)))
                sent.increment()
            }
            for try await _ in socket {}
        }
        try await self.withServer(endpoint) { server in
            let peer = try await server.open()
            let count = try await sent.settled(below: Self.floodCount)
            try expect(
                count < Self.floodCount,
                "\(count * Self.floodBytes) bytes were taken for a peer that reads none"
            )
            for number in 0..<Self.floodCount { try await peer.expectNext(.binary(Self.flood(number))) }
            try await peer.finish()
        }
    }

    @Sendable func limitsInput() async throws {
        let gate = Gate()
        var configuration = EndpointConfiguration()
        configuration.timeouts.pingInterval = nil
        let endpoint = WebSocketEndpoint(configuration: configuration) { socket in
            await gate.wait()
            var number = 0
            for try await message in socket {
                guard message.byteArray == Self.flood(number) else { break }
                number += 1
                if number == Self.floodCount { break }
            }
            try await socket.send("\(number)")
        }
        try await self.withServer(endpoint) { server in
            defer { gate.open() }
            let peer = try await server.open()
            let stream = peer.stream
            let written = Counter()
            async let writing: Void = {
                for number in 0..<Self.floodCount {
                    try await stream.write(ConformancePeer.frame(.binary, Self.flood(number)))
                    written.increment()
                }
            }()
            let count = try await written.settled(below: Self.floodCount)
            try expect(
                count < Self.floodCount,
                "\(count * Self.floodBytes) bytes were taken for a handler that reads none"
            )
            gate.open()
            try await writing
            try await peer.expectNext(.text("\(Self.floodCount)"))
        }
    }

    // MARK: - Ends

    @Sendable func closesInCallbacks() async throws {
        struct Handler: ConnectionHandler {
            mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {
                connection.send(message)
                connection.send("the last word")
                connection.close(.init(rawValue: 4001))
                connection.send("too late")
            }
        }
        try await self.withServer(WebSocketEndpoint(handler: Handler())) { server in
            for _ in 0..<10 {
                let peer = try await server.open()
                // What comes behind the close is for nobody.
                let frames = ["one", "two", "three"].flatMap { ConformancePeer.frame(.text, Array($0.utf8)) }
                try await peer.stream.write(frames)
                try await peer.expectNext(.text("one"))
                try await peer.expectNext(.text("the last word"))
                try await peer.expectNext(.close(4001))
                try await peer.stream.write(ConformancePeer.closeFrame(4001))
                try await peer.expectEnd()
            }
            try await server.waitForCount(0)
        }
        let opened = WebSocketEndpoint { socket in
            try await socket.send("hello")
            await socket.close(.normalClosure)
        }
        try await self.withServer(opened) { server in
            let peer = try await server.open()
            try await peer.expectNext(.text("hello"))
            try await peer.finish()
        }
    }

    @Sendable func endsAfterClose() async throws {
        try await self.withServer(self.echo) { server in
            let peer = try await server.open()
            // The answers are on their way when the server ends, and nothing may destroy them.
            let payload = [UInt8](repeating: 1, count: 32_000)
            try await peer.send(.binary, payload)
            try await peer.stream.write(ConformancePeer.closeFrame(1000))
            try await server.waitForCount(0)
            let event = try await peer.next()
            try expect(event == .binary(payload), "before the close came \(event)")
            try await peer.expectNext(.close(1000))
            try await peer.expectNext(.end)
        }
    }

    @Sendable func noticesLoss() async throws {
        let codes = Codes()
        let endpoint = WebSocketEndpoint(handler: ClosureHandler(codes: codes))
        try await self.withServer(endpoint) { server in
            for hasUnread in [false, true] {
                let peer = try await server.open()
                try await peer.send("x")
                if !hasUnread { try await peer.expectNext(.text("x")) }
                // The beginning of a frame; where something is unread, TCP sends a reset.
                try await peer.stream.write([0x81])
                peer.stream.close()
                try await server.waitForCount(0)
            }
            // Before there is a WebSocket, too.
            let early = try await server.connect()
            try await early.stream.write(Array("GET / HT".utf8))
            early.stream.close()
        }
        try expect(codes.all == [1006, 1006], "the handler has seen \(codes.all)")
    }

    @Sendable func noticesHalfClose() async throws {
        let codes = Codes()
        try await self.withServer(WebSocketEndpoint(handler: ClosureHandler(codes: codes))) { server in
            let silent = try await server.open()
            guard let stream = silent.stream as? any HalfClosableStream else {
                try await silent.finish()
                throw NotApplicable(
                    reason: "the connector's streams are no HalfClosableStreams: both directions end together"
                )
            }
            stream.endWriting()
            try await silent.expectEnd()
            try await server.waitForCount(0)
            // A close frame that comes together with the end counts first.
            let polite = try await server.open()
            try await polite.send("x")
            try await polite.stream.write(ConformancePeer.closeFrame(4002))
            (polite.stream as? any HalfClosableStream)?.endWriting()
            try await polite.expectNext(.text("x"))
            try await polite.expectNext(.close(4002))
            try await polite.expectEnd()
            try await server.waitForCount(0)
        }
        try expect(codes.all == [1006, 4002], "the handler has seen \(codes.all)")
    }

    // MARK: - Shutdown

    @Sendable func shutsDown() async throws {
        let target = TargetBox()
        try await self.withServer(self.echo) { server in
            target.set(server)
            let peers = [try await server.open(), try await server.open(), try await server.open()]
            let idle = try await server.connect()
            try await idle.stream.write(ConformancePeer.request("/page", upgrades: false))
            _ = try await idle.readResponse()
            try await server.waitForCount(3)
            server.beginShutdown()
            for peer in peers {
                try await peer.expectNext(.close(1001))
                try await peer.stream.write(ConformancePeer.closeFrame(1001))
                try await peer.expectEnd()
            }
            try await idle.expectEnd()
        }
        let server = try unwrap(target.server, "there was no server")
        do {
            _ = try await server.connect()
        } catch is TransportError {
            return
        }
        throw ConformanceFailure("a connection was opened after the server's end")
    }

    @Sendable func cutsAtShutdown() async throws {
        var configuration = Self.patient
        configuration.drainTimeout = .milliseconds(200)
        try await self.withServer(self.echo, configuration) { server in
            let peer = try await server.open()
            try await server.waitForCount(1)
            server.beginShutdown()
            try await peer.expectNext(.close(1001))
            try await peer.expectEnd()
        }
    }

    // MARK: - Limits

    @Sendable func limitsConnections() async throws {
        var configuration = Self.patient
        configuration.connectionsMax = 2
        let isEncrypted = self.options.tls != nil
        try await self.withServer(self.echo, configuration) { server in
            let first = try await server.open()
            let second = try await server.open()
            do {
                let third = try await server.connect()
                if isEncrypted {
                    try await third.expectEnd()
                } else {
                    let (head, _) = try await third.readResponse()
                    try expect(head.status.code == 503, "one too many was answered with \(head.status.code)")
                    try expect(head.headerFields[.retryAfter] != nil, "it was not told when to come back")
                    try await third.expectEnd()
                }
            } catch is TransportError where isEncrypted {
                // Over TLS nothing is said, and the handshake may have noticed.
            }
            try await first.finish()
            // Its place is free once the server has seen its end.
            while true {
                if let fourth = try? await server.open() {
                    try await fourth.send("in")
                    try await fourth.expectNext(.text("in"))
                    break
                }
                try await Task.sleep(for: .milliseconds(5))
            }
            try await second.finish()
        }
    }

    @Sendable func keepsDeadlines() async throws {
        var impatient = ServerConfiguration()
        impatient.handshakeTimeout = .milliseconds(300)
        try await self.withServer(self.echo, impatient) { server in
            let silent = try await server.connect()
            try await silent.expectEnd()
        }
        var configuration = EndpointConfiguration()
        configuration.timeouts.pingInterval = .milliseconds(100)
        configuration.timeouts.pongTimeout = .seconds(2)
        let echo = WebSocketEndpoint(configuration: configuration, handler: EchoHandler())
        try await self.withServer(echo) { server in
            let peer = try await server.open()
            for _ in 0..<3 {
                guard case .ping(let payload) = try await peer.next() else {
                    throw ConformanceFailure("no ping came")
                }
                try await peer.send(.pong, payload)
            }
            // And now no more pongs.
            while case .ping = try await peer.next() {}
            try await server.waitForCount(0)
        }
    }
}

// MARK: - Helpers

/// A check needs what the connector cannot do.
struct NotApplicable: Error {
    let reason: String
}

private struct ClosureHandler: ConnectionHandler {
    let codes: Codes

    mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {
        connection.send(message)
    }

    mutating func closed(_ connection: inout Connection<Self>, code: CloseCode) {
        self.codes.add(code.rawValue)
    }
}

private final class Codes: Sendable {
    private let codes = Lock<[UInt16]>([])

    var all: [UInt16] { self.codes.withLock { $0 } }
    func add(_ code: UInt16) { self.codes.withLock { $0.append(code) } }
}

private final class TargetBox: Sendable {
    private let box = Lock<ConformanceServer?>(nil)

    var server: ConformanceServer? { self.box.withLock { $0 } }
    func set(_ server: ConformanceServer) { self.box.withLock { $0 = server } }
}

/// Counts what goes on, and tells when nothing more does.
private final class Counter: Sendable {
    private let count = Lock(0)

    func increment() { self.count.withLock { $0 += 1 } }

    /// The count, once it has not changed for half a second, or as soon as it is `limit`.
    ///
    /// On a busy machine it may be told too early, and is the smaller then: no check fails for that.
    func settled(below limit: Int) async throws -> Int {
        var last = -1
        var quietLooks = 0
        while quietLooks < 50 {
            let now = self.count.withLock { $0 }
            if now >= limit { return now }
            quietLooks = now == last ? quietLooks + 1 : 0
            last = now
            try await Task.sleep(for: .milliseconds(10))
        }
        return last
    }
}

/// Lets tasks through once it is open.
private final class Gate: Sendable {
    private struct State {
        var isOpen = false
        var waiters: [CheckedContinuation<Void, Never>] = []
    }
    private let state = Lock(State())

    func open() {
        let waiters = self.state.withLock { state in
            state.isOpen = true
            defer { state.waiters = [] }
            return state.waiters
        }
        for waiter in waiters { waiter.resume() }
    }

    func wait() async {
        await withCheckedContinuation { continuation in
            let isOpen = self.state.withLock { state in
                if !state.isOpen { state.waiters.append(continuation) }
                return state.isOpen
            }
            if isOpen { continuation.resume() }
        }
    }
}
