import Foundation
import Starling
import StarlingCore
import StarlingTesting
import TestSupport
import Testing

/// Bodies that are an actor's, whose code runs on whatever thread the actor is on: the loop's only by chance.
@Suite struct ActorBodyTests {
    /// A room that many tasks share.
    private actor Room {
        private(set) var heard: [String] = []

        func serve(_ socket: WebSocket) async throws {
            for try await message in socket {
                self.heard.append(message.text ?? "")
                try await socket.send(message)
            }
        }

        func send(_ count: Int, _ message: Message, to socket: WebSocket) async throws {
            for _ in 0..<count { try await socket.send(message) }
        }

        /// Is at work on the caller's thread until it may go on.
        func work(_ gate: Gate) {
            gate.started.signal()
            gate.mayEnd.wait()
        }
    }

    private final class Gate: Sendable {
        let started = DispatchSemaphore(value: 0)
        let mayEnd = DispatchSemaphore(value: 0)
    }

    /// A thread that is nobody else's.
    private final class OtherThread: TaskExecutor {
        private let queue = DispatchQueue(label: "another thread")

        func enqueue(_ job: consuming ExecutorJob) {
            let job = UnownedJob(job)
            self.queue.async { unsafe job.runSynchronously(on: self.asUnownedTaskExecutor()) }
        }
    }

    private let other = OtherThread()

    /// Keeps the actor busy on the other thread; what it is asked for meanwhile it does there as well.
    private func occupy(_ room: Room) -> Gate {
        let gate = Gate()
        Task(executorPreference: self.other) { await room.work(gate) }
        gate.started.wait()
        return gate
    }

    private func connect(_ body: @escaping @Sendable (WebSocket) async throws -> Void) throws -> Client {
        var configuration = EndpointConfiguration()
        configuration.deflate = nil
        configuration.timeouts.pingInterval = nil
        let endpoint = WebSocketEndpoint(configuration: configuration, body)
        let client = try Client(EmbeddedTransport { WebSocketRoute("/", endpoint) })
        #expect(client.takeStatus() == 101)
        return client
    }

    @Test("An actor that is busy elsewhere gets all messages, in order", .timeLimit(.minutes(1)))
    func reads() async throws {
        let room = Room()
        let client = try self.connect { try await room.serve($0) }
        var sent: [String] = []
        for round in 0..<50 {
            let gate = self.occupy(room)
            for number in 0..<5 {
                sent.append("\(round).\(number)")
                client.send(.text, Array("\(round).\(number)".utf8))
            }
            client.server.advance(by: .milliseconds(1))
            gate.mayEnd.signal()
            // Reads on here while the actor answers there.
            sent.append("\(round) last")
            client.send(.text, Array("\(round) last".utf8))
            var answers: [String] = []
            while answers.count < 6 {
                client.server.advance(by: .milliseconds(1))
                answers += client.takeTexts()
                await Task.yield()
            }
            #expect(answers == Array(sent.suffix(6)))
        }
        #expect(await room.heard == sent)
    }

    @Test("An actor that is busy elsewhere sends to a slow peer", .timeLimit(.minutes(1)))
    func sends() async throws {
        let room = Room()
        let big = Message.binary([UInt8](repeating: 1, count: 70_000))
        let client = try self.connect { socket in
            for try await _ in socket { break }
            try await room.send(6, big, to: socket)
            await socket.close()
        }
        client.server.limitOutput(of: client.connection, to: 0)
        client.send(.text, Array("begin".utf8))
        var byteCount = 0
        while byteCount < 6 * 70_010 {
            let gate = self.occupy(room)
            client.server.limitOutput(of: client.connection, to: 70_010)
            client.server.advance(by: .milliseconds(1))
            gate.mayEnd.signal()
            for _ in 0..<20 {
                await Task.yield()
                client.server.advance(by: .milliseconds(1))
            }
            byteCount += client.server.takeOutput(of: client.connection).count
            client.server.limitOutput(of: client.connection, to: 0)
        }
        client.server.limitOutput(of: client.connection, to: nil)
        client.server.advance(by: .milliseconds(1))
        byteCount += client.server.takeOutput(of: client.connection).count
        // The close frame too.
        #expect(byteCount == 6 * 70_010 + 4)
    }

    @Test("What was handed over on another thread stays ahead of what the loop's own thread sends")
    func order() throws {
        let client = try self.connect { socket in
            for try await _ in socket { break }
            Self.elsewhere { socket.trySend("first") }
            try await socket.send("second")
            Self.elsewhere { socket.trySend("third") }
            await socket.close()
        }
        client.send(.text, Array("begin".utf8))
        for _ in 0..<3 { client.server.advance(by: .milliseconds(1)) }
        #expect(client.takeTexts().prefix(3) == ["first", "second", "third"])
    }

    @Test("Behind what was handed over on another thread there is as much room as ever, and no more")
    func room() throws {
        let results = Lock<[SendResult]>([])
        let client = try self.connect { socket in
            for try await _ in socket { break }
            Self.elsewhere { socket.trySend("first") }
            let longest = Message.binary([UInt8](repeating: 1, count: 1 << 20))
            let sent = ["second", longest, longest].map { socket.trySend($0) }
            results.withLock { $0 = sent }
            for try await _ in socket {}
        }
        client.server.limitOutput(of: client.connection, to: 0)
        client.send(.text, Array("begin".utf8))
        client.server.advance(by: .milliseconds(1))
        // Below the watermark the longest message has room.
        #expect(results.withLock { $0 } == [.sent, .sent, .dropped])
        client.server.limitOutput(of: client.connection, to: nil)
        client.server.advance(by: .milliseconds(1))
        #expect(client.server.takeOutput(of: client.connection).count == 7 + 8 + 10 + (1 << 20))
    }

    /// Waits for another thread without leaving this one.
    private static func elsewhere(_ work: @escaping @Sendable () -> Void) {
        let isDone = DispatchSemaphore(value: 0)
        Thread.detachNewThread {
            work()
            isDone.signal()
        }
        isDone.wait()
    }
}
