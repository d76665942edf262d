internal import Starling

/// What a server keeps of topics, and how to ask for it.
struct RedisTopics: Sendable {
    let configuration: RedisConfiguration
    /// Tells this node's publications from those of others.
    let node: UInt64
    /// Where the database number does not tell channels apart, the name does.
    ///
    /// In a Cluster it has the partition's hash tag.
    private let prefix: String
    /// What stands before a topic's name in that of its channel.
    private let channelPrefix: String
    /// The channel of this node's probes.
    let probeChannel: String
    private let cluster: RedisCluster?

    init(_ configuration: RedisConfiguration, node: UInt64) {
        self.init(configuration, node: node, prefix: configuration.namespace + ":", nil)
    }

    /// For one partition of a Cluster.
    init(_ configuration: RedisConfiguration, node: UInt64, _ cluster: RedisCluster, partition: Int) {
        let prefix = configuration.namespace + ":{" + cluster.partitions.tags[partition] + "}:"
        self.init(configuration, node: node, prefix: prefix, cluster)
    }

    private init(
        _ configuration: RedisConfiguration,
        node: UInt64,
        prefix: String,
        _ cluster: RedisCluster?
    ) {
        self.configuration = configuration
        self.node = node
        self.prefix = prefix
        self.channelPrefix = prefix + "c:"
        self.probeChannel = prefix + "p:" + String(node, radix: 16)
        self.cluster = cluster
    }

    /// The commands and pushes for channels: in a Cluster a channel belongs to a slot, and only its server knows of it.
    var words: ChannelWords {
        self.cluster == nil ? .plain : .sharded
    }

    func channel(_ topic: Topic) -> String {
        self.channelPrefix + topic.name
    }

    /// The topic that a channel is of, byte for byte: a name may begin with what is one character with the colon before it.
    func topic(ofChannel channel: String) -> Topic? {
        let prefix = self.channelPrefix.utf8
        guard channel.utf8.starts(with: prefix) else { return nil }
        return Topic(String(Substring(channel.utf8.dropFirst(prefix.count))))
    }

    /// `origin` is the number of the publication's trace, if one goes before it.
    func publish(
        _ message: Message,
        to topic: Topic,
        key: String?,
        origin: UInt64? = nil
    ) -> @Sendable (RedisLink) -> RedisCommand {
        let origin = origin ?? self.node
        guard let limits = self.configuration.history(topic) else {
            let header = PublicationCodec.header(message, origin: origin, hasPosition: false)
            return { _ in
                RedisCommand([
                    Array(self.words.publish.utf8), Array(self.channel(topic).utf8),
                    header + message.byteArray,
                ])
            }
        }
        let header = PublicationCodec.header(message, origin: origin, hasPosition: true)
        let keys = self.keys(topic) + (key.map { [self.key($0, of: topic)] } ?? [])
        return { link in
            Self.script(
                link.scripts.publish,
                keys: keys,
                [
                    self.runs(link), self.newEpoch(),
                    self.milliseconds(self.configuration.positionAgeMax),
                    Array(self.channel(topic).utf8), header, message.byteArray,
                    Array("\(limits.countMax)".utf8), Array("\(limits.byteCountMax)".utf8),
                    self.milliseconds(limits.ageMax),
                    self.milliseconds(self.configuration.idempotencyKeyAgeMax),
                ]
            )
        }
    }

    func publish(
        _ trace: TraceContext,
        number: UInt64,
        to topic: Topic
    ) -> @Sendable (RedisLink) -> RedisCommand {
        let bytes = PublicationCodec.trace(trace, number: number)
        return { _ in
            RedisCommand([Array(self.words.publish.utf8), Array(self.channel(topic).utf8), bytes])
        }
    }

    /// What became of a publication: the script's reply, or PUBLISH's for a topic without a history.
    func outcome(_ reply: RedisValue) -> IdempotentPublication {
        guard let parts = reply.elements, parts.count == 3, let epoch = parts[1].byteArray,
            let offset = parts[2].number
        else { return IdempotentPublication(position: nil, isNew: true) }
        return IdempotentPublication(
            position: StreamPosition(epoch: PublicationCodec.decode(epoch[...]), offset: UInt64(offset)),
            isNew: parts[0].number == 1
        )
    }

    func history(
        of topic: Topic,
        _ limits: HistoryLimits,
        after position: StreamPosition?,
        countMax: Int
    ) -> @Sendable (RedisLink) -> RedisCommand {
        let start = position.map { [PublicationCodec.encode($0.epoch), Array("\($0.offset)".utf8)] } ?? []
        return { link in
            Self.script(
                link.scripts.history,
                keys: self.keys(topic),
                [
                    self.runs(link), self.newEpoch(),
                    self.milliseconds(self.configuration.positionAgeMax),
                    self.milliseconds(limits.ageMax), Array("\(countMax)".utf8),
                ] + start
            )
        }
    }

    func history(_ reply: RedisValue, of topic: Topic) -> TopicHistory? {
        guard let parts = reply.elements, parts.count >= 3, let epochBytes = parts[0].byteArray,
            let newest = parts[1].number, let isComplete = parts[2].number
        else { return nil }
        let epoch = PublicationCodec.decode(epochBytes[...])
        var publications: [Publication] = []
        for index in stride(from: 3, to: parts.count - 2, by: 3) {
            guard let id = parts[index].text, let offset = UInt64(id.prefix { $0 != "-" }),
                let header = parts[index + 1].byteArray, let payload = parts[index + 2].byteArray,
                let publication = PublicationCodec.decode(
                    header: header,
                    payload: payload,
                    topic: topic,
                    position: StreamPosition(epoch: epoch, offset: offset)
                )
            else { return nil }
            publications.append(publication)
        }
        return TopicHistory(
            publications: publications,
            newest: StreamPosition(epoch: epoch, offset: UInt64(newest)),
            isComplete: isComplete == 1
        )
    }

    // MARK: - Presence

    func enter(
        _ member: PresenceMember,
        _ topic: Topic,
        _ incarnation: String
    ) -> @Sendable (RedisLink) -> RedisCommand {
        let event = PublicationCodec.event(.joined, member.id, origin: self.node)
        return { link in
            Self.script(
                link.scripts.enter,
                keys: self.presenceKeys(topic, incarnation) + [self.prefix + "nodes"],
                [
                    Self.entry(member.id, topic), Array(member.id.utf8), Array(member.info.utf8),
                    Array(self.channel(topic).utf8), event, Array(incarnation.utf8),
                ]
            )
        }
    }

    func leave(
        _ id: String,
        _ topic: Topic,
        _ incarnation: String
    ) -> @Sendable (RedisLink) -> RedisCommand {
        let event = PublicationCodec.event(.left, id, origin: self.node)
        return { link in
            Self.script(
                link.scripts.leave,
                keys: self.presenceKeys(topic, incarnation),
                [Self.entry(id, topic), Array(id.utf8), Array(self.channel(topic).utf8), event]
            )
        }
    }

    func refresh(
        _ incarnation: String,
        mustBeKnown: Bool,
        giveUp abandoned: [String],
        countMax: Int
    ) -> @Sendable (RedisLink) -> RedisCommand {
        { link in
            Self.script(
                link.scripts.refresh,
                keys: [self.prefix + "nodes"],
                [
                    Array(incarnation.utf8), self.milliseconds(self.configuration.presenceLease),
                    Array(self.prefix.utf8), PublicationCodec.eventHeader(.left, origin: self.node),
                    Array("\(countMax)".utf8), Array(mustBeKnown ? "1".utf8 : "0".utf8),
                ] + abandoned.map { Array($0.utf8) }
            )
        }
    }

    func members(
        of topic: Topic,
        from cursor: String,
        countMax: Int
    ) -> @Sendable (RedisLink) -> RedisCommand {
        { _ in RedisCommand("HSCAN", self.prefix + "i:" + topic.name, cursor, "COUNT", "\(max(1, countMax))")
        }
    }

    func members(_ reply: RedisValue) throws(RedisError) -> PresencePage {
        guard let parts = reply.elements, parts.count == 2, let next = parts[0].text,
            let fields = parts[1].elements
        else { throw RedisError(.protocolViolation, "Redis answers HSCAN with something else") }
        var members: [PresenceMember] = []
        for index in stride(from: 0, to: fields.count - 1, by: 2) {
            members.append(PresenceMember(id: fields[index].text ?? "", info: fields[index + 1].text ?? ""))
        }
        return PresencePage(members: members, next: next == "0" ? nil : PresenceCursor(next))
    }

    func memberCount(of topic: Topic) -> @Sendable (RedisLink) -> RedisCommand {
        { _ in RedisCommand("HLEN", self.prefix + "i:" + topic.name) }
    }

    private func presenceKeys(_ topic: Topic, _ incarnation: String) -> [String] {
        [self.prefix + "p:" + topic.name, self.prefix + "i:" + topic.name, self.prefix + "n:" + incarnation]
    }

    /// What an incarnation's set holds for a member of a topic.
    private static func entry(_ id: String, _ topic: Topic) -> [UInt8] {
        PublicationCodec.encode(UInt32(topic.name.utf8.count)) + Array(topic.name.utf8) + Array(id.utf8)
    }

    // MARK: - Names

    private func keys(_ topic: Topic) -> [String] {
        [self.prefix + "m:" + topic.name, self.prefix + "s:" + topic.name]
    }

    /// Where the position of a publication with an idempotency key is kept.
    ///
    /// Topics and keys may have colons: without the length `a:b` of `c` and `b` of `a:c` would be one.
    private func key(_ key: String, of topic: Topic) -> String {
        self.prefix + "k:\(topic.name.utf8.count):" + topic.name + ":" + key
    }

    private static func script(_ hash: String, keys: [String], _ arguments: [[UInt8]]) -> RedisCommand {
        RedisCommand(
            [Array("EVALSHA".utf8), Array(hash.utf8), Array("\(keys.count)".utf8)]
                + keys.map { Array($0.utf8) } + arguments
        )
    }

    /// The run and the data of the server that is asked, and of those whose data may have been moved there.
    private func runs(_ link: RedisLink) -> [UInt8] {
        Array("\(link.run)\(link.data)\(self.cluster?.runs ?? "")".utf8)
    }

    /// Whether what a master had is found elsewhere, whole, because its slots were moved and it is still a master.
    func hasMovedData(_ data: String) -> Bool {
        self.cluster?.runs.split(separator: ",").contains { $0 == data } ?? false
    }

    /// Whether Redis may send us to another server.
    var followsRedirections: Bool {
        self.cluster != nil
    }

    private func newEpoch() -> [UInt8] {
        PublicationCodec.encode(UInt64.random(in: 1 ... .max))
    }

    /// At least one, and at most a hundred years: Redis adds it to the time of day, and takes no number that is too great.
    private func milliseconds(_ duration: Duration) -> [UInt8] {
        let bounded = min(max(duration, .milliseconds(1)), .seconds(100 * 365 * 24 * 3600))
        return Array("\(Int64(bounded / .milliseconds(1)))".utf8)
    }
}

/// What Redis calls publishing and subscribing.
struct ChannelWords: Sendable {
    let publish: String
    let subscribe: String
    let unsubscribe: String
    let message: String

    static let plain = ChannelWords(
        publish: "PUBLISH",
        subscribe: "SUBSCRIBE",
        unsubscribe: "UNSUBSCRIBE",
        message: "message"
    )
    static let sharded = ChannelWords(
        publish: "SPUBLISH",
        subscribe: "SSUBSCRIBE",
        unsubscribe: "SUNSUBSCRIBE",
        message: "smessage"
    )
}
