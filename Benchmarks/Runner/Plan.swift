/// What is run, how often and for how long.
struct Plan {
    let scenarios: [Scenario]
    let contenders: [Contender]
    let rounds: Int
    let seconds: Double
    /// What was asked for and is not there, with the reason.
    let skipped: [String]

    /// Runs all rounds.
    ///
    /// A round visits every scenario and in it every contender, so that a machine that is slow for a minute is slow
    /// for all of them. Idle connections are weighed in the first round alone: memory does not vary.
    func carryOut(with tools: Tools, on cores: Cores) throws -> Results {
        let bench = Bench(tools: tools, cores: cores, workplace: try Workplace(), seconds: self.seconds)
        var results = Results(
            machine: try Machine(),
            versions: try Versions(of: self.contenders, tools),
            skipped: self.skipped,
            rounds: self.rounds,
            secondsPerSample: self.seconds
        )
        for round in 1...self.rounds {
            for scenario in self.scenarios where round == 1 || !scenario.isIdle {
                report("Round \(round) of \(self.rounds): \(scenario.title)")
                results.samples += try self.visit(scenario, in: round, on: bench)
            }
        }
        return results
    }

    /// Measures the contenders between runs of the floor: floor, first, floor, second, floor.
    private func visit(_ scenario: Scenario, in round: Int, on bench: Bench) throws -> [Sample] {
        let contenders = self.contenders.filter { $0 != .floor && $0.takesPart(in: scenario) }
        let floor = { try scenario.floorScenario.map { try bench.measure(.floor, under: $0) } }

        var samples: [Sample] = []
        var floorBefore = try floor()
        // Whether the floor belongs into the table as a row of its own: it does where it is under this very load.
        if let floorBefore, scenario.floorScenario?.name == scenario.name, self.contenders.contains(.floor) {
            samples.append(Sample(scenario: scenario, contender: .floor, round: round, load: floorBefore))
        }
        for contender in contenders {
            var sample = Sample(scenario: scenario, contender: contender, round: round)
            switch scenario.load {
            case .echo, .fanout, .churn:
                let load = try bench.measure(contender, under: scenario)
                let floorAfter = try floor()
                sample.load = load
                if let before = floorBefore, let after = floorAfter {
                    let floorRate = (before.messagesPerServerSecond + after.messagesPerServerSecond) / 2
                    sample.ratioToFloor = load.messagesPerServerSecond / floorRate
                }
                floorBefore = floorAfter
            case .idle:
                sample.bytesPerIdleConnection = try bench.weighIdleConnections(of: contender, under: scenario)
            }
            samples.append(sample)
        }
        return samples
    }
}
