public import StarlingCore

/// Why an operation on a connection failed.
public struct WebSocketError: Error, Sendable {
    /// What happened.
    public struct Code: Hashable, Sendable {
        enum Base: Sendable {
            case closed, connectionLost, protocolViolation, timedOut, messageTooBig, slowConsumer,
                tooManySubscriptions
            case broadcasting, publicationsLost, reservedTopic, noTopics, cancelled, memoryExhausted
        }
        let base: Base

        /// The connection is closed, or its close is decided.
        public static let closed = Code(base: .closed)
        /// The connection ended without a close frame.
        public static let connectionLost = Code(base: .connectionLost)
        /// The peer broke the protocol or a limit.
        public static let protocolViolation = Code(base: .protocolViolation)
        /// The peer did not answer a ping, a close or a write in time.
        public static let timedOut = Code(base: .timedOut)
        /// The peer reads too slowly: the connection was closed for it, or has no room for a message behind what others have sent.
        public static let slowConsumer = Code(base: .slowConsumer)
        /// The connection held too much of the server's ``MemoryBudget`` when that was used up.
        public static let memoryExhausted = Code(base: .memoryExhausted)
        /// The message alone is over ``OutboundConfiguration/byteCountMax``.
        public static let messageTooBig = Code(base: .messageTooBig)
        /// The connection is subscribed to ``EndpointConfiguration/subscriptionsMax`` topics already.
        public static let tooManySubscriptions = Code(base: .tooManySubscriptions)
        /// The topic's name begins with `$starling:`, which is what nodes tell each other.
        public static let reservedTopic = Code(base: .reservedTopic)
        /// The connection is a client's: topics belong to the server, which a client asks for them in messages.
        public static let noTopics = Code(base: .noTopics)
        /// The connection was closed because publications were lost; see ``PublicationFormat/gap``.
        public static let publicationsLost = Code(base: .publicationsLost)
        /// The operation would have had to wait, and was not done: its task is cancelled, the connection goes to another process, or
        /// a later subscription to the same topic, or its end, has taken the place of this one.
        public static let cancelled = Code(base: .cancelled)
        /// The broadcaster failed; see ``WebSocketError/underlying``.
        public static let broadcasting = Code(base: .broadcasting)
    }

    /// What happened.
    public let code: Code
    /// The code that the connection closed with, if it did.
    public let closeCode: CloseCode?
    /// The error below this one, for the operator.
    public let underlying: (any Error)?

    init(_ code: Code, closeCode: CloseCode? = nil, underlying: (any Error)? = nil) {
        self.code = code
        self.closeCode = closeCode
        self.underlying = underlying
    }
}

extension WebSocketError: CustomStringConvertible {
    /// The code, and what is known beside it.
    public var description: String {
        var text = "\(self.code.base)"
        if let closeCode = self.closeCode { text += " (\(closeCode))" }
        if let underlying = self.underlying { text += ": \(underlying)" }
        return text
    }
}

/// What became of a message that was handed over without suspending.
public enum SendResult: Sendable, Hashable {
    /// It will be written at the end of this tick, or as soon as it reaches the loop.
    case sent
    /// It waits behind others, and the outbound buffer is above its high watermark: pause until `drained`.
    case buffered
    /// It was not taken: the connection is closing, or its outbound buffer is full; for ``WebSocket/trySend(_:)`` on another
    /// thread than the loop's, above its high watermark.
    case dropped
}
