/// The closing handshake of RFC 6455 §7 as a state machine: each input is a method and returns what must be done.
///
/// A decided close is final: once a close frame is sent, nothing else is (§5.5.1).
public struct ClosingHandshake: Sendable, Hashable {
    /// What the caller must do.
    public enum Action: Sendable, Hashable {
        /// Send a close frame with this code, then wait for the peer's.
        case sendCloseThenWait(CloseCode)
        /// Send a close frame with this code (without one if nil), then end the connection.
        case echoCloseThenShutdown(CloseCode?)
        /// Both close frames are exchanged: end the connection.
        case shutdown
        /// Nothing.
        case ignore
    }

    @usableFromInline
    enum State: Sendable, Hashable {
        case open
        /// Our close frame is out, the peer's is awaited.
        case closing(CloseCode)
        /// Both are exchanged, or the connection is gone.
        case closed(CloseCode)
    }

    @usableFromInline var state = State.open

    /// An open connection.
    public init() {}

    /// Whether messages may still be sent.
    @inlinable
    public var isOpen: Bool {
        switch self.state {
        case .open: true
        case .closing, .closed: false
        }
    }

    /// Whether our close frame is out and the peer's is not in.
    public var isAwaitingPeer: Bool {
        switch self.state {
        case .closing: true
        case .open, .closed: false
        }
    }

    /// The code that the connection ended with, once it is decided: the peer's if it closed first, ours otherwise.
    public var closeCode: CloseCode? {
        switch self.state {
        case .open: nil
        case .closing(let code), .closed(let code): code
        }
    }

    /// This end wants to close.
    public mutating func close(_ code: CloseCode) -> Action {
        switch self.state {
        case .open:
            self.state = .closing(code)
            return .sendCloseThenWait(code)
        case .closing, .closed: return .ignore
        }
    }

    /// The peer broke the protocol or a limit: tell it why and do not wait for an answer (RFC 6455 §7.1.7).
    public mutating func fail(_ code: CloseCode) -> Action {
        switch self.state {
        case .open:
            self.state = .closed(code)
            return .echoCloseThenShutdown(code)
        case .closing(let sent):
            self.state = .closed(sent)
            return .shutdown
        case .closed: return .ignore
        }
    }

    /// The peer's close frame arrived.
    public mutating func receivedClose(_ code: CloseCode?) -> Action {
        switch self.state {
        case .open:
            self.state = .closed(code ?? .noStatusReceived)
            return .echoCloseThenShutdown(code)
        case .closing(let sent):
            self.state = .closed(sent)
            return .shutdown
        case .closed: return .ignore
        }
    }

    /// The connection below is gone, whether or not close frames were exchanged.
    public mutating func connectionLost() {
        switch self.state {
        case .open: self.state = .closed(.abnormalClosure)
        case .closing(let sent): self.state = .closed(sent)
        case .closed: break
        }
    }
}
