/// The limits that concern all connections together.
///
/// Asked when a connection begins and when it ends, not per message.
final class AdmissionControl: Sendable {
    private struct State {
        var connections = 0
        var byAddress: [String: Int] = [:]
        var byUser: [String: Int] = [:]
        var upgrades = UpgradeQueue()
    }

    private let state = Lock(State())
    private let proxies: TrustedProxies
    private let connectionsMax: Int
    private let connectionsPerAddressMax: Int?
    private let connectionsPerUserMax: Int?
    private let upgradeRules: UpgradeQueue.Rules

    init(_ configuration: ServerConfiguration) {
        self.proxies = configuration.trustedProxies
        self.connectionsMax = configuration.connectionsMax
        self.connectionsPerAddressMax = configuration.connectionsPerAddressMax
        self.connectionsPerUserMax = configuration.connectionsPerUserMax
        self.upgradeRules = UpgradeQueue.Rules(configuration)
    }

    /// Counts a connection in, or says why not; nil if it is admitted.
    func admitConnection(from address: RemoteAddress) -> RefusalCause? {
        self.state.withLock { state in
            guard state.connections < self.connectionsMax else { return .serverFull }
            if let max = self.connectionsPerAddressMax, !address.host.isEmpty {
                // A proxy has as many as its clients.
                let isFull = state.byAddress[address.host, default: 0] >= max
                if isFull, !self.proxies.contains(address.host) { return .connectionsPerAddress }
                state.byAddress[address.host, default: 0] += 1
            }
            state.connections += 1
            return nil
        }
    }

    func releaseConnection(from address: RemoteAddress) {
        self.state.withLock { state in
            state.connections -= 1
            if self.connectionsPerAddressMax != nil { Self.decrement(&state.byAddress, address.host) }
        }
    }

    /// Counts a connection for another address, that of the client behind a proxy; false if it has too many.
    func moveConnection(from proxy: RemoteAddress, to client: RemoteAddress) -> Bool {
        guard let max = self.connectionsPerAddressMax else { return true }
        return self.state.withLock { state in
            guard client.host.isEmpty || state.byAddress[client.host, default: 0] < max else { return false }
            Self.decrement(&state.byAddress, proxy.host)
            if !client.host.isEmpty { state.byAddress[client.host, default: 0] += 1 }
            return true
        }
    }

    func admitUser(_ user: String) -> Bool {
        guard let max = self.connectionsPerUserMax else { return true }
        return self.state.withLock { state in
            guard state.byUser[user, default: 0] < max else { return false }
            state.byUser[user, default: 0] += 1
            return true
        }
    }

    func releaseUser(_ user: String) {
        guard self.connectionsPerUserMax != nil else { return }
        self.state.withLock { Self.decrement(&$0.byUser, user) }
    }

    // MARK: - Upgrades

    /// An upgrade is asked for; `isDecided` says that `authenticate` has a word in it.
    func requestUpgrade(at now: LoopInstant, isDecided: Bool) -> UpgradeQueue.Verdict {
        self.state.withLock { $0.upgrades.request(at: now, isDecided: isDecided, self.upgradeRules) }
    }

    /// Whether it is the turn of the first of a loop's waiting upgrades; then it waits no more.
    func takeTurn(at now: LoopInstant, isDecided: Bool) -> Bool {
        self.state.withLock { $0.upgrades.takeTurn(at: now, isDecided: isDecided, self.upgradeRules) }
    }

    /// A waiting upgrade is gone, or was refused after all.
    func stopWaiting(isDecided: Bool) {
        self.state.withLock { $0.upgrades.stopWaiting(isDecided: isDecided) }
    }

    /// `authenticate` has returned.
    func decided() {
        self.state.withLock { $0.upgrades.deciding -= 1 }
    }

    /// How many upgrades wait for their turn.
    var waitingUpgrades: Int {
        self.state.withLock { $0.upgrades.waiting }
    }

    /// For an upgrade that has waited in vain: when to ask again.
    func promiseUpgrade(at now: LoopInstant) -> Duration? {
        self.state.withLock { $0.upgrades.promise(at: now, self.upgradeRules) }
    }

    private static func decrement(_ counts: inout [String: Int], _ key: String) {
        guard let count = counts[key] else { return }
        counts[key] = count > 1 ? count - 1 : nil
    }
}
