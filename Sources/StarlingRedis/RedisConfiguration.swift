public import Logging
public import Starling

/// Where Redis is, what is kept there, and how long things may take.
public struct RedisConfiguration: Sendable {
    /// The servers, each a Redis of its own; a topic belongs to one of them.
    ///
    /// A Cluster is one server here, and stands alone. All nodes must list the same servers. The order does not matter, and adding one moves only its share of the topics.
    public var servers: [RedisServer]
    /// Stands before the names of all keys and channels, so that several applications may share a Redis.
    public var namespace = "starling"
    /// How much of a topic is kept; nil for a topic without a history.
    ///
    /// Called for each publication, on any thread. All nodes must say the same of a topic, always.
    public var history: @Sendable (Topic) -> HistoryLimits? = { _ in nil }
    /// A reply that takes longer ends the link, which is then made anew.
    public var replyTimeout = Duration.seconds(5)
    /// How long a publication or a subscription waits for a link that is down; then it fails.
    public var waitTimeout = Duration.seconds(5)
    /// Bytes of publications that may wait for a link that is down or slow; a further one fails at once.
    public var queuedByteCountMax = 8 << 20
    /// The first pause before a link is made anew; each further one is twice as long, and a random part of it is taken.
    public var reconnectDelayMin = Duration.milliseconds(100)
    /// The longest such pause.
    public var reconnectDelayMax = Duration.seconds(5)
    /// How long a topic stays subscribed after its last subscriber has gone, so that one that comes and goes costs
    /// nothing.
    public var unsubscribeDelay = Duration.seconds(2)
    /// How often the node sends itself a message through Redis.
    public var probeInterval = Duration.seconds(1)
    /// The node is deaf if no such message has come back for so long: `/ready` turns false, and the link is made anew.
    public var deafAfter = Duration.seconds(5)
    /// How long a topic's newest position is remembered after its last publication.
    ///
    /// Longer than a history is kept: whoever comes back within it and has missed nothing is told so.
    public var positionAgeMax = Duration.seconds(24 * 3600)
    /// How long the key of an idempotent publication is remembered.
    public var idempotencyKeyAgeMax = Duration.seconds(300)
    /// How long a node that is heard no more counts as alive; then its members leave.
    public var presenceLease = Duration.seconds(10)
    /// How long connecting may take, name and TLS included.
    public var connectTimeout = Duration.seconds(5)
    /// Where to log.
    public var logger = Logger(label: "starling.redis")

    /// Several servers.
    public init(servers: [RedisServer]) {
        self.servers = servers
    }

    /// One server.
    public init(_ server: RedisServer) {
        self.init(servers: [server])
    }
}

/// One Redis server: itself, or the Sentinels or the Cluster that say where it is.
public struct RedisServer: Sendable {
    /// How the server is found that takes writes.
    public enum Discovery: Hashable, Sendable {
        /// It is the target.
        case direct
        /// The targets are Sentinels, which know the master by this name.
        case sentinel(master: String)
        /// The targets are nodes of a Redis Cluster, one of which is enough.
        case cluster
    }

    /// Where it listens.
    public var target: ConnectTarget
    /// Further Sentinels, or nodes of the Cluster, to ask when the first one is silent.
    public var otherTargets: [ConnectTarget] = []
    /// How the server is found that takes writes.
    public var discovery = Discovery.direct
    /// The user for the Sentinels; ``user`` is for the master.
    public var sentinelUser: String?
    /// The password for the Sentinels; ``password`` is for the master.
    public var sentinelPassword: String?
    /// The user, or nil for the default one.
    public var user: String?
    /// The password, or nil if none is needed.
    public var password: String?
    /// The database that holds the histories.
    ///
    /// Channels are the same for all databases.
    public var database: Int
    /// Encrypts the links; nil for plain ones.
    public var tls: ConnectTLS?

    /// Describes a server.
    public init(
        _ target: ConnectTarget,
        user: String? = nil,
        password: String? = nil,
        database: Int = 0,
        tls: ConnectTLS? = nil
    ) {
        self.target = target
        self.user = user
        self.password = password
        self.database = database
        self.tls = tls
    }

    var isCluster: Bool { self.discovery == .cluster }

    /// How messages and the hash of a topic name it; the same on all nodes.
    var name: String {
        switch self.discovery {
        case .direct: "\(self.target)"
        case .sentinel(let master): "\(master)"
        case .cluster: "the cluster of \(self.target)"
        }
    }

    /// Reads where a server is.
    ///
    /// - `redis://[[user]:password@]host[:port][/database]`, one server.
    /// - `unix://[[user]:password@]/path/of/socket[?db=database]`, one server by its Unix socket.
    /// - `redis+sentinel://[[user]:password@]host[:port][,host[:port]…]/master[/database]`: Sentinels (port 26379) and the
    ///   name under which they know the master; user and password are the master's.
    /// - `redis+cluster://[[user]:password@]host[:port][,host[:port]…]`: some nodes of a Cluster.
    ///
    /// With `rediss` instead of `redis` the links are encrypted.
    ///
    /// - Throws: ``RedisError`` that says what is wrong with the URL; it never shows the password.
    public init(url: String) throws(RedisError) {
        func invalid(_ what: String) -> RedisError {
            RedisError(.invalidConfiguration, "the URL of Redis \(what)")
        }
        guard let schemeEnd = url.firstRange(of: "://") else {
            throw invalid(
                "has no scheme: expected redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://"
            )
        }
        let scheme = url[..<schemeEnd.lowerBound].lowercased()
        var rest = url[schemeEnd.upperBound...]
        var user: String?
        var password: String?
        if let at = rest.lastIndex(of: "@") {
            let parts = rest[..<at].split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
            guard let decoded = Self.percentDecoded(parts[0]) else { throw invalid("has an invalid user") }
            user = decoded.isEmpty ? nil : decoded
            if parts.count == 2 {
                guard let decoded = Self.percentDecoded(parts[1]) else {
                    throw invalid("has an invalid password: encode what is not a letter or a digit as %XX")
                }
                password = decoded
            }
            rest = rest[rest.index(after: at)...]
        }
        switch scheme {
        case "unix":
            let parts = rest.split(separator: "?", maxSplits: 1)
            guard let path = parts.first.flatMap(Self.percentDecoded), path.hasPrefix("/") else {
                throw invalid("names no socket: expected unix:///path/of/socket")
            }
            var database = 0
            if parts.count == 2 {
                guard parts[1].hasPrefix("db="), let number = Int(parts[1].dropFirst(3)), number >= 0 else {
                    throw invalid("has '\(parts[1])' behind the path: expected db=NUMBER")
                }
                database = number
            }
            self.init(.unix(path: path), user: user, password: password, database: database)
        case "redis", "rediss":
            let parts = rest.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
            let (host, port) = try Self.hostAndPort(parts[0], port: 6379, invalid)
            var database = 0
            if parts.count == 2, !parts[1].isEmpty {
                guard let number = Int(parts[1]), number >= 0 else {
                    throw invalid("has '\(parts[1])' for a database: expected a number")
                }
                database = number
            }
            self.init(
                .tcp(host: host, port: port),
                user: user,
                password: password,
                database: database,
                tls: scheme == "rediss" ? ConnectTLS() : nil
            )
        case "redis+sentinel", "rediss+sentinel":
            let parts = rest.split(separator: "/", omittingEmptySubsequences: false)
            let targets = try Self.targets(parts[0], port: 26379, invalid)
            guard (2...3).contains(parts.count), let master = Self.percentDecoded(parts[1]), !master.isEmpty
            else { throw invalid("names no master: expected redis+sentinel://host/master") }
            let database = parts.count == 3 ? Int(parts[2]) : 0
            guard let database, database >= 0 else {
                throw invalid("has '\(parts[2])' for a database: expected a number")
            }
            self.init(targets[0], user: user, password: password, database: database)
            self.tls = scheme == "rediss+sentinel" ? ConnectTLS() : nil
            self.otherTargets = Array(targets.dropFirst())
            self.discovery = .sentinel(master: master)
        case "redis+cluster", "rediss+cluster":
            let hosts = rest.hasSuffix("/") ? rest.dropLast() : rest
            guard !hosts.contains("/") else {
                throw invalid("names a database: a Cluster has no other than 0")
            }
            let targets = try Self.targets(hosts, port: 6379, invalid)
            self.init(targets[0], user: user, password: password)
            self.tls = scheme == "rediss+cluster" ? ConnectTLS() : nil
            self.otherTargets = Array(targets.dropFirst())
            self.discovery = .cluster
        default:
            throw invalid(
                "has the scheme '\(scheme)': expected redis, rediss, unix, redis+sentinel or redis+cluster"
            )
        }
    }

    private static func targets(
        _ text: Substring,
        port: Int,
        _ invalid: (String) -> RedisError
    ) throws(RedisError) -> [ConnectTarget] {
        var targets: [ConnectTarget] = []
        for part in text.split(separator: ",", omittingEmptySubsequences: false) {
            let (host, port) = try self.hostAndPort(part, port: port, invalid)
            targets.append(.tcp(host: host, port: port))
        }
        return targets
    }

    private static func hostAndPort(
        _ text: Substring,
        port defaultPort: Int,
        _ invalid: (String) -> RedisError
    ) throws(RedisError) -> (String, Int) {
        var host = text
        var port: Substring?
        if text.hasPrefix("[") {
            guard let end = text.firstIndex(of: "]") else { throw invalid("has an address without its ]") }
            host = text[text.index(after: text.startIndex)..<end]
            let behind = text[text.index(after: end)...]
            if behind.hasPrefix(":") { port = behind.dropFirst() } else if !behind.isEmpty { port = behind }
        } else if let colon = text.lastIndex(of: ":") {
            host = text[..<colon]
            port = text[text.index(after: colon)...]
        }
        guard let name = self.percentDecoded(host), !name.isEmpty else { throw invalid("names no host") }
        guard let port else { return (name, defaultPort) }
        guard let number = Int(port), (1...65535).contains(number) else {
            throw invalid("has '\(port)' for a port: expected 1 to 65535")
        }
        return (name, number)
    }

    private static func percentDecoded(_ text: Substring) -> String? {
        var bytes: [UInt8] = []
        var rest = text.utf8[...]
        while let byte = rest.popFirst() {
            guard byte == UInt8(ascii: "%") else {
                bytes.append(byte)
                continue
            }
            guard let digits = String(rest.prefix(2)), digits.utf8.count == 2,
                let value = UInt8(digits, radix: 16)
            else { return nil }
            bytes.append(value)
            rest = rest.dropFirst(2)
        }
        return String(validating: bytes, as: UTF8.self)
    }
}
