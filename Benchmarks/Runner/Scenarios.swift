/// What a table and a plot have in common.
enum Chapter: String, CaseIterable {
    case echo, fanout, deflate, tls, churn, nodes, loops, idle

    var title: String {
        switch self {
        case .echo: "Echo"
        case .fanout: "Fan-out"
        case .deflate: "permessage-deflate"
        case .tls: "TLS"
        case .churn: "Connections that come and go"
        case .nodes: "Fan-out through Redis"
        case .loops: "One event loop, and two"
        case .idle: "Idle connections"
        }
    }

    /// Whether its figures are of the kind that the floor has: messages.
    var isHeldAgainstFloor: Bool {
        switch self {
        case .echo, .fanout, .deflate, .tls, .nodes: true
        case .churn, .loops, .idle: false
        }
    }

    /// What its figures count.
    var unit: String {
        switch self {
        case .echo, .deflate, .tls, .loops: "messages / server-CPU s"
        case .fanout, .nodes: "deliveries / server-CPU s"
        case .churn: "connections / server-CPU s"
        case .idle: "bytes / idle connection"
        }
    }
}

extension Scenario {
    /// In the order of the tables.
    static let all =
        echoes + fanOuts + compressed + encrypted + comingAndGoing + betweenNodes + onSharedCores + idle

    private static let echoes = [
        Scenario(
            name: "echo-20",
            title: "echo, 200 × 20 B",
            chapter: .echo,
            load: .echo(depth: 1),
            connections: 200,
            payloadByteCount: 20
        ),
        Scenario(
            name: "echo-20-depth-16",
            title: "echo, 200 × 20 B, depth 16",
            chapter: .echo,
            load: .echo(depth: 16),
            connections: 200,
            payloadByteCount: 20
        ),
        Scenario(
            name: "echo-1k",
            title: "echo, 200 × 1 KiB",
            chapter: .echo,
            load: .echo(depth: 1),
            connections: 200,
            payloadByteCount: 1024
        ),
        Scenario(
            name: "echo-64k",
            title: "echo, 200 × 64 KiB",
            chapter: .echo,
            load: .echo(depth: 1),
            connections: 200,
            payloadByteCount: 65536
        ),
    ]

    private static let fanOuts = [
        fanOut("fanout", "fan-out, 1,000 × 100 B", depth: 1),
        fanOut("fanout-depth-16", "fan-out, 1,000 × 100 B, depth 16", depth: 16),
        fanOut("fanout-10-topics", "fan-out, 10 topics × 1,000", depth: 1, topics: 10, subscribers: 10_000),
        fanOut(
            "fanout-1000-topics",
            "fan-out, 1,000 topics × 10",
            depth: 1,
            topics: 1000,
            subscribers: 10_000
        ),
    ]

    private static func fanOut(
        _ name: String,
        _ title: String,
        depth: Int,
        topics: Int = 1,
        subscribers: Int = 1000
    ) -> Scenario {
        Scenario(
            name: name,
            title: title,
            chapter: .fanout,
            load: .fanout(depth: depth, topics: topics),
            connections: subscribers,
            payloadByteCount: 100
        )
    }

    /// Bytes of JSON in a message, as in a chat.
    private static let jsonByteCount = 500

    private static let compressed = [
        Scenario(
            name: "deflate-echo",
            title: "echo of JSON, 200 × 500 B",
            chapter: .deflate,
            load: .echo(depth: 1),
            connections: 200,
            payloadByteCount: jsonByteCount,
            isJSON: true,
            deflate: true
        ),
        Scenario(
            name: "deflate-fanout",
            title: "fan-out of JSON, 1,000 × 500 B",
            chapter: .deflate,
            load: .fanout(depth: 1, topics: 1),
            connections: 1000,
            payloadByteCount: jsonByteCount,
            isJSON: true,
            deflate: true
        ),
    ]

    private static let encrypted = [
        Scenario(
            name: "tls-echo",
            title: "echo over TLS, 200 × 20 B",
            chapter: .tls,
            load: .echo(depth: 1),
            connections: 200,
            payloadByteCount: 20,
            security: .tls
        ),
        Scenario(
            name: "tls-echo-64k",
            title: "echo over TLS, 200 × 64 KiB",
            chapter: .tls,
            load: .echo(depth: 1),
            connections: 200,
            payloadByteCount: 65536,
            security: .tls
        ),
    ]

    private static let comingAndGoing = [
        churn("churn", "connect, upgrade, close", security: .none),
        churn("churn-tls", "connect, full TLS handshake, upgrade, close", security: .tls),
        churn("churn-tls-resumed", "connect, TLS resumed by a ticket, upgrade, close", security: .resumed),
    ]

    private static func churn(_ name: String, _ title: String, security: Security) -> Scenario {
        Scenario(
            name: name,
            title: title,
            chapter: .churn,
            load: .churn,
            connections: 64,
            payloadByteCount: 20,
            security: security
        )
    }

    private static let betweenNodes = [1, 16].map { depth in
        Scenario(
            name: depth == 1 ? "nodes-fanout" : "nodes-fanout-depth-\(depth)",
            title: "from another node, 1,000 × 100 B" + (depth == 1 ? "" : ", depth \(depth)"),
            chapter: .nodes,
            load: .fanout(depth: depth, topics: 1),
            connections: 1000,
            payloadByteCount: 100,
            arrangement: .twoNodes
        )
    }

    private static let onSharedCores = [1, 2].map { loops in
        Scenario(
            name: "loops-\(loops)",
            title: "echo, 200 × 20 B, depth 16, \(loops == 1 ? "one loop" : "two loops")",
            chapter: .loops,
            load: .echo(depth: 16),
            connections: 200,
            payloadByteCount: 20,
            arrangement: .sharedCores(loops: loops)
        )
    }

    private static let idle = [
        idle("idle", "15,000 idle"),
        idle("idle-tls", "15,000 idle, TLS", security: .tls),
        idle("idle-deflate", "15,000 idle, permessage-deflate", deflate: true),
    ]

    private static func idle(
        _ name: String,
        _ title: String,
        deflate: Bool = false,
        security: Security = .none
    ) -> Scenario {
        Scenario(
            name: name,
            title: title,
            chapter: .idle,
            load: .idle,
            connections: 15_000,
            payloadByteCount: deflate ? jsonByteCount : 20,
            isJSON: deflate,
            deflate: deflate,
            security: security
        )
    }
}
