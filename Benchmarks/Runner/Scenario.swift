/// A load that servers are put under: one row group of a table.
struct Scenario {
    /// What the load generator does.
    enum Load {
        case echo(depth: Int)
        case fanout(depth: Int, topics: Int)
        case churn
        case idle
    }

    /// What is started.
    enum Arrangement: Equatable {
        /// One process on the server's core, with one event loop.
        case oneLoop
        /// One process on both cores, with so many event loops; the load generator takes what it gets.
        case sharedCores(loops: Int)
        /// Two nodes on the server's core, and a Redis beside the load generator: what one publishes the other delivers.
        case twoNodes
    }

    /// What lies between frames and TCP.
    enum Security: String {
        case none, tls
        case resumed = "tls-resumed"
    }

    /// The name on the command line.
    let name: String
    /// The words in the table.
    let title: String
    let chapter: Chapter
    let load: Load
    let connections: Int
    let payloadByteCount: Int
    var isJSON = false
    var deflate = false
    var security = Security.none
    var arrangement = Arrangement.oneLoop

    static var names: String { Self.all.map(\.name).joined(separator: ", ") }

    /// Whether memory is measured, not messages.
    var isIdle: Bool {
        if case .idle = self.load { true } else { false }
    }

    /// Whether publications are delivered.
    var isFanOut: Bool {
        if case .fanout = self.load { true } else { false }
    }

    /// Whether the floor can do the same.
    var isPlainEcho: Bool {
        guard case .echo = self.load else { return false }
        return self.arrangement == .oneLoop && self.security == .none && !self.deflate
    }

    /// The load that the floor is under when it is the measure for this scenario.
    ///
    /// The floor knows neither topics nor TLS nor compression, so all but a plain echo is held against the floor's echo of
    /// 20 bytes: it says how fast the machine was then. Idle connections are not held against it.
    var floorScenario: Scenario? {
        if self.isIdle { return nil }
        return self.isPlainEcho ? self : Self.all.first { $0.name == "echo-20" }
    }

    /// The load generator's arguments that say what to do, without ports and duration.
    func generatorArguments(for contender: Contender) -> [String] {
        let sizes = ["--connections", "\(self.connections)", "--payload", "\(self.payloadByteCount)"]
        let options =
            (self.isJSON ? ["--content", "json"] : []) + (self.deflate ? ["--compression", "deflate"] : [])
            + ["--security", self.security.rawValue]
        let mode =
            switch self.load {
            case .echo(let depth): [contender == .floor ? "raw" : "echo", "--depth", "\(depth)"]
            case .fanout(let depth, let topics): ["fanout", "--depth", "\(depth)", "--topics", "\(topics)"]
            case .churn: ["churn"]
            case .idle: ["idle"]
            }
        return mode + sizes + options
    }
}
