internal import Logging
internal import StarlingCore
internal import StarlingDeflate

/// An endpoint on one loop: its configuration in the loop's units, its handler's functions, its topics.
final class LoopEndpoint {
    let index: Int
    let path: String
    let configuration: EndpointConfiguration
    let outbound: OutboundConfiguration
    /// So many bytes may wait for a connection without a word to anybody.
    let burstByteCountMax: Int
    let codecSettings: FrameCodec.Settings
    let callbacks: HandlerCallbacks
    let hub: BroadcastHub
    var topics = TopicTable()

    let pingInterval: LoopInterval?
    let pongTimeout: LoopInterval
    let closeTimeout: LoopInterval
    let writeTimeout: LoopInterval
    let idleTimeout: LoopInterval?
    let authenticationTimeout: LoopInterval
    let lifetimeMax: LoopInterval?
    let compressionWindowTimeout: LoopInterval?
    /// How long a topic's ring keeps a publication.
    let backlogAgeMax: LoopInterval
    let limitsRates: Bool
    let rates: RateRules

    /// What subscribers are sent, by the number of their format: 0 for those without a subprotocol of the endpoint's, and
    /// one more than its index for the others.
    let formats: [PublicationFormat]

    /// The number of the format of connections that agreed on a subprotocol.
    func formatNumber(ofSubprotocol name: String?) -> UInt8 {
        let index = self.configuration.subprotocols.firstIndex { $0.name == name }
        return index.map { UInt8($0 + 1) } ?? 0
    }

    /// What subscribers are sent for a publication or a presence event; nil for nothing.
    func format(_ publication: Publication, _ number: UInt8) -> Message? {
        let format = self.formats[Int(number)]
        if case .presence(let event) = publication.notice { return format.presence?(event) }
        return format.publication?(publication) ?? publication.message
    }

    /// What is known of most connections from their handshake.
    private let plainFacts: ConnectionFacts

    /// What is known of a connection from its handshake; `path` is empty if it is the endpoint's.
    func facts(path: String, _ subprotocol: String?, _ user: String?) -> ConnectionFacts {
        if path.isEmpty, subprotocol == nil, user == nil { return self.plainFacts }
        return ConnectionFacts(
            path: path.isEmpty ? self.path : path,
            subprotocol: subprotocol,
            user: user,
            isClient: self.plainFacts.isClient,
            inboundByteCountMax: self.plainFacts.inboundByteCountMax,
            outboundByteCountMax: self.plainFacts.outboundByteCountMax,
            logger: self.plainFacts.logger
        )
    }

    init(
        _ endpoint: WebSocketEndpoint,
        index: Int,
        path: String,
        hub: BroadcastHub,
        role: Role,
        logger: Logger
    ) {
        let configuration = endpoint.configuration
        self.index = index
        self.path = path
        self.configuration = configuration
        precondition(configuration.subprotocols.count <= 255, "an endpoint speaks at most 255 subprotocols")
        self.formats =
            [configuration.publicationFormat] + configuration.subprotocols.map(\.publicationFormat)
        var outbound = configuration.outbound
        // What waits is compared with it before anything is added.
        outbound.highWatermark = max(1, outbound.highWatermark)
        self.outbound = outbound
        self.burstByteCountMax = min(
            configuration.outbound.highWatermark,
            configuration.outbound.byteCountMax
        )
        self.codecSettings = FrameCodec.Settings(role: role, limits: configuration.limits)
        self.callbacks = endpoint.makeCallbacks()
        self.hub = hub
        self.plainFacts = ConnectionFacts(
            path: path,
            isClient: role == .client,
            inboundByteCountMax: configuration.inboundByteCountMax,
            outboundByteCountMax: configuration.outbound.byteCountMax,
            logger: logger
        )
        self.pingInterval = configuration.timeouts.pingInterval.map(LoopInterval.init)
        self.pongTimeout = LoopInterval(configuration.timeouts.pongTimeout)
        self.closeTimeout = LoopInterval(configuration.timeouts.closeTimeout)
        self.writeTimeout = LoopInterval(configuration.timeouts.writeTimeout)
        self.idleTimeout = configuration.timeouts.idleTimeout.map(LoopInterval.init)
        self.authenticationTimeout = LoopInterval(configuration.timeouts.authenticationTimeout)
        self.lifetimeMax = configuration.timeouts.lifetimeMax.map(LoopInterval.init)
        self.compressionWindowTimeout = configuration.timeouts.compressionWindowTimeout.map(LoopInterval.init)
        self.backlogAgeMax = LoopInterval(configuration.outbound.backlogAgeMax)
        self.limitsRates =
            configuration.rates.messagesPerSecondMax != nil || configuration.rates.bytesPerSecondMax != nil
        self.rates = RateRules(configuration.rates)
    }
}
