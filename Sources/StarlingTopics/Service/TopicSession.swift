internal import Logging
internal import Starling
internal import StarlingCore

/// A service at work on one connection.
///
/// Messages are done one after the other, but for requests, which run as child tasks; everything is on the connection's
/// event loop.
struct TopicSession<UserData: Sendable>: Sendable {
    private let client: TopicClient<UserData>
    private let service: TopicService<UserData>
    private let broadcaster: any Broadcaster
    private let requests: RequestsAtWork
    private let office: TicketOffice?
    /// Tells this process' sessions from those that another one has handed over; nil where none are.
    private let process: UInt64?

    init(
        _ client: TopicClient<UserData>,
        _ service: TopicService<UserData>,
        _ broadcaster: any Broadcaster,
        _ office: TicketOffice?,
        process: UInt64? = nil
    ) {
        self.office = office
        self.client = client
        self.service = service
        self.broadcaster = broadcaster
        self.process = process
        self.requests = RequestsAtWork(countMax: service.configuration.requestsMax)
    }

    /// Serves until the connection ends; then its requests are cancelled, and its member leaves.
    ///
    /// A connection that goes to another process takes along what the session knows, and is served on there.
    func run() async throws {
        self.office?.came(self.client.socket.id, self.holder)
        defer { self.office?.left(self.client.socket.id) }
        var members = await self.takeUp()
        let result: Result<Void, any Error>
        do {
            try await withThrowingDiscardingTaskGroup { group in
                try await self.receiveAll(&group, &members)
                if self.client.socket.mustReturn { await self.requests.wait(atMost: Self.requestsGrace) }
                group.cancelAll()
            }
            result = .success(())
        } catch {
            result = .failure(error)
        }
        if let process = self.process, self.client.socket.mustReturn {
            var entries = self.office?.entries(of: self.client.socket.id) ?? []
            // The application may have taken it out of others.
            if let topics = await self.client.socket.subscribedTopics() {
                entries.removeAll { !topics.contains($0.topic) }
                await self.leave(members.filter { !topics.contains($0.key) })
                members = members.filter { topics.contains($0.key) }
            }
            try self.client.socket.carry(CarriedSession(process: process, members, entries))
            return
        }
        await self.leave(members)
        try result.get()
    }

    /// Ends the presence of members, in a task of its own: the session's may be cancelled, and a broker's answer would not be waited
    /// for then.
    private func leave(_ members: [Topic: PresenceMember]) async {
        guard !members.isEmpty, let broadcaster = self.broadcaster as? any PresenceBroadcaster else { return }
        await Task {
            for (topic, member) in members { try? await broadcaster.leave(member.id, from: topic) }
        }.value
    }

    /// How long requests may go on when the connection is about to go to another process; all connections wait for that.
    private static var requestsGrace: Duration { .milliseconds(100) }

    /// What another session of the connection has left, who is present on account of it in particular.
    private func takeUp() async -> [Topic: PresenceMember] {
        let carried: CarriedSession?
        do {
            carried = try self.client.socket.carried()
        } catch {
            // Of another version; the subscriptions are there all the same.
            self.service.configuration.logger.warning(
                "what a session had left cannot be read",
                metadata: [LoggingKeys.error: "\(error)"]
            )
            return [:]
        }
        guard let carried else { return [:] }
        for entry in carried.entries { self.office?.subscribed(self.client.socket.id, entry) }
        guard carried.process != self.process, let presence = self.broadcaster as? any PresenceBroadcaster
        else { return carried.members }
        // The other process' entries end with its lease: nobody is told that anybody left.
        for (topic, member) in carried.members {
            do {
                try await presence.enter(member, topic)
            } catch {
                self.service.configuration.logger.warning(
                    "somebody's presence could not be taken over",
                    metadata: [LoggingKeys.topic: "\(topic)", LoggingKeys.error: "\(error)"]
                )
            }
        }
        return carried.members
    }

    private func receiveAll(
        _ group: inout ThrowingDiscardingTaskGroup<any Error>,
        _ members: inout [Topic: PresenceMember]
    ) async throws {
        var invalidCount = 0
        for try await message in self.client.socket {
            guard message.kind == .text else {
                return await self.client.socket.close(
                    .unsupportedData,
                    reason: "\(TopicProtocol.name) has text messages only"
                )
            }
            do throws(InvalidMessage) {
                try await self.receive(try ClientMessage(parsing: message), &group, &members)
            } catch {
                invalidCount += 1
                guard invalidCount <= self.service.configuration.invalidMessagesMax else {
                    return await self.client.socket.close(
                        .policyViolation,
                        reason: "too many invalid messages; the last: \(error.text)"
                    )
                }
                await self.send(.error(id: error.id, TopicRefusal(.invalidMessage, error.text)))
            }
        }
    }

    private func receive(
        _ message: ClientMessage,
        _ group: inout ThrowingDiscardingTaskGroup<any Error>,
        _ members: inout [Topic: PresenceMember]
    ) async throws(InvalidMessage) {
        switch message {
        case .subscribe(let id, let topic, let position):
            do {
                try await self.subscribe(id, topic, from: position?.streamPosition, &members)
            } catch {
                await self.refuse(id, error)
            }
        case .unsubscribe(let id, let topic):
            await self.client.socket.unsubscribe(from: topic)
            self.office?.unsubscribed(self.client.socket.id, from: topic)
            await self.leave(topic, &members)
            await self.send(.unsubscribed(id: id, topic: topic))
        case .resume(let id, let ticket, let places):
            do {
                try await self.resume(id, ticket, places, &members)
            } catch {
                await self.refuse(id, error)
            }
        case .publish(let id, let topic, let data, let key):
            do {
                let position = try await self.publish(ClientPublication(topic: topic, data: data), key)
                if let id { await self.send(.published(id: id, position: position.map(TopicPosition.init))) }
            } catch {
                await self.refuse(id, error)
            }
        case .request(let id, let name, let data, let timeout):
            try await self.begin(id, name, data, timeout, &group)
        case .members(let id, let topic, let cursor):
            do {
                try await self.list(id, topic, cursor)
            } catch {
                await self.refuse(id, error)
            }
        }
    }

    // MARK: - Subscriptions

    private func subscribe(
        _ id: UInt64,
        _ topic: Topic,
        from position: StreamPosition?,
        _ members: inout [Topic: PresenceMember]
    ) async throws {
        let access = try await self.service.subscribe(self.client, topic)
        try await self.subscribe(id, topic, from: position, access, &members)
    }

    /// Takes up what a ticket allows, without asking the application again.
    ///
    /// What cannot be had is left out, and the client asks for it by itself.
    private func resume(
        _ id: UInt64,
        _ ticket: String,
        _ places: [TopicPlace],
        _ members: inout [Topic: PresenceMember]
    ) async throws {
        guard let office = self.office else {
            throw TopicRefusal(.invalidTicket, "no tickets are believed here")
        }
        let entries = try office.entries(of: ticket, for: self.holder)
        let positions = Dictionary(places.map { ($0.topic, $0.position) }) { first, _ in first }
        for entry in entries {
            // Without places, all of it. What the client has seen counts, not what was known when the ticket was made.
            guard places.isEmpty || positions[entry.topic] != nil else { continue }
            let position = positions[entry.topic] ?? entry.position
            let access = entry.member.map(TopicAccess.present) ?? .allowed
            do {
                try await self.subscribe(id, entry.topic, from: position?.streamPosition, access, &members)
            } catch is CancellationError {
                throw CancellationError()
            } catch {
                self.service.configuration.logger.debug(
                    "a subscription could not be resumed",
                    metadata: [LoggingKeys.topic: "\(entry.topic)", LoggingKeys.error: "\(error)"]
                )
            }
        }
        await self.send(.resumed(id: id))
    }

    private var holder: ResumeTickets.Holder {
        ResumeTickets.Holder(user: self.client.socket.user, path: self.client.socket.path)
    }

    private func subscribe(
        _ id: UInt64,
        _ topic: Topic,
        from position: StreamPosition?,
        _ access: TopicAccess,
        _ members: inout [Topic: PresenceMember]
    ) async throws {
        if access.member != nil, !(self.broadcaster is any PresenceBroadcaster) {
            throw TopicRefusal(.internal, "the broadcaster knows no presence")
        }
        let subscription: TopicSubscription
        do {
            subscription = try await self.client.socket.subscribe(to: topic, from: position) { subscription in
                let position = subscription.position.map(TopicPosition.init)
                return ServerMessage.subscribed(
                    id: id,
                    topic: topic,
                    position: position,
                    isRecovered: subscription.isRecovered
                ).message
            }
        } catch {
            // A subscription that there was has ended with it.
            self.office?.unsubscribed(self.client.socket.id, from: topic)
            await self.leave(topic, &members)
            throw error
        }
        self.office?.subscribed(
            self.client.socket.id,
            ResumeTickets.Entry(
                topic: topic,
                position: subscription.position.map(TopicPosition.init),
                member: access.member
            )
        )
        guard members[topic]?.id != access.member?.id else { return }
        await self.leave(topic, &members)
        guard let member = access.member else { return }
        // Before it is asked: whether a broker that does not answer knows of it is not known.
        members[topic] = member
        do {
            try await (self.broadcaster as? any PresenceBroadcaster)?.enter(member, topic)
        } catch {
            await self.client.socket.unsubscribe(from: topic)
            self.office?.unsubscribed(self.client.socket.id, from: topic)
            await self.leave(topic, &members)
            throw error
        }
    }

    private func leave(_ topic: Topic, _ members: inout [Topic: PresenceMember]) async {
        guard let member = members.removeValue(forKey: topic) else { return }
        // A broadcaster that cannot tell others now does so later, or the lease ends.
        try? await (self.broadcaster as? any PresenceBroadcaster)?.leave(member.id, from: topic)
    }

    private func list(_ id: UInt64, _ topic: Topic, _ cursor: String?) async throws {
        _ = try await self.service.subscribe(self.client, topic)
        guard let presence = self.broadcaster as? any PresenceBroadcaster else {
            throw TopicRefusal(.forbidden, "nobody is present in this topic")
        }
        let page = try await presence.members(
            of: topic,
            from: cursor.map(PresenceCursor.init),
            countMax: self.service.configuration.membersPerPageMax
        )
        await self.send(.members(id: id, topic: topic, page.members, next: page.next?.value))
    }

    // MARK: - Publications

    private func publish(_ publication: ClientPublication, _ key: String?) async throws -> StreamPosition? {
        guard !publication.topic.isReserved else { throw TopicRefusal(.forbidden, "the topic is reserved") }
        let message = try await self.service.publish(self.client, publication).message
        guard let key, let history = self.broadcaster as? any HistoryBroadcaster else {
            return try await self.broadcaster.publish(message, to: publication.topic)
        }
        return try await history.publish(message, to: publication.topic, idempotencyKey: key).position
    }

    // MARK: - Requests

    private func begin(
        _ id: UInt64,
        _ name: String,
        _ data: JSONText,
        _ timeout: Duration?,
        _ group: inout ThrowingDiscardingTaskGroup<any Error>
    ) async throws(InvalidMessage) {
        guard let answer = self.service.answers[name] else {
            let refusal = TopicRefusal(.unknownRequest, "there is no request named '\(name.prefix(40))'")
            return await self.send(.error(id: id, refusal))
        }
        switch self.requests.begin(id) {
        case .began: break
        case .isKnown: throw InvalidMessage("the id is in use", id: id)
        case .tooMany:
            let countMax = self.service.configuration.requestsMax
            return await self.send(
                .error(id: id, TopicRefusal(.tooManyRequests, "\(countMax) requests are being worked on"))
            )
        }
        let longest = self.service.configuration.requestTimeout
        let timeout = min(timeout ?? longest, longest)
        // It begins before what follows is looked at: a client may log in and subscribe in one breath.
        if #available(macOS 26, *) {
            group.addImmediateTask { await self.work(id, data, timeout, answer) }
        } else {
            group.addTask { await self.work(id, data, timeout, answer) }
        }
    }

    private func work(
        _ id: UInt64,
        _ data: JSONText,
        _ timeout: Duration,
        _ answer: @escaping TopicService<UserData>.Answer
    ) async {
        await withTaskGroup(of: ServerMessage?.self) { group in
            if #available(macOS 26, *) {
                group.addImmediateTask { await self.reply(id, data, answer) }
            } else {
                group.addTask { await self.reply(id, data, answer) }
            }
            group.addTask {
                do {
                    try await Task.sleep(for: timeout)
                } catch {
                    return nil
                }
                return .error(id: id, TopicRefusal(.timeout, "there was no answer within \(timeout)"))
            }
            // The first counts. The answer that is late is cancelled, and keeps its place until it has returned.
            if let message = await group.next() ?? nil {
                await self.send(message)
            } else if self.client.socket.mustReturn {
                await self.send(.error(id: id, Self.restarting))
            }
            group.cancelAll()
        }
        self.requests.end(id)
    }

    private func reply(
        _ id: UInt64,
        _ data: JSONText,
        _ answer: @escaping TopicService<UserData>.Answer
    ) async -> ServerMessage {
        do {
            return .reply(id: id, data: try await answer(self.client, data))
        } catch {
            return .error(id: id, self.refusal(for: error))
        }
    }

    // MARK: - Answers

    /// Suspends while the client reads slowly; nothing to do if it is gone, since the iteration ends then.
    private func send(_ message: ServerMessage) async {
        let message = message.message
        do throws(WebSocketError) {
            try await self.client.socket.send(message)
        } catch {
            // Whoever may not wait any more still owes its answer.
            if error.code == .cancelled { self.client.socket.trySend(message) }
        }
    }

    private func refuse(_ id: UInt64?, _ error: any Error) async {
        await self.send(.error(id: id, self.refusal(for: error)))
    }

    private func refusal(for error: any Error) -> TopicRefusal {
        switch error {
        case let refusal as TopicRefusal: return refusal
        case let error as DecodingError: return TopicRefusal(.invalidData, Self.describe(error))
        case let error as BroadcastError where error.code != .refused:
            return TopicRefusal(.unavailable, error.message)
        case let error as WebSocketError where error.code == .tooManySubscriptions:
            return TopicRefusal(.tooManySubscriptions, "the connection has as many subscriptions as it may")
        case let error as WebSocketError where error.code == .reservedTopic:
            return TopicRefusal(.forbidden, "the topic is reserved")
        case let error as WebSocketError where error.code == .broadcasting:
            return TopicRefusal(.unavailable, "the topic cannot be had now")
        case is CancellationError where self.client.socket.mustReturn: return Self.restarting
        case let error as WebSocketError where error.code == .cancelled:
            return self.client.socket.mustReturn
                ? Self.restarting : TopicRefusal(.timeout, "it was cancelled")
        // An answer that was too late, or whose client is gone: nobody's failure.
        case is CancellationError: return TopicRefusal(.timeout, "it was cancelled")
        case let error as WebSocketError where error.code == .closed:
            return TopicRefusal(.unavailable, "the connection is closed")
        default:
            self.service.configuration.logger.error(
                "a topic service failed",
                metadata: [
                    LoggingKeys.connection: "\(self.client.socket.id)", LoggingKeys.error: "\(error)",
                ]
            )
            return TopicRefusal(.internal, "the server failed")
        }
    }

    private static var restarting: TopicRefusal {
        TopicRefusal(.unavailable, "the server restarts: ask again")
    }

    private static func describe(_ error: DecodingError) -> String {
        let context: DecodingError.Context? =
            switch error {
            case .typeMismatch(_, let context), .valueNotFound(_, let context), .keyNotFound(_, let context),
                .dataCorrupted(let context):
                context
            @unknown default: nil
            }
        guard let context else { return "the data cannot be decoded" }
        let path = context.codingPath.map(\.stringValue).joined(separator: ".")
        return path.isEmpty ? context.debugDescription : "\(path): \(context.debugDescription)"
    }
}

/// The requests of one connection that are being worked on.
private final class RequestsAtWork: Sendable {
    enum Beginning {
        case began, isKnown, tooMany
    }

    private struct State {
        var ids: Set<UInt64> = []
        /// Waits until there are none.
        var idle: Promise<Void>?
    }

    private let state = Lock(State())
    private let countMax: Int

    init(countMax: Int) {
        self.countMax = countMax
    }

    func begin(_ id: UInt64) -> Beginning {
        self.state.withLock { state in
            guard !state.ids.contains(id) else { return .isKnown }
            guard state.ids.count < self.countMax else { return .tooMany }
            state.ids.insert(id)
            return .began
        }
    }

    func end(_ id: UInt64) {
        let idle = self.state.withLock { state -> Promise<Void>? in
            state.ids.remove(id)
            return state.ids.isEmpty ? state.idle : nil
        }
        idle?.fulfil(())
    }

    /// Suspends until all are done, or the time is up.
    func wait(atMost timeout: Duration) async {
        let idle = Promise<Void>()
        let isIdle = self.state.withLock { state in
            state.idle = idle
            return state.ids.isEmpty
        }
        guard !isIdle else { return }
        await withTaskGroup(of: Void.self) { group in
            group.addTask { _ = await idle.value() }
            group.addTask { try? await Task.sleep(for: timeout) }
            await group.next()
            group.cancelAll()
        }
    }
}
