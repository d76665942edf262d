/// Where the executables are.
struct Tools {
    private let directory: String
    private let peersDirectory: String

    /// Looks for everything that is built together with this program; throws if something is missing.
    init() throws {
        self.directory = try directoryOfThisExecutable()
        self.peersDirectory = "\(benchmarksDirectory())/Peers/.build"
        let needed = [self.loadGenerator] + Contender.allCases.filter { !$0.isPeer }.map(self.path(of:))
        for path in needed where !isExecutable(path) {
            throw BenchmarkError("\(path) is missing: build it first with `swift build -c release`.")
        }
    }

    var loadGenerator: String { "\(self.directory)/LoadGenerator" }

    func path(of contender: Contender) -> String {
        switch contender {
        case .floor: "\(self.directory)/BenchmarkFloor"
        case .starlingSync, .starlingAsync: "\(self.directory)/BenchmarkServer"
        case .nioWebSocket, .beast, .socketify, .gorilla, .ws, .websockets:
            "\(self.peersDirectory)/\(contender.rawValue)/server"
        }
    }

    /// Why a peer cannot be measured, or nil if it can.
    func reasonToSkip(_ contender: Contender) -> String? {
        if !contender.isPeer || isExecutable(self.path(of: contender)) { return nil }
        let reason = try? readFile("\(self.peersDirectory)/\(contender.rawValue)/skipped")
        return reason.map(firstLine) ?? "not built; Benchmarks/peers.sh does that"
    }

    /// What the peer is a version of, as `peers.sh` has found out.
    func version(of contender: Contender) -> String? {
        (try? readFile("\(self.peersDirectory)/\(contender.rawValue)/version")).map(firstLine)
    }
}

/// `Benchmarks/` in the sources that this program was compiled from.
func benchmarksDirectory(of file: String = #filePath) -> String {
    file.split(separator: "/", omittingEmptySubsequences: false).dropLast(2).joined(separator: "/")
}

private func firstLine(_ text: String) -> String {
    String(text.prefix { $0 != "\n" })
}
