import FoundationEssentials
import Glibc

/// A folder for what a run needs besides programs; it is removed with this value.
final class Workplace {
    let path: String
    let certificate: Certificate

    init() throws {
        self.path =
            FileManager.default.temporaryDirectory
            .appending(path: "starling-benchmarks-\(getpid())").path
        try FileManager.default.createDirectory(atPath: self.path, withIntermediateDirectories: true)
        self.certificate = Certificate(chain: "\(self.path)/certificate.pem", key: "\(self.path)/key.pem")
        try self.certificate.make()
    }

    deinit {
        try? FileManager.default.removeItem(atPath: self.path)
    }

    /// Starts a Redis that keeps nothing, on a Unix socket.
    func startRedis(on cores: [Int]) throws -> RunningRedis {
        try RunningRedis(socket: "\(self.path)/redis.sock", directory: self.path, cores: cores)
    }
}

/// The files of a self-signed certificate with a P-256 key: the same for every server.
struct Certificate {
    let chain: String
    let key: String

    fileprivate func make() throws {
        var openssl = try Child(
            "openssl",
            [
                "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                "-days", "2",
                "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
                "-keyout", self.key, "-out", self.chain,
            ],
            errors: .dropped
        )
        guard try openssl.exitStatus() == 0 else { throw BenchmarkError("openssl makes no certificate.") }
    }
}

/// A Redis that ends with this value.
final class RunningRedis {
    let socket: String
    private var process: Child

    fileprivate init(socket: String, directory: String, cores: [Int]) throws {
        self.socket = socket
        self.process = try Cores.start(
            "redis-server",
            ["--port", "0", "--unixsocket", socket, "--save", "", "--dir", directory],
            on: cores
        )
        repeat {
            guard let line = try self.process.readLine(within: .seconds(10)) else {
                throw BenchmarkError("redis-server does not start.")
            }
            if line.contains("eady to accept connections") { return }
        } while true
    }
}

/// A server that has said on which port it listens; it ends with this value.
final class RunningServer {
    let pid: pid_t
    let port: UInt16
    private let process: Child

    init(_ executable: String, _ arguments: [String], title: String, on cores: [Int]) throws {
        let greeting = "listening on "
        var process = try Cores.start(executable, arguments, on: cores)
        guard let line = try process.readLine(within: .seconds(30)), line.hasPrefix(greeting),
            let port = UInt16(line.dropFirst(greeting.count))
        else { throw BenchmarkError("\(title) did not say '\(greeting)PORT'.") }
        self.pid = process.pid
        self.process = process
        self.port = port
    }
}
