public import Starling

/// A topic whose publications are values of one type, for servers and clients alike.
///
/// ```swift
/// enum Chat {
///     enum Event: Codable, Sendable { case said(String, by: String) }
///     static func room(_ name: String) -> TypedTopic<Event> { TypedTopic("room:\(name)") }
/// }
/// ```
public struct TypedTopic<Event: Codable & Sendable>: Sendable, Hashable {
    /// The topic, without the type.
    public let topic: Topic

    /// Names a topic.
    public init(_ name: String) {
        self.topic = Topic(name)
    }

    /// The topic's name.
    public var name: String { self.topic.name }
}

/// A request that a client makes of a server, with the types of what is asked and answered.
///
/// ```swift
/// static let rename = TypedRequest<NewName, Bool>("rename")
/// ```
public struct TypedRequest<Question: Codable & Sendable, Answer: Codable & Sendable>: Sendable, Hashable {
    /// The request's name on the wire.
    public let name: String

    /// Names a request.
    public init(_ name: String) {
        self.name = name
    }
}

extension Broadcaster {
    /// Publishes an event to every subscriber of the topic on every node, as JSON.
    ///
    /// - Returns: The publication's place in the topic's history, or nil for topics without one.
    /// - Throws: What the event's own encoding throws, or `BroadcastError`.
    @discardableResult
    public func publish<Event>(
        _ event: Event,
        to topic: TypedTopic<Event>
    ) async throws -> StreamPosition? {
        try await self.publish(JSONText(encoding: event).message, to: topic.topic)
    }
}
