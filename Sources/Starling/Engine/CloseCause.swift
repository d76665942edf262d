/// Why a connection ended, for logs and metrics.
public struct CloseCause: Hashable, Sendable, CustomStringConvertible {
    enum Base: UInt8, CaseIterable, Sendable {
        case none, peerClosed, applicationClosed, connectionLost, protocolViolation, limitExceeded,
            slowConsumer
        case pingTimeout, idleTimeout, lifetimeReached, closeTimeout, writeTimeout, handshakeTimeout
        case authenticationTimeout, serverDraining, handlerFailed, refused, responded, memoryExhausted,
            publicationsLost, tlsFailed
    }
    let base: Base

    static let none = CloseCause(base: .none)
    /// The peer sent a close frame.
    public static let peerClosed = CloseCause(base: .peerClosed)
    /// The application closed it, or its handler returned.
    public static let applicationClosed = CloseCause(base: .applicationClosed)
    /// The stream ended or failed without a close frame.
    public static let connectionLost = CloseCause(base: .connectionLost)
    /// The peer broke RFC 6455 or RFC 7692.
    public static let protocolViolation = CloseCause(base: .protocolViolation)
    /// The peer passed a limit of size or rate.
    public static let limitExceeded = CloseCause(base: .limitExceeded)
    /// The peer read too slowly for what was sent to it.
    public static let slowConsumer = CloseCause(base: .slowConsumer)
    /// No pong came in time.
    public static let pingTimeout = CloseCause(base: .pingTimeout)
    /// No message came for too long.
    public static let idleTimeout = CloseCause(base: .idleTimeout)
    /// The connection reached its greatest age.
    public static let lifetimeReached = CloseCause(base: .lifetimeReached)
    /// The peer did not answer a close frame in time.
    public static let closeTimeout = CloseCause(base: .closeTimeout)
    /// The peer took no bytes for too long.
    public static let writeTimeout = CloseCause(base: .writeTimeout)
    /// The request's head did not arrive in time.
    public static let handshakeTimeout = CloseCause(base: .handshakeTimeout)
    /// The application did not decide about the upgrade in time.
    public static let authenticationTimeout = CloseCause(base: .authenticationTimeout)
    /// The server shuts down.
    public static let serverDraining = CloseCause(base: .serverDraining)
    /// The server's connections held as much as they may together.
    public static let memoryExhausted = CloseCause(base: .memoryExhausted)
    /// Publications were lost that a subscriber should have got, and there was no other way to tell it.
    public static let publicationsLost = CloseCause(base: .publicationsLost)
    /// The handler threw an error.
    public static let handlerFailed = CloseCause(base: .handlerFailed)
    /// The handshake was refused.
    public static let refused = CloseCause(base: .refused)
    /// Plain HTTP was answered, and the connection is not kept.
    public static let responded = CloseCause(base: .responded)

    /// The TLS handshake failed.
    public static let tlsFailed = CloseCause(base: .tlsFailed)

    /// All causes that a connection can end with.
    package static let all = Base.allCases.filter { $0 != .none }.map(CloseCause.init)

    /// Who ended the connection, for logs: `peer`, `application`, `server`, or `network` where nobody said a word.
    package var closedBy: String {
        switch self.base {
        case .peerClosed: "peer"
        case .applicationClosed, .handlerFailed: "application"
        case .none, .connectionLost: "network"
        case .protocolViolation, .limitExceeded, .slowConsumer, .pingTimeout, .idleTimeout, .lifetimeReached,
            .closeTimeout, .writeTimeout, .handshakeTimeout, .authenticationTimeout, .serverDraining,
            .refused,
            .responded, .memoryExhausted, .publicationsLost, .tlsFailed:
            "server"
        }
    }

    /// The name, as it stands in logs and metrics.
    public var description: String {
        "\(self.base)"
    }
}
