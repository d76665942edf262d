import Starling
import StarlingRedis
import TestSupport
import Testing

/// A Redis that does what a test says, when it says so; connections to it are made in memory.
///
/// It answers what a link begins with, confirms subscriptions, and sends a node its probes. Scripts wait for the test.
final class ScriptedRedis: Connector {
    /// A call of a script that has no answer yet.
    struct Call: Sendable {
        /// `history`, `refresh` and so on.
        let script: String
        let keys: [String]
        let arguments: [[UInt8]]
        /// Which run the caller believes to speak to.
        let run: String
        fileprivate let link: ScriptedLink
        fileprivate let place: Int

        func text(_ index: Int) -> String { String(decoding: self.arguments[index], as: UTF8.self) }

        /// The answer of a lease that stands.
        var renewal: [UInt8] {
            ScriptedRedis.array([
                ScriptedRedis.integer(1), ScriptedRedis.integer(0), ScriptedRedis.bulk("data " + self.run),
                ScriptedRedis.integer(1),
            ])
        }

        /// Answers; replies go out in the order of the commands.
        func answer(_ reply: [UInt8]) { self.link.answer(reply, at: self.place) }
    }

    private struct State {
        var run = "1"
        var links: [ScriptedLink] = []
        var calls: [Call] = []
        var automatic: @Sendable (Call) -> [UInt8]? = { _ in nil }
    }

    private let state = Lock(State())

    /// The run that links which are made from now on belong to.
    func start(run: String) {
        self.state.withLock { $0.run = run }
    }

    /// Answers calls that the closure has a reply for at once, those that wait included.
    func answer(_ automatic: @escaping @Sendable (Call) -> [UInt8]?) {
        let calls = self.state.withLock { state in
            state.automatic = automatic
            defer { state.calls = [] }
            return state.calls
        }
        for call in calls { self.called(call) }
    }

    /// Calls that wait for their answers.
    var waiting: [Call] { self.state.withLock { $0.calls } }

    /// Takes a call that waits, as soon as there is one.
    func call(of script: String) async throws -> Call {
        let taken = Lock<Call?>(nil)
        try await eventually("a call of \(script)") {
            self.state.withLock { state in
                guard let index = state.calls.firstIndex(where: { $0.script == script }) else { return false }
                let call = state.calls.remove(at: index)
                taken.withLock { $0 = call }
                return true
            }
        }
        guard let call = taken.withLock({ $0 }) else { throw RedisProcessError("no call") }
        return call
    }

    /// Breaks the links that are subscribed, or the others.
    func breakLinks(areSubscribed: Bool) {
        let broken = self.state.withLock { state in
            let broken = state.links.filter { $0.isSubscribed == areSubscribed }
            state.links.removeAll { $0.isSubscribed == areSubscribed }
            state.calls.removeAll { call in broken.contains { $0 === call.link } }
            return broken
        }
        for link in broken { link.close() }
    }

    /// How many links are subscribed, and to what.
    var channels: [Set<String>] {
        self.state.withLock { $0.links }.map(\.channels).filter { !$0.isEmpty }
    }

    /// The runs that links are at.
    var runs: Set<String> {
        Set(self.state.withLock { $0.links }.filter(\.isOpen).map(\.run))
    }

    /// Sends a message to all links that are subscribed to the channel.
    func push(_ payload: [UInt8], to channel: String) {
        for link in self.state.withLock({ $0.links }) where link.channels.contains(channel) {
            link.push(Self.array([Self.bulk("message"), Self.bulk(channel), Self.bulk(payload)]))
        }
    }

    func connect(
        to target: ConnectTarget,
        options: ConnectOptions
    ) async throws(TransportError) -> any ByteStream {
        self.state.withLock { state in
            let link = ScriptedLink(self, run: state.run)
            state.links.append(link)
            return link
        }
    }

    fileprivate func called(_ call: Call) {
        let reply = self.state.withLock { state in
            let reply = state.automatic(call)
            if reply == nil { state.calls.append(call) }
            return reply
        }
        if let reply { call.answer(reply) }
    }

    // MARK: - Replies

    static func bulk(_ bytes: [UInt8]) -> [UInt8] {
        Array("$\(bytes.count)\r\n".utf8) + bytes + Array("\r\n".utf8)
    }

    static func bulk(_ text: String) -> [UInt8] { self.bulk(Array(text.utf8)) }
    static let refusal = Array("-OOM there is no room\r\n".utf8)
    static func integer(_ number: Int) -> [UInt8] { Array(":\(number)\r\n".utf8) }

    static func array(_ elements: [[UInt8]]) -> [UInt8] {
        Array("*\(elements.count)\r\n".utf8) + elements.flatMap { $0 }
    }

    /// What the script that reads a history says.
    static func history(
        epoch: UInt64,
        newest: Int,
        isComplete: Bool = true,
        _ publications: ClosedRange<Int>? = nil
    ) -> [UInt8] {
        let header = PublicationCodec.header("x", origin: 1, hasPosition: true)
        let entries = (publications.map(Array.init) ?? []).flatMap { offset in
            [self.bulk("\(offset)-0"), self.bulk(header), self.bulk("\(offset)")]
        }
        return self.array(
            [self.bulk(self.bytes(epoch)), self.bulk("\(newest)"), self.integer(isComplete ? 1 : 0)] + entries
        )
    }

    /// A publication as it comes on a channel.
    static func publication(epoch: UInt64, _ offset: Int, payload: String? = nil) -> [UInt8] {
        PublicationCodec.header("x", origin: 1, hasPosition: true) + self.bytes(epoch)
            + self.bytes(UInt64(offset)) + Array((payload ?? "\(offset)").utf8)
    }

    private static func bytes(_ number: UInt64) -> [UInt8] {
        (0..<8).map { UInt8(truncatingIfNeeded: number >> (56 - 8 * $0)) }
    }
}

/// The server's end of a connection.
private final class ScriptedLink: ByteStream {
    private struct State {
        var output: [UInt8] = []
        /// Replies in the order of the commands; nil where there is none yet.
        var replies: [[UInt8]?] = []
        var reader: CheckedContinuation<Void, Never>?
        var isClosed = false
        var channels: Set<String> = []
        var scriptCount = 0
    }

    private static let scripts = ["publish", "history", "enter", "leave", "refresh"]

    private unowned let redis: ScriptedRedis
    let run: String
    private let state = Lock(State())

    init(_ redis: ScriptedRedis, run: String) {
        self.redis = redis
        self.run = run
    }

    var channels: Set<String> { self.state.withLock { $0.channels } }
    var isSubscribed: Bool { !self.channels.isEmpty }
    var isOpen: Bool { self.state.withLock { !$0.isClosed } }

    func read() async throws(TransportError) -> [UInt8]? {
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let isReady = self.state.withLock { state in
                    if !state.output.isEmpty || state.isClosed { return true }
                    state.reader = continuation
                    return false
                }
                if isReady { continuation.resume() }
            }
        } onCancel: {
            self.close()
        }
        return try self.state.withLock { (state) throws(TransportError) in
            if state.isClosed { throw TransportError("broken by the test") }
            defer { state.output = [] }
            return state.output
        }
    }

    func write(_ bytes: [UInt8]) async throws(TransportError) {
        if self.state.withLock({ $0.isClosed }) { throw TransportError("broken by the test") }
        for command in Self.commands(bytes) { self.received(command) }
    }

    func close() {
        self.wake { $0.isClosed = true }
    }

    func push(_ bytes: [UInt8]) {
        self.wake { $0.output += bytes }
    }

    func answer(_ reply: [UInt8], at place: Int) {
        self.wake { state in
            state.replies[place] = reply
            // What was sent is empty from then on.
            for index in state.replies.indices {
                guard let reply = state.replies[index] else { break }
                state.output += reply
                state.replies[index] = []
            }
        }
    }

    private func wake(_ change: (inout State) -> Void) {
        let reader = self.state.withLock { state in
            change(&state)
            defer { state.reader = nil }
            return state.reader
        }
        reader?.resume()
    }

    private func received(_ command: [[UInt8]]) {
        let words = command.map { String(decoding: $0, as: UTF8.self) }
        switch words[0] {
        case "SUBSCRIBE", "UNSUBSCRIBE":
            for channel in words.dropFirst() {
                self.state.withLock { state in
                    if words[0] == "SUBSCRIBE" {
                        state.channels.insert(channel)
                    } else {
                        state.channels.remove(channel)
                    }
                }
                let parts = [ScriptedRedis.bulk(words[0].lowercased()), ScriptedRedis.bulk(channel)]
                self.push(ScriptedRedis.array(parts + [ScriptedRedis.integer(1)]))
            }
            return
        default: break
        }
        let place = self.state.withLock { state in
            state.replies.append(nil)
            return state.replies.count - 1
        }
        switch words[0] {
        case "INFO":
            let text = "# Server\r\nrun_id:\(self.run)\r\nmaster_replid:data \(self.run)\r\n"
            self.answer(ScriptedRedis.bulk(text), at: place)
        case "SCRIPT":
            let script = self.state.withLock { state in
                state.scriptCount += 1
                return Self.scripts[state.scriptCount - 1]
            }
            self.answer(ScriptedRedis.bulk(script), at: place)
        case "PUBLISH":
            self.redis.push(command[2], to: words[1])
            self.answer(ScriptedRedis.integer(1), at: place)
        case "EVALSHA":
            let keyCount = Int(words[2]) ?? 0
            self.redis.called(
                ScriptedRedis.Call(
                    script: words[1],
                    keys: Array(words[3..<(3 + keyCount)]),
                    arguments: Array(command[(3 + keyCount)...]),
                    run: self.run,
                    link: self,
                    place: place
                )
            )
        default: self.answer(Array("-ERR unknown command\r\n".utf8), at: place)
        }
    }

    /// Reads commands, which are written whole.
    private static func commands(_ bytes: [UInt8]) -> [[[UInt8]]] {
        var rest = bytes[...]
        func number() -> Int {
            rest.removeFirst()
            let digits = rest.prefix { $0 != UInt8(ascii: "\r") }
            rest = rest.dropFirst(digits.count + 2)
            return Int(String(decoding: digits, as: UTF8.self)) ?? 0
        }
        var commands: [[[UInt8]]] = []
        while !rest.isEmpty {
            commands.append(
                (0..<number()).map { _ in
                    let count = number()
                    defer { rest = rest.dropFirst(count + 2) }
                    return Array(rest.prefix(count))
                }
            )
        }
        return commands
    }
}
