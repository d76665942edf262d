#if os(Linux)

import Foundation
import Glibc
import Starling
import StarlingCore
import StarlingNative
import Synchronization
import Testing

/// Everything that crosses threads, at once: made for the thread sanitizer, which finds what a race only seldom breaks.
///
/// Sockets are opened, used and closed by several threads, while tasks publish, send, look up and close through the
/// registry; the graceful shutdown comes in the middle of it. Nothing waits for time: the clients do a fixed amount of
/// work, the tasks go on until that is done, and each step follows when the answer to the last one has come.
@Suite struct LoopStressTests {
    static let clientThreads = 12
    static let socketsPerThread = 4
    static let roundsPerSocket = 40
    /// What the tasks still do once the shutdown has begun.
    static let stepsAfterShutdown = 50

    @Test("Traffic from many threads over several loops, and a shutdown amid it", .timeLimit(.minutes(2)))
    func trafficAndShutdown() async throws {
        let broadcaster = InMemoryBroadcaster()
        let (addresses, listening) = AsyncStream.makeStream(of: String.self)
        var configuration = ServerConfiguration()
        configuration.drainSpread = .milliseconds(300)
        configuration.drainTimeout = .seconds(10)
        let transport = NativeTransport(host: "127.0.0.1", port: 0, eventLoops: 3) { listening.yield($0) }
        let server = WebSocketServer(transport: transport, configuration: configuration) {
            WebSocketRoute("/sync", Self.synchronous(broadcaster))
            WebSocketRoute("/async", Self.asynchronous(broadcaster))
        }
        let progress = Progress()

        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask {
                defer { listening.finish() }
                try await server.run()
            }
            var port: UInt16?
            for await address in addresses {
                port = address.split(separator: ":").last.flatMap { UInt16($0) }
                break
            }
            let listeningPort = try #require(port)
            for number in 0..<Self.clientThreads {
                group.addTask {
                    await withCheckedContinuation { continuation in
                        Thread.detachNewThread {
                            Self.runClients(number, port: listeningPort, progress) { server.beginShutdown() }
                            continuation.resume()
                        }
                    }
                }
            }
            for publisher in 0..<2 {
                group.addTask {
                    for number in progress.steps() {
                        try await broadcaster.publish(.text("tick \(publisher) \(number)"), to: "ticks")
                        // An answer from every loop, so that publications do not run ahead of their delivery.
                        _ = await server.registry.count(subscribedTo: "ticks")
                        // Before the first loop has started there is nobody to wait for, and a task that never
                        // suspends would keep the pool's threads from those that start the loops.
                        await Task.yield()
                    }
                }
            }
            group.addTask { await Self.useRegistry(server.registry, progress) }
            try await group.waitForAll()
        }
        #expect(progress.failures == [])
        #expect(progress.isStopping, "the shutdown came while clients were at work")
        #expect(progress.echoes > 0)
        #expect(progress.ticks > 0)
        #expect(server.registry.count == 0)
    }

    // MARK: - The server

    static func synchronous(_ broadcaster: InMemoryBroadcaster) -> WebSocketEndpoint {
        struct Handler: ConnectionHandler {
            /// The loop's count, on its thread alone.
            var received = 0

            mutating func opened(_ connection: inout Connection<Self>, userData: Void) {
                connection.subscribe(to: "ticks")
            }
            mutating func received(_ message: borrowing MessageView, on connection: inout Connection<Self>) {
                self.received += 1
                // Now and then a publication from a loop's own thread to all of them, and a change of interest.
                if self.received % 4 == 0 {
                    connection.publish("from a handler", to: "ticks")
                    connection.unsubscribe(from: "ticks")
                    connection.subscribe(to: "ticks")
                }
                connection.send(message)
            }
        }
        return WebSocketEndpoint(broadcaster: broadcaster, handler: Handler())
    }

    static func asynchronous(_ broadcaster: InMemoryBroadcaster) -> WebSocketEndpoint {
        WebSocketEndpoint(
            broadcaster: broadcaster,
            authenticate: { request -> UpgradeDecision<Int> in
                await Task.yield()
                return .accept(1, user: request[query: "user"])
            }
        ) { socket, step in
            try await socket.subscribe(to: "ticks")
            var received = 0
            for try await message in socket {
                received += step
                if received % 3 == 0 {
                    // From a thread of the pool, through the loop's mailbox.
                    Task.detached { try? await socket.send(message) }
                } else {
                    try await socket.send(message)
                }
            }
        }
    }

    static func useRegistry(_ registry: ConnectionRegistry, _ progress: Progress) async {
        var random = SystemRandomNumberGenerator()
        for number in progress.steps() {
            await registry.sendToAll(.text("to all \(number)"))
            await registry.send("to a user", toUser: "user\(number % clientThreads)")
            let entries = await registry.connections(subscribedTo: "ticks")
            guard let entry = entries.randomElement(using: &random) else {
                await Task.yield()
                continue
            }
            await registry.send("to one", to: entry.id)
            _ = await registry.connection(entry.id)
            if number % 5 == 0 { await registry.close(entry.id, .serviceRestart, reason: "a test") }
            if number % 40 == 0 { await registry.close(user: "user\(number % clientThreads)") }
        }
    }

    // MARK: - The clients

    /// One thread's sockets, round after round; begins the shutdown when half of all rounds are done.
    static func runClients(
        _ number: Int,
        port: UInt16,
        _ progress: Progress,
        beginShutdown: () -> Void
    ) {
        var random = SystemRandomNumberGenerator()
        for round in 0..<roundsPerSocket {
            var sockets: [StressSocket] = []
            for index in 0..<socketsPerThread where !progress.isStopping {
                let path = index % 2 == 0 ? "/sync" : "/async?user=user\(number)"
                guard let socket = StressSocket(port: port, path: path, progress) else { continue }
                sockets.append(socket)
            }
            for message in 0..<5 {
                for socket in sockets { socket.echo("echo \(number) \(round) \(message)") }
            }
            for socket in sockets {
                switch Int.random(in: 0..<4, using: &random) {
                case 0: socket.reset()
                case 1: socket.cut()
                default: socket.closeInOrder()
                }
            }
            // At the shutdown's moment other threads are in the middle of their rounds.
            if progress.finishRound() == clientThreads * roundsPerSocket / 2 {
                progress.stop()
                beginShutdown()
            }
        }
    }

    /// What the threads tell each other.
    final class Progress: Sendable {
        private let rounds = Atomic<Int>(0)
        private let stopping = Atomic<Bool>(false)
        private let echoCount = Atomic<Int>(0)
        private let tickCount = Atomic<Int>(0)
        private let failureTexts = Lock<[String]>([])

        /// Whether the server goes down: the port may soon be another's, so that nobody connects any more.
        var isStopping: Bool { self.stopping.load(ordering: .relaxed) }

        /// Numbers from 0, until a while after the shutdown has begun.
        func steps() -> some Sequence<Int> {
            var stepsLeft = stepsAfterShutdown
            return (0...).lazy.prefix { _ in
                if self.isStopping { stepsLeft -= 1 }
                return stepsLeft > 0
            }
        }

        var echoes: Int { self.echoCount.load(ordering: .relaxed) }
        var ticks: Int { self.tickCount.load(ordering: .relaxed) }
        var failures: [String] { self.failureTexts.withLock { $0 } }

        func finishRound() -> Int { self.rounds.add(1, ordering: .relaxed).newValue }
        func stop() { self.stopping.store(true, ordering: .relaxed) }
        func echoed() { self.echoCount.add(1, ordering: .relaxed) }
        func ticked() { self.tickCount.add(1, ordering: .relaxed) }
        func fail(_ text: String) { self.failureTexts.withLock { $0.append(text) } }
    }
}

/// A client's blocking socket, on one thread.
///
/// The server may close it at any moment, which is no failure: what is not allowed is silence, and a message that is
/// wrong or out of order.
private final class StressSocket {
    private let descriptor: Int32
    private let progress: LoopStressTests.Progress
    private var codec = FrameCodec(role: .client)
    private var buffer = [UInt8](repeating: 0, count: 16 << 10)
    private var messages: [String] = []
    private var isOpen = true
    private var isCloseSent = false
    /// The last publication of each publisher.
    private var lastTicks = [-1, -1]

    /// Connects and upgrades; nil if the server is already going down.
    init?(port: UInt16, path: String, _ progress: LoopStressTests.Progress) {
        self.progress = progress
        self.descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        // The bound on every wait of this test.
        var patience = timeval(tv_sec: 30, tv_usec: 0)
        let size = socklen_t(MemoryLayout<timeval>.size)
        unsafe setsockopt(self.descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, size)
        unsafe setsockopt(self.descriptor, SOL_SOCKET, SO_SNDTIMEO, &patience, size)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        let connected = unsafe withUnsafeBytes(of: &address) { bytes in
            guard let base = bytes.baseAddress else { return false }
            // The kernel reads an address of this size.
            let length = socklen_t(bytes.count)
            return unsafe connect(self.descriptor, base.assumingMemoryBound(to: sockaddr.self), length) == 0
        }
        guard connected else {
            self.close()
            return nil
        }
        let lines = [
            "GET \(path) HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13", "", "",
        ]
        self.write(Array(lines.joined(separator: "\r\n").utf8))
        guard self.readHead() else {
            self.close()
            return nil
        }
    }

    deinit { self.close() }

    /// Sends a text and waits until it comes back, or the connection ends.
    func echo(_ text: String) {
        guard self.isOpen, !self.isCloseSent else { return }
        self.send(.text, Array(text.utf8))
        while self.isOpen {
            if let index = self.messages.firstIndex(of: text) {
                self.messages.remove(at: index)
                self.progress.echoed()
                return
            }
            self.read()
        }
    }

    /// Says goodbye, and waits for the end of the stream.
    func closeInOrder() {
        self.sendClose()
        while self.isOpen { self.read() }
        self.close()
    }

    /// Begins or answers a closing handshake; the server ends the stream when both have said so.
    private func sendClose() {
        guard !self.isCloseSent else { return }
        self.isCloseSent = true
        self.send(.close, [0x03, 0xE8])
    }

    /// Goes without a word.
    func cut() {
        self.close()
    }

    /// Goes with a reset, as a process does that crashes with unread data.
    func reset() {
        var linger = linger(l_onoff: 1, l_linger: 0)
        let size = socklen_t(MemoryLayout.size(ofValue: linger))
        unsafe setsockopt(self.descriptor, SOL_SOCKET, SO_LINGER, &linger, size)
        self.close()
    }

    private var isDescriptorClosed = false

    private func close() {
        self.isOpen = false
        guard !self.isDescriptorClosed else { return }
        self.isDescriptorClosed = true
        _ = Glibc.close(self.descriptor)
    }

    // MARK: Bytes

    private func send(_ opcode: Opcode, _ payload: [UInt8]) {
        var frame: [UInt8] = []
        let key = MaskingKey(rawValue: 0x0102_0304)
        unsafe FrameCodec.encode(opcode, payload.span.bytes, maskingKey: key, into: &frame)
        self.write(frame)
    }

    private func write(_ bytes: [UInt8]) {
        guard self.isOpen else { return }
        let count = unsafe bytes.withUnsafeBytes { buffer in
            unsafe Glibc.send(self.descriptor, buffer.baseAddress, buffer.count, Int32(MSG_NOSIGNAL))
        }
        if count != bytes.count { self.isOpen = false }
    }

    /// Reads the response, and looks at what follows it; false unless it is an upgrade.
    private func readHead() -> Bool {
        var reader = HTTPHeadReader()
        while self.isOpen {
            let count = self.receive()
            guard count > 0 else { break }
            var received = Array(self.buffer[..<count])
            var span = received.mutableSpan
            var bytes = unsafe span.mutableBytes
            guard let head = try? reader.read(from: &bytes) else { continue }
            guard head.starts(with: Array("HTTP/1.1 101 ".utf8)) else { return false }
            self.decode(&bytes)
            return true
        }
        return false
    }

    private func read() {
        let count = self.receive()
        guard count > 0 else { return }
        var received = Array(self.buffer[..<count])
        var span = received.mutableSpan
        var bytes = unsafe span.mutableBytes
        self.decode(&bytes)
    }

    private func receive() -> Int {
        let count = unsafe recv(self.descriptor, &self.buffer, self.buffer.count, 0)
        if count < 0, errno == EAGAIN { self.progress.fail("nothing came for 30 seconds") }
        // A reset is what is left of a server that cut a connection which had unread bytes.
        if count <= 0 { self.isOpen = false }
        return count
    }

    private func decode(_ bytes: inout MutableRawSpan) {
        // An event borrows from its codec, which therefore must stand in a variable and not in an object.
        var codec = FrameCodec(role: .client)
        swap(&codec, &self.codec)
        defer { swap(&codec, &self.codec) }
        do throws(ProtocolError) {
            while true {
                switch try codec.next(in: &bytes) {
                case .message(let message): self.received(message.text)
                case .needsMoreBytes: return
                case .close: self.sendClose()
                // Pings need no answer within this test's time.
                default: continue
                }
            }
        } catch {
            self.progress.fail("the server broke the protocol: \(error)")
            self.isOpen = false
        }
    }

    private func received(_ text: String) {
        if text.hasPrefix("echo") { return self.messages.append(text) }
        guard text.hasPrefix("tick") else { return }
        self.progress.ticked()
        let numbers = text.split(separator: " ").compactMap { Int($0) }
        guard numbers.count == 2 else { return self.progress.fail("a broken publication: \(text)") }
        // One order per topic, and each publication once.
        if numbers[1] <= self.lastTicks[numbers[0]] {
            self.progress.fail("publications out of order: \(text)")
        }
        self.lastTicks[numbers[0]] = numbers[1]
    }
}

#endif
