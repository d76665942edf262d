#if os(Linux)
internal import COpenSSL

/// Memory that the sessions of a loop write their records to, so that several go out with one system call.
///
/// Belongs to one event loop and is used on its thread alone. What it holds is taken out after each call of a session,
/// before the next connection's turn, except within a batch.
@safe final class TLSSink {
    /// How much of it one connection fills before it is sent: six full records.
    static let connectionByteCountMax = 102 << 10
    /// Room for a whole batch of short messages, or for the longest flight of a handshake.
    static let byteCountMax = 256 << 10
    /// What a full record holds (RFC 8446 §5.1).
    static let payloadByteCountMax = 16 << 10
    /// More than a record's header, padding and tag, and an answer to a key update before it.
    static let overheadByteCountMax = 1 << 10

    private let sink: UnsafeMutablePointer<starling_tls_sink>

    init() {
        unsafe self.sink = .allocate(capacity: 1)
        unsafe self.sink.initialize(
            to: starling_tls_sink(
                bytes: .allocate(capacity: Self.byteCountMax),
                capacity: Self.byteCountMax,
                count: 0
            )
        )
    }

    deinit {
        unsafe self.sink.pointee.bytes.deallocate()
        unsafe self.sink.deallocate()
    }

    var byteCount: Int {
        unsafe self.sink.pointee.count
    }

    /// Whether a record surely fits below a limit.
    func hasRoom(forRecordUpTo byteCountMax: Int) -> Bool {
        self.byteCount + Self.payloadByteCountMax + Self.overheadByteCountMax <= byteCountMax
    }

    /// Lets sessions write here, and not to their sockets, during `body`; not to be nested.
    func collecting<Result>(_ body: () -> Result) -> Result {
        unsafe starling_tls_redirect(self.sink)
        defer { starling_tls_redirect(nil) }
        return body()
    }

    /// The records from an offset on; good until the next call of a session.
    func records(from start: Int = 0) -> UnsafeRawBufferPointer {
        unsafe UnsafeRawBufferPointer(start: self.sink.pointee.bytes + start, count: self.byteCount - start)
    }

    func removeAll() {
        unsafe self.sink.pointee.count = 0
    }
}

@available(*, unavailable)
extension TLSSink: Sendable {}
#endif
