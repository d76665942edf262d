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

    // MARK: - For a restart

    /// An endpoint for clients that speak ``TopicProtocol``, whose connections can go to the next process of a restart.
    ///
    /// A client notices nothing: its subscriptions go on from where they were, and nobody sees it leave. A request that the
    /// service is working on has a tenth of a second more; then it is refused with ``TopicRefusal/Code/unavailable``.
    ///
    /// - Parameters:
    ///   - broadcaster: Carries publications between event loops and nodes.
    ///   - configuration: Limits, deadlines and the like. The subprotocol is added to its list.
    ///   - authenticate: Decides about upgrades; it is not asked again in the next process.
    ///   - service: What clients of the subprotocol may do.
    ///   - plain: What to do with a connection that did not ask for the subprotocol, as the body of an endpoint that is
    ///     resumable; without it such a connection is closed with 1008 and a reason.
    /// - Returns: The endpoint.
    public static func resumable<UserData: Codable & Sendable>(
        broadcaster: any Broadcaster = InMemoryBroadcaster(),
        configuration: EndpointConfiguration = EndpointConfiguration(),
        authenticate: @escaping @Sendable (UpgradeRequest) async throws -> UpgradeDecision<UserData>,
        service: TopicService<UserData>,
        plain: @escaping @Sendable (WebSocket, UserData) async throws -> Void = { socket, _ in
            await TopicProtocol.sendAway(socket)
        }
    ) -> WebSocketEndpoint {
        let office = service.configuration.tickets.map(TicketOffice.init)
        let process = UInt64.random(in: 0 ... .max)
        return .resumable(
            broadcaster: broadcaster,
            configuration: configuration.speakingTopics(office),
            authenticate: authenticate,
            cancelsBody: { $0 != TopicProtocol.name }
        ) { socket, userData in
            guard socket.subprotocol == TopicProtocol.name else { return try await plain(socket, userData) }
            let client = TopicClient(socket: socket, userData: userData)
            try await TopicSession(client, service, broadcaster, office, process: process).run()
        }
    }

    /// An endpoint that lets everybody in, for clients that speak ``TopicProtocol``, whose connections can go to the next process of
    /// a restart; the parameters are those of the form with `authenticate`.
    public static func resumable(
        broadcaster: any Broadcaster = InMemoryBroadcaster(),
        configuration: EndpointConfiguration = EndpointConfiguration(),
        service: TopicService<Void>,
        plain: @escaping @Sendable (WebSocket) async throws -> Void = { await TopicProtocol.sendAway($0) }
    ) -> WebSocketEndpoint {
        let office = service.configuration.tickets.map(TicketOffice.init)
        let process = UInt64.random(in: 0 ... .max)
        return .resumable(
            broadcaster: broadcaster,
            configuration: configuration.speakingTopics(office),
            cancelsBody: { $0 != TopicProtocol.name }
        ) { socket in
            guard socket.subprotocol == TopicProtocol.name else { return try await plain(socket) }
            let client = TopicClient(socket: socket, userData: ())
            try await TopicSession(client, service, broadcaster, office, process: process).run()
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
