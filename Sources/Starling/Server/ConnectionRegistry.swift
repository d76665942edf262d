public import StarlingCore

/// The open connections of a server, by name, by user and by topic.
///
/// Each event loop knows its own; a question goes to all of them and comes back when the last has answered, usually
/// within a tick. What is sent or closed happens on the connections' loops, soon after the call.
public struct ConnectionRegistry: Sendable {
    package let context: ServerContext

    package init(_ context: ServerContext) {
        self.context = context
    }

    /// What is known about a connection.
    public struct Entry: Sendable, Hashable {
        /// Its name within this process.
        public let id: ConnectionID
        /// The user that `authenticate` accepted it for.
        public let user: String?
        /// Where it comes from; unknown for a Unix socket.
        public let remoteAddress: RemoteAddress
        /// The topics that it is subscribed to.
        public let topics: [Topic]
    }

    /// How many WebSockets are open, as of the loops' last ticks.
    ///
    /// Does not suspend.
    public var count: Int {
        Int(self.context.figures()[.openConnections])
    }

    /// The connection of this name, or nil.
    public func connection(_ id: ConnectionID) async -> Entry? {
        await self.gather { driver -> [Entry] in
            guard let index = driver.index(of: id), driver.takesMessages(id) else { return [] }
            return [driver.entry(of: index)]
        }.first
    }

    /// The connections of a user.
    public func connections(ofUser user: String) async -> [Entry] {
        await self.gather { driver in driver.servedSlots(ofUser: user).map { driver.entry(of: $0) } }
    }

    /// The subscribers of a topic.
    public func connections(subscribedTo topic: Topic) async -> [Entry] {
        await self.gather { driver in driver.subscribers(of: topic).map { driver.entry(of: $0) } }
    }

    /// How many connections of this server are subscribed to a topic.
    public func count(subscribedTo topic: Topic) async -> Int {
        await self.gather { [$0.subscribers(of: topic).count] }.reduce(0, +)
    }

    /// Sends to one connection; false if it is not open, or its outbound buffer is full.
    @discardableResult
    public func send(_ message: Message, to id: ConnectionID) async -> Bool {
        await self.gather { driver in
            driver.index(of: id) == nil ? [] : [driver.send(message.kind, message.bytes, to: id) != .dropped]
        }.contains(true)
    }

    /// Sends to every connection of a user; returns to how many.
    @discardableResult
    public func send(_ message: Message, toUser user: String) async -> Int {
        await self.gather { driver in
            driver.reachableSlots(ofUser: user).map {
                driver.send(message.kind, message.bytes, to: $0) != .dropped
            }
        }.count { $0 }
    }

    /// Sends to every connection; returns to how many.
    @discardableResult
    public func sendToAll(_ message: Message) async -> Int {
        await self.gather { driver in
            driver.reachableSlots().map { driver.send(message.kind, message.bytes, to: $0) != .dropped }
        }.count { $0 }
    }

    /// Closes one connection; false if it is not open.
    @discardableResult
    public func close(_ id: ConnectionID, _ code: CloseCode = .normalClosure, reason: String = "") async
        -> Bool
    {
        await self.gather { driver in
            guard driver.takesMessages(id) else { return [] }
            driver.close(id, code, reason: reason, cause: .applicationClosed)
            return [true]
        }.contains(true)
    }

    /// Closes every connection of a user; returns how many.
    @discardableResult
    public func close(user: String, _ code: CloseCode = .normalClosure, reason: String = "") async -> Int {
        await self.gather { driver in
            driver.reachableSlots(ofUser: user).map {
                driver.close($0, code, reason: reason, cause: .applicationClosed)
            }
        }.count
    }

    /// Subscribes every connection of a user to a topic; returns how many have it now.
    ///
    /// Connections with too many subscriptions are left as they are. 0 for a topic whose name begins with `$starling:`.
    @discardableResult
    public func subscribe(user: String, to topic: Topic) async -> Int {
        guard !topic.isReserved else { return 0 }
        return await self.gather { driver in
            driver.servedSlots(ofUser: user).map { driver.subscribe($0, to: topic) }
        }.count { $0 }
    }

    /// Unsubscribes every connection of a user from a topic.
    public func unsubscribe(user: String, from topic: Topic) async {
        _ = await self.gather { driver in
            driver.servedSlots(ofUser: user).map { driver.unsubscribe($0, from: topic) }
        }
    }

    /// Closes every connection; returns how many.
    @discardableResult
    public func closeAll(_ code: CloseCode = .goingAway, reason: String = "") async -> Int {
        await self.gather { driver in
            driver.reachableSlots().map { driver.close($0, code, reason: reason, cause: .applicationClosed) }
        }.count
    }

    /// Asks every loop and joins the answers.
    private func gather<Value: Sendable>(
        _ work: @escaping @Sendable (ConnectionDriver) -> [Value]
    ) async -> [Value] {
        var results: [Value] = []
        for loop in self.context.loops {
            results += await withCheckedContinuation { continuation in
                loop.post(.perform { driver in continuation.resume(returning: driver.map(work) ?? []) })
            }
        }
        return results
    }
}

extension ConnectionDriver {
    func entry(of index: Int) -> ConnectionRegistry.Entry {
        let slot = unsafe self.slots.pointer(index)
        return unsafe ConnectionRegistry.Entry(
            id: self.id(of: index),
            user: slot.pointee.details?.user,
            remoteAddress: slot.pointee.address,
            topics: slot.pointee.subscriptions.map(\.entry.topic)
        )
    }

    func servedSlots(ofUser user: String) -> [Int] {
        (self.users[user] ?? []).map(Int.init).filter(self.isServed)
    }

    /// Connections that messages and closes reach: the open ones, and those that are between two processes.
    func reachableSlots() -> [Int] {
        (0..<self.slots.usedCapacity).filter { self.takesMessages(self.id(of: $0)) }
    }

    func reachableSlots(ofUser user: String) -> [Int] {
        (self.users[user] ?? []).map(Int.init).filter { self.takesMessages(self.id(of: $0)) }
    }

    func subscribers(of topic: Topic) -> [Int] {
        var subscribers: [Int] = []
        for endpoint in self.endpoints {
            subscribers += endpoint.topics.subscribers(of: topic)?.subscribers.map(Int.init) ?? []
        }
        return subscribers.filter(self.isServed)
    }
}
