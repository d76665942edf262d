import ArgumentParser

/// Starts every server on one core and the load generator on another, and prints what each server's core gets done.
@main
struct Benchmarks: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Measures servers per second of their CPU, beside a floor and a peer.",
        discussion: """
            Every figure is a median over rounds; idle connections are weighed once, in the first. The floor is a C server that moves the same bytes without a \
            protocol; it runs before and after each measurement, and a ratio compares a server with its two \
            neighbours in time alone, because a shared machine changes its speed from second to second.
            """
    )

    @Flag(help: "Three rounds of half a second: to see that all works, not to be quoted.")
    var quick = false

    @Option(help: "Run this scenario alone; may be given again: \(Scenario.names).")
    var only: [String] = []

    @Option(help: "Measure this server alone; may be given again: \(Contender.names).")
    var server: [Contender] = []

    @Option(help: "Rounds, 1 to 100; 5 unless told, 3 with --quick.")
    var rounds: Int?

    @Option(help: "Seconds measured of each server in each round; 1 unless told, 0.5 with --quick.")
    var seconds: Double?

    @Option(help: "Write every sample of every round to this file.")
    var json: String?

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
        let contenders = self.server.isEmpty ? Contender.allCases : self.server
        let plan = Plan(
            scenarios: Scenario.all.filter { self.only.isEmpty || self.only.contains($0.name) },
            contenders: contenders,
            rounds: self.rounds ?? (self.quick ? 3 : 5),
            seconds: self.seconds ?? (self.quick ? 0.5 : 1)
        )
        let results = try plan.carryOut(with: Tools(for: contenders), on: Cores())
        print(Table(of: results))
        if let json { try results.write(to: json) }
    }
}
