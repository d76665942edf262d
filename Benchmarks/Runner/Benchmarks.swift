import ArgumentParser

/// Starts every server on one core and the load generator on another, and prints what each server's core gets done.
@main
struct Benchmarks: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Measures servers per second of their CPU, beside a floor and peers.",
        discussion: """
            Every figure is a median over rounds; idle connections are weighed once, in the first. The floor is a C server that moves the same bytes without a \
            protocol; it runs before and after each measurement, and a ratio compares a server with its two \
            neighbours in time alone, because a shared machine changes its speed from second to second. \
            Benchmarks/peers.sh builds the other servers; those that are missing are left out, with a word.
            """
    )

    @Flag(help: "One round of a fifth of a second: to see that all works, not to be quoted.")
    var quick = false

    @Option(help: "Run this scenario alone; may be given again: \(Scenario.names).")
    var only: [String] = []

    @Option(help: "Measure this server alone; may be given again: \(Contender.names).")
    var server: [Contender] = []

    @Option(help: "Rounds, 1 to 100; 5 unless told, 1 with --quick.")
    var rounds: Int?

    @Option(help: "Seconds measured of each server in each round; 1 unless told, 0.2 with --quick.")
    var seconds: Double?

    @Option(
        help:
            "Write table, plots and every sample to this folder; unless told, a whole run to one of its own in Benchmarks/Results."
    )
    var results: String?

    func validate() throws {
        for name in self.only where !Scenario.all.contains(where: { $0.name == name }) {
            throw ValidationError("There is no scenario \(name); there are: \(Scenario.names).")
        }
        if let rounds, !(1...100).contains(rounds) { throw ValidationError("--rounds is 1 to 100.") }
        if let seconds, !(0.1...60).contains(seconds) { throw ValidationError("--seconds is 0.1 to 60.") }
    }

    func run() throws {
        Interruption.watch()
        try raiseDescriptorLimit()
        let tools = try Tools()
        let wanted = self.server.isEmpty ? Contender.allCases : self.server
        let skipped = wanted.compactMap { contender in
            tools.reasonToSkip(contender).map { "\(contender.title): \($0)" }
        }
        for line in skipped { report("Skipped: \(line)") }
        let plan = Plan(
            scenarios: Scenario.all.filter { self.only.isEmpty || self.only.contains($0.name) },
            contenders: wanted.filter { tools.reasonToSkip($0) == nil },
            rounds: self.rounds ?? (self.quick ? 1 : 5),
            seconds: self.seconds ?? (self.quick ? 0.2 : 1),
            skipped: skipped
        )
        let results = try plan.carryOut(with: tools, on: Cores())
        let summary = Summary(of: results)
        print(summary.text(withPlots: false))
        let isWhole = !self.quick && self.only.isEmpty && self.server.isEmpty
        if let folder = self.results ?? (isWhole ? results.defaultFolder : nil) {
            try results.write(to: folder, summary)
        }
        if !results.failures.isEmpty {
            throw BenchmarkError("\(results.failures.count) measurements failed, as said above.")
        }
    }
}
