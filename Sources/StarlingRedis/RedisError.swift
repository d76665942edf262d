internal import Starling

/// What Redis, or the way to it, did not do.
public struct RedisError: Error, Sendable, CustomStringConvertible {
    /// What happened; what to do about it follows from it.
    public struct Code: Hashable, Sendable {
        enum Base: Sendable {
            case unreachable, queueFull, connectionLost, timedOut, protocolViolation, invalidConfiguration
            case authentication, permission, wrongType, outOfMemory, readOnly, loading, moved, ask,
                clusterDown
            case noScript, movedAway, other
        }
        let base: Base

        /// No connection could be made.
        public static let unreachable = Code(base: .unreachable)
        /// Too many bytes wait for the server (``RedisConfiguration/queuedByteCountMax``).
        public static let queueFull = Code(base: .queueFull)
        /// The connection broke; whether a command that was under way was done is not known.
        public static let connectionLost = Code(base: .connectionLost)
        /// No reply came in time; whether the command was done is not known.
        public static let timedOut = Code(base: .timedOut)
        /// Something that is not Redis answers.
        public static let protocolViolation = Code(base: .protocolViolation)
        /// The URL or the configuration makes no sense.
        public static let invalidConfiguration = Code(base: .invalidConfiguration)
        /// A wrong user or password, or none where one is needed (`WRONGPASS`, `NOAUTH`).
        public static let authentication = Code(base: .authentication)
        /// The user may not do this, or not with this key or channel (`NOPERM`).
        public static let permission = Code(base: .permission)
        /// A key of ours holds something else (`WRONGTYPE`).
        public static let wrongType = Code(base: .wrongType)
        /// Redis is full (`OOM`).
        public static let outOfMemory = Code(base: .outOfMemory)
        /// This server is a replica, or became one (`READONLY`).
        public static let readOnly = Code(base: .readOnly)
        /// The server reads its data in (`LOADING`).
        public static let loading = Code(base: .loading)
        /// Another node of the cluster has the slot (`MOVED`), or several have (`CROSSSLOT`).
        public static let moved = Code(base: .moved)
        /// The slot is on its way to another node (`ASK`).
        public static let ask = Code(base: .ask)
        /// The cluster cannot serve (`CLUSTERDOWN`).
        public static let clusterDown = Code(base: .clusterDown)
        /// The script cache was emptied (`NOSCRIPT`); never seen outside.
        static let noScript = Code(base: .noScript)
        /// Another server of a cluster is in charge of a shard; never seen outside.
        static let movedAway = Code(base: .movedAway)
        /// Anything else; the message has Redis' words.
        public static let other = Code(base: .other)
    }

    /// What happened.
    public let code: Code
    /// What, where, and what to do.
    public let description: String
    /// Where the command belongs, if Redis said so.
    let redirection: RedisRedirection?

    init(_ code: Code, _ description: String, redirection: RedisRedirection? = nil) {
        self.code = code
        self.description = description
        self.redirection = redirection
    }

    /// Tells the errors of Redis apart by their first word.
    init(reply: String, to what: String, at server: String) {
        let word = reply.prefix { $0 != " " }
        let (code, advice): (Code, String) =
            switch word {
            case "WRONGPASS", "NOAUTH": (.authentication, "check user and password")
            case "ERR" where reply.contains("AUTH") || reply.contains("invalid password"):
                (.authentication, "check user and password")
            case "NOPERM": (.permission, "see Documentation/Redis.md for the ACL rules that are needed")
            case "ERR" where reply.contains("ACL failure"), "NOPERMISSION":
                (.permission, "see Documentation/Redis.md for the ACL rules that are needed")
            case "WRONGTYPE": (.wrongType, "another application uses this key: choose another namespace")
            case "OOM": (.outOfMemory, "raise maxmemory, or keep shorter histories")
            case "READONLY": (.readOnly, "the server is a replica: connect to the master")
            case "LOADING", "BUSY", "TRYAGAIN", "MASTERDOWN": (.loading, "it will answer in a while")
            case "NOREPLICAS", "MISCONF": (.loading, "it takes no writes now")
            case "MOVED", "CROSSSLOT": (.moved, "the server belongs to a cluster: use redis+cluster://")
            case "ASK": (.ask, "the server belongs to a cluster: use redis+cluster://")
            case "CLUSTERDOWN": (.clusterDown, "some of its masters are gone")
            case "NOSCRIPT": (.noScript, "")
            default: (.other, "see Redis' log")
            }
        self.init(
            code,
            "Redis at \(server) refused \(what): \(reply) (\(advice))",
            redirection: RedisRedirection(reply)
        )
    }

    /// Whether the same command may do better in a moment; it was certainly not done.
    var isTemporary: Bool {
        switch self.code.base {
        case .unreachable, .readOnly, .loading, .clusterDown, .noScript, .movedAway: true
        case .queueFull, .connectionLost, .timedOut, .protocolViolation, .invalidConfiguration,
            .authentication,
            .permission, .wrongType, .outOfMemory, .moved, .ask, .other:
            false
        }
    }

    /// Whether it is not known if the command was done, or may still be.
    var isOpen: Bool {
        switch self.code.base {
        case .connectionLost, .timedOut, .protocolViolation: true
        case .unreachable, .queueFull, .invalidConfiguration, .authentication, .permission, .wrongType,
            .outOfMemory, .readOnly, .loading, .moved, .ask, .clusterDown, .noScript, .movedAway, .other:
            false
        }
    }

    /// Whether the command was certainly not done, and will not be before somebody changes something about Redis.
    var isRefusal: Bool {
        switch self.code.base {
        case .invalidConfiguration, .permission, .wrongType, .other: true
        case .unreachable, .queueFull, .connectionLost, .timedOut, .protocolViolation, .authentication,
            .outOfMemory, .readOnly, .loading, .moved, .ask, .clusterDown, .noScript, .movedAway:
            false
        }
    }

    /// The same for those who know broadcasters only; in a Cluster a slot that moves and moves is no refusal.
    func broadcastError(in topics: RedisTopics) -> BroadcastError {
        let isRedirection = self.code == .moved || self.code == .ask
        guard topics.followsRedirections, isRedirection else { return self.broadcastError }
        return BroadcastError(.unavailable, message: self.description, underlying: self)
    }

    /// The same for those who know broadcasters only.
    var broadcastError: BroadcastError {
        switch self.code.base {
        case .unreachable, .connectionLost, .timedOut, .readOnly, .loading, .clusterDown, .noScript,
            .movedAway:
            BroadcastError(.unavailable, message: self.description, underlying: self)
        case .queueFull: BroadcastError(.queueFull, message: self.description, underlying: self)
        case .protocolViolation, .invalidConfiguration, .authentication, .permission, .wrongType,
            .outOfMemory, .moved, .ask, .other:
            BroadcastError(.refused, message: self.description, underlying: self)
        }
    }
}
