internal import Logging
internal import Starling

/// Where the links to a shard come from: to the one server there is, to the master that Sentinels name, or to the node of a
/// Cluster that has the shard's slot at the moment.
protocol RedisLinkSource: Sendable {
    /// Whether there are other servers that Redis may send us to.
    var followsRedirections: Bool { get }

    /// Gets a link, hands it to `begin`, and keeps it until it ends, until another server is in charge, or until the task is
    /// cancelled; returns why it ended.
    ///
    /// `pushes` takes what arrives on a link that is subscribed; it is nil for one with replies.
    func withLink(
        pushes: RedisLink.PushHandler?,
        _ begin: @Sendable (RedisLink) async -> Void
    ) async -> RedisError

    /// Learns that another server is in charge: Redis said so, or the one there was behaves like one that is not.
    func moved(to redirection: RedisRedirection?)

    /// A link to the server that a slot is on its way to, if there is one at the moment.
    func link(asked redirection: RedisRedirection) -> RedisLink?
}

/// One server, directly or as the Sentinels' master.
struct RedisSingleSource: RedisLinkSource {
    let server: RedisServer
    let configuration: RedisConfiguration
    let connector: any Connector
    /// Asks who the master is; nil if there are no Sentinels.
    let sentinels: RedisSentinels?

    func withLink(
        pushes: RedisLink.PushHandler?,
        _ begin: @Sendable (RedisLink) async -> Void
    ) async -> RedisError {
        var server = self.server
        let link: RedisLink
        do throws(RedisError) {
            if let sentinels { server.target = try await sentinels.master() }
            link = try await RedisLink.open(
                server,
                self.configuration,
                self.connector,
                isForCommands: pushes == nil
            )
        } catch {
            return error
        }
        await begin(link)
        guard let sentinels else { return await link.run(pushes: pushes) }
        let target = server.target
        return await withTaskGroup(of: RedisError?.self) { group in
            group.addTask { await link.run(pushes: pushes) }
            group.addTask { await sentinels.waitUntilMoved(from: target) }
            let first = await group.next() ?? nil
            group.cancelAll()
            let second = await group.next() ?? nil
            return first ?? second
                ?? RedisError(.connectionLost, "the link to Redis at \(target) was ended")
        }
    }

    var followsRedirections: Bool { false }

    /// Nothing to do: the next link asks again.
    func moved(to redirection: RedisRedirection?) {}

    func link(asked redirection: RedisRedirection) -> RedisLink? { nil }
}

/// Asks Sentinels where the master is, as https://redis.io/docs/latest/develop/reference/sentinel-clients/ has it.
actor RedisSentinels {
    private let server: RedisServer
    private let master: String
    private let configuration: RedisConfiguration
    private let scout: RedisScout

    init(
        _ server: RedisServer,
        master: String,
        _ configuration: RedisConfiguration,
        _ connector: any Connector
    ) {
        var sentinel = server
        sentinel.user = server.sentinelUser
        sentinel.password = server.sentinelPassword
        sentinel.database = 0
        self.server = server
        self.master = master
        self.configuration = configuration
        self.scout = RedisScout([server.target] + server.otherTargets, sentinel, configuration, connector)
    }

    /// Where the master is.
    func master() async throws(RedisError) -> ConnectTarget {
        let (reply, _) = try await self.scout.ask(["SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.master])
        guard let parts = reply.elements, parts.count == 2, let host = parts[0].text,
            let port = parts[1].text.flatMap({ Int($0) })
        else {
            throw RedisError(
                .invalidConfiguration,
                "the Sentinels know no master of the name '\(self.master)': check the URL, and 'SENTINEL masters'"
            )
        }
        return .tcp(host: host, port: port)
    }

    /// Returns when the Sentinels name another master; nil if the task is cancelled before.
    ///
    /// A master that was cut off from them goes on taking writes that will be lost, so it is not enough to ask when a link
    /// breaks.
    func waitUntilMoved(from target: ConnectTarget) async -> RedisError? {
        while (try? await Task.sleep(for: self.configuration.probeInterval)) != nil {
            guard let master = try? await self.master(), master != target else { continue }
            return RedisError(
                .connectionLost,
                "the Sentinels made \(master) the master '\(self.master)' instead of \(target)"
            )
        }
        return nil
    }
}

/// Puts a question to one of several servers that all know the answer, to the next if one is silent.
actor RedisScout {
    private var targets: [ConnectTarget]
    private let firstTargets: [ConnectTarget]
    private let server: RedisServer
    private let configuration: RedisConfiguration
    private let connector: any Connector

    init(
        _ targets: [ConnectTarget],
        _ server: RedisServer,
        _ configuration: RedisConfiguration,
        _ connector: any Connector
    ) {
        self.targets = targets
        self.firstTargets = targets
        self.server = server
        self.configuration = configuration
        self.connector = connector
    }

    /// The answer, and who gave it.
    func ask(_ question: [String]) async throws(RedisError) -> (RedisValue, ConnectTarget) {
        var failures: [String] = []
        for target in self.targets {
            var server = self.server
            server.target = target
            do throws(RedisError) {
                let reply = try await RedisLink.ask(question, server, self.configuration, self.connector)
                return (reply, target)
            } catch {
                failures.append(error.description)
                // Whoever is silent is asked last the next time.
                if let index = self.targets.firstIndex(of: target) {
                    self.targets.append(self.targets.remove(at: index))
                }
            }
        }
        throw RedisError(.unreachable, failures.joined(separator: "; "))
    }

    /// Asks these first from now on, and those that were given at the beginning after them.
    func prefer(_ targets: [ConnectTarget]) {
        self.targets = targets + self.firstTargets.filter { !targets.contains($0) }
    }
}

/// Where Redis sends us for a slot.
struct RedisRedirection: Sendable, Equatable {
    let slot: Int
    /// Nil if it is not known.
    let target: ConnectTarget?

    /// Reads `MOVED slot host:port` and `ASK slot host:port`.
    init?(_ reply: String) {
        let words = reply.split(separator: " ")
        guard words.count >= 3, words[0] == "MOVED" || words[0] == "ASK", let slot = Int(words[1]),
            let colon = words[2].lastIndex(of: ":"), let port = Int(words[2][words[2].index(after: colon)...])
        else { return nil }
        let host = words[2][..<colon]
        self.slot = slot
        self.target = host.isEmpty || host == "?" ? nil : .tcp(host: String(host), port: port)
    }
}
