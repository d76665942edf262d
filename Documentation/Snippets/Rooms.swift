import Starling

func subscribe(_ socket: WebSocket, to name: String) async throws {
    try await socket.subscribe(to: "room:\(name)")
}

func makeRooms() -> Route {
    let broadcaster = InMemoryBroadcaster()
    let rooms = WebSocketEndpoint(broadcaster: broadcaster) { socket in
        let room = Topic("room:\(socket.path)")
        try await socket.subscribe(to: room)
        for try await message in socket {
            try await broadcaster.publish(message, to: room)
        }
    }
    return WebSocketRoute("/rooms/*", rooms)
}

func makeRoomsWithHistory() -> Route {
    let broadcaster = InMemoryBroadcaster { topic in
        topic.name.hasPrefix("room:") ? HistoryLimits(countMax: 100, ageMax: .seconds(3600)) : nil
    }

    var configuration = EndpointConfiguration()
    configuration.publicationFormat.publication = { publication in
        let position = publication.position.map { "\($0.epoch).\($0.offset)" } ?? ""
        return .text("\(position) \(publication.message.text ?? "")")
    }
    configuration.publicationFormat.gap = { gap in
        .text("\(gap.newest.epoch).\(gap.newest.offset) some messages are lost")
    }

    let rooms = WebSocketEndpoint(
        broadcaster: broadcaster,
        configuration: configuration,
        authenticate: { request in .accept(StreamPosition(parsing: request[query: "since"])) }
    ) { socket, position in
        let room = Topic("room:\(socket.path)")
        try await socket.subscribe(to: room, from: position) { subscription in
            guard position != nil else { return "welcome" }
            return subscription.isRecovered ? "welcome back" : "welcome; what you missed is gone"
        }
        for try await message in socket {
            try await broadcaster.publish(message, to: room)
        }
    }
    return WebSocketRoute("/rooms/*", rooms)
}

extension StreamPosition {
    /// The position in a query such as `?since=7.42`; nil for anything else.
    init?(parsing text: String?) {
        let parts = (text ?? "").split(separator: ".").compactMap { UInt64($0) }
        guard parts.count == 2 else { return nil }
        self.init(epoch: parts[0], offset: parts[1])
    }
}

func makeRoomsWithPresence(_ broadcaster: InMemoryBroadcaster) -> WebSocketEndpoint {
    var configuration = EndpointConfiguration()
    configuration.publicationFormat.presence = { event in
        switch event.kind {
        case .joined: .text("\(event.member.info) is here")
        case .left: .text("\(event.member.info) has left")
        }
    }

    return WebSocketEndpoint(
        broadcaster: broadcaster,
        configuration: configuration,
        authenticate: { request -> UpgradeDecision<PresenceMember> in
            let name = request[query: "name"] ?? "somebody"
            return .accept(PresenceMember(id: name, info: name), user: name)
        }
    ) { socket, member in
        let room = Topic("room:\(socket.path)")
        try await socket.subscribe(to: room)
        try await broadcaster.enter(member, room)
        var failure: (any Error)?
        do {
            for try await message in socket {
                try await broadcaster.publish(message, to: room)
            }
        } catch {
            failure = error
        }
        // However the connection ended, its member leaves.
        try await broadcaster.leave(member.id, from: room)
        if let failure { throw failure }
    }
}

func slowConsumers() -> EndpointConfiguration {
    var configuration = EndpointConfiguration()
    configuration.outbound.backlogByteCountMax = 1 << 20
    configuration.outbound.slowConsumerPolicy = .conflate
    return configuration
}
