/// The medians of all rounds: what is printed, plotted and kept.
struct Summary {
    /// One chapter's scenarios, those without a sample left out.
    struct Section {
        let chapter: Chapter
        let groups: [Group]
    }

    /// The servers under one load.
    struct Group {
        let title: String
        let rows: [Row]
    }

    struct Row {
        let contender: Contender
        /// Per server-CPU second, or bytes.
        let figure: Double
        var ratioToFloor: Double?
        var ratioToNIOWebSocket: Double?
        var wallRate: Double?
        var p50Milliseconds: Double?
        var p99Milliseconds: Double?
    }

    let sections: [Section]
    private let results: Results

    init(of results: Results) {
        self.results = results
        self.sections = Chapter.allCases.compactMap { chapter in
            let groups = Scenario.all.filter { $0.chapter == chapter }.compactMap { scenario -> Group? in
                let rows = Contender.allCases.compactMap { Row($0, under: scenario, in: results) }
                return rows.isEmpty ? nil : Group(title: scenario.title, rows: rows)
            }
            return groups.isEmpty ? nil : Section(chapter: chapter, groups: groups)
        }
    }

    static func plotName(of chapter: Chapter) -> String { "\(chapter.rawValue).svg" }

    /// All of it in Markdown.
    func text(withPlots: Bool) -> String {
        let machine = self.results.machine
        var paragraphs = [
            "# Benchmark results, \(machine.date)",
            "\(machine.summary).",
            "\(self.results.versions.summary).",
            "Medians of \(self.results.rounds) \(self.results.rounds == 1 ? "round" : "rounds"), each of \(hundredths(self.results.secondsPerSample)) s a server.",
        ]
        paragraphs += self.results.skipped.map { "Skipped: \($0)." }
        paragraphs += self.results.failures.map { "Failed: \($0.reason)." }
        for section in self.sections {
            paragraphs.append("## \(section.chapter.title)")
            if withPlots {
                paragraphs.append("![\(section.chapter.title)](\(Self.plotName(of: section.chapter)))")
            }
            paragraphs.append(Table(of: section).description)
        }
        return paragraphs.joined(separator: "\n\n") + "\n"
    }
}

extension Summary.Row {
    /// Nil if it was not measured.
    init?(_ contender: Contender, under scenario: Scenario, in results: Results) {
        let samples = results.samples.filter { $0.scenario == scenario.name && $0.contender == contender }
        let loads = samples.compactMap(\.load)
        let figures = loads.map(\.messagesPerServerSecond) + samples.compactMap(\.bytesPerIdleConnection)
        guard let figure = median(of: figures) else { return nil }
        self.contender = contender
        self.figure = figure
        self.ratioToFloor = median(of: samples.compactMap(\.ratioToFloor))
        self.ratioToNIOWebSocket = median(of: Self.ratiosToNIOWebSocket(of: samples, results))
        self.wallRate = median(of: loads.map(\.messagesPerWallSecond))
        self.p50Milliseconds = median(of: loads.map { Double($0.p50Nanoseconds) / 1e6 })
        self.p99Milliseconds = median(of: loads.map { Double($0.p99Nanoseconds) / 1e6 })
    }

    /// Round by round, each figure first divided by its own floor, because the machine's speed changes in between.
    private static func ratiosToNIOWebSocket(of samples: [Sample], _ results: Results) -> [Double] {
        samples.compactMap { sample in
            let peer = results.samples.first {
                $0.scenario == sample.scenario && $0.round == sample.round && $0.contender == .nioWebSocket
            }
            guard let own = sample.ratioToFloor, let other = peer?.ratioToFloor else { return nil }
            return own / other
        }
    }
}
