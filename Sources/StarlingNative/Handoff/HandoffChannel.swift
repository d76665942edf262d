#if os(Linux)
internal import CStarlingLinux
internal import Glibc
internal import Starling
internal import StarlingCore

/// One word between two processes.
struct HandoffMessage {
    /// In their order: new, old, old, old, new, old, new.
    enum Kind: UInt8 {
        /// The new process asks.
        case hello = 1
        /// The old one offers its listeners.
        case offer
        /// The old one refuses, and says why.
        case refusal
        /// Some connections.
        case connections
        /// That were all.
        case end
        /// The new process has made the connections, and says which it cannot.
        case restored
        /// The old process has touched nothing since, and will not any more.
        case commit
        /// The new process has them.
        case taken
        /// The old one shuts down, and listens no more: the new one opens listeners of its own.
        case nothing
    }

    var kind: Kind
    var bytes: [UInt8] = []
    var descriptors: [Int32] = []

    /// The version of the words and of what is in them.
    static let version = 1001 + ConnectionRecord.version
    static let magic = "starling-handoff"
    /// Longer ones are refused.
    static let byteCountMax = 1 << 30
}

/// A Unix socket between two processes, for one thread: sends and receives whole messages with their descriptors, within times.
@safe final class HandoffChannel {
    private static let headerByteCount = 7
    private static let pieceByteCount = 256 << 10

    let socket: Int32
    private let timeout: UInt64
    private var received: [UInt8] = []
    /// Where what is not read yet begins in it.
    private var start = 0
    private var piece = [UInt8](repeating: 0, count: HandoffChannel.pieceByteCount)
    /// Those that came and belong to messages that are not read yet.
    private var descriptors: [Int32] = []

    /// Takes a connected socket over.
    init(_ socket: Int32, timeout: Duration) {
        self.socket = socket
        self.timeout = timeout.wholeNanoseconds
        _ = fcntl(socket, F_SETFL, O_NONBLOCK)
    }

    deinit {
        for descriptor in self.descriptors { _ = Glibc.close(descriptor) }
        _ = Glibc.close(self.socket)
    }

    /// Whether the other end runs as this process' user.
    var isPeerTheSameUser: Bool {
        var user: uid_t = 0
        return unsafe starling_peer_user(self.socket, &user) && user == geteuid()
    }

    func send(_ message: HandoffMessage) throws(HandoffError) {
        let (count, deadline) = (message.bytes.count, self.deadline())
        var bytes: [UInt8] = [message.kind.rawValue]
        for shift in [0, 8, 16, 24] { bytes.append(UInt8(truncatingIfNeeded: count >> shift)) }
        for shift in [0, 8] { bytes.append(UInt8(truncatingIfNeeded: message.descriptors.count >> shift)) }
        bytes += message.bytes
        var descriptors = message.descriptors
        var start = 0
        while start < bytes.count {
            let sent = unsafe bytes.withUnsafeBytes { buffer in
                // `start` is below the count, as just checked.
                let rest = unsafe UnsafeRawBufferPointer(rebasing: buffer[start...])
                return unsafe starling_send_descriptors(
                    self.socket,
                    rest.baseAddress,
                    rest.count,
                    descriptors,
                    descriptors.count
                )
            }
            switch sent {
            case 1...:
                // The descriptors went with the first byte.
                descriptors = []
                start += sent
            case -Int(EINTR): continue
            // ETOOMANYREFS: so many are on their way that the other process must take some first.
            case -Int(EAGAIN), -Int(ETOOMANYREFS): try self.wait(POLLOUT, until: deadline)
            default: throw HandoffError("the other process is gone: \(Self.text(-sent))")
            }
        }
    }

    /// The next message; the caller closes its descriptors.
    func receive() throws(HandoffError) -> HandoffMessage {
        let deadline = self.deadline()
        while true {
            if let message = try self.takeMessage() { return message }
            if try self.receivePiece() { continue }
            try self.wait(POLLIN, until: deadline)
        }
    }

    /// The next message, which must be of a kind.
    func receive(_ kind: HandoffMessage.Kind) throws(HandoffError) -> HandoffMessage {
        try self.require(kind, try self.receive())
    }

    /// Refuses a message that is not of a kind.
    func require(
        _ kind: HandoffMessage.Kind,
        _ message: HandoffMessage
    ) throws(HandoffError) -> HandoffMessage {
        if message.kind == kind { return message }
        for descriptor in message.descriptors { _ = Glibc.close(descriptor) }
        guard message.kind == .refusal else {
            throw HandoffError("the other process said \(message.kind) instead of \(kind)")
        }
        throw HandoffError(String(decoding: message.bytes, as: UTF8.self))
    }

    /// Waits no longer for a message: one of that kind that has arrived so far counts, and none can arrive later.
    func receiveLastChance(_ kind: HandoffMessage.Kind) -> Bool {
        // From here on the other end cannot send.
        _ = shutdown(self.socket, Int32(SHUT_RD))
        do {
            while try self.receivePiece() {}
        } catch {
            // The end of what there is.
        }
        return (try? self.takeMessage())?.kind == kind
    }

    // MARK: -

    private func takeMessage() throws(HandoffError) -> HandoffMessage? {
        let payload = self.start + Self.headerByteCount
        guard self.received.count >= payload else { return nil }
        let header = Array(self.received[self.start..<payload])
        guard let kind = HandoffMessage.Kind(rawValue: header[0]) else {
            throw HandoffError("the other process does not speak this protocol")
        }
        let byteCount = (1...4).reduce(0) { $0 | Int(header[$1]) << (8 * ($1 - 1)) }
        let descriptorCount = Int(header[5]) | Int(header[6]) << 8
        guard byteCount <= HandoffMessage.byteCountMax else { throw HandoffError("a message is too long") }
        let end = payload + byteCount
        guard self.received.count >= end else { return nil }
        guard self.descriptors.count >= descriptorCount else {
            throw HandoffError("descriptors are missing")
        }
        let message = HandoffMessage(
            kind: kind,
            bytes: Array(self.received[payload..<end]),
            descriptors: Array(self.descriptors.prefix(descriptorCount))
        )
        self.start = end
        if self.start == self.received.count {
            self.received.removeAll(keepingCapacity: true)
            self.start = 0
        }
        self.descriptors.removeFirst(descriptorCount)
        return message
    }

    /// Receives what is there; false if nothing is.
    private func receivePiece() throws(HandoffError) -> Bool {
        var descriptors = [Int32](repeating: -1, count: Int(starling_descriptors_max))
        var count = 0
        // Both have as much room as is said.
        let got = unsafe starling_receive_descriptors(
            self.socket,
            &self.piece,
            Self.pieceByteCount,
            &descriptors,
            &count
        )
        switch got {
        case 1...:
            self.received += self.piece.prefix(got)
            self.descriptors += descriptors.prefix(count)
            return true
        case 0: throw HandoffError("the other process has hung up")
        case -Int(EAGAIN): return false
        case -Int(EINTR): return true
        case -Int(EMFILE): throw HandoffError("no descriptors are left for the connections")
        default: throw HandoffError("the other process is gone: \(Self.text(-got))")
        }
    }

    private func deadline() -> UInt64 {
        Syscalls.monotonicNanoseconds() &+ self.timeout
    }

    private func wait(_ events: Int32, until deadline: UInt64) throws(HandoffError) {
        let now = Syscalls.monotonicNanoseconds()
        guard now < deadline else { throw HandoffError("the other process does not answer") }
        let milliseconds = min((deadline - now) / 1_000_000 + 1, 1000)
        _ = Syscalls.wait(for: events, on: self.socket, milliseconds: Int32(milliseconds))
    }

    private static func text(_ code: Int) -> String {
        unsafe String(cString: strerror(Int32(code)))
    }
}

@available(*, unavailable) extension HandoffChannel: Sendable {}

extension Duration {
    /// The nanoseconds of a time that is not negative.
    var wholeNanoseconds: UInt64 {
        let (seconds, attoseconds) = self.components
        guard seconds >= 0, attoseconds >= 0 else { return 0 }
        return UInt64(min(seconds, 1_000_000)) * 1_000_000_000 + UInt64(attoseconds / 1_000_000_000)
    }
}
#endif
