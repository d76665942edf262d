import Starling
import StarlingCore
import StarlingTesting
import Testing

/// What a plan promises, on a line without a clock and on real streams.
@Suite struct FaultPlanTests {
    /// What arrives until nothing does any more, with its times.
    private static func run(
        _ plan: FaultPlan.Direction,
        seed: UInt64,
        _ writes: [(time: UInt64, bytes: [UInt8])]
    ) -> (arrivals: [(time: UInt64, arrival: FaultLine.Arrival)], line: FaultLine) {
        var line = FaultLine(plan, SeededGenerator(seed: seed))
        var arrivals: [(time: UInt64, arrival: FaultLine.Arrival)] = []
        func receive(until end: UInt64) {
            while arrivals.last?.arrival != .reset, let time = line.nextArrival, time <= end {
                if let arrival = line.receive(at: time) { arrivals.append((time, arrival)) }
            }
        }
        for (time, bytes) in writes {
            receive(until: time)
            line.send(bytes, at: time)
        }
        line.end(at: writes.last?.time ?? 0)
        receive(until: 1 << 60)
        return (arrivals, line)
    }

    private static func bytes(_ arrivals: [(time: UInt64, arrival: FaultLine.Arrival)]) -> [UInt8] {
        arrivals.flatMap { if case .bytes(let bytes) = $0.arrival { bytes } else { [UInt8]() } }
    }

    private static func writes(_ random: inout SeededGenerator) -> [(time: UInt64, bytes: [UInt8])] {
        var time: UInt64 = 0
        return (0..<20).map { _ in
            time += random.next() % 50_000_000
            return (
                time, (0..<Int(random.next() % 200)).map { _ in UInt8.random(in: 0...255, using: &random) }
            )
        }
    }

    @Test(
        "Whatever a plan without an end does, the bytes arrive whole and in order, and no earlier than it says"
    )
    func keepsBytes() {
        for seed in UInt64(0)..<200 {
            var random = SeededGenerator(seed: seed)
            var plan = FaultPlan.Direction()
            if random.next() % 2 == 0 { plan.delay = .milliseconds(5) ... .milliseconds(90) }
            if random.next() % 2 == 0 { plan.pieceByteCountMax = 1 + Int(random.next() % 9) }
            if random.next() % 2 == 0 { plan.bytesPerSecondMax = 10_000 }
            let writes = Self.writes(&random)
            let (arrivals, line) = Self.run(plan, seed: seed, writes)
            let sent = writes.flatMap(\.bytes)
            #expect(Self.bytes(arrivals) == sent)
            #expect(arrivals.last?.arrival == .end)
            #expect(line.isEmpty && line.room == plan.inTransitByteCountMax)
            if let max = plan.pieceByteCountMax {
                #expect(
                    arrivals.allSatisfy {
                        if case .bytes(let bytes) = $0.arrival { bytes.count <= max } else { true }
                    }
                )
            }
            let first = writes.first { !$0.bytes.isEmpty }?.time ?? 0
            #expect((arrivals.first?.time ?? 0) - first >= (plan.delay.lowerBound == .zero ? 0 : 5_000_000))
            if plan.bytesPerSecondMax != nil {
                #expect((arrivals.last?.time ?? 0) - first >= UInt64(sent.count) * 100_000)
            }
            #expect(zip(arrivals, arrivals.dropFirst()).allSatisfy { $0.time <= $1.time })
            // The same plan and seed decide the same.
            let again = Self.run(plan, seed: seed, writes).arrivals
            #expect(
                again.map(\.time) == arrivals.map(\.time) && again.map(\.arrival) == arrivals.map(\.arrival)
            )
        }
    }

    @Test(
        "After so many bytes a direction ends as the plan says, and these still arrive",
        arguments: [0, 1, 7, 100, 1999]
    )
    func breaksAfterBytes(count: Int) {
        let sent = (0..<2000).map { UInt8(truncatingIfNeeded: $0) }
        let writes = [(UInt64(10), Array(sent[..<900])), (20, Array(sent[900...]))]
        for breakage in [
            FaultPlan.Breakage.reset(.afterBytes(count)), .halfOpen(.afterBytes(count)),
            .drop(.afterBytes(count), resetAfter: .seconds(3)),
        ] {
            var plan = FaultPlan.Direction()
            plan.pieceByteCountMax = 64
            plan.delay = .milliseconds(1) ... .milliseconds(30)
            plan.breakage = breakage
            let (arrivals, line) = Self.run(plan, seed: UInt64(count), writes)
            #expect(Self.bytes(arrivals) == Array(sent[..<count]), "\(breakage)")
            let last = arrivals.last { $0.arrival != .reset }?.time ?? 0
            switch breakage {
            case .reset: #expect(arrivals.last?.arrival == .reset)
            case .drop:
                #expect(arrivals.last?.arrival == .reset)
                #expect((arrivals.last?.time ?? 0) >= last + 2_970_000_000)
            case .halfOpen:
                #expect(arrivals.allSatisfy { $0.arrival != .reset && $0.arrival != .end })
                // The sender is not told; what it sends fills the room that there is.
                #expect(line.room == plan.inTransitByteCountMax - (2000 - count))
            }
        }
    }

    @Test("After a time a direction ends as the plan says, and what was on its way is lost")
    func breaksAfterTime() {
        for (breakage, end) in [
            (FaultPlan.Breakage.reset(.after(.seconds(1))), UInt64(1_000_000_000)),
            (.drop(.after(.seconds(1)), resetAfter: .seconds(2)), 3_000_000_000),
            (.halfOpen(.after(.seconds(1))), 0),
        ] {
            var plan = FaultPlan.Direction()
            plan.delay = .milliseconds(10) ... .milliseconds(10)
            plan.breakage = breakage
            let (arrivals, _) = Self.run(
                plan,
                seed: 1,
                [(0, [1]), (980_000_000, [2]), (995_000_000, [3]), (2_000_000_000, [4])]
            )
            #expect(Self.bytes(arrivals) == [1, 2], "\(breakage)")
            #expect(arrivals.contains { $0.arrival == .reset } == (end > 0))
            if end > 0 { #expect(arrivals.last?.time == end) }
        }
    }

    // MARK: - On streams

    @Test("Messages arrive through a link that splits and delays, in both directions")
    func splits() async throws {
        let network = InMemoryNetwork()
        try await withServer(on: network) {
            var plan = FaultPlan(seed: 3)
            plan.sent.pieceByteCountMax = 3
            plan.received.pieceByteCountMax = 1
            plan.received.delay = .zero ... .microseconds(200)
            let client = WebSocketClient(connector: FaultyConnector(network.connector, plan: plan))
            try await client.connect(to: "ws://chat/echo") { socket in
                var replies = socket.makeAsyncIterator()
                for number in 0..<20 {
                    try await socket.send("message \(number)")
                    let reply = try await replies.next()
                    #expect(reply?.text == "message \(number)")
                }
            }
        }
    }

    @Test("A reset is seen by both ends, whether it comes by bytes or by time")
    func resets() async throws {
        let network = InMemoryNetwork()
        let closures = Lock<[CloseCause]>([])
        let (closed, continuation) = AsyncStream.makeStream(of: Void.self)
        let watched = WebSocketEndpoint { socket in
            do { for try await message in socket { try await socket.send(message) } } catch {}
            if let closure = socket.closure { closures.withLock { $0.append(closure.cause) } }
            continuation.yield()
        }
        try await withServer(on: network, .quick, WebSocketRoute("/watched", watched)) {
            let connector = FaultyConnector(network.connector) { connection in
                var plan = FaultPlan()
                switch connection {
                case 0: plan.sent.breakage = .reset(.afterBytes(400))
                case 1: plan.received.breakage = .reset(.afterBytes(400))
                case 2: plan.sent.breakage = .drop(.afterBytes(400), resetAfter: .milliseconds(20))
                default: plan.received.breakage = .reset(.after(.milliseconds(500)))
                }
                return plan
            }
            var ends = closed.makeAsyncIterator()
            var configuration = ClientConfiguration()
            configuration.deflate = nil
            for connection in 0..<4 {
                let error = await #expect(throws: WebSocketError.self) {
                    try await WebSocketClient(connector: connector)
                        .connect(to: "ws://chat/watched", configuration: configuration) { socket in
                            var replies = socket.makeAsyncIterator()
                            while true {
                                try await socket.send("twenty bytes of text")
                                if try await replies.next() == nil { return }
                            }
                        }
                }
                // Who was never connected has no end to wait for.
                try #require(error?.code == .connectionLost, "connection \(connection)")
                await ends.next()
                #expect(closures.withLock { $0.last } == .connectionLost, "connection \(connection)")
            }
        }
    }

    @Test("A half-open link is found out by pings, on both ends")
    func halfOpen() async throws {
        let network = InMemoryNetwork()
        let (closed, continuation) = AsyncStream.makeStream(of: CloseCause.self)
        var endpoint = EndpointConfiguration()
        endpoint.timeouts.pingInterval = .milliseconds(100)
        endpoint.timeouts.pongTimeout = .milliseconds(200)
        let watched = WebSocketEndpoint(configuration: endpoint) { socket in
            defer { continuation.finish() }
            try await socket.send(.binary([UInt8](repeating: 7, count: 1000)))
            do { for try await _ in socket {} } catch {}
            if let closure = socket.closure { continuation.yield(closure.cause) }
        }
        try await withServer(on: network, .quick, WebSocketRoute("/watched", watched)) {
            // Enough for the handshake, and not for what both ends say then.
            var plan = FaultPlan()
            plan.sent.breakage = .halfOpen(.afterBytes(800))
            plan.received.breakage = .halfOpen(.afterBytes(800))
            var configuration = ClientConfiguration()
            configuration.deflate = nil
            configuration.handshakeTimeout = .seconds(60)
            configuration.timeouts.pingInterval = .milliseconds(500)
            configuration.timeouts.pongTimeout = .milliseconds(500)
            let client = WebSocketClient(connector: FaultyConnector(network.connector, plan: plan))
            let error = await #expect(throws: WebSocketError.self) {
                try await client.connect(to: "ws://chat/watched", configuration: configuration) { socket in
                    try await socket.send(.binary([UInt8](repeating: 7, count: 1000)))
                    for try await _ in socket {}
                }
            }
            // Who was never connected has no end to wait for.
            try #require(error?.code == .timedOut)
            var causes = closed.makeAsyncIterator()
            #expect(await causes.next() == .pingTimeout)
        }
    }

    @Test("A slow reader holds its sender up, and closing ends what waits")
    func slowReader() async throws {
        let network = InMemoryNetwork()
        try await withServer(on: network) {
            var plan = FaultPlan()
            plan.sent.bytesPerSecondMax = 1000
            plan.sent.inTransitByteCountMax = 100
            let stream = try await FaultyConnector(network.connector, plan: plan)
                .connect(to: InMemoryNetworkTests.target, options: ConnectOptions())
            let start = ContinuousClock.now
            try await stream.write([UInt8](repeating: 65, count: 150))
            #expect(ContinuousClock.now - start >= .milliseconds(140))
            let reader = Task { try await stream.read() }
            let writer = Task { try await stream.write([UInt8](repeating: 65, count: 1 << 20)) }
            stream.close()
            await #expect(throws: TransportError.self) { _ = try await reader.value }
            await #expect(throws: TransportError.self) { try await writer.value }
        }
    }
}
