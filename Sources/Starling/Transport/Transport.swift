/// Accepts connections and carries their bytes; everything else is the same on every transport.
///
/// A transport makes one ``ConnectionDriver`` per thread, tells it what happens on that thread's connections, and does
/// what the driver asks through ``ConnectionIO``. `NativeTransport` and `NIOTransport` are two; `InMemoryTransport`, for tests, another.
public protocol Transport: Sendable {
    /// Serves until the server is told to end and every driver is finished.
    ///
    /// - Parameter server: Makes the drivers, and says when to start and to end.
    /// - Throws: If it cannot listen.
    func serve(_ server: ServerContext) async throws
}

/// What a driver asks of its transport.
///
/// One per driver, called on its thread alone, inside a tick.
public protocol ConnectionIO: AnyObject {
    /// Writes as many bytes as the connection takes at once. After fewer than all, the transport calls
    /// ``ConnectionDriver/writable(_:)`` as soon as it takes more.
    func write(_ bytes: RawSpan, to connection: Int) -> WriteResult
    /// Writes `head` and `body` as if they stood together, which saves the driver a copy of a big message's body.
    ///
    /// Nil if the transport cannot on this connection; the driver then copies, and calls ``write(_:to:)``. That is the
    /// default.
    func writeTogether(_ head: RawSpan, _ body: RawSpan, to connection: Int) -> WriteResult?
    /// Switches reading on or off. While it is off, bytes wait where they are, and the peer's TCP slows down.
    func setReading(_ isOn: Bool, on connection: Int)
    /// The connection is a WebSocket now: it goes before those whose requests are still to come, where many want something at once.
    /// By default nothing happens.
    func opened(_ connection: Int)
    /// Ends the stream in this direction; bytes of the peer may still arrive.
    func shutdownWriting(_ connection: Int)
    /// Ends the connection and forgets it. `connection` may be used again at once.
    func close(_ connection: Int)
    /// Accepts no more connections.
    func stopListening()
}

extension ConnectionIO {
    /// Nil: the driver copies.
    public func writeTogether(_ head: RawSpan, _ body: RawSpan, to connection: Int) -> WriteResult? { nil }

    /// Nothing.
    public func opened(_ connection: Int) {}
}

/// A transport that can write to several connections at once.
package protocol BatchingIO: ConnectionIO {
    /// How many writes one batch takes; 0 if the transport cannot do that here.
    var batchedWritesMax: Int { get }
    /// Makes the writes, each to another connection, as ``ConnectionIO/write(_:to:)`` would one by one, and sets their results.
    func write(_ batch: inout [BatchedWrite])
}

/// One write of several that are made together.
@safe package struct BatchedWrite {
    package let connection: Int
    /// They stay as they are until the batch is written.
    package let bytes: UnsafeRawBufferPointer
    package var result = WriteResult.failed
}

/// What became of a write.
public enum WriteResult: Sendable, Hashable {
    /// So many bytes were taken; if fewer than given, the connection takes no more now.
    case wrote(Int)
    /// The connection is broken.
    case failed
}

/// What every transport over TCP sets its sockets to.
package enum TCPLimits {
    /// Bytes that the kernel takes for a peer and cannot send yet (`TCP_NOTSENT_LOWAT`).
    ///
    /// A peer that stops reading is noticed when so much waits for it, and not after the megabytes that the kernel would take
    /// for it otherwise. What is on its way is not meant: throughput does not suffer.
    package static let unsentByteCountMax = 128 << 10
}

/// Why a transport could not do its work.
public struct TransportError: Error, Sendable, CustomStringConvertible {
    /// What was attempted, on what, why it failed, and what to do.
    public let description: String

    /// Makes an error.
    public init(_ description: String) {
        self.description = description
    }
}
