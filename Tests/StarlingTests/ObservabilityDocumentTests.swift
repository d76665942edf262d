import Foundation
import Starling
import StarlingCore
import Testing

/// What `Documentation/Observability.md` lists is what the code has.
@Suite struct ObservabilityDocumentTests {
    /// The rows of the table under a heading, as the cells' texts without their code marks.
    private static func table(under heading: String) throws -> [[String]] {
        let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent()
        let page = try String(
            contentsOf: root.appending(path: "Documentation/Observability.md"),
            encoding: .utf8
        )
        let lines = page.split(separator: "\n", omittingEmptySubsequences: false)
        let start = try #require(lines.firstIndex(of: "## \(heading)"), "no heading '\(heading)'")
        let rows = lines[(start + 1)...].prefix { !$0.hasPrefix("## ") }.filter { $0.hasPrefix("|") }
        return rows.dropFirst(2).map { row in
            row.dropFirst().dropLast().split(separator: "|", omittingEmptySubsequences: false).map {
                $0.trimmingCharacters(in: CharacterSet(charactersIn: " `"))
            }
        }
    }

    @Test("The page lists every metric, with its kind, unit, dimension and meaning, and no other")
    func metrics() throws {
        let documented = Set(try Self.table(under: "Metrics"))
        let real = Set(
            MetricFamily.all.map { [$0.name, $0.kind.rawValue, $0.unit, $0.dimension ?? "", $0.help] }
        )
        #expect(documented.subtracting(real) == [], "in the page alone")
        #expect(real.subtracting(documented) == [], "in the code alone")
        #expect(Set(MetricFamily.all.map(\.name)).count == MetricFamily.all.count)
    }

    @Test("/metrics has every metric that the page lists, and no other")
    func exposition() throws {
        let context = ServerContext(
            configuration: ServerConfiguration(),
            routes: [WebSocketRoute("/", WebSocketEndpoint(handler: EchoHandler()))]
        )
        let driver = ConnectionDriver(loop: EventLoop(index: 0) {}, server: context, io: SilentIO())
        defer { driver.finish() }
        let types = context.prometheusText().split(separator: "\n").filter { $0.hasPrefix("# TYPE ") }
        let exposed = types.map { $0.split(separator: " ").map(String.init) }.map { [$0[2], $0[3]] }
        #expect(Set(exposed) == Set(MetricFamily.all.map { [$0.name, $0.kind.rawValue] }))
    }

    @Test("The page lists every key of log messages, and no other")
    func loggingKeys() throws {
        let documented = try Self.table(under: "Logs").map { $0[0] }
        #expect(Set(documented) == Set(LoggingKeys.all))
        #expect(documented.count == LoggingKeys.all.count)
        #expect(Set(LoggingKeys.all).count == LoggingKeys.all.count)
    }

    @Test("LoggingKeys.all has every key that the type declares")
    func loggingKeysAreComplete() throws {
        let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent()
        let source = try String(
            contentsOf: root.appending(path: "Sources/Starling/Server/ServerConfiguration.swift"),
            encoding: .utf8
        )
        let keys = source.split(separator: "\n").filter {
            $0.contains("public static let") && $0.contains("= \"")
        }
        .compactMap { $0.split(separator: "\"").dropFirst().first.map(String.init) }
        #expect(Set(keys) == Set(LoggingKeys.all))
    }

    @Test("No log message has a key of its own")
    func noOtherKeys() throws {
        let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent().appending(path: "Sources")
        let files = try #require(FileManager.default.enumerator(at: root, includingPropertiesForKeys: nil))
        var count = 0
        for case let file as URL in files where file.pathExtension == "swift" {
            let source = try String(contentsOf: file, encoding: .utf8)
            guard source.contains("metadata: [") else { continue }
            count += 1
            for line in source.split(separator: "\n") {
                // An entry of metadata: a literal as the key, and text with something in it.
                let hasOwnKey = line.contains(/"[A-Za-z][A-Za-z.-]*": "\\\(/)
                #expect(!hasOwnKey, "\(file.lastPathComponent): \(line)")
            }
        }
        #expect(count > 10)
    }

    @Test("The page names every cause of an end, and who it is said to be by")
    func causes() throws {
        let documented = Set(try Self.table(under: "Why connections end").map { [$0[0], $0[1]] })
        #expect(documented == Set(CloseCause.all.map { ["\($0)", $0.closedBy] }))
    }
}

private final class SilentIO: ConnectionIO {
    func write(_ bytes: RawSpan, to connection: Int) -> WriteResult { .wrote(bytes.byteCount) }
    func setReading(_ isOn: Bool, on connection: Int) {}
    func shutdownWriting(_ connection: Int) {}
    func close(_ connection: Int) {}
    func stopListening() {}
}
