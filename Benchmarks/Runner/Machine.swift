import FoundationEssentials
import Glibc

/// What the figures depend on besides the code.
struct Machine: Codable {
    /// The day, as `2026-01-31`, in UTC.
    let date: String
    let processor: String
    /// Family and model, which say more than a cloud's name for a processor; nil in older results.
    let processorModel: String?
    let coreCount: Int
    let memoryGiB: Int
    let kernel: String
    let congestionControl: String
    /// How many processes wanted a core in the minute before: well above 0, others were at work.
    let loadAverage: Double

    init() throws {
        self.date = Date.now.formatted(.iso8601.year().month().day())
        let facts = try readFile("/proc/cpuinfo")
        self.processor = field("model name", of: facts)?.replacing(" Processor", with: "") ?? "unknown"
        self.processorModel = field("cpu family", of: facts).flatMap { family in
            field("model\t", of: facts).map { "family \(family), model \($0)" }
        }
        self.coreCount = sysconf(Int32(_SC_NPROCESSORS_ONLN))
        let kibibytes = field("MemTotal", of: try readFile("/proc/meminfo"))?.split(separator: " ").first
        self.memoryGiB = Int(((kibibytes.flatMap { Double($0) } ?? 0) / 1_048_576).rounded())
        // The numbers alone: what a distributor or a provider adds says where the machine is.
        let release = try readFile("/proc/sys/kernel/osrelease")
        self.kernel = String(release.prefix { $0.isNumber || $0 == "." })
        self.congestionControl = trimmed(try readFile("/proc/sys/net/ipv4/tcp_congestion_control"))
        let load = try readFile("/proc/loadavg").split(separator: " ").first
        self.loadAverage = load.flatMap { Double($0) } ?? 0
    }

    /// A line for readers.
    var summary: String {
        let processor = self.processor + (self.processorModel.map { " (\($0))" } ?? "")
        return "\(processor), \(self.coreCount) cores, \(self.memoryGiB) GiB; Linux \(self.kernel) with "
            + "\(self.congestionControl); load average \(hundredths(self.loadAverage)) before the first measurement"
    }
}

/// What was compiled and measured.
struct Versions: Codable {
    /// The commit that was measured; nil in older results.
    let starling: String?
    let swift: String
    let openSSL: String
    let redis: String
    /// By contender.
    let peers: [String: String]

    init(of contenders: [Contender], _ tools: Tools) throws {
        let commit = try? firstLine(of: "git", ["describe", "--always", "--dirty"])
        self.starling = commit?.isEmpty == false ? commit : nil
        // "Swift version 6.3 (swift-6.3-RELEASE)", with or without a word about its driver in front.
        let line = try firstLine(of: "swift", ["--version"])
        self.swift = line.components(after: "Swift version ") ?? line
        self.openSSL = try firstLine(of: "openssl", ["version"]).components(after: "OpenSSL ") ?? "unknown"
        self.redis = try firstLine(of: "redis-server", ["--version"]).components(after: "v=") ?? "unknown"
        var peers: [String: String] = [:]
        for contender in contenders where contender.isPeer {
            peers[contender.rawValue] = tools.version(of: contender) ?? "unknown version"
        }
        self.peers = peers
    }

    /// A line for readers.
    var summary: String {
        let peers = Contender.allCases.compactMap { self.peers[$0.rawValue] }
        let own = ["Swift \(self.swift)", "OpenSSL \(self.openSSL)", "Redis \(self.redis)"]
        let starling = self.starling.map { ["Starling \($0)"] } ?? []
        return (starling + own + peers).joined(separator: "; ")
    }
}

extension String {
    /// The word that follows `mark`, or nil.
    fileprivate func components(after mark: String) -> String? {
        guard let range = self.firstRange(of: mark) else { return nil }
        return String(self[range.upperBound...].prefix { $0 != " " })
    }
}

private func firstLine(of program: String, _ arguments: [String]) throws -> String {
    var child = try Child(program, arguments, errors: .dropped)
    return try child.readLine(within: .seconds(30)) ?? ""
}

/// The value of a line such as `name	: value`.
private func field(_ name: String, of text: String) -> String? {
    let line = text.split(separator: "\n").first { $0.hasPrefix(name) }
    return line?.split(separator: ":").last.map { trimmed($0) }
}

private func trimmed(_ text: some StringProtocol) -> String {
    String(text.drop(while: \.isWhitespace).prefix { $0 != "\n" })
}
