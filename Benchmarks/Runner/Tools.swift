/// Where the executables are.
struct Tools {
    private let directory: String
    private let nioWebSocketPeer: String

    /// Looks for everything that the contenders need, and builds the peer, which is a package of its own.
    ///
    /// Throws if an executable is missing.
    init(for contenders: [Contender]) throws {
        self.directory = try directoryOfThisExecutable()
        let package = "\(benchmarksDirectory())/Peers/NIOWebSocket"
        self.nioWebSocketPeer = "\(package)/.build/release/NIOWebSocketPeer"
        if contenders.contains(.nioWebSocket) { try Self.build(package) }

        let needed = [self.loadGenerator] + ([.floor] + contenders).map(self.path(of:))
        for path in needed where !isExecutable(path) {
            throw BenchmarkError("\(path) is missing: build it first with `swift build -c release`.")
        }
    }

    var loadGenerator: String { "\(self.directory)/LoadGenerator" }

    func path(of contender: Contender) -> String {
        switch contender {
        case .floor: "\(self.directory)/BenchmarkFloor"
        case .starlingSync, .starlingAsync: "\(self.directory)/BenchmarkServer"
        case .nioWebSocket: self.nioWebSocketPeer
        }
    }

    private static func build(_ package: String) throws {
        report("Building the NIOWebSocket peer; the first time takes minutes.")
        var build = try Child("swift", ["build", "-c", "release", "--package-path", package])
        while let line = try build.readLine(within: .seconds(1800)) { report("  \(line)") }
        guard try build.exitStatus() == 0 else {
            throw BenchmarkError("The NIOWebSocket peer does not build.")
        }
    }
}

/// `Benchmarks/` in the sources that this program was compiled from.
private func benchmarksDirectory(of file: String = #filePath) -> String {
    file.split(separator: "/", omittingEmptySubsequences: false).dropLast(2).joined(separator: "/")
}
