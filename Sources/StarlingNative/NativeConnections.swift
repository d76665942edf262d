#if os(Linux)
/// What this transport keeps of a connection.
struct NativeConnection: ~Copyable {
    var descriptor: Int32 = -1
    var generation: UInt32 = 0
    var isReading = true
    var isWriting = false
    var isHandshaking = false
    /// The peer is gone: what it sent is read whether or not reading is on.
    var isHungUp = false
    /// A TLS write waits for something to read.
    var retriesWriteOnRead = false
    /// A TLS read waits for the socket to take bytes.
    var retriesReadOnWrite = false
    /// Decrypted bytes wait for reading to go on.
    var hasPending = false
    var tls: TLSSession?
}

/// The loop's connections by the driver's numbers, in blocks that never move.
@safe struct NativeConnections: ~Copyable {
    private static let blockCount = 256
    private var blocks: [UnsafeMutablePointer<NativeConnection>] = unsafe []

    deinit {
        for index in unsafe self.blocks.indices {
            let block = unsafe self.blocks[index]
            unsafe block.deinitialize(count: Self.blockCount)
            unsafe block.deallocate()
        }
    }

    /// The connection of a number that was opened: blocks up to it exist and stay where they are.
    func pointer(_ index: Int) -> UnsafeMutablePointer<NativeConnection> {
        unsafe self.blocks[index >> 8] + (index & 0xFF)
    }

    func isCurrent(_ index: Int, _ generation: UInt32) -> Bool {
        unsafe self.isOpen(index) && self.pointer(index).pointee.generation == generation
    }

    func isOpen(_ index: Int) -> Bool {
        unsafe index >> 8 < self.blocks.count && self.pointer(index).pointee.descriptor >= 0
    }

    /// Takes a number into use; returns its new generation.
    mutating func open(_ index: Int, _ descriptor: Int32) -> UInt32 {
        while unsafe index >> 8 >= self.blocks.count {
            let block = UnsafeMutablePointer<NativeConnection>.allocate(capacity: Self.blockCount)
            for offset in 0..<Self.blockCount { unsafe (block + offset).initialize(to: NativeConnection()) }
            unsafe self.blocks.append(block)
        }
        // The top two generations would collide with the tokens of listener and wake-up.
        let generation = unsafe (self.pointer(index).pointee.generation &+ 1) & 0x7FFF_FFFF
        unsafe self.pointer(index).pointee = NativeConnection(descriptor: descriptor, generation: generation)
        return generation
    }

    /// Gives a number back; returns its descriptor, to be closed.
    mutating func close(_ index: Int) -> Int32? {
        guard self.isOpen(index) else { return nil }
        let connection = unsafe self.pointer(index)
        let descriptor = unsafe connection.pointee.descriptor
        let generation = unsafe connection.pointee.generation
        unsafe connection.pointee = NativeConnection(descriptor: -1, generation: generation)
        return descriptor
    }
}
#endif
