internal import StarlingCore
internal import StarlingDeflate

/// permessage-deflate for the connections of a loop: one deflater and one inflater for all that keep no context.
struct Compressors: ~Copyable {
    private var deflaters: [Int: Deflater] = [:]
    private var inflater: Inflater?
    private var buffer: [UInt8] = []

    /// The compressed payload, or nil if the message is to go out as it is.
    ///
    /// What it returns for a connection that keeps its context must be sent: the next message may refer to it.
    mutating func deflate(_ bytes: RawSpan, for deflate: ConnectionDeflate) -> [UInt8]? {
        let keepsContext = deflate.keepsContext
        guard
            deflate.configuration.shouldCompress(
                payloadByteCount: bytes.byteCount,
                keepingContext: keepsContext
            )
        else { return nil }
        var output: [UInt8] = []
        swap(&output, &self.buffer)
        output.removeAll(keepingCapacity: true)
        do {
            let deflater =
                keepsContext ? try deflate.ownDeflater() : try self.sharedDeflater(for: deflate)
            deflater.compress(bytes, keepingContext: keepsContext, into: &output)
            return output
        } catch {
            // Out of memory: the message goes out uncompressed, which every peer takes (RFC 7692 §6).
            return nil
        }
    }

    /// The inflated payload.
    mutating func inflate(
        _ bytes: RawSpan,
        byteCountMax: Int,
        for deflate: ConnectionDeflate
    ) throws(DeflateError) -> [UInt8] {
        var output: [UInt8] = []
        swap(&output, &self.buffer)
        output.removeAll(keepingCapacity: true)
        let keepsContext = deflate.peerKeepsContext
        let inflater = keepsContext ? try deflate.ownInflater() : try self.sharedInflater()
        try inflater.inflate(
            bytes,
            byteCountMax: byteCountMax,
            keepingContext: keepsContext,
            into: &output
        )
        return output
    }

    /// Takes a buffer back that one of the above returned, unless it is too big to keep.
    mutating func recycle(_ buffer: consuming [UInt8]) {
        if buffer.capacity <= 256 << 10 { self.buffer = buffer }
    }

    private mutating func sharedInflater() throws(DeflateError) -> Inflater {
        if let inflater = self.inflater { return inflater }
        let inflater = try Inflater(windowBits: 15)
        self.inflater = inflater
        return inflater
    }

    private mutating func sharedDeflater(for deflate: ConnectionDeflate) throws(DeflateError) -> Deflater {
        let bits = deflate.windowBits
        // Endpoints may differ in level and memory: those are part of the key.
        let key = bits << 16 | deflate.configuration.level << 8 | deflate.configuration.memLevel
        if let shared = self.deflaters[key] { return shared }
        let deflater = try Deflater(
            windowBits: bits,
            level: deflate.configuration.level,
            memLevel: deflate.configuration.memLevel
        )
        self.deflaters[key] = deflater
        return deflater
    }
}

/// What connections of a loop agreed on about compression, where neither side keeps a context: one object for all that
/// agreed on the same, so that compression costs an idle connection nothing.
struct SharedAgreements: ~Copyable {
    private var all: [ConnectionDeflate] = []

    /// The agreement of a number from 1.
    subscript(number: UInt8) -> ConnectionDeflate {
        self.all[Int(number) - 1]
    }

    /// The number of an agreement; nil if a connection has to keep it for itself.
    mutating func number(of deflate: ConnectionDeflate) -> UInt8? {
        guard !deflate.keepsContext, !deflate.peerKeepsContext else { return nil }
        if let index = self.all.firstIndex(where: deflate.isSameAgreement) { return UInt8(index + 1) }
        guard self.all.count < 255 else { return nil }
        self.all.append(deflate)
        return UInt8(self.all.count)
    }
}

extension ConnectionDriver {
    /// What a connection has agreed on about compression; nil for none.
    func deflate(of index: Int) -> ConnectionDeflate? {
        let slot = unsafe self.slots.pointer(index)
        let number = unsafe slot.pointee.agreement
        return unsafe number > 0 ? self.agreements[number] : slot.pointee.details?.deflate
    }

    /// Keeps what a connection has agreed on about compression.
    func agree(on deflate: ConnectionDeflate, _ index: Int) {
        let slot = unsafe self.slots.pointer(index)
        if let number = self.agreements.number(of: deflate) {
            unsafe slot.pointee.agreement = number
        } else {
            self.details(of: index).deflate = deflate
        }
    }
}

/// What one connection agreed on about compression, and its own windows where it keeps context.
final class ConnectionDeflate {
    let configuration: DeflateConfiguration
    /// Whether messages to the peer may refer to earlier ones.
    let keepsContext: Bool
    /// Whether messages of the peer may refer to earlier ones.
    let peerKeepsContext: Bool
    /// How far messages to the peer may refer back, as a power of two.
    let windowBits: Int
    private let peerWindowBits: Int
    /// When the compressor's window was used last.
    var usedAt = LoopInstant(hundredths: 0)
    private var deflater: Deflater?
    private var inflater: Inflater?

    init(agreed: PermessageDeflate, configuration: DeflateConfiguration, role: Role) {
        self.configuration = configuration
        let server = (keeps: !agreed.serverNoContextTakeover, bits: agreed.serverMaxWindowBits)
        let client = (keeps: !agreed.clientNoContextTakeover, bits: agreed.clientMaxWindowBits)
        let (own, peer) = role == .server ? (server, client) : (client, server)
        self.keepsContext = own.keeps
        self.windowBits = own.bits
        self.peerKeepsContext = peer.keeps
        self.peerWindowBits = peer.bits
    }

    /// Whether another connection agreed on the same.
    func isSameAgreement(_ other: ConnectionDeflate) -> Bool {
        self.windowBits == other.windowBits && self.peerWindowBits == other.peerWindowBits
            && self.keepsContext == other.keepsContext && self.peerKeepsContext == other.peerKeepsContext
            && self.configuration == other.configuration
    }

    /// Whether a compressor of the connection's own is in memory.
    var hasWindow: Bool {
        self.deflater != nil
    }

    /// Whether a decompressor of the connection's own is in memory.
    var hasPeerWindow: Bool {
        self.inflater != nil
    }

    /// The connection's own compressor, made when it is first needed.
    func ownDeflater() throws(DeflateError) -> Deflater {
        if let deflater = self.deflater { return deflater }
        let deflater = try Deflater(
            windowBits: self.windowBits,
            level: self.configuration.level,
            memLevel: self.configuration.memLevel
        )
        self.deflater = deflater
        return deflater
    }

    /// The connection's own decompressor, made when it is first needed.
    func ownInflater() throws(DeflateError) -> Inflater {
        if let inflater = self.inflater { return inflater }
        let inflater = try Inflater(windowBits: self.peerWindowBits)
        self.inflater = inflater
        return inflater
    }

    /// What the windows of the connection's own take.
    var windowByteCount: Int {
        (self.deflater?.memoryByteCount ?? 0) + (self.inflater?.memoryByteCount ?? 0)
    }

    /// Lets everything go, at the end.
    func releaseAll() {
        self.deflater = nil
        self.inflater = nil
    }

    /// Writes what was agreed on, and the windows, for another process.
    func write(to writer: inout ByteWriter) {
        writer.write(self.keepsContext)
        writer.write(self.peerKeepsContext)
        writer.write(self.windowBits)
        writer.write(self.peerWindowBits)
        writer.write(self.deflater) { $0.write($1.window) }
        writer.write(self.inflater) { $0.write($1.window) }
    }

    /// Goes on where another process has stopped.
    init(configuration: DeflateConfiguration, from reader: inout ByteReader) throws(ConnectionRecord.Unusable)
    {
        self.configuration = configuration
        do {
            self.keepsContext = try reader.readFlag()
            self.peerKeepsContext = try reader.readFlag()
            self.windowBits = try reader.read()
            self.peerWindowBits = try reader.read()
            guard (8...15).contains(self.windowBits), (8...15).contains(self.peerWindowBits) else {
                throw ByteReader.Malformed()
            }
            if let window = try reader.readOptionalBytes() {
                try self.ownDeflater().remember(window)
            }
            if let window = try reader.readOptionalBytes() {
                try self.ownInflater().remember(window)
            }
        } catch {
            throw ConnectionRecord.Unusable("its compression: \(error)")
        }
    }

    /// Lets the compressor's window go.
    ///
    /// The peer's keeps more than we then refer to, which is valid; the decompressor's window cannot go,
    /// because the peer may refer to all of it (RFC 7692 §7.2.2).
    func releaseIdleWindow() {
        self.deflater = nil
    }
}
