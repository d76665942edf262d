/// Runs one server and one load generator at a time, each on its own core.
struct Bench {
    let tools: Tools
    let cores: Cores
    let workplace: Workplace
    let seconds: Double

    /// Half a second for a server to warm up: those that compile while they run need it.
    private static let warmupSeconds = 0.5
    /// The longest that it may take to open the connections.
    private static let openingSecondsMax = 180.0

    /// Starts a server, loads it, and returns what the generator saw.
    ///
    /// On a busy machine the generator or the server may get no turn in a short time: then it is tried again, twice.
    func measure(_ contender: Contender, under scenario: Scenario) throws -> LoadReport {
        for _ in 1...3 {
            let load = try self.measureOnce(contender, under: scenario)
            if load.messages > 0, load.serverNanoseconds > 0 { return load }
        }
        throw self.failure("nothing was counted in \(self.seconds) s", of: contender, under: scenario)
    }

    private func measureOnce(_ contender: Contender, under scenario: Scenario) throws -> LoadReport {
        let site = try self.build(contender, for: scenario)
        var generator = try self.startGenerator(
            scenario,
            scenario.generatorArguments(for: contender) + site.generatorArguments + [
                "--warmup", "\(Self.warmupSeconds)", "--seconds", "\(self.seconds)",
            ]
        )
        let load = try self.readReport(of: &generator, against: contender, under: scenario)
        try self.checkEnd(of: &generator, against: contender, under: scenario)
        withExtendedLifetime(site) {}
        return load
    }

    /// Private memory that each idle connection adds to the server, in bytes.
    ///
    /// A few connections come and go first, so that what is loaded once for the first client is not counted. Each
    /// connection echoes one message before it idles: a connection that has never said anything is not what servers
    /// hold.
    func weighIdleConnections(of contender: Contender, under scenario: Scenario) throws -> Double {
        let site = try self.build(contender, for: scenario)
        let arguments = scenario.generatorArguments(for: contender) + site.generatorArguments
        // The last of the same options is the one that counts.
        var warmup = try self.startGenerator(
            scenario,
            arguments + ["--connections", "16", "--messages", "4"]
        )
        _ = try self.readReport(of: &warmup, against: contender, under: scenario)
        warmup.closeInput()
        try self.checkEnd(of: &warmup, against: contender, under: scenario)

        let before = try privateByteCount(of: site.servers[0].pid)
        var generator = try self.startGenerator(scenario, arguments + ["--messages", "1"])
        _ = try self.readReport(of: &generator, against: contender, under: scenario)
        let after = try privateByteCount(of: site.servers[0].pid)
        generator.closeInput()
        try self.checkEnd(of: &generator, against: contender, under: scenario)
        return Double(after - before) / Double(scenario.connections)
    }

    /// What a load is put on: the servers, those with subscribers first, and a Redis between them.
    private final class Site {
        private(set) var servers: [RunningServer]
        private var redis: RunningRedis?

        init(servers: [RunningServer], redis: RunningRedis? = nil) {
            self.servers = servers
            self.redis = redis
        }

        deinit {
            // The nodes first: they complain when their Redis goes.
            self.servers = []
            self.redis = nil
        }

        var generatorArguments: [String] {
            [
                "--port", "\(self.servers[0].port)", "--publish-port",
                "\(self.servers[self.servers.count - 1].port)",
            ]
                + self.servers.flatMap { ["--server-pid", "\($0.pid)"] }
        }
    }

    private func build(_ contender: Contender, for scenario: Scenario) throws -> Site {
        let arguments = contender.arguments(for: scenario, with: self.workplace.certificate)
        func start(_ further: [String] = [], on cores: [Int]) throws -> RunningServer {
            try RunningServer(
                self.tools.path(of: contender),
                arguments + further,
                title: contender.title,
                on: cores
            )
        }
        switch scenario.arrangement {
        case .oneLoop:
            return Site(servers: [try start(on: [self.cores.server])])
        case .sharedCores(let loops):
            let cores = [self.cores.server, self.cores.generator]
            return Site(servers: [try start(["--loops", "\(loops)"], on: cores)])
        case .twoNodes:
            let redis = try self.workplace.startRedis(on: [self.cores.generator])
            let nodes = try (1...2).map { _ in try start(["--redis", redis.socket], on: [self.cores.server]) }
            return Site(servers: nodes, redis: redis)
        }
    }

    private func startGenerator(_ scenario: Scenario, _ arguments: [String]) throws -> Child {
        let cores =
            switch scenario.arrangement {
            case .oneLoop, .twoNodes: [self.cores.generator]
            case .sharedCores: [self.cores.server, self.cores.generator]
            }
        return try Cores.start(self.tools.loadGenerator, arguments, on: cores, errors: .read)
    }

    /// The report, or what the generator says instead of one.
    private func readReport(
        of generator: inout Child,
        against contender: Contender,
        under scenario: Scenario
    ) throws -> LoadReport {
        let line =
            try generator.readLine(within: .seconds(Self.openingSecondsMax + self.seconds)) ?? "no word"
        guard line.hasPrefix("{") else { throw self.failure(line, of: contender, under: scenario) }
        return try LoadReport(line)
    }

    /// Throws what the generator says after its report: nothing, if all went well.
    private func checkEnd(
        of generator: inout Child,
        against contender: Contender,
        under scenario: Scenario
    ) throws {
        if let line = try generator.readLine(within: .seconds(30)) {
            throw self.failure(line, of: contender, under: scenario)
        }
        let status = try generator.exitStatus()
        guard status == 0 else { throw self.failure("exit status \(status)", of: contender, under: scenario) }
    }

    private func failure(_ words: String, of contender: Contender, under scenario: Scenario) -> BenchmarkError
    {
        BenchmarkError("\(contender.title), \(scenario.title): \(words)")
    }
}
