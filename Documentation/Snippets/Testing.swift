import Starling
import StarlingNative
import StarlingTesting

/// In the doc comment of `InMemoryNetwork`.
func useNetwork(_ room: WebSocketEndpoint) async throws {
    let network = InMemoryNetwork()
    let server = WebSocketServer(transport: network.transport(at: "chat")) { WebSocketRoute("/room", room) }
    async let serving: Void = server.run()

    let client = WebSocketClient(connector: network.connector)
    try await client.connect(to: "ws://chat/room") { socket in
        try await socket.send("Hello")
    }
    server.beginShutdown()
    try await serving
}

/// In the doc comment of `FaultPlan`.
func usePlan(_ network: InMemoryNetwork) -> WebSocketClient {
    var plan = FaultPlan(seed: 7)
    plan.received.pieceByteCountMax = 1
    plan.sent.breakage = .reset(.afterBytes(1000))
    let client = WebSocketClient(connector: FaultyConnector(network.connector, plan: plan))
    return client
}

/// In the doc comment of `FaultyConnector`.
func useFaultyConnector() -> any Connector {
    let broken = FaultyConnector(NativeConnector()) { connection in
        var plan = FaultPlan(seed: UInt64(connection))
        plan.received.breakage = .halfOpen(.afterBytes(500))
        return plan
    }
    return broken
}

/// In the doc comment of `TestStreamClient`.
func speakByHand(_ network: InMemoryNetwork) async throws {
    let client = try await TestStreamClient(
        network.connector,
        to: .tcp(host: "chat", port: 80),
        path: "/room"
    )
    try await client.send(.text("Hello"))
    let frame = try await client.nextFrame()
    print(frame as Any)
}

/// In the doc comment of `TransportConformance`.
func checkTransport() async throws {
    try await TransportConformance(connector: NativeConnector()) { address in
        .tcp(host: "127.0.0.1", port: Int(address.split(separator: ":").last ?? "") ?? 0)
    } makeTransport: { onListening in
        NativeTransport(host: "127.0.0.1", port: 0, onListening: onListening)
    }.run()
}
