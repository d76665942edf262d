#if NIO
import NIOCore
import NIOPosix
import Starling
import StarlingNIO
import Synchronization
import Testing

/// How the loops run, seen from NIO.
@Suite(.serialized) struct NIOLoopTests {
    private final class Ticks: NIOEventLoopMetricsDelegate {
        let count = Atomic<Int>(0)

        func processedTick(info: NIOEventLoopTickInfo) {
            self.count.wrappingAdd(1, ordering: .relaxed)
        }
    }

    @Test("A loop without connections sleeps, and a drain ends it")
    func sleeps() async throws {
        let ticks = Ticks()
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1, metricsDelegate: ticks)
        let (addresses, listening) = AsyncStream.makeStream(of: String.self)
        let transport = NIOTransport(host: "127.0.0.1", port: 0, group: group) { listening.yield($0) }
        let server = WebSocketServer(transport: transport) {
            WebSocketRoute("*", WebSocketEndpoint { socket in for try await _ in socket {} })
        }
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            tasks.addTask {
                defer { listening.finish() }
                try await server.run()
            }
            for await _ in addresses { break }
            let before = ticks.count.load(ordering: .relaxed)
            // Nothing is waited for: the time itself is what is measured. A loop that polls would tick at least every 80 ms.
            try await Task.sleep(for: .milliseconds(800))
            let during = ticks.count.load(ordering: .relaxed) - before
            #expect(during <= 4, "an idle loop ticked \(during) times")
            server.beginShutdown()
            try await tasks.waitForAll()
        }
        try await group.shutdownGracefully()
    }

    @Test("A group with too many loops, and a port that is taken, are told")
    func cannotListen() async throws {
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 65)
        let server = WebSocketServer(transport: NIOTransport(host: "127.0.0.1", port: 0, group: group)) {}
        let error = await #expect(throws: TransportError.self) { try await server.run() }
        #expect(error?.description.contains("at most 64 event loops") == true)
        try await group.shutdownGracefully()

        try await NIOTestServer.run(tls: nil) { port in
            let second = WebSocketServer(transport: NIOTransport(host: "127.0.0.1", port: port)) {}
            let error = await #expect(throws: TransportError.self) { try await second.run() }
            #expect(error?.description.contains("cannot listen on 127.0.0.1:\(port)") == true)
        }
    }
}
#endif
