import FoundationEssentials

/// Every sample, and where it was taken.
struct Results: Codable {
    let machine: Machine
    let rounds: Int
    let secondsPerSample: Double
    var samples: [Sample] = []

    /// Writes it all as JSON.
    func write(to path: String) throws {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
        try encoder.encode(self).write(to: URL(filePath: path))
        report("Every sample is in \(path).")
    }
}

/// One server under one load in one round.
struct Sample: Codable {
    let scenario: String
    let contender: Contender
    let round: Int
    /// What the load generator reported; nil for idle connections.
    var load: LoadReport?
    /// Messages per server-CPU second, divided by the mean of the floor's before and after it.
    var ratioToFloor: Double?
    var bytesPerIdleConnection: Double?

    init(scenario: Scenario, contender: Contender, round: Int, load: LoadReport? = nil) {
        self.scenario = scenario.name
        self.contender = contender
        self.round = round
        self.load = load
        self.ratioToFloor = contender == .floor ? 1 : nil
    }
}

/// The load generator's line.
///
/// A message is an echo, or a delivery to one subscriber.
struct LoadReport: Codable {
    let messages: UInt64
    /// The measured stretch.
    let wallNanoseconds: UInt64
    /// User and system time of the server in that stretch.
    let serverNanoseconds: UInt64
    /// User and system time of the load generator in that stretch.
    let generatorNanoseconds: UInt64
    /// From sending a batch to its last reply, or from a publication to a delivery.
    let p50Nanoseconds: UInt64
    let p99Nanoseconds: UInt64

    init(_ line: String) throws {
        do {
            self = try JSONDecoder().decode(Self.self, from: Data(line.utf8))
        } catch {
            throw BenchmarkError("The load generator printed '\(line)': \(error)")
        }
    }

    var messagesPerServerSecond: Double {
        Double(self.messages) / (Double(self.serverNanoseconds) / 1e9)
    }
}

/// What the figures depend on besides the code.
struct Machine: Codable {
    let processor: String
    let kernel: String
    let congestionControl: String

    init() throws {
        let model = try readFile("/proc/cpuinfo").split(separator: "\n").first { $0.hasPrefix("model name") }
        self.processor = model?.split(separator: ":").last.map { trimmed($0) } ?? "unknown"
        self.kernel = trimmed(try readFile("/proc/sys/kernel/osrelease"))
        self.congestionControl = trimmed(try readFile("/proc/sys/net/ipv4/tcp_congestion_control"))
    }
}

private func trimmed(_ text: some StringProtocol) -> String {
    String(text.drop(while: \.isWhitespace).prefix { $0 != "\n" })
}
