internal import StarlingCore

/// A connection, in its loop's table.
///
/// Everything an idle connection costs is in here: most connections own no other memory. What only some need hangs
/// behind ``details``. The properties stand in an order that leaves no gaps: 184 bytes together.
@safe struct ConnectionSlot: ~Copyable {
    enum Phase: UInt8 {
        /// In the free list.
        case free
        /// Reading the head of an HTTP request.
        case http
        /// A client: the request is out, and its response is awaited.
        case connecting
        /// The application decides about an upgrade, or makes a response; reading is paused.
        case deciding
        /// A WebSocket.
        case open
        /// A WebSocket of which another process has a record, and has not taken it yet: nothing is read or written.
        case leaving
        /// All is written and said: waiting for the peer's end of the stream, so that no reset overtakes our last bytes.
        case lingering
    }

    struct Flags: OptionSet {
        let rawValue: UInt16
        /// In the list of connections to flush.
        static let dirty = Flags(rawValue: 1 << 0)
        /// The transport took less than it was given; it will say when it takes more.
        static let writeBlocked = Flags(rawValue: 1 << 1)
        /// The outbound buffer passed its high watermark and is not below the low one again.
        static let aboveHighWatermark = Flags(rawValue: 1 << 2)
        /// The handler's state is there.
        static let hasState = Flags(rawValue: 1 << 3)
        /// A ping is out, and nothing has arrived since.
        static let awaitingPong = Flags(rawValue: 1 << 4)
        /// When the outbound buffer is empty: end the stream.
        static let finishAfterFlush = Flags(rawValue: 1 << 5)
        /// In the list of connections to end.
        static let ending = Flags(rawValue: 1 << 6)
        /// The handler's `opened` was called, so `closed` is owed.
        static let opened = Flags(rawValue: 1 << 7)
        /// Counted in the server's admission control.
        static let admitted = Flags(rawValue: 1 << 8)
        /// permessage-deflate is agreed on: messages and publications may go out compressed.
        static let compressing = Flags(rawValue: 1 << 9)
        /// `drained` is owed to the handler.
        static let drainedOwed = Flags(rawValue: 1 << 10)
        /// The peer closed or broke the protocol: its further bytes are not looked at, and the answer follows in this
        /// tick, behind what the application sends in reply to earlier messages.
        static let inputEnded = Flags(rawValue: 1 << 11)
        /// Why it ended has been logged.
        static let explained = Flags(rawValue: 1 << 12)
        /// The stream has ended behind the peer's close frame: once that is answered, there is nothing to wait for.
        static let streamEnded = Flags(rawValue: 1 << 13)
        /// Has a cursor in the ring of at least one topic.
        static let behind = Flags(rawValue: 1 << 14)
        /// In the list of connections that are sent what they have missed.
        static let catchingUp = Flags(rawValue: 1 << 15)

        /// Those that say how a message goes out.
        static let ofSending: Flags = [.dirty, .writeBlocked, .aboveHighWatermark, .compressing]
    }

    var codec: FrameCodec
    var flags: Flags = []
    var generation: UInt32 = 0
    var phase = Phase.free
    /// Why the transport does not read it.
    var readingPauses: ReadingPauses = []
    var closing = ClosingHandshake()
    var cause = CloseCause.none
    /// How publications are sent to it; see ``LoopEndpoint/formats``.
    var format: UInt8 = 0
    /// The number of what it has agreed on about compression, from 1, if it shares that with others; see ``SharedAgreements``.
    var agreement: UInt8 = 0

    var outbound = OutboundQueue()
    var messagesReceived: UInt32 = 0
    var address = RemoteAddress.unknown
    /// What the server's memory budget is charged with for this connection.
    var chargedByteCount: UInt32 = 0
    /// Not retained: the driver keeps its endpoints as long as it lives.
    var endpointReference: Unmanaged<LoopEndpoint>?
    /// The handler's state, made by `opened`, if it fits in here; a pointer to it otherwise.
    var state: UnsafeMutableRawPointer?
    var details: ConnectionDetails?
    var subscriptions: [Subscription] = []
    /// What the peer has used of what it may send, if its endpoint limits that.
    var traffic: TrafficMeter?
    var bytesReceived: UInt64 = 0
    var bytesSent: UInt64 = 0

    var timer = TimerEntry()
    var openedAt = LoopInstant(hundredths: 0)
    var lastReceivedAt = LoopInstant(hundredths: 0)
    var lastMessageAt = LoopInstant(hundredths: 0)
    /// When the last ping went out, or would have for the next one to be due when it is: an interval later.
    var pingedAt = LoopInstant(hundredths: 0)
    /// Since when the peer or the application is waited for: for a request, a decision, room for bytes, an answer to our close
    /// frame, the end of the stream.
    var waitingSince = LoopInstant(hundredths: 0)
    /// What the peer has used of the control frames that it may send, as of `lastReceivedAt`.
    var controlFrames = ControlFrameMeter()
    /// What of `chargedByteCount` the loop's figures count as waiting for the peer.
    var countedOutboundByteCount: UInt32 = 0

    init(codec: consuming FrameCodec) {
        self.codec = codec
    }

    var endpoint: LoopEndpoint? {
        get { unsafe self.endpointReference?.takeUnretainedValue() }
        set { unsafe self.endpointReference = newValue.map { unsafe Unmanaged.passUnretained($0) } }
    }
}

/// What only some connections have, or only for a while.
final class ConnectionDetails {
    var headReader: HTTPHeadReader
    /// The request's path, for endpoints that serve more than one.
    var path = ""
    var subprotocol: String?
    var user: String?
    /// What `authenticate` accepted with; taken by the handler's `opened`.
    var userData: (any Sendable)?
    /// Bytes that arrived while the application decided, or that are not decoded yet because it takes no messages.
    var stash: [UInt8] = []
    /// Whether the stream ended behind ``stash``, which is to be decoded first.
    var endsBehindStash = false
    var handshake: Handshake?
    /// The bytes of the request that is being decided.
    var requestByteCount = 0
    /// Whether the upgrade waits for its turn.
    var isAwaitingTurn = false
    /// What a client waits for.
    var attempt: ConnectAttempt?
    /// What was agreed on about compression, if that is the connection's own.
    var deflate: ConnectionDeflate?
    /// The sentence in the peer's close frame.
    var closeReason = ""
    /// Why the connection is ended from here, for the log.
    var endReason = ""
    /// When the request came that is being decided; the moment of accepting for a connection's first.
    var handshakeBeganAt: LoopInstant?
    /// Ends with the response.
    var upgradeSpan: UpgradeSpan?
    /// The newest ping's payload while the peer takes no bytes.
    var pendingPong: [UInt8]?
    /// Bytes of messages that wait for an async handler, from the moment that they were too many until they are half of it.
    var inboxByteCount = 0
    /// Whose messages these are.
    var fullInbox: AsyncConnection?
    /// Whose `ping()` waits for a pong.
    var pinger: AsyncConnection?

    init(headReader: HTTPHeadReader) {
        self.headReader = headReader
    }

    /// Bytes that are held here: a request's head, what has come behind it, compression windows, a full inbox.
    var heldByteCount: Int {
        self.headReader.byteCount + self.requestByteCount + self.stash.count
            + (self.deflate?.windowByteCount ?? 0) + self.inboxByteCount
    }

    /// Whether an open connection still needs any of this.
    var isNeeded: Bool {
        !self.path.isEmpty || self.subprotocol != nil || self.user != nil || self.deflate != nil
            || !self.endReason.isEmpty || self.inboxByteCount > 0 || !self.stash.isEmpty
    }
}

/// The loop's connections: slots that never move, in blocks made as they are needed.
///
/// The only place that hands out pointers to slots. A pointer is good until the slot is freed, which happens only at
/// the end of a tick (``ConnectionDriver/endConnections()``), never while a caller holds one.
@safe struct Slots: ~Copyable {
    private static let blockCount = 256
    private var blocks: [UnsafeMutablePointer<ConnectionSlot>] = unsafe []
    private var freeIndices: [UInt32] = []
    private(set) var count = 0
    private var placeholder: FrameCodec.Settings

    init() {
        self.placeholder = FrameCodec.Settings(role: .server, limits: Limits())
    }

    deinit {
        for index in unsafe self.blocks.indices {
            let block = unsafe self.blocks[index]
            let used = min(Self.blockCount, max(0, self.usedCapacity - index * Self.blockCount))
            unsafe block.deinitialize(count: used)
            unsafe block.deallocate()
        }
    }

    /// One more than the greatest index ever used; the slots beyond are not even initialized.
    private(set) var usedCapacity = 0

    private var capacity: Int {
        unsafe self.blocks.count * Self.blockCount
    }

    func pointer(_ index: Int) -> UnsafeMutablePointer<ConnectionSlot> {
        unsafe self.blocks[index >> 8] + (index & 0xFF)
    }

    /// Takes a free slot, or nil if an identifier could not name another.
    mutating func allocate() -> Int? {
        if self.freeIndices.isEmpty {
            let start = self.capacity
            guard start + Self.blockCount <= ConnectionID.slotsPerLoopMax else { return nil }
            unsafe self.blocks.append(.allocate(capacity: Self.blockCount))
            self.freeIndices.append(contentsOf: (UInt32(start)..<UInt32(start + Self.blockCount)).reversed())
        }
        self.count += 1
        guard let index = self.freeIndices.popLast().map(Int.init) else { return nil }
        // Indices are first used in their order.
        if index == self.usedCapacity {
            unsafe self.pointer(index).initialize(
                to: ConnectionSlot(codec: FrameCodec(settings: self.placeholder))
            )
            self.usedCapacity += 1
        }
        return index
    }

    /// Gives a slot back; its generation goes up, so that identifiers of the old connection name nothing.
    mutating func free(_ index: Int) {
        let slot = unsafe self.pointer(index)
        let generation = unsafe slot.pointee.generation &+ 1
        unsafe slot.pointee = ConnectionSlot(codec: FrameCodec(settings: self.placeholder))
        unsafe slot.pointee.generation = generation
        self.freeIndices.append(UInt32(index))
        self.count -= 1
    }
}
