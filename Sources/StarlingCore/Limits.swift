/// What a peer may make this end hold or do, for one connection.
///
/// Each limit is checked before the memory that it bounds is spent.
public struct Limits: Sendable, Hashable {
    /// Bytes of one frame's payload on the wire; more closes with 1009.
    ///
    /// Nil: as ``messageBytesMax``.
    public var frameBytesMax: Int?
    /// Bytes of one message, inflated where it came compressed; more closes with 1009.
    public var messageBytesMax: Int
    /// Frames of one message; more closes with 1008.
    ///
    /// Bounds what a peer can make this end do with empty fragments, which the byte limits do not see.
    public var fragmentsPerMessageMax: Int
    /// Bytes of a request's or response's head; more is answered with 431.
    public var headBytesMax: Int
    /// Header fields of a head; more is answered with 431.
    public var headFieldsMax: Int

    /// The defaults: messages of 1 MiB in 1,024 fragments, heads of 16 KiB and 100 fields.
    public init(
        frameBytesMax: Int? = nil,
        messageBytesMax: Int = 1 << 20,
        fragmentsPerMessageMax: Int = 1024,
        headBytesMax: Int = 16 << 10,
        headFieldsMax: Int = 100
    ) {
        precondition(messageBytesMax >= 0 && frameBytesMax ?? 0 >= 0, "a limit in bytes is negative")
        precondition(fragmentsPerMessageMax > 0, "a message has at least one fragment")
        self.frameBytesMax = frameBytesMax
        self.messageBytesMax = messageBytesMax
        self.fragmentsPerMessageMax = fragmentsPerMessageMax
        self.headBytesMax = headBytesMax
        self.headFieldsMax = headFieldsMax
    }
}
