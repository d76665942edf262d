/// A chapter of the summary as bars: a group for each scenario, each with a scale of its own.
///
/// The picture has a ground of its own, light or dark as the reader's system is, so that it can be read on any page.
struct Plot {
    private static let width = 760.0
    private static let margin = 24.0
    private static let labelWidth = 240.0
    private static let valueWidth = 96.0
    private static let barHeight = 16.0
    private static let rowHeight = 23.0

    private static let style = """
        svg { font-family: system-ui, "Segoe UI", "DejaVu Sans", sans-serif; font-size: 13px }
        .ground { fill: #ffffff; stroke: #d8dde3 }
        .title { font-size: 16px; font-weight: 600; fill: #1d232b }
        .unit, .label { fill: #4d5763 }
        .group { font-weight: 600; fill: #1d232b }
        .value { fill: #1d232b; font-variant-numeric: tabular-nums }
        .own { fill: #d2551e } .peer { fill: #8593a3 } .floor { fill: #c3cbd4 }
        @media (prefers-color-scheme: dark) {
          .ground { fill: #171b21; stroke: #343c46 }
          .title, .group, .value { fill: #eef1f4 }
          .unit, .label { fill: #aab4bf }
          .own { fill: #f0783f } .peer { fill: #75839a } .floor { fill: #465160 }
        }
        """

    let svg: String

    init(of section: Summary.Section) {
        var shapes: [String] = []
        var y = Self.margin + 14
        shapes.append(Self.text(section.chapter.title, class: "title", x: Self.margin, y: y))
        y += 19
        let better = section.chapter == .idle ? "less is better" : "more is better"
        shapes.append(Self.text("\(section.chapter.unit); \(better)", class: "unit", x: Self.margin, y: y))
        for group in section.groups {
            y += 31
            shapes.append(Self.text(group.title, class: "group", x: Self.margin, y: y))
            y += 9
            let longest = group.rows.map(\.figure).max() ?? 1
            for row in group.rows {
                shapes += Self.bar(of: row, longest: longest, y: y)
                y += Self.rowHeight
            }
        }
        let height = y + Self.margin - 8
        let size = "width=\"\(Self.number(Self.width))\" height=\"\(Self.number(height))\""
        self.svg = """
            <svg xmlns="http://www.w3.org/2000/svg" \(size) viewBox="0 0 \(Self.number(Self.width)) \(Self.number(height))" \
            role="img" aria-label="\(Self.escaped(section.chapter.title))">
            <style>
            \(Self.style)
            </style>
            <rect class="ground" x="0.5" y="0.5" width="\(Self.number(Self.width - 1))" \
            height="\(Self.number(height - 1))" rx="8"/>
            \(shapes.joined(separator: "\n"))
            </svg>

            """
    }

    private static func bar(of row: Summary.Row, longest: Double, y: Double) -> [String] {
        let x = self.margin + self.labelWidth
        let space = self.width - x - self.valueWidth - self.margin / 2
        // However short, a bar must be seen.
        let length = max(2, row.figure / longest * space)
        let kind =
            switch row.contender {
            case .floor: "floor"
            case .starlingSync, .starlingAsync: "own"
            case .nioWebSocket, .beast, .socketify, .gorilla, .ws, .websockets: "peer"
            }
        return [
            self.text(row.contender.title, class: "label", x: self.margin, y: y + 12.5),
            """
            <rect class="\(kind)" x="\(self.number(x))" y="\(self.number(y))" width="\(self.number(length))" \
            height="\(self.number(self.barHeight))" rx="2"/>
            """,
            self.text(grouped(row.figure), class: "value", x: x + length + 7, y: y + 12.5),
        ]
    }

    private static func text(_ text: String, class name: String, x: Double, y: Double) -> String {
        "<text class=\"\(name)\" x=\"\(self.number(x))\" y=\"\(self.number(y))\">\(self.escaped(text))</text>"
    }

    private static func escaped(_ text: String) -> String {
        text.replacing("&", with: "&amp;").replacing("<", with: "&lt;").replacing("\"", with: "&quot;")
    }

    /// With one decimal, and none where it is zero.
    private static func number(_ value: Double) -> String {
        let tenths = Int((value * 10).rounded())
        return tenths % 10 == 0 ? "\(tenths / 10)" : "\(tenths / 10).\(tenths % 10)"
    }
}
