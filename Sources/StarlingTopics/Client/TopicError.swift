/// Why a ``ReconnectingClient`` could not do what it was asked.
public struct TopicError: Error, Sendable, CustomStringConvertible {
    /// What happened.
    public struct Code: Sendable, Hashable {
        enum Base: Sendable {
            case refused, timeout, cancelled, connectionLost, queueFull, dropped, gap, undecodable, closed
        }
        let base: Base

        /// The server refused; see ``TopicError/refusal``.
        public static let refused = Code(base: .refused)
        /// There was no answer in time.
        ///
        /// A publication may have been made.
        public static let timeout = Code(base: .timeout)
        /// The task was cancelled before the answer came; what was sent may have been done.
        public static let cancelled = Code(base: .cancelled)
        /// The connection was lost before the answer to a request came; the request may have been done.
        public static let connectionLost = Code(base: .connectionLost)
        /// As many publications, or requests, wait as may.
        public static let queueFull = Code(base: .queueFull)
        /// The publication had to make room for newer ones; see ``PublicationQueuePolicy/dropOldest``.
        public static let dropped = Code(base: .dropped)
        /// Publications of the topic are lost: what is known of it must be read anew.
        ///
        /// Iteration may go on, behind the gap.
        public static let gap = Code(base: .gap)
        /// A publication is no event of the topic's type; see ``TopicError/underlying``.
        ///
        /// Iteration may go on, behind it.
        public static let undecodable = Code(base: .undecodable)
        /// The client is closed, by the application or for the reason in ``ReconnectingClient/state``.
        public static let closed = Code(base: .closed)
    }

    /// What happened.
    public let code: Code
    /// What the server said.
    public let refusal: TopicRefusal?
    /// The error below this one.
    public let underlying: (any Error)?

    init(_ code: Code, refusal: TopicRefusal? = nil, underlying: (any Error)? = nil) {
        self.code = code
        self.refusal = refusal
        self.underlying = underlying
    }

    /// What happened, and what is known beside it.
    public var description: String {
        var text =
            switch self.code.base {
            case .refused: "the server refused"
            case .timeout: "there was no answer in time"
            case .cancelled: "the task was cancelled before the answer came"
            case .connectionLost: "the connection was lost before the answer came"
            case .queueFull: "too much waits to be sent"
            case .dropped: "the publication had to make room for newer ones"
            case .gap: "publications are lost: read the topic's state anew"
            case .undecodable: "a publication is no event of the topic's type"
            case .closed: "the client is closed"
            }
        if let refusal = self.refusal { text += ": \(refusal)" }
        if let underlying = self.underlying { text += ": \(underlying)" }
        return text
    }
}
