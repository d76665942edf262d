public import StarlingCore

/// How messages are compressed, and what is negotiated for it.
public struct DeflateConfiguration: Hashable, Sendable {
    /// How hard zlib searches: 0 (stores) to 9 (slowest).
    ///
    /// 1 by default. Without context takeover a higher level finds little more in a chat message of 1 KiB: level 6
    /// makes 49 % of it and level 1 makes 50 %, in three quarters of the time. With context takeover they make 34 %
    /// and 40 %, and level 1 takes a fifth of the time.
    public var level: Int
    /// How much memory zlib compresses with: 1 (slowest) to 9, which takes 2^(memLevel + 9) bytes.
    ///
    /// 8 by default. Messages of a few KiB compress as well with 5, which saves 112 KiB for each compressor.
    public var memLevel: Int
    /// The size, in bytes, below which a message that stands alone goes uncompressed.
    ///
    /// 256 by default. A chat message in JSON shrinks by 80 bytes at 256, and by 20 at 128, where it
    /// takes 5 µs to compress. 0 compresses everything.
    public var payloadByteCountMin: Int
    /// The size, in bytes, below which a message that may refer to earlier ones goes uncompressed.
    ///
    /// 64 by default. With its context taken over, a chat message of 128 bytes shrinks by 80, in 2 µs. 0 compresses
    /// everything.
    public var payloadByteCountMinWithContext: Int
    /// What to ask for, or to insist on, in the handshake.
    public var preferences: PermessageDeflate.Preferences

    /// Takes the defaults, unless told otherwise.
    ///
    /// A level outside 0...9, a memory level outside 1...9 and a negative size are programming errors.
    public init(
        level: Int = 1,
        memLevel: Int = 8,
        payloadByteCountMin: Int = 256,
        payloadByteCountMinWithContext: Int = 64,
        preferences: PermessageDeflate.Preferences = PermessageDeflate.Preferences()
    ) {
        precondition((0...9).contains(level), "the level must be in 0...9")
        precondition((1...9).contains(memLevel), "the memory level must be in 1...9")
        precondition(payloadByteCountMin >= 0, "a size must not be negative")
        precondition(payloadByteCountMinWithContext >= 0, "a size must not be negative")
        self.level = level
        self.memLevel = memLevel
        self.payloadByteCountMin = payloadByteCountMin
        self.payloadByteCountMinWithContext = payloadByteCountMinWithContext
        self.preferences = preferences
    }

    /// Whether a message of this size is worth compressing.
    public func shouldCompress(payloadByteCount: Int, keepingContext: Bool) -> Bool {
        payloadByteCount >= (keepingContext ? self.payloadByteCountMinWithContext : self.payloadByteCountMin)
    }
}
