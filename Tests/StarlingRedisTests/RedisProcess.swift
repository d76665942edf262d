import Foundation
import Glibc
import Starling
import StarlingNative

/// A real Redis server of a test's own, on a free port of the loopback, in a directory of its own.
final class RedisProcess: @unchecked Sendable {
    // Sendable because `process` is replaced by `start` and `stop` alone, which one test calls one after the other.

    let port: Int
    let directory: URL
    private let arguments: [String]
    private let configuration: [String]?
    private var process: Process?

    /// Starts a Sentinel that watches a master by the name `mymaster`.
    convenience init(sentinelOf master: RedisProcess) async throws {
        try await self.init(
            [],
            configuration: [
                "sentinel monitor mymaster 127.0.0.1 \(master.port) 2",
                "sentinel down-after-milliseconds mymaster 1000", "sentinel failover-timeout mymaster 5000",
            ]
        )
    }

    /// Starts a server, with further settings as on the command line; a Sentinel if there is a configuration to keep.
    init(
        _ arguments: [String] = [],
        configuration: [String]? = nil,
        awaiting reply: String = "+PONG"
    ) async throws {
        self.port = try Self.freePort()
        self.directory = FileManager.default.temporaryDirectory
            .appending(path: "starling-redis-\(self.port)-\(UInt32.random(in: 0 ... .max))")
        self.arguments = arguments
        self.configuration = configuration
        try FileManager.default.createDirectory(at: self.directory, withIntermediateDirectories: true)
        try await self.start(awaiting: reply)
    }

    deinit {
        self.kill()
        try? FileManager.default.removeItem(at: self.directory)
    }

    /// The address, for ``RedisBroadcaster``.
    var url: String {
        "redis://127.0.0.1:\(self.port)"
    }

    func start(with further: [String] = [], awaiting reply: String = "+PONG") async throws {
        let process = Process()
        process.executableURL = URL(filePath: "/usr/bin/redis-server")
        if let configuration = self.configuration {
            // Sentinels write what they learn into their file.
            let file = self.directory.appending(path: "sentinel.conf")
            let text = configuration.map { $0 + "\n" }.joined()
            try Data(text.utf8).write(to: file)
            process.arguments = [file.path, "--sentinel", "--port", "\(self.port)", "--bind", "127.0.0.1"]
        } else {
            process.arguments = self.serverArguments + further
        }
        process.standardOutput = FileHandle.nullDevice
        process.standardError = FileHandle.nullDevice
        try process.run()
        self.process = process
        let end = ContinuousClock.now + .seconds(10)
        while (try? await self.ask("PING"))?.hasPrefix(reply) != true {
            guard process.isRunning, ContinuousClock.now < end else {
                throw RedisProcessError("redis-server does not answer; see \(self.directory.path)/redis.log")
            }
            try await Task.sleep(for: .milliseconds(10))
        }
    }

    private var serverArguments: [String] {
        [
            "--port", "\(self.port)", "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
            "--dir", self.directory.path, "--logfile", "redis.log", "--daemonize", "no",
        ] + self.arguments
    }

    /// Ends the server at once, as a crash does.
    func kill() {
        guard let process = self.process else { return }
        Glibc.kill(process.processIdentifier, SIGKILL)
        process.waitUntilExit()
        self.process = nil
    }

    /// Lets the server do nothing, with its connections open.
    func freeze() {
        if let process = self.process { Glibc.kill(process.processIdentifier, SIGSTOP) }
    }

    /// Lets it go on.
    func thaw() {
        if let process = self.process { Glibc.kill(process.processIdentifier, SIGCONT) }
    }

    /// Sends a command of plain words, and returns the first line of the reply.
    @discardableResult
    func ask(_ command: String) async throws -> String {
        String(try await self.askAll(command).prefix { $0 != "\r\n" })
    }

    /// How often a command was called since the statistics were reset.
    func calls(of command: String) async throws -> Int {
        let head = "cmdstat_\(command):calls="
        let line = try await self.askAll("INFO commandstats").split(separator: "\r\n").first {
            $0.hasPrefix(head)
        }
        return line.flatMap { Int($0.dropFirst(head.count).prefix { $0 != "," }) } ?? 0
    }

    /// The number of the first connection that is subscribed, if there is one.
    func subscribedLink() async throws -> String? {
        try await self.askAll("CLIENT LIST TYPE pubsub").split(whereSeparator: { " \r\n".contains($0) })
            .first { $0.hasPrefix("id=") }.map(String.init)
    }

    /// Sends a command of plain words, and returns the reply, up to 64 KiB.
    func askAll(_ command: String) async throws -> String {
        try await self.exchange(Array("\(command)\r\n".utf8))
    }

    /// Sends a command of any words, and returns the reply.
    func ask(_ words: [String]) async throws -> String {
        let parts = words.map { "$\($0.utf8.count)\r\n\($0)\r\n" }
        return try await self.exchange(Array(("*\(words.count)\r\n" + parts.joined()).utf8))
    }

    private func exchange(_ bytes: [UInt8]) async throws -> String {
        let stream = try await NativeConnector().connect(
            to: .tcp(host: "127.0.0.1", port: self.port),
            options: ConnectOptions(timeout: .seconds(2))
        )
        defer { stream.close() }
        try await stream.write(bytes)
        let reply = try await stream.read() ?? []
        return String(decoding: reply, as: UTF8.self)
    }

    static func freePort() throws -> Int {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(descriptor) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var size = socklen_t(MemoryLayout<sockaddr_in>.size)
        let result = unsafe withUnsafeMutablePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { pointer in
                unsafe bind(descriptor, pointer, size) == 0 ? getsockname(descriptor, pointer, &size) : -1
            }
        }
        guard result == 0 else { throw RedisProcessError("no free port") }
        return Int(UInt16(bigEndian: address.sin_port))
    }
}

struct RedisProcessError: Error, CustomStringConvertible {
    let description: String

    init(_ description: String) {
        self.description = description
    }
}
