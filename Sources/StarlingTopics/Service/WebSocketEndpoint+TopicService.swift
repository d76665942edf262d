public import Starling
internal import StarlingCore

extension WebSocketEndpoint {
    /// An endpoint for clients that speak ``TopicProtocol``, and for others.
    ///
    /// - Parameters:
    ///   - broadcaster: Carries publications between event loops and nodes.
    ///   - configuration: Limits, deadlines and the like. The subprotocol is added to its list.
    ///   - authenticate: Decides about upgrades, as in the endpoint's other forms.
    ///   - service: What clients of the subprotocol may do.
    ///   - plain: What to do with a connection that did not ask for the subprotocol; without it such a connection is closed
    ///     with 1008 and a reason.
    public init<UserData: Sendable>(
        broadcaster: any Broadcaster = InMemoryBroadcaster(),
        configuration: EndpointConfiguration = EndpointConfiguration(),
        authenticate: @escaping @Sendable (UpgradeRequest) async throws -> UpgradeDecision<UserData>,
        service: TopicService<UserData>,
        plain: @escaping @Sendable (WebSocket, UserData) async throws -> Void = { socket, _ in
            await TopicProtocol.sendAway(socket)
        }
    ) {
        let office = service.configuration.tickets.map(TicketOffice.init)
        self.init(
            broadcaster: broadcaster,
            configuration: configuration.speakingTopics(office),
            authenticate: authenticate
        ) { socket, userData in
            guard socket.subprotocol == TopicProtocol.name else { return try await plain(socket, userData) }
            let client = TopicClient(socket: socket, userData: userData)
            try await TopicSession(client, service, broadcaster, office).run()
        }
    }

    /// An endpoint that lets everybody in, for clients that speak ``TopicProtocol``, and for others.
    ///
    /// - Parameters:
    ///   - broadcaster: Carries publications between event loops and nodes.
    ///   - configuration: Limits, deadlines and the like. The subprotocol is added to its list.
    ///   - service: What clients of the subprotocol may do.
    ///   - plain: What to do with a connection that did not ask for the subprotocol; without it such a connection is closed
    ///     with 1008 and a reason.
    public init(
        broadcaster: any Broadcaster = InMemoryBroadcaster(),
        configuration: EndpointConfiguration = EndpointConfiguration(),
        service: TopicService<Void>,
        plain: @escaping @Sendable (WebSocket) async throws -> Void = { await TopicProtocol.sendAway($0) }
    ) {
        let office = service.configuration.tickets.map(TicketOffice.init)
        self.init(broadcaster: broadcaster, configuration: configuration.speakingTopics(office)) { socket in
            guard socket.subprotocol == TopicProtocol.name else { return try await plain(socket) }
            try await TopicSession(TopicClient(socket: socket, userData: ()), service, broadcaster, office)
                .run()
        }
    }
}

extension EndpointConfiguration {
    fileprivate func speakingTopics(_ office: TicketOffice?) -> EndpointConfiguration {
        var configuration = self
        configuration.subprotocols.insert(TopicProtocol.subprotocol(office), at: 0)
        return configuration
    }
}

extension TopicProtocol {
    @usableFromInline
    static func sendAway(_ socket: WebSocket) async {
        await socket.close(.policyViolation, reason: "this endpoint speaks \(Self.name)")
    }
}
