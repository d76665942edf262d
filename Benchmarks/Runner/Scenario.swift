/// One row group of the table: a load that every server is put under.
struct Scenario {
    /// What the load generator does.
    enum Load {
        case echo(depth: Int)
        case fanout(depth: Int)
        case idle
    }

    /// The name on the command line.
    let name: String
    /// The words in the table.
    let title: String
    let load: Load
    let connections: Int
    let payloadByteCount: Int

    static let all = [
        Scenario(
            name: "echo-20",
            title: "echo, 200 × 20 B",
            load: .echo(depth: 1),
            connections: 200,
            payloadByteCount: 20
        ),
        Scenario(
            name: "echo-20-depth-16",
            title: "echo, 200 × 20 B, depth 16",
            load: .echo(depth: 16),
            connections: 200,
            payloadByteCount: 20
        ),
        Scenario(
            name: "echo-1k",
            title: "echo, 200 × 1 KiB",
            load: .echo(depth: 1),
            connections: 200,
            payloadByteCount: 1024
        ),
        Scenario(
            name: "echo-64k",
            title: "echo, 200 × 64 KiB",
            load: .echo(depth: 1),
            connections: 200,
            payloadByteCount: 65536
        ),
        Scenario(
            name: "fanout",
            title: "fan-out, 1,000 × 100 B",
            load: .fanout(depth: 1),
            connections: 1000,
            payloadByteCount: 100
        ),
        Scenario(
            name: "fanout-depth-16",
            title: "fan-out, 1,000 × 100 B, depth 16",
            load: .fanout(depth: 16),
            connections: 1000,
            payloadByteCount: 100
        ),
        Scenario(
            name: "idle",
            title: "idle, 15,000",
            load: .idle,
            connections: 15000,
            payloadByteCount: 20
        ),
    ]

    static var names: String { Self.all.map(\.name).joined(separator: ", ") }

    /// Whether memory is measured, not messages.
    var isIdle: Bool {
        switch self.load {
        case .echo, .fanout: false
        case .idle: true
        }
    }

    /// The load that the floor is under when it is the measure for this scenario.
    ///
    /// The floor knows no topics, so fan-out is held against the floor's plain echo of 20 bytes: a delivery is one
    /// send, where an echo is a receive and a send. Idle connections are not held against it.
    var floorScenario: Scenario? {
        switch self.load {
        case .echo: self
        case .fanout: Self.all.first { $0.name == "echo-20" }
        case .idle: nil
        }
    }

    /// The load generator's arguments that say what to do, without port and duration.
    func generatorArguments(for contender: Contender) -> [String] {
        let sizes = ["--connections", "\(self.connections)", "--payload", "\(self.payloadByteCount)"]
        switch self.load {
        case .echo(let depth): return [contender == .floor ? "raw" : "echo", "--depth", "\(depth)"] + sizes
        case .fanout(let depth): return ["fanout", "--depth", "\(depth)"] + sizes
        case .idle: return ["idle"] + sizes
        }
    }
}
