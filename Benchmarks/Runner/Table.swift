/// A chapter of the summary as a Markdown table.
struct Table: CustomStringConvertible {
    private struct Column {
        let title: String
        let cell: (Summary.Row) -> String?
    }

    private let lines: [String]

    init(of section: Summary.Section) {
        let all = [
            Column(title: section.chapter.unit) { grouped($0.figure) },
            // Where the generator shares the cores, what a second brings is what more loops are for.
            Column(title: "messages / s") { section.chapter == .loops ? $0.wallRate.map(grouped) : nil },
            Column(title: "of the floor") {
                section.chapter.isHeldAgainstFloor ? $0.ratioToFloor.map(hundredths) : nil
            },
            Column(title: "of NIOWebSocket") { $0.ratioToNIOWebSocket.map { hundredths($0) + " ×" } },
            Column(title: "p50") { $0.p50Milliseconds.map { hundredths($0) + " ms" } },
            Column(title: "p99") { $0.p99Milliseconds.map { hundredths($0) + " ms" } },
        ]
        let rows = section.groups.flatMap(\.rows)
        let columns = all.filter { column in rows.contains { column.cell($0) != nil } }

        var lines = [
            Self.line(["scenario", "server"] + columns.map(\.title)),
            Self.line(["---", "---"] + columns.map { _ in "--:" }),
        ]
        for group in section.groups {
            for (index, row) in group.rows.enumerated() {
                let cells = columns.map { $0.cell(row) ?? "" }
                lines.append(Self.line([index == 0 ? group.title : "", row.contender.title] + cells))
            }
        }
        self.lines = lines
    }

    var description: String { self.lines.joined(separator: "\n") }

    private static func line(_ cells: [String]) -> String {
        "| " + cells.joined(separator: " | ") + " |"
    }
}
