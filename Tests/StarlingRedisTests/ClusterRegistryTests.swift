import Starling
import StarlingNative
import StarlingRedis
import TestSupport
import Testing

/// A server on a port of its own, joined with others by a Redis.
private final class ClusterNode: Sendable {
    let cluster: ClusterRegistry
    let broadcaster: RedisBroadcaster
    let port: Int
    private let server: WebSocketServer<NativeTransport>
    private let task: Task<Void, any Error>

    init(_ redis: RedisProcess, _ name: String) async throws {
        var endpointConfiguration = EndpointConfiguration()
        // Our client does not answer a close frame.
        endpointConfiguration.timeouts.closeTimeout = .milliseconds(200)
        let broadcaster = try makeBroadcaster(redis) {
            $0.presenceLease = .seconds(2)
            $0.unsubscribeDelay = .milliseconds(50)
        }
        self.broadcaster = broadcaster
        self.cluster = ClusterRegistry(broadcaster, node: name) { "\(name) heard \($0)" }
        var configuration = ServerConfiguration()
        configuration.cluster = self.cluster
        configuration.drainSpread = .zero
        let (addresses, listening) = AsyncStream.makeStream(of: String.self)
        let transport = NativeTransport(host: "127.0.0.1", port: 0, eventLoops: 1) { listening.yield($0) }
        let endpoint = WebSocketEndpoint(
            broadcaster: broadcaster,
            configuration: endpointConfiguration,
            authenticate: { UpgradeDecision.accept(user: $0[query: "user"]) },
            { socket, _ in for try await _ in socket {} }
        )
        let other = WebSocketEndpoint(
            broadcaster: broadcaster,
            configuration: endpointConfiguration,
            authenticate: { UpgradeDecision.accept(user: $0[query: "user"]) },
            { socket, _ in for try await _ in socket {} }
        )
        let server = WebSocketServer(transport: transport, configuration: configuration) {
            WebSocketRoute("/", endpoint)
            WebSocketRoute("/other", other)
        }
        self.server = server
        self.task = Task { try await server.run() }
        var port: Int?
        for await address in addresses {
            port = address.split(separator: ":").last.flatMap { Int($0) }
            break
        }
        self.port = try #require(port)
        try await eventually("the node to join") { try await self.cluster.nodes().contains(name) }
    }

    func stop() async throws {
        self.server.beginShutdown()
        try await self.task.value
    }
}

/// A connection that keeps what it is sent: the frames of a server are short here, and in the clear.
private final class RawClient: Sendable {
    private let stream: any ByteStream
    private let received = Lock("")
    private let hasEnded = Lock(false)

    init(_ node: ClusterNode, path: String = "/", user: String) async throws {
        self.stream = try await NativeConnector().connect(
            to: .tcp(host: "127.0.0.1", port: node.port),
            options: ConnectOptions()
        )
        let request =
            "GET \(path)?user=\(user) HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            + "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        try await self.stream.write(Array(request.utf8))
        Task {
            while let bytes = try? await self.stream.read() {
                let text = String(decoding: bytes, as: UTF8.self)
                self.received.withLock { $0 += text }
            }
            self.hasEnded.withLock { $0 = true }
        }
        try await self.wait(for: "101 Switching Protocols")
    }

    func wait(for text: String) async throws {
        try await eventually("'\(text)' to arrive") { self.received.withLock { $0.contains(text) } }
    }

    func waitForEnd() async throws {
        try await eventually("the end of a connection") { self.hasEnded.withLock { $0 } }
    }

    func cut() {
        self.stream.close()
    }
}

@Suite(.serialized) struct ClusterRegistryTests {
    @Test("From any node: where a user is, sending, subscribing, closing, counting, listing")
    func reach() async throws {
        let redis = try await RedisProcess()
        let (one, two) = (try await ClusterNode(redis, "one"), try await ClusterNode(redis, "two"))
        var events = try await one.cluster.events().makeAsyncIterator()

        let ada = try await RawClient(two, user: "ada")
        #expect(try await events.next() == .userJoined("ada"))
        let adaElsewhere = try await RawClient(one, user: "ada")
        let bob = try await RawClient(two, user: "bob")
        #expect(try await events.next() == .userJoined("bob"))
        try await eventually("ada on both") { try await one.cluster.nodes(ofUser: "ada") == ["one", "two"] }
        #expect(try await one.cluster.nodes(ofUser: "bob") == ["two"])
        #expect(try await one.cluster.nodes(ofUser: "nobody").isEmpty)
        #expect(try await one.cluster.userCount() == 2)
        let page = try await one.cluster.users()
        #expect(page.next == nil && page.members.map(\.id).sorted() == ["ada", "bob"])

        #expect(try await one.cluster.send("hello ada", toUser: "ada") == 2)
        try await ada.wait(for: "hello ada")
        try await adaElsewhere.wait(for: "hello ada")
        #expect(try await one.cluster.send("lost", toUser: "nobody") == 0)

        #expect(try await one.cluster.subscribe(user: "bob", to: "news") == 1)
        try await eventually("bob to be subscribed") {
            try await one.cluster.survey(about: "news").reports.map(\.subscriberCount).reduce(0, +) == 1
        }
        try await one.broadcaster.publish("the news", to: "news")
        try await bob.wait(for: "the news")
        try await one.cluster.unsubscribe(user: "bob", from: "news")
        try await eventually("bob to be unsubscribed") {
            try await one.cluster.survey(about: "news").reports.allSatisfy { $0.subscriberCount == 0 }
        }

        #expect(try await one.cluster.close(user: "bob", .policyViolation, reason: "out") == 1)
        try await bob.waitForEnd()
        #expect(try await events.next() == .userLeft("bob"))
        ada.cut()
        try await eventually("ada to be on one node") {
            try await two.cluster.nodes(ofUser: "ada") == ["one"]
        }
        adaElsewhere.cut()
        #expect(try await events.next() == .userLeft("ada"))
        #expect(try await one.cluster.userCount() == 0)

        try await two.stop()
        #expect(try await events.next() == .nodeLeft("two"))
        try await one.stop()
    }

    @Test(
        "A topic that one endpoint's last subscriber leaves stays with another endpoint of the same broadcaster"
    )
    func sharedBroadcaster() async throws {
        let redis = try await RedisProcess()
        let node = try await ClusterNode(redis, "one")
        let ada = try await RawClient(node, user: "ada")
        let bob = try await RawClient(node, path: "/other", user: "bob")
        for user in ["ada", "bob"] {
            try await eventually("\(user) to be known") {
                try await node.cluster.subscribe(user: user, to: "news") == 1
            }
        }
        try await eventually("both to be subscribed") {
            try await node.cluster.survey(about: "news").reports.first?.subscriberCount == 2
        }
        try await node.cluster.unsubscribe(user: "ada", from: "news")
        // Longer than a topic that nobody wants stays subscribed.
        for number in 1...60 {
            try await node.broadcaster.publish(.text("news \(number)."), to: "news")
            try await bob.wait(for: "news \(number).")
            try await Task.sleep(for: .milliseconds(20))
        }
        ada.cut()
        bob.cut()
        try await node.stop()
    }

    @Test("A survey returns what arrives in time, and names the node that is silent")
    func survey() async throws {
        let redis = try await RedisProcess()
        let (one, two) = (try await ClusterNode(redis, "one"), try await ClusterNode(redis, "two"))
        let client = try await RawClient(two, user: "ada")
        try await eventually("the connection to be counted") {
            let survey = try await one.cluster.survey("you")
            #expect(survey.missing.isEmpty)
            #expect(Set(survey.reports.map(\.answer)) == ["one heard you", "two heard you"])
            return survey.reports.first { $0.node == "two" }?.connectionCount == 1
        }
        // A node that keeps its lease and does nothing else.
        let broadcaster = try makeBroadcaster(redis)
        try await withNodes([broadcaster]) { _ in
            try await broadcaster.enter(PresenceMember(id: "silent"), "$starling:nodes")
            let start = ContinuousClock.now
            let survey = try await one.cluster.survey(deadline: .milliseconds(300))
            #expect(start.duration(to: .now) < .seconds(2))
            #expect(survey.missing == ["silent"])
            #expect(survey.reports.count == 2)
        }
        client.cut()
        try await two.stop()
        try await one.stop()
    }

    @Test("A hundred users who come at once are all known, and all leave with their node")
    func manyUsers() async throws {
        let redis = try await RedisProcess()
        let (one, two) = (try await ClusterNode(redis, "one"), try await ClusterNode(redis, "two"))
        let clients = try await withThrowingTaskGroup(of: RawClient.self) { group in
            for number in 0..<100 { group.addTask { try await RawClient(two, user: "user\(number)") } }
            return try await group.reduce(into: []) { $0.append($1) }
        }
        try await eventually("a hundred users") { try await one.cluster.userCount() == 100 }
        var names: Set<String> = []
        var cursor: PresenceCursor?
        repeat {
            let page = try await one.cluster.users(from: cursor, countMax: 10)
            names.formUnion(page.members.map(\.id))
            cursor = page.next
        } while cursor != nil
        #expect(names.count == 100)
        try await two.stop()
        try await eventually("nobody to be left") { try await one.cluster.userCount() == 0 }
        #expect(try await one.cluster.nodes() == ["one"])
        withExtendedLifetime(clients) {}
        try await one.stop()
    }
}
