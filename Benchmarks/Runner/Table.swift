/// The medians of all rounds as a Markdown table.
struct Table: CustomStringConvertible {
    private var lines: [String]

    init(of results: Results) {
        let columns = [
            "scenario", "server", "messages / server-CPU s", "of the floor", "of NIOWebSocket", "p50", "p99",
            "bytes / idle connection",
        ]
        self.lines = [
            Self.line(columns), Self.line(["---", "---"] + columns.dropFirst(2).map { _ in "--:" }),
        ]
        for scenario in Scenario.all {
            for contender in Contender.allCases {
                self.addRow(scenario, contender, results)
            }
        }
    }

    var description: String { self.lines.joined(separator: "\n") }

    private mutating func addRow(_ scenario: Scenario, _ contender: Contender, _ results: Results) {
        let samples = results.samples.filter { $0.scenario == scenario.name && $0.contender == contender }
        if samples.isEmpty { return }
        let loads = samples.compactMap(\.load)
        self.lines.append(
            Self.line([
                scenario.title,
                contender.title,
                Self.cell(loads.map(\.messagesPerServerSecond), grouped),
                Self.cell(samples.compactMap(\.ratioToFloor), { hundredths($0) }),
                Self.cell(Self.ratiosToNIOWebSocket(of: samples, results), { hundredths($0) + " ×" }),
                Self.cell(loads.map { Double($0.p50Nanoseconds) }, { hundredths($0 / 1e6) + " ms" }),
                Self.cell(loads.map { Double($0.p99Nanoseconds) }, { hundredths($0 / 1e6) + " ms" }),
                Self.cell(samples.compactMap(\.bytesPerIdleConnection), grouped),
            ])
        )
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

    private static func cell(_ values: [Double], _ format: (Double) -> String) -> String {
        median(of: values).map(format) ?? ""
    }

    private static func line(_ cells: [String]) -> String {
        "| " + cells.joined(separator: " | ") + " |"
    }
}

/// The middle value, or the mean of the middle two; nil without values.
private func median(of values: [Double]) -> Double? {
    let sorted = values.sorted()
    if sorted.isEmpty { return nil }
    return (sorted[(sorted.count - 1) / 2] + sorted[sorted.count / 2]) / 2
}

/// `1234567.8` as `1,234,568`.
private func grouped(_ value: Double) -> String {
    let digits = "\(Int(value.magnitude.rounded()))"
    var text = value < 0 ? "−" : ""
    for (index, digit) in digits.enumerated() {
        if index > 0, (digits.count - index).isMultiple(of: 3) { text += "," }
        text.append(digit)
    }
    return text
}

/// `1.2345` as `1.23`.
private func hundredths(_ value: Double) -> String {
    let rounded = Int((value * 100).rounded())
    let fraction = rounded % 100
    return "\(rounded / 100)." + (fraction < 10 ? "0" : "") + "\(fraction)"
}
