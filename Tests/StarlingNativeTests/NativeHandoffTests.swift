#if os(Linux)
import Foundation
import Starling
import StarlingNative
import Testing

/// One server takes over from another one, in the same process.
@Suite struct NativeHandoffTests {
    /// A server that runs.
    private struct Running {
        let port: Int
        let server: WebSocketServer<NativeTransport>
        let task: Task<Void, any Error>
    }

    private static func start(_ path: String, port: Int = 0, loops: Int = 2) async throws -> Running {
        let (addresses, listening) = AsyncStream.makeStream(of: String.self)
        let transport = NativeTransport(
            host: "127.0.0.1",
            port: port,
            eventLoops: loops,
            handoff: Handoff(path: path),
            onListening: { listening.yield($0) }
        )
        var configuration = ServerConfiguration()
        configuration.drainSpread = .zero
        let server = WebSocketServer(transport: transport, configuration: configuration) {
            WebSocketRoute(
                "/count",
                .resumable { socket in
                    var count = try socket.carried(Int.self) ?? 0
                    for try await _ in socket {
                        count += 1
                        try socket.carry(count)
                        try await socket.send("\(count)")
                    }
                }
            )
        }
        let task = Task {
            defer { listening.finish() }
            try await server.run()
        }
        for await address in addresses {
            let bound = try #require(address.split(separator: ":").last.flatMap { Int($0) })
            return Running(port: bound, server: server, task: task)
        }
        try await task.value
        throw TransportError("it ended before it listened")
    }

    /// Lends a path for the socket.
    private static func withPath(_ body: (String) async throws -> Void) async throws {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent(
            "handoff-\(UUID().uuidString.prefix(8))"
        )
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        try await body(folder.appendingPathComponent("s").path)
    }

    @Test(
        "The connection goes on at the next server, whatever its event loops",
        .timeLimit(.minutes(1)),
        arguments: [1, 2, 4]
    )
    func takeover(loops: Int) async throws {
        try await Self.withPath { path in
            let first = try await Self.start(path)
            try await WebSocketClient(connector: NativeConnector())
                .connect(to: "ws://127.0.0.1:\(first.port)/count") { socket in
                    var replies = socket.makeAsyncIterator()
                    try await socket.send("one")
                    let one = try await replies.next()
                    #expect(one?.text == "1")
                    let second = try await Self.start(path, port: first.port, loops: loops)
                    try await first.task.value
                    try await socket.send("two")
                    let two = try await replies.next()
                    #expect(two?.text == "2")
                    let third = try await Self.start(path, port: first.port)
                    try await second.task.value
                    try await socket.send("three")
                    let three = try await replies.next()
                    #expect(three?.text == "3")
                    third.server.beginShutdown()
                    let end = try await replies.next()
                    #expect(end == nil)
                    try await third.task.value
                }
            #expect(!FileManager.default.fileExists(atPath: path))
        }
    }

    @Test(
        "A server that is to listen elsewhere does not start, and the other one goes on",
        .timeLimit(.minutes(1))
    )
    func elsewhere() async throws {
        try await Self.withPath { path in
            let first = try await Self.start(path)
            try await WebSocketClient(connector: NativeConnector())
                .connect(to: "ws://127.0.0.1:\(first.port)/count") { socket in
                    var replies = socket.makeAsyncIterator()
                    await #expect(throws: TransportError.self) {
                        _ = try await Self.start(path, port: first.port == 65535 ? 1024 : first.port + 1)
                    }
                    try await socket.send("one")
                    let one = try await replies.next()
                    #expect(one?.text == "1")
                }
            first.server.beginShutdown()
            try await first.task.value
        }
    }

    @Test(
        "A path where no socket can be made stops a server before it asks for anything",
        .timeLimit(.minutes(1))
    )
    func unwritable() async throws {
        for path in ["/proc/s", "/nowhere/s", "/" + String(repeating: "a", count: 120)] {
            await #expect(throws: TransportError.self) { _ = try await Self.start(path) }
        }
    }
}
#endif
