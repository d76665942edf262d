/// Runs one server and one load generator at a time, each on its own core.
struct Bench {
    let tools: Tools
    let cores: Cores
    let seconds: Double

    /// Starts a server, loads it, and returns what the generator saw.
    func measure(_ contender: Contender, under scenario: Scenario) throws -> LoadReport {
        let server = try self.start(contender, for: scenario)
        var generator = try self.startGenerator(
            scenario.generatorArguments(for: contender) + [
                "--port", "\(server.port)", "--server-pid", "\(server.process.pid)",
                "--warmup", "0.3", "--seconds", "\(self.seconds)",
            ]
        )
        let load = try self.readReport(of: &generator, against: contender, under: scenario)
        guard try generator.exitStatus() == 0 else {
            throw BenchmarkError("The load generator failed late: \(contender.title), \(scenario.title).")
        }
        return load
    }

    /// Private memory that each idle connection adds to the server, in bytes.
    ///
    /// A few connections come and go first, so that what is loaded once for the first client is not counted. Each
    /// connection echoes one message before it idles: a connection that has never said anything is not what servers
    /// hold.
    func weighIdleConnections(of contender: Contender, under scenario: Scenario) throws -> Double {
        let server = try self.start(contender, for: scenario)
        let arguments = ["idle", "--payload", "\(scenario.payloadByteCount)", "--port", "\(server.port)"]
        var warmup = try self.startGenerator(arguments + ["--connections", "16", "--messages", "4"])
        _ = try self.readReport(of: &warmup, against: contender, under: scenario)
        warmup.closeInput()
        _ = try warmup.exitStatus()

        let before = try privateByteCount(of: server.process.pid)
        var generator = try self.startGenerator(
            arguments + ["--connections", "\(scenario.connections)", "--messages", "1"]
        )
        _ = try self.readReport(of: &generator, against: contender, under: scenario)
        let after = try privateByteCount(of: server.process.pid)
        generator.closeInput()
        guard try generator.exitStatus() == 0 else {
            throw BenchmarkError("\(contender.title) did not hold \(scenario.connections) connections.")
        }
        return Double(after - before) / Double(scenario.connections)
    }

    private func startGenerator(_ arguments: [String]) throws -> Child {
        try self.cores.start(self.tools.loadGenerator, arguments, on: self.cores.generator)
    }

    private func start(_ contender: Contender, for scenario: Scenario) throws -> RunningServer {
        guard let arguments = contender.arguments(for: scenario) else {
            preconditionFailure("\(contender) takes no part in \(scenario.name)")
        }
        let process = try self.cores.start(self.tools.path(of: contender), arguments, on: self.cores.server)
        return try RunningServer(process, title: contender.title)
    }

    private func readReport(
        of generator: inout Child,
        against contender: Contender,
        under scenario: Scenario
    ) throws -> LoadReport {
        guard let line = try generator.readLine(within: .seconds(60 + self.seconds)) else {
            throw BenchmarkError("The load generator failed: \(contender.title), \(scenario.title).")
        }
        return try LoadReport(line)
    }
}

/// A server that has said on which port it listens.
///
/// It ends with this value.
private struct RunningServer: ~Copyable {
    let process: Child
    let port: UInt16

    init(_ process: consuming Child, title: String) throws {
        let greeting = "listening on "
        var process = process
        guard let line = try process.readLine(within: .seconds(10)), line.hasPrefix(greeting),
            let port = UInt16(line.dropFirst(greeting.count))
        else { throw BenchmarkError("\(title) did not say '\(greeting)PORT'.") }
        self.process = process
        self.port = port
    }
}
