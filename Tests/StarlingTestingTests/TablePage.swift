import Foundation
import Testing

/// The tables of a page of the documentation or of a stored result, and the figures in their cells.
struct TablePage {
    private let lines: [Substring]

    /// Reads a page that has a path in this repository.
    init(_ path: String) throws {
        let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent()
        let text = try String(contentsOf: root.appending(path: path), encoding: .utf8)
        self.lines = text.split(separator: "\n", omittingEmptySubsequences: false)
    }

    static func scaling() throws -> TablePage { try TablePage("Documentation/Scaling.md") }

    /// The rows of the tables under a heading, or of the whole page, without their heads.
    func rows(under heading: String? = nil) throws -> [[String]] {
        var lines = self.lines[...]
        if let heading {
            let start = try #require(self.lines.firstIndex(of: "## \(heading)"), "no heading '\(heading)'")
            lines = self.lines[(start + 1)...].prefix { !$0.hasPrefix("## ") }
        }
        return lines.filter { $0.hasPrefix("|") }.map { row in
            row.dropFirst().dropLast().split(separator: "|", omittingEmptySubsequences: false).map {
                $0.trimmingCharacters(in: .whitespaces)
            }
        }
    }

    /// The cells behind the first of the row that begins with these words.
    func row(_ words: String, under heading: String? = nil) throws -> [String] {
        let rows = try self.rows(under: heading).filter { $0[0].hasPrefix(words) }
        #expect(rows.count == 1, "rows that begin with '\(words)'")
        return Array(try #require(rows.first, "no row '\(words)'").dropFirst())
    }

    /// All of the page's text, with lines joined.
    var text: String {
        self.lines.map { $0.trimmingCharacters(in: .whitespaces) }.joined(separator: " ")
    }
}

/// A number as it is written, and how much its last digit is worth.
struct Figure {
    let value: Double
    let lastDigit: Double

    /// All numbers of a text: `1.6 + 0.6 Gb/s` has two, and the `M` of `10 M` counts as a million.
    static func all(in text: String) -> [Figure] {
        text.matches(of: /([0-9][0-9,]*)(\.[0-9]+)?( M\b)?/).map { match in
            let digits = match.output.1.replacing(",", with: "") + (match.output.2 ?? "")
            let scale = match.output.3 == nil ? 1.0 : 1_000_000
            let decimals = max(0, (match.output.2?.count ?? 1) - 1)
            return Figure(
                value: (Double(digits) ?? .nan) * scale,
                lastDigit: scale / pow(10, Double(decimals))
            )
        }
    }
}

/// Says that a cell has just these numbers, rounded to the digits that it shows or to a hundredth.
func expect(
    _ cell: String,
    says expected: Double...,
    within tolerance: Double = 0.01,
    sourceLocation: SourceLocation = #_sourceLocation
) {
    let figures = Figure.all(in: cell)
    #expect(figures.count == expected.count, "'\(cell)' for \(expected)", sourceLocation: sourceLocation)
    for (figure, expected) in zip(figures, expected) {
        let slack = max(figure.lastDigit * 0.501, expected * tolerance)
        #expect(
            abs(figure.value - expected) <= slack,
            "'\(cell)' for \(expected)",
            sourceLocation: sourceLocation
        )
    }
}
