internal import StarlingCore
internal import StarlingDeflate

/// An endpoint on one loop: its configuration in the loop's units, its handler's functions, its topics.
final class LoopEndpoint {
    let index: Int
    let path: String
    let configuration: EndpointConfiguration
    let outbound: OutboundConfiguration
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
    /// What is negotiated about compression.
    ///
    /// Where publications may be dropped, no message refers to an earlier one.
    let deflate: DeflateConfiguration?
    /// Whether waiting publications must stay apart, so that they can be dropped one by one.
    let keepsPublicationsApart: Bool
    let limitsRates: Bool

    /// What subscribers are sent for a publication or a presence event; nil for nothing.
    func format(_ publication: Publication) -> Message? {
        if case .presence(let event) = publication.notice {
            return self.configuration.publicationFormat.presence?(event)
        }
        return self.configuration.publicationFormat.publication?(publication) ?? publication.message
    }

    init(_ endpoint: WebSocketEndpoint, index: Int, path: String, hub: BroadcastHub, role: Role) {
        let configuration = endpoint.configuration
        self.index = index
        self.path = path
        self.configuration = configuration
        self.outbound = configuration.outbound
        self.codecSettings = FrameCodec.Settings(role: role, limits: configuration.limits)
        self.callbacks = endpoint.makeCallbacks()
        self.hub = hub
        self.pingInterval = configuration.timeouts.pingInterval.map(LoopInterval.init)
        self.pongTimeout = LoopInterval(configuration.timeouts.pongTimeout)
        self.closeTimeout = LoopInterval(configuration.timeouts.closeTimeout)
        self.writeTimeout = LoopInterval(configuration.timeouts.writeTimeout)
        self.idleTimeout = configuration.timeouts.idleTimeout.map(LoopInterval.init)
        self.authenticationTimeout = LoopInterval(configuration.timeouts.authenticationTimeout)
        self.lifetimeMax = configuration.timeouts.lifetimeMax.map(LoopInterval.init)
        self.compressionWindowTimeout = configuration.timeouts.compressionWindowTimeout.map(LoopInterval.init)
        var deflate = configuration.deflate
        if configuration.outbound.slowConsumerPolicy != .disconnect {
            deflate?.preferences.serverNoContextTakeover = true
        }
        self.deflate = deflate
        switch configuration.outbound.slowConsumerPolicy.base {
        case .disconnect, .dropNewest: self.keepsPublicationsApart = false
        case .dropOldest, .conflate: self.keepsPublicationsApart = true
        }
        self.limitsRates =
            configuration.rates.messagesPerSecondMax != nil || configuration.rates.bytesPerSecondMax != nil
    }
}
