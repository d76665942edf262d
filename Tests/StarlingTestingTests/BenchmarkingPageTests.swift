import Testing

/// `Documentation/Benchmarking.md` and the README against the runs that they cite.
@Suite struct BenchmarkingPageTests {
    /// A run's cells behind a scenario and a server.
    private static func results(_ run: String) throws -> [String: [String: [String]]] {
        var results: [String: [String: [String]]] = [:]
        var scenario = ""
        for row in try TablePage("Benchmarks/Results/\(run)/results.md").rows() {
            if !row[0].isEmpty { scenario = row[0] }
            results[scenario, default: [:]][row[1]] = Array(row.dropFirst(2))
        }
        return results
    }

    /// What the page calls servers differently.
    private static let servers = [
        "floor": "floor (C, no protocol)", "Starling": "Starling, synchronous",
        "Boost.Beast": "Boost.Beast (C++)", "µWebSockets (socketify)": "µWebSockets, socketify (Python)",
        "gorilla/websocket": "gorilla/websocket (Go)", "Node ws": "ws (Node)",
        "Python websockets": "websockets (Python)",
    ]

    /// The tables of one row for each server: which of the run's columns they show, of which scenarios.
    private static let besides: [[String]: (column: Int, scenarios: [String])] = [
        ["20 B", "depth 16", "1 KiB", "64 KiB", "fan-out", "depth 16", "10 topics", "1,000 topics"]: (
            1,
            [
                "echo, 200 × 20 B", "echo, 200 × 20 B, depth 16", "echo, 200 × 1 KiB", "echo, 200 × 64 KiB",
                "fan-out, 1,000 × 100 B", "fan-out, 1,000 × 100 B, depth 16", "fan-out, 10 topics × 1,000",
                "fan-out, 1,000 topics × 10",
            ]
        ),
        ["JSON echo", "JSON fan-out", "TLS 20 B", "TLS 64 KiB"]: (
            0,
            [
                "echo of JSON, 200 × 500 B", "fan-out of JSON, 1,000 × 500 B", "echo over TLS, 200 × 20 B",
                "echo over TLS, 200 × 64 KiB",
            ]
        ),
        ["20 B", "depth 16", "TLS 20 B", "TLS 64 KiB", "idle", "idle, TLS"]: (
            0,
            [
                "echo, 200 × 20 B", "echo, 200 × 20 B, depth 16", "echo over TLS, 200 × 20 B",
                "echo over TLS, 200 × 64 KiB", "15,000 idle", "15,000 idle, TLS",
            ]
        ),
        ["plain", "TLS", "TLS resumed"]: (
            0,
            [
                "connect, upgrade, close", "connect, full TLS handshake, upgrade, close",
                "connect, TLS resumed by a ticket, upgrade, close",
            ]
        ),
        ["plain", "TLS", "permessage-deflate"]: (
            0, ["15,000 idle", "15,000 idle, TLS", "15,000 idle, permessage-deflate"]
        ),
    ]

    @Test(
        "Its tables have their runs' figures",
        arguments: [
            (heading: "Figures", run: "2026-11-27-amd-epyc-family-26", count: 20 + 8 + 7 + 8 + 8),
            (heading: "Since that run", run: "2026-11-27-intel-xeon", count: 8),
            (heading: "Where system calls are cheap", run: "2026-11-27-amd-epyc", count: 3),
            (heading: "Where system calls are dear", run: "2026-11-26-amd-epyc", count: 3),
        ]
    )
    func tables(heading: String, run: String, count: Int) throws {
        let results = try Self.results(run)
        let rows = try TablePage("Documentation/Benchmarking.md").rows(under: heading)
        var (head, scenario, checkedCount) = ([String](), "", 0)
        for (index, row) in rows.enumerated() where !row[0].hasPrefix("---") {
            if index + 1 < rows.count, rows[index + 1][0].hasPrefix("---") {
                head = row
                continue
            }
            if head[0] == "scenario" {
                if row[0] == "the same, depth 16" {
                    scenario += ", depth 16"
                } else if !row[0].isEmpty {
                    scenario = row[0]
                }
                let server = Self.servers[row[1]] ?? row[1]
                #expect(results[scenario]?[server] == Array(row.dropFirst(2)), "\(scenario), \(server)")
            } else {
                let (column, scenarios) = try #require(Self.besides[Array(head.dropFirst())], "\(head)")
                let server = Self.servers[row[0]] ?? row[0]
                let expected = scenarios.map { results[$0]?[server]?[column] ?? "–" }
                #expect(Array(row.dropFirst()) == expected, "\(server)")
            }
            checkedCount += 1
        }
        #expect(checkedCount == count)
    }

    @Test("The README's table has them too")
    func readme() throws {
        let scenarios = [
            "echo of 20 bytes": "echo, 200 × 20 B", "the same, 16 in flight": "echo, 200 × 20 B, depth 16",
            "fan-out to 1,000": "fan-out, 1,000 × 100 B", "an idle connection": "15,000 idle",
        ]
        let results = try Self.results("2026-11-27-amd-epyc-family-26")
        let rows = try TablePage("README.md").rows(under: "What it costs")
        #expect(rows.count == 2 + scenarios.count)
        for row in rows.dropFirst(2) {
            let scenario = try #require(scenarios[row[0]], "\(row[0])")
            for (name, cell) in zip(rows[0], row).dropFirst() {
                let figure = results[scenario]?[Self.servers[name] ?? name]?[0] ?? "–"
                #expect(cell == figure, "\(row[0]), \(name)")
            }
        }
    }
}
