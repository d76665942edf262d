import ArgumentParser
import HTTPTypes
import Starling
import StarlingCore
import StarlingNative

/// Uses our client against a server that is not ours, or that stands behind a proxy: servers_test.py starts it.
///
/// The server's paths: `/echo`; `/deflate` and `/subprotocol` say what was agreed on; `/fragments` sends a message in parts
/// with pings between them; `/pings` pings, and says when it was answered; `/closes` closes as its query says; `/closed`
/// says how the last connection to `/echo` was closed; `/refuse` refuses with the status of its query; `/stranger` agrees on
/// a subprotocol that was not offered.
@main
struct ClientChecks: AsyncParsableCommand {
    @Option(help: "The server, ws://127.0.0.1:9001 for example.")
    var server: String

    @Option(help: "Certificates to trust, in PEM.")
    var trust: String?

    @Flag(help: "The server is an Echo of ours: check what that can show.")
    var echoOnly = false

    private static let connector = NativeConnector()

    func run() async throws {
        try await check("texts and bytes of all lengths come back, compressed and not") {
            for deflates in [true, false] { try await echo(deflates: deflates) }
        }
        try await check("1,000 small messages under way at once come back in order") { try await pipeline() }
        try await check("pings are answered") { try await ping() }
        try await check("a subprotocol is agreed on, or none") { try await subprotocols() }
        try await check("a refusal is an error with the response") { try await refusals() }
        guard !echoOnly else { return }
        try await check("compression is agreed on if both want it") { try await compression() }
        try await check("a message in fragments, with pings between them") { try await fragments() }
        try await check("the server's pings are answered") { try await serverPings() }
        try await check("close codes of the server's arrive") { try await closesOfServer() }
        try await check("close codes of ours arrive") { try await closesOfClient() }
        try await check("a subprotocol that was not offered ends the handshake") { try await stranger() }
    }

    // MARK: - The checks

    private func echo(deflates: Bool) async throws {
        var configuration = self.configuration()
        if !deflates { configuration.deflate = nil }
        var generator = SystemRandomNumberGenerator()
        try await self.connect("/echo", configuration) { socket in
            var replies = socket.makeAsyncIterator()
            for size in [0, 1, 125, 126, 65535, 65536, 1 << 20, 8 << 20] {
                let words = (0..<size / 8 + 1).map { _ in UInt64.random(in: .min ... .max, using: &generator)
                }
                let noise = words.flatMap { word in
                    (0..<8).map { UInt8(truncatingIfNeeded: word >> ($0 * 8)) }
                }
                let text = String(repeating: "Grüße, 世界 🐦 ", count: size / 24)
                for message in [Message.binary(Array(noise.prefix(size))), .text(text)] {
                    try await socket.send(message)
                    let reply = try await replies.next()
                    try expect(
                        reply == message,
                        "\(message.byteCount) bytes came back as \(reply?.byteCount ?? -1)"
                    )
                }
            }
        }
    }

    private func pipeline() async throws {
        try await self.connect("/echo") { socket in
            for number in 0..<1000 { try await socket.send("message \(number)") }
            var number = 0
            for try await message in socket {
                try expect(message.text == "message \(number)", "\(message) in place of \(number)")
                number += 1
                if number == 1000 { break }
            }
        }
    }

    private func ping() async throws {
        try await self.connect("/echo") { socket in
            for _ in 0..<3 {
                let duration = try await socket.ping()
                try expect(duration > .zero && duration < .seconds(10), "\(duration)")
            }
        }
    }

    private func subprotocols() async throws {
        let path = self.echoOnly ? "/echo" : "/subprotocol"
        for (offered, agreed) in [
            (["chat.v1", "chat.v2"], "chat.v2"), (["chat.v2"], "chat.v2"), ([], nil),
        ] as [([String], String?)] {
            var configuration = self.configuration()
            configuration.subprotocols = offered
            try await self.connect(path, configuration) { socket in
                try expect(socket.subprotocol == agreed, "\(socket.subprotocol ?? "none") is agreed on")
                guard !self.echoOnly else { return }
                try await expectNext(of: socket, agreed ?? "none")
            }
        }
    }

    private func refusals() async throws {
        for status in self.echoOnly ? [404] : [301, 400, 401, 403, 404, 429, 500, 503] {
            do {
                try await self.connect("/refuse?status=\(status)") { _ in }
            } catch let error as ConnectError {
                try expect(error.code == .refused, "\(error)")
                try expect(error.response?.status.code == status, "\(error)")
                if !self.echoOnly {
                    try expect(
                        String(decoding: error.body, as: UTF8.self) == "refused with \(status)",
                        "\(error)"
                    )
                }
                continue
            }
            throw Failure("connected in spite of \(status)")
        }
    }

    private func compression() async throws {
        for deflates in [true, false] {
            var configuration = self.configuration()
            if !deflates { configuration.deflate = nil }
            try await self.connect("/deflate", configuration) { socket in
                try await expectNext(of: socket, deflates ? "permessage-deflate" : "none")
            }
        }
    }

    private func fragments() async throws {
        try await self.connect("/fragments") { socket in
            try await expectNext(of: socket, "one two three, Grüße")
        }
    }

    private func serverPings() async throws {
        try await self.connect("/pings") { socket in try await expectNext(of: socket, "answered") }
    }

    private func closesOfServer() async throws {
        for code: UInt16 in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1013, 3000, 4999] {
            for reason in ["", "because", String(repeating: "r", count: 123)] {
                try await self.connect("/closes?code=\(code)&reason=\(reason)") { socket in
                    for try await message in socket { throw Failure("a message: \(message)") }
                    guard let closure = socket.closure else { throw Failure("no closure") }
                    try expect(
                        closure.code.rawValue == code && closure.reason == reason
                            && closure.cause == .peerClosed,
                        "\(closure)"
                    )
                }
            }
        }
    }

    private func closesOfClient() async throws {
        struct Mistake: Error {}
        for (code, reason) in [
            (1000, ""), (1000, "done"), (3000, String(repeating: "r", count: 123)), (4999, "ü"),
        ] {
            try await self.connect("/echo") { socket in
                await socket.close(CloseCode(rawValue: UInt16(code)), reason: reason)
                for try await _ in socket {}
            }
            try await self.expectClosed(code, reason)
        }
        try await self.connect("/echo") { _ in }
        try await self.expectClosed(1000, "")
        do {
            try await self.connect("/echo") { _ in throw Mistake() }
        } catch is Mistake {}
        try await self.expectClosed(1001, "")
    }

    private func expectClosed(_ code: Int, _ reason: String) async throws {
        try await self.connect("/closed") { socket in try await expectNext(of: socket, "\(code) \(reason)") }
    }

    private func stranger() async throws {
        var configuration = self.configuration()
        configuration.subprotocols = ["chat.v2"]
        do {
            try await self.connect("/stranger", configuration) { _ in }
        } catch let error as ConnectError {
            return try expect(error.code == .invalidResponse, "\(error)")
        }
        throw Failure("connected")
    }

    // MARK: - Helpers

    private func configuration() -> ClientConfiguration {
        var configuration = ClientConfiguration()
        configuration.limits.messageBytesMax = 16 << 20
        configuration.limits.frameBytesMax = 16 << 20
        configuration.outbound.byteCountMax = 32 << 20
        configuration.tls.trustRootsFile = self.trust
        return configuration
    }

    private func connect(
        _ path: String,
        _ configuration: ClientConfiguration? = nil,
        _ body: (WebSocket) async throws -> Void
    ) async throws {
        let client = WebSocketClient(connector: Self.connector)
        try await client.connect(
            to: self.server + path,
            configuration: configuration ?? self.configuration(),
            body
        )
    }

    private func check(_ name: String, _ body: () async throws -> Void) async throws {
        do {
            try await body()
            print("          \(name)")
        } catch {
            print("FAILED    \(name): \(error)")
            throw ExitCode.failure
        }
    }
}

private struct Failure: Error, CustomStringConvertible {
    let description: String

    init(_ description: String) {
        self.description = description
    }
}

private func expect(_ condition: Bool, _ what: @autoclosure () -> String) throws {
    guard condition else { throw Failure(what()) }
}

private func expectNext(of socket: WebSocket, _ text: String) async throws {
    for try await message in socket { return try expect(message.text == text, "it says \(message)") }
    throw Failure("the connection ended: \(socket.closure.map(String.init(describing:)) ?? "")")
}
