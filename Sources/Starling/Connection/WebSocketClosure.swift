public import StarlingCore

/// How a WebSocket ended.
public struct WebSocketClosure: Sendable, Hashable, CustomStringConvertible {
    /// The close code: the peer's if it closed first, ours otherwise, and ``/StarlingCore/CloseCode/abnormalClosure`` if
    /// there was no close frame (RFC 6455 §7.1.5).
    public let code: CloseCode
    /// The sentence in the peer's close frame, or an empty one.
    public let reason: String
    /// Why it ended, and by whom.
    public let cause: CloseCause

    /// Code, cause and reason, as they stand in logs.
    public var description: String {
        self.reason.isEmpty ? "\(self.code), \(self.cause)" : "\(self.code), \(self.cause): \(self.reason)"
    }
}
