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
    /// for all of them. Idle connections are weighed in the first round alone: memory does not vary. A server that fails is
    /// not measured again under that load; the others are, because a whole run takes long.
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
                try self.visit(scenario, in: round, on: bench, &results)
            }
        }
        return results
    }

    /// Measures the contenders between runs of the floor: floor, first, floor, second, floor.
    private func visit(
        _ scenario: Scenario,
        in round: Int,
        on bench: Bench,
        _ results: inout Results
    ) throws {
        let failed = results.failures.filter { $0.scenario == scenario.name }.map(\.contender)
        let contenders = self.contenders.filter {
            $0 != .floor && $0.takesPart(in: scenario) && !failed.contains($0)
        }
        let floor = { try scenario.floorScenario.map { try bench.measure(.floor, under: $0) } }

        var floorBefore = try floor()
        // Whether the floor belongs into the table as a row of its own: it does where it is under this very load.
        if let floorBefore, scenario.isPlainEcho, self.contenders.contains(.floor) {
            results.samples.append(
                Sample(scenario: scenario, contender: .floor, round: round, load: floorBefore)
            )
        }
        for contender in contenders {
            var sample = Sample(scenario: scenario, contender: contender, round: round)
            do {
                if scenario.isIdle {
                    sample.bytesPerIdleConnection = try bench.weighIdleConnections(
                        of: contender,
                        under: scenario
                    )
                } else {
                    sample.load = try bench.measure(contender, under: scenario)
                }
            } catch let error as BenchmarkError {
                report("Failed: \(error)")
                results.samples.removeAll { $0.scenario == scenario.name && $0.contender == contender }
                results.failures.append(
                    Failure(scenario: scenario.name, contender: contender, reason: error.description)
                )
                continue
            }
            let floorAfter = try floor()
            if let load = sample.load, let before = floorBefore, let after = floorAfter {
                let floorRate = (before.messagesPerServerSecond + after.messagesPerServerSecond) / 2
                sample.ratioToFloor = load.messagesPerServerSecond / floorRate
            }
            floorBefore = floorAfter
            results.samples.append(sample)
        }
    }
}
