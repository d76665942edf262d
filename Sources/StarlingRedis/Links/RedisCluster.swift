internal import Logging
internal import Starling

/// The links to a Redis Cluster: two per master, for commands and subscribed, which all partitions share.
///
/// Topics are spread over a fixed number of partitions, each in one slot, evenly over all 16,384. So whatever is done
/// for many topics at once, a SUBSCRIBE or a lease, is done per partition, and following a slot that moves is following one
/// partition.
final class RedisCluster: Sendable {
    /// A link that is kept.
    private struct Lane: Hashable {
        let target: ConnectTarget
        let isForCommands: Bool
    }

    private struct State {
        /// The masters, by partition; nil where nobody has the slot.
        var owners: [ConnectTarget?]
        /// All masters that have slots.
        var masters: Set<ConnectTarget> = []
        /// Where slots are on their way to, or where they were, and until when links for commands are kept there.
        var visited: [ConnectTarget: ContinuousClock.Instant] = [:]
        /// The links that are up.
        var links: [Lane: RedisLink] = [:]
        /// Lanes that a task works for.
        var lanes: Set<Lane> = []
        var users: [ObjectIdentifier: RedisClusterUser] = [:]
        /// Those of the subscribed links, by link and partition.
        var receivers: [ObjectIdentifier: [Int: RedisClusterUser]] = [:]
        /// The runs of all masters that are up, and what their data is called, with commas.
        var runs = ""
        /// Has ``RedisCluster/run()`` ask for the slots.
        var doubt: AsyncStream<Void>.Continuation?

        mutating func noteRuns() {
            let links = self.links.filter { $0.key.isForCommands && self.masters.contains($0.key.target) }
            self.runs = links.flatMap { [$0.value.run, $0.value.data] }.joined(separator: ",")
        }
    }

    let partitions: RedisPartitions
    private let server: RedisServer
    private let configuration: RedisConfiguration
    private let connector: any Connector
    private let scout: RedisScout
    private let state: Lock<State>

    /// How often the slots are asked for when nothing seems to have changed.
    private static let refreshInterval = Duration.seconds(5)
    /// How often they are asked for at most.
    private static let refreshIntervalMin = Duration.milliseconds(100)
    private static let visitedAgeMax = Duration.seconds(30)

    init(_ server: RedisServer, _ configuration: RedisConfiguration, _ connector: any Connector) {
        self.server = server
        self.configuration = configuration
        self.connector = connector
        self.partitions = RedisPartitions()
        self.scout = RedisScout([server.target] + server.otherTargets, server, configuration, connector)
        self.state = Lock(State(owners: Array(repeating: nil, count: RedisPartitions.count)))
    }

    /// The runs of all masters that have slots and are up, and what their data is called.
    ///
    /// Data of theirs that is found elsewhere was moved there, whole. What a master that failed left behind may lack its last
    /// writes; and so, for all we know, what one without slots has left.
    var runs: String {
        self.state.withLock(\.runs)
    }

    /// Keeps the links until the task is cancelled; may be called again after that.
    func run() async {
        // A stream that somebody has waited for in a task that was cancelled has ended for good.
        let (doubts, doubt) = AsyncStream.makeStream(of: Void.self, bufferingPolicy: .bufferingNewest(1))
        self.state.withLock { $0.doubt = doubt }
        defer { self.state.withLock { $0.lanes = [] } }
        await withDiscardingTaskGroup { group in
            group.addTask {
                while (try? await Task.sleep(for: Self.refreshInterval)) != nil { doubt.yield() }
            }
            doubt.yield()
            var pause = Self.refreshIntervalMin
            for await _ in doubts {
                let isKnown = await self.refresh()
                for lane in self.takeNewLanes() { group.addTask { await self.keep(lane) } }
                pause =
                    isKnown ? Self.refreshIntervalMin : min(pause * 2, self.configuration.reconnectDelayMax)
                try? await Task.sleep(for: pause)
            }
        }
    }

    /// Waits for the link that a partition's slot is served by, and keeps it for as long as that is so.
    func withLink(
        of partition: Int,
        pushes: RedisLink.PushHandler?,
        _ begin: @Sendable (RedisLink) async -> Void
    ) async -> RedisError {
        let user = RedisClusterUser(partition, pushes)
        self.update { $0.users[ObjectIdentifier(user)] = user }
        defer { self.forget(user) }
        if let link = await user.began.value() {
            await begin(link)
            if let failure = await user.ended.value() { return failure }
        }
        return RedisError(.connectionLost, "the broadcaster has ended")
    }

    /// A slot has moved, or seems to have.
    func moved(_ partition: Int, to target: ConnectTarget?) {
        if let target { self.update { $0.owners[partition] = target } }
        self.askAgain()
    }

    /// The link for commands to a node that a slot is on its way to; one is made for the next time if there is none.
    func link(asked target: ConnectTarget) -> RedisLink? {
        let link = self.state.withLock { state in
            state.visited[target] = .now + Self.visitedAgeMax
            return state.links[Lane(target: target, isForCommands: true)]
        }
        if link == nil { self.askAgain() }
        return link
    }

    // MARK: - Who has which slot

    private func askAgain() {
        self.state.withLock(\.doubt)?.yield()
    }

    /// Asks who has which slot; false if nobody answers.
    private func refresh() async -> Bool {
        do throws(RedisError) {
            let (reply, asked) = try await self.scout.ask(["CLUSTER", "SLOTS"])
            let (owners, masters) = try self.owners(reply, asked)
            await self.scout.prefer(masters.shuffled())
            self.update { state in
                state.owners = owners
                state.masters = masters
            }
            return true
        } catch {
            self.configuration.logger.warning(
                "the slots of a Redis Cluster are not known",
                metadata: [LoggingKeys.error: "\(error)"]
            )
            // Nothing else would ask.
            self.askAgain()
            return false
        }
    }

    /// Reads the reply to CLUSTER SLOTS: first and last slot, and the master before its replicas.
    private func owners(
        _ reply: RedisValue,
        _ asked: ConnectTarget
    ) throws(RedisError) -> ([ConnectTarget?], Set<ConnectTarget>) {
        var owners: [ConnectTarget?] = Array(repeating: nil, count: RedisPartitions.count)
        var masters: Set<ConnectTarget> = []
        let violation = RedisError(
            .protocolViolation,
            "Redis at \(asked) answers CLUSTER SLOTS with something else"
        )
        guard let ranges = reply.elements else { throw violation }
        for range in ranges {
            guard let parts = range.elements, parts.count >= 3, let first = parts[0].number,
                let last = parts[1].number, let master = parts[2].elements, master.count >= 2,
                let port = master[1].number
            else { throw violation }
            // Without a name of its own a node is where it was asked.
            let name = master[0].text.flatMap { $0.isEmpty || $0 == "?" ? nil : $0 }
            guard let host = name ?? asked.host else { continue }
            masters.insert(.tcp(host: host, port: port))
            for (partition, slot) in self.partitions.slots.enumerated() where (first...last).contains(slot) {
                owners[partition] = .tcp(host: host, port: port)
            }
        }
        return (owners, masters)
    }

    /// Changes who has what, and tells whom it concerns.
    private func update(_ change: (inout State) -> Void) {
        let (begun, ended, useless) = self.state.withLock { state in
            let masters = state.masters
            change(&state)
            state.noteRuns()
            state.visited = state.visited.filter { $0.value > .now }
            // What is under way there is still to be answered.
            for former in masters.subtracting(state.masters)
            where state.links[Lane(target: former, isForCommands: true)] != nil {
                state.visited[former] = .now + Self.visitedAgeMax
            }
            var begun: [(RedisClusterUser, RedisLink)] = []
            var ended: [RedisClusterUser] = []
            for (id, user) in state.users {
                let owner = state.owners[user.partition]
                let link = owner.flatMap { state.links[Lane(target: $0, isForCommands: user.isForCommands)] }
                if let current = user.current {
                    guard current !== link, owner != nil else { continue }
                    // It lost its link, or another master has the slot.
                    ended.append(user)
                    state.users[id] = nil
                    state.receivers[ObjectIdentifier(current)]?[user.partition] = nil
                } else if let link {
                    user.current = link
                    if !user.isForCommands {
                        state.receivers[ObjectIdentifier(link), default: [:]][user.partition] = user
                    }
                    begun.append((user, link))
                }
            }
            let wanted = Self.wanted(state)
            return (begun, ended, state.links.filter { !wanted.contains($0.key) }.map(\.value))
        }
        for (user, link) in begun { user.began.fulfil(link) }
        for user in ended {
            user.ended.fulfil(RedisError(.movedAway, "another server of the cluster has the slot now"))
        }
        for link in useless { link.close() }
    }

    private static func wanted(_ state: State) -> Set<Lane> {
        var wanted: Set<Lane> = []
        for target in Set(state.owners).compactMap({ $0 }) {
            wanted.insert(Lane(target: target, isForCommands: true))
            wanted.insert(Lane(target: target, isForCommands: false))
        }
        // A master that has given all of our slots away still vouches for what came from it.
        for target in state.masters { wanted.insert(Lane(target: target, isForCommands: true)) }
        for (target, until) in state.visited where until > .now {
            wanted.insert(Lane(target: target, isForCommands: true))
        }
        return wanted
    }

    // MARK: - Links

    private func takeNewLanes() -> [Lane] {
        self.state.withLock { state in
            let new = Self.wanted(state).subtracting(state.lanes)
            state.lanes.formUnion(new)
            return Array(new)
        }
    }

    /// Keeps one link as long as it is wanted.
    private func keep(_ lane: Lane) async {
        var server = self.server
        server.target = lane.target
        let node = server
        await RedisReconnection(self.configuration).run(while: { self.isWanted(lane) }) {
            let link: RedisLink
            do throws(RedisError) {
                link = try await RedisLink.open(
                    node,
                    self.configuration,
                    self.connector,
                    isForCommands: lane.isForCommands
                )
            } catch {
                self.askAgain()
                return error
            }
            self.update { $0.links[lane] = link }
            let pushes: RedisLink.PushHandler = { await self.received($0, on: link) }
            let failure = await link.run(pushes: lane.isForCommands ? nil : pushes)
            self.lost(lane, failure)
            return failure
        }
    }

    /// Whether the lane is to go on; if not it is given up.
    private func isWanted(_ lane: Lane) -> Bool {
        self.state.withLock { state in
            let isWanted = Self.wanted(state).contains(lane)
            if !isWanted { state.lanes.remove(lane) }
            return isWanted
        }
    }

    private func lost(_ lane: Lane, _ failure: RedisError) {
        let ended = self.state.withLock { state in
            let link = state.links.removeValue(forKey: lane)
            if let link { state.receivers[ObjectIdentifier(link)] = nil }
            let ended = state.users.filter { $0.value.current === link }
            for id in ended.keys { state.users[id] = nil }
            state.noteRuns()
            return ended.values
        }
        for user in ended { user.ended.fulfil(RedisError(.movedAway, failure.description)) }
        self.askAgain()
    }

    /// Hands what arrives on a subscribed link to the partitions that it is for.
    private func received(_ pushes: [RedisValue], on link: RedisLink) async {
        let receivers = self.state.withLock { $0.receivers[ObjectIdentifier(link)] ?? [:] }
        var rest = pushes[...]
        while let first = rest.first {
            let partition = self.partition(of: first)
            let run = rest.prefix { self.partition(of: $0) == partition }
            rest = rest.dropFirst(run.count)
            if let partition {
                await receivers[partition]?.pushes?(Array(run))
            } else {
                self.refused(run, on: link)
            }
        }
    }

    private func partition(of push: RedisValue) -> Int? {
        guard let parts = push.elements, parts.count >= 2, let channel = parts[1].text else { return nil }
        return self.partitions.partition(ofName: channel)
    }

    /// A subscription that went to a node without its slot.
    private func refused(_ replies: ArraySlice<RedisValue>, on link: RedisLink) {
        for case .error(let text) in replies {
            let error = RedisError(reply: text, to: "SSUBSCRIBE", at: link.server)
            if let redirection = error.redirection,
                let partition = self.partitions.partition(ofSlot: redirection.slot)
            {
                self.moved(partition, to: redirection.target)
            } else {
                self.configuration.logger.error(
                    "Redis refused a subscription",
                    metadata: [LoggingKeys.error: "\(error)"]
                )
                self.askAgain()
            }
        }
    }

    private func forget(_ user: RedisClusterUser) {
        self.state.withLock { state in
            state.users[ObjectIdentifier(user)] = nil
            guard let link = user.current else { return }
            let id = ObjectIdentifier(link)
            if state.receivers[id]?[user.partition] === user { state.receivers[id]?[user.partition] = nil }
            if state.receivers[id]?.isEmpty == true { state.receivers[id] = nil }
        }
    }
}

/// A partition's commands or subscriptions, while they use a link.
final class RedisClusterUser: @unchecked Sendable {
    // Sendable because `current` is read and written with the cluster's lock held, and all else is constant.

    let partition: Int
    let pushes: RedisLink.PushHandler?
    let began = Promise<RedisLink>()
    let ended = Promise<RedisError>()
    var current: RedisLink?

    init(_ partition: Int, _ pushes: RedisLink.PushHandler?) {
        self.partition = partition
        self.pushes = pushes
    }

    var isForCommands: Bool { self.pushes == nil }
}

/// One partition's links.
struct RedisClusterSource: RedisLinkSource {
    let cluster: RedisCluster
    let partition: Int

    var followsRedirections: Bool { true }

    func withLink(
        pushes: RedisLink.PushHandler?,
        _ begin: @Sendable (RedisLink) async -> Void
    ) async -> RedisError {
        await self.cluster.withLink(of: self.partition, pushes: pushes, begin)
    }

    func moved(to redirection: RedisRedirection?) {
        self.cluster.moved(self.partition, to: redirection?.target)
    }

    func link(asked redirection: RedisRedirection) -> RedisLink? {
        redirection.target.flatMap { self.cluster.link(asked: $0) }
    }
}
