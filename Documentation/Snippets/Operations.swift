import Logging
import ServiceLifecycle
import Starling
import StarlingNative
import StarlingRedis
import UnixSignals

func trustProxies() throws {
    var configuration = ServerConfiguration()
    // X-Forwarded-For
    configuration.trustedProxies = try TrustedProxies(["10.0.0.0/8"])
    // Forwarded, RFC 7239
    configuration.trustedProxies = try TrustedProxies(["10.0.0.0/8"], source: .forwarded)
    // PROXY protocol v1 and v2
    configuration.trustedProxies = try TrustedProxies(["10.0.0.0/8"], source: .proxyProtocol)

    configuration.trustedProxies = try TrustedProxies(["10.0.0.0/8", "::1"])
}

func useAffinity(secret: [UInt8]) {
    var configuration = ServerConfiguration()
    configuration.affinity = SessionAffinity(node: "chat-1", key: secret)
}

func drainSlowly() {
    var configuration = ServerConfiguration()
    configuration.drainSpread = .seconds(20)
    configuration.drainTimeout = .seconds(25)
}

func handOff(_ echo: WebSocketEndpoint) async throws {
    let transport = NativeTransport(port: 8080, handoff: Handoff(path: "/run/chat/handoff.sock"))
    let server = WebSocketServer(transport: transport) { WebSocketRoute("/echo", echo) }
    let group = ServiceGroup(
        configuration: ServiceGroupConfiguration(
            services: [.init(service: server, successTerminationBehavior: .gracefullyShutdownGroup)],
            gracefulShutdownSignals: [.sigint, .sigterm],
            logger: Logger(label: "chat")
        )
    )
    try await group.run()
}

func makeResumable() -> WebSocketEndpoint {
    let counting = WebSocketEndpoint.resumable { socket in
        var count = try socket.carried(Int.self) ?? 0
        for try await message in socket {
            count += 1
            try socket.carry(count)
            try await socket.send(message)
        }
    }
    return counting
}

/// A handler's state goes along by itself.
func handOffState() -> WebSocketEndpoint {
    struct Counter: HandoffConnectionHandler {
        struct State: Codable { var received = 0 }

        mutating func opened(_ connection: inout Connection<Self>, userData: Void) -> State { State() }

        mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {
            connection.state.received += 1
        }
    }
    return WebSocketEndpoint(handler: Counter())
}

func encrypt(_ echo: WebSocketEndpoint) async throws {
    let tls = try TLSContext(
        .server(
            TLSIdentity(
                certificateChain: .file("/etc/chat/tls/fullchain.pem"),
                privateKey: .file("/etc/chat/tls/key.pem")
            )
        )
    )
    let server = WebSocketServer(transport: NativeTransport(port: 443, tls: tls)) {
        WebSocketRoute("/echo", echo)
    }

    try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask {
            for await _ in await UnixSignalsSequence(trapping: .sighup) {
                do {
                    try tls.reload()
                } catch {
                    Logger(label: "chat").error("the old certificate stays in use: \(error)")
                }
            }
        }
        try await server.run()
        group.cancelAll()
    }
}

func useRedis() throws {
    let broadcaster = try RedisBroadcaster(url: "redis://127.0.0.1", connector: NativeConnector()) { topic in
        topic.name.hasPrefix("room:") ? HistoryLimits(countMax: 1000, ageMax: .seconds(300)) : nil
    }
    _ = broadcaster
}

func useRedisWithoutHistory() throws {
    let broadcaster = try RedisBroadcaster(url: "redis://127.0.0.1", connector: NativeConnector())
    let chat = WebSocketEndpoint(broadcaster: broadcaster) { socket in
        try await socket.subscribe(to: "news")
        for try await message in socket { try await broadcaster.publish(message, to: "news") }
    }
    _ = chat
}

func useManyServers() throws {
    var configuration = RedisConfiguration(servers: [
        try RedisServer(url: "rediss://chat:secret@redis-1.internal"),
        try RedisServer(url: "rediss://chat:secret@redis-2.internal"),
    ])
    configuration.namespace = "chat"
    configuration.history = { topic in topic.name.hasPrefix("room:") ? HistoryLimits(countMax: 1000) : nil }
    let broadcaster = RedisBroadcaster(configuration, connector: NativeConnector())
    _ = broadcaster
}

func joinCluster(_ broadcaster: RedisBroadcaster) async throws {
    let cluster = ClusterRegistry(broadcaster, node: "chat-1")
    var configuration = ServerConfiguration()
    configuration.cluster = cluster

    try await cluster.send(.text("your order is on its way"), toUser: "ada")

    for try await event in try await cluster.events() {
        print(event)
    }
}
