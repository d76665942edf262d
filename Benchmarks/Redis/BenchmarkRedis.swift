import Foundation
import Glibc
import Starling
import StarlingNative
import StarlingRedis

/// A Redis of the benchmark's own, on a Unix socket.
struct BenchmarkRedis {
    private let directory: URL
    private let server: Process

    init() throws {
        directory = FileManager.default.temporaryDirectory
            .appending(path: "starling-benchmark-\(UInt32.random(in: 0 ... .max))")
        try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
        server = Process()
        server.executableURL = URL(filePath: "/usr/bin/redis-server")
        server.arguments = [
            "--port", "0", "--unixsocket", Self.socket(directory), "--save", "", "--dir", directory.path,
            "--logfile", "redis.log",
        ]
        try server.run()
        let end = Date() + 10
        while (try? command("PING")) == nil {
            guard server.isRunning, Date() < end else {
                throw BenchmarkFailure("redis-server does not start")
            }
            Thread.sleep(forTimeInterval: 0.02)
        }
    }

    private static func socket(_ directory: URL) -> String {
        directory.appending(path: "redis.sock").path
    }

    func broadcaster() throws -> RedisBroadcaster {
        var configuration = RedisConfiguration(try RedisServer(url: "unix://\(Self.socket(directory))"))
        configuration.history = { $0.name.hasPrefix("history:") ? HistoryLimits() : nil }
        configuration.waitTimeout = .seconds(60)
        configuration.queuedByteCountMax = 256 << 20
        return RedisBroadcaster(configuration, connector: NativeConnector())
    }

    /// Publications per second, as `redis-benchmark` counts them.
    func benchmarkPublish(count: Int, payload: Int, pipeline: Int, clients: Int = 1) throws -> Double {
        let output = try Self.run(
            "/usr/bin/redis-benchmark",
            [
                "-s", Self.socket(directory), "-n", "\(count)", "-c", "\(clients)", "-P", "\(pipeline)",
                "--csv",
                "PUBLISH", "starling:c:nobody", String(repeating: "x", count: payload),
            ]
        )
        let fields = output.split(separator: "\n").last?.split(separator: "\",\"") ?? []
        guard fields.count > 1, let rate = Double(fields[1]) else {
            throw BenchmarkFailure("redis-benchmark says: \(output)")
        }
        return rate
    }

    @discardableResult
    func command(_ words: String...) throws -> String {
        let output = try Self.run("/usr/bin/redis-cli", ["-s", Self.socket(directory)] + words)
        guard !output.contains("Could not connect") else { throw BenchmarkFailure(output) }
        return output
    }

    func stop() {
        // It has nothing to save, and as a child of a pool's thread it has SIGTERM blocked.
        kill(server.processIdentifier, SIGKILL)
        try? FileManager.default.removeItem(at: directory)
    }

    private static func run(_ program: String, _ arguments: [String]) throws -> String {
        let process = Process()
        process.executableURL = URL(filePath: program)
        process.arguments = arguments
        let pipe = Pipe()
        process.standardOutput = pipe
        process.standardError = pipe
        try process.run()
        let output = pipe.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        guard process.terminationStatus == 0 else {
            throw BenchmarkFailure("\(program) failed: \(String(decoding: output, as: UTF8.self))")
        }
        return String(decoding: output, as: UTF8.self)
    }
}
