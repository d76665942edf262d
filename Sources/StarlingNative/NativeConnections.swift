#if os(Linux)
/// What this transport keeps of a connection, in 8 bytes; with TLS, an ``Encryption`` is beside it.
struct NativeConnection: ~Copyable {
    struct Flags: OptionSet {
        let rawValue: UInt8
        static let reading = Flags(rawValue: 1 << 0)
        static let writing = Flags(rawValue: 1 << 1)
        static let handshaking = Flags(rawValue: 1 << 2)
        /// The peer is gone: what it sent is read whether or not reading is on.
        static let hungUp = Flags(rawValue: 1 << 3)
        /// A TLS write waits for something to read.
        static let retriesWriteOnRead = Flags(rawValue: 1 << 4)
        /// The stream is to be ended when the records are out that wait.
        static let shutdownOwed = Flags(rawValue: 1 << 5)
        /// Decrypted bytes wait for reading to go on.
        static let hasPending = Flags(rawValue: 1 << 6)
        /// It is no WebSocket yet, and watched in the lobby.
        static let newcomer = Flags(rawValue: 1 << 7)

        mutating func set(_ flag: Flags, _ isOn: Bool) {
            if isOn { self.insert(flag) } else { self.remove(flag) }
        }
    }

    var descriptor: Int32 = -1
    private var generationLow: UInt16
    private var generationHigh: UInt8
    var flags: Flags = .reading

    init(descriptor: Int32 = -1, generation: UInt32 = 0) {
        self.descriptor = descriptor
        self.generationLow = UInt16(truncatingIfNeeded: generation)
        self.generationHigh = UInt8(truncatingIfNeeded: generation >> 16)
    }

    /// Counts the connections that have had this number, in 24 bits: what tells an event of a former one, which can only come in
    /// the tick in which that one was closed.
    var generation: UInt32 {
        UInt32(self.generationHigh) << 16 | UInt32(self.generationLow)
    }
}

/// The TLS of a connection, in 16 bytes and what OpenSSL takes.
struct Encryption: ~Copyable {
    /// Nil before and after.
    var session: TLSSession?
    /// Records that the socket has not taken yet; what the session makes meanwhile goes behind them.
    var rest: [UInt8] = []
    /// Whether those hold a byte that the driver was not told of, the last one: so it knows that not all is out, and begins
    /// its next write with that byte.
    var holdsByteBack = false
}

/// The loop's connections by the driver's numbers, in blocks that never move.
@safe struct NativeConnections: ~Copyable {
    private static let blockCount = 256
    private let speakTLS: Bool
    private var blocks: [UnsafeMutablePointer<NativeConnection>] = unsafe []
    /// As many, if the connections speak TLS; none otherwise.
    private var encryptionBlocks: [UnsafeMutablePointer<Encryption>] = unsafe []

    init(speakTLS: Bool) {
        self.speakTLS = speakTLS
    }

    deinit {
        for index in unsafe self.blocks.indices {
            unsafe self.blocks[index].deinitialize(count: Self.blockCount)
            unsafe self.blocks[index].deallocate()
        }
        for index in unsafe self.encryptionBlocks.indices {
            unsafe self.encryptionBlocks[index].deinitialize(count: Self.blockCount)
            unsafe self.encryptionBlocks[index].deallocate()
        }
    }

    /// The connection of a number that was opened: blocks up to it exist and stay where they are.
    func pointer(_ index: Int) -> UnsafeMutablePointer<NativeConnection> {
        unsafe self.blocks[index >> 8] + (index & 0xFF)
    }

    /// The same connection's TLS; nil if all connections speak plaintext.
    func encryption(_ index: Int) -> UnsafeMutablePointer<Encryption>? {
        unsafe self.encryptionBlocks.isEmpty ? nil : self.encryptionBlocks[index >> 8] + (index & 0xFF)
    }

    func isEncrypted(_ index: Int) -> Bool {
        guard let encryption = unsafe self.encryption(index) else { return false }
        return unsafe encryption.pointee.session != nil
    }

    /// The connection that a token means; nil if it has ended, whoever has its number now.
    func index(ofToken token: UInt64) -> Int? {
        let index = Int(token & 0xFFFF_FFFF)
        return self.isOpen(index) && self.token(index) == token ? index : nil
    }

    func isOpen(_ index: Int) -> Bool {
        unsafe index >> 8 < self.blocks.count && self.pointer(index).pointee.descriptor >= 0
    }

    /// Takes a number into use.
    mutating func open(_ index: Int, _ descriptor: Int32) {
        while unsafe index >> 8 >= self.blocks.count {
            let block = UnsafeMutablePointer<NativeConnection>.allocate(capacity: Self.blockCount)
            for offset in 0..<Self.blockCount { unsafe (block + offset).initialize(to: NativeConnection()) }
            unsafe self.blocks.append(block)
            if self.speakTLS { unsafe self.encryptionBlocks.append(Self.makeEncryptionBlock()) }
        }
        let generation = unsafe self.pointer(index).pointee.generation &+ 1
        unsafe self.pointer(index).pointee = NativeConnection(descriptor: descriptor, generation: generation)
    }

    private static func makeEncryptionBlock() -> UnsafeMutablePointer<Encryption> {
        let block = UnsafeMutablePointer<Encryption>.allocate(capacity: self.blockCount)
        for offset in 0..<self.blockCount { unsafe (block + offset).initialize(to: Encryption()) }
        return unsafe block
    }

    /// What epoll calls the connection.
    func token(_ index: Int) -> UInt64 {
        unsafe UInt64(self.pointer(index).pointee.generation) << 32 | UInt64(index)
    }

    /// Gives a number back; returns its descriptor, to be closed.
    mutating func close(_ index: Int) -> Int32? {
        guard self.isOpen(index) else { return nil }
        let connection = unsafe self.pointer(index)
        let descriptor = unsafe connection.pointee.descriptor
        let generation = unsafe connection.pointee.generation
        unsafe connection.pointee = NativeConnection(descriptor: -1, generation: generation)
        if let encryption = unsafe self.encryption(index) { unsafe encryption.pointee = Encryption() }
        return descriptor
    }
}
#endif
