import Foundation
import Starling
import StarlingTesting
import Testing

/// The engine in thousands of small worlds that go wrong, and back.
@Suite struct DeterministicClusterTests {
    @Test("A thousand seeds: recovery and presence hold whatever fails")
    func thousandSeeds() async throws {
        let seeds = UInt64(0)..<1000
        let figures = try await DeterministicCluster().check(seeds: seeds)
        // An idle world proves nothing.
        let count = seeds.count
        #expect(figures.publications > 50 * count, "\(figures)")
        #expect(figures.acknowledgements > 20 * count, "\(figures)")
        #expect(figures.recoveries > 5 * count, "\(figures)")
        #expect(figures.presenceEvents > 20 * count, "\(figures)")
        for value in [figures.gaps, figures.lostHistories, figures.failures, figures.deaths, figures.cuts] {
            #expect(value > count / 5, "\(figures)")
        }
    }

    @Test("The same seed gives the same trace, byte for byte, and another one another")
    func sameTrace() {
        let cluster = DeterministicCluster()
        for seed in UInt64(0)..<10 {
            let first = cluster.run(seed: seed)
            let second = cluster.run(seed: seed)
            #expect(first.trace == second.trace)
            #expect(first.figures == second.figures)
        }
        #expect(cluster.run(seed: 1).trace != cluster.run(seed: 2).trace)
    }

    @Test("Another process that is told a seed shows the same trace, and that seed alone")
    func replay() async throws {
        let run = DeterministicCluster().run(seed: 4711)
        // Its hashes are others than ours: an order that came from a set or a dictionary would be another one there.
        let result = await #expect(processExitsWith: .success, observing: [\.standardOutputContent]) {
            // One thread, and no other one reads the environment now; both texts are literals.
            unsafe setenv("STARLING_SEED", "4711", 1)
            let figures = try await DeterministicCluster().check(seeds: 0..<3)
            #expect(figures == DeterministicCluster().run(seed: 4711).figures)
        }
        let output = String(decoding: try #require(result).standardOutputContent, as: UTF8.self)
        #expect(output.contains(run.trace))
    }

    @Test(
        "A broadcaster that breaks a rule is caught, and the failure says how to see it again",
        arguments: ClusterMistake.allCases
    )
    func catchesMistakes(mistake: ClusterMistake) async throws {
        let failure = try await #require(throws: ClusterFailure.self) {
            try await DeterministicCluster(mistake: mistake).check(seeds: 0..<50)
        }
        #expect(failure.description.contains("VIOLATION"))
        #expect(failure.description.contains("STARLING_SEED=\(failure.run.seed)"))
        // The seed alone shows the same.
        let again = DeterministicCluster(mistake: mistake).run(seed: failure.run.seed)
        #expect(again.violation == failure.run.violation)
        #expect(again.trace == failure.run.trace)
    }

    @Test("Without faults everything arrives, and nothing is reported")
    func calm() async throws {
        var configuration = DeterministicCluster.Configuration()
        configuration.faults = []
        configuration.historyCountMax = 1000
        let figures = try await DeterministicCluster(configuration: configuration).check(seeds: 0..<20)
        #expect(figures.gaps == 0)
        #expect(figures.lostHistories == 0)
        #expect(figures.failures == 0)
        #expect(figures.deaths == 0)
    }
}
