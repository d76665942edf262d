import FoundationEssentials

/// Every sample, and where it was taken.
struct Results: Codable {
    let machine: Machine
    let versions: Versions
    /// What was asked for and was not there.
    let skipped: [String]
    let rounds: Int
    let secondsPerSample: Double
    var samples: [Sample] = []
    /// Servers that did not do what they should; no figure of theirs under that load is kept.
    var failures: [Failure] = []

    /// A folder that says when and on what.
    var defaultFolder: String {
        let words = self.machine.processor.lowercased().split { !$0.isASCII || !($0.isLetter || $0.isNumber) }
        return
            "\(benchmarksDirectory())/Results/\(self.machine.date)-\(words.prefix(3).joined(separator: "-"))"
    }

    /// Writes the tables, a plot for each, and every sample as JSON.
    func write(to folder: String, _ summary: Summary) throws {
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        func write(_ text: String, as name: String) throws {
            try Data(text.utf8).write(to: URL(filePath: "\(folder)/\(name)"))
        }
        try write(summary.text(withPlots: true), as: "results.md")
        for section in summary.sections {
            try write(Plot(of: section).svg, as: Summary.plotName(of: section.chapter))
        }
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
        try encoder.encode(self).write(to: URL(filePath: "\(folder)/raw.json"))
        report("The results are in \(folder).")
    }
}

/// A server that lost, corrupted or refused something, or was silent.
struct Failure: Codable {
    let scenario: String
    let contender: Contender
    let reason: String
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

    var messagesPerWallSecond: Double {
        Double(self.messages) / (Double(self.wallNanoseconds) / 1e9)
    }
}
