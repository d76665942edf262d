/// Joins the fragments of one message (RFC 6455 §5.4), within limits.
///
/// Text is validated piece by piece, so that a bad byte is found when it arrives and not when the message ends.
/// Memory grows with what has arrived, never with what a header promised.
public struct MessageAssembler: Sendable {
    /// The message in progress, or nil.
    public private(set) var kind: MessageView.Kind?
    /// Whether the message's first frame said that it is compressed.
    public private(set) var isCompressed = false
    /// What has arrived so far, joined.
    public private(set) var payload: [UInt8] = []

    private var fragmentCount = 0
    private var validator = UTF8Validator()
    private let messageBytesMax: Int
    private let fragmentsPerMessageMax: Int

    /// An assembler that waits for a message's first frame.
    public init(limits: Limits) {
        self.messageBytesMax = limits.messageBytesMax
        self.fragmentsPerMessageMax = limits.fragmentsPerMessageMax
    }

    /// Whether a message has begun and not been reset.
    public var isInProgress: Bool {
        self.kind != nil
    }

    /// Begins a message.
    ///
    /// - Precondition: None is in progress.
    public mutating func begin(_ kind: MessageView.Kind, isCompressed: Bool = false) {
        precondition(self.kind == nil, "a message began within a message")
        self.kind = kind
        self.isCompressed = isCompressed
    }

    /// Announces the next frame of the message.
    ///
    /// - Throws: If the frame would pass the limit of fragments or bytes: before any of its payload is kept.
    public mutating func beginFragment(payloadByteCount: Int) throws(ProtocolError) {
        self.fragmentCount += 1
        guard self.fragmentCount <= self.fragmentsPerMessageMax else {
            throw ProtocolError(.tooManyFragments)
        }
        // Both are at most `Int.max` and not negative: the difference cannot overflow.
        guard payloadByteCount <= self.messageBytesMax - self.payload.count else {
            throw ProtocolError(.messageTooBig)
        }
    }

    /// Adds unmasked bytes of the frame that was announced.
    ///
    /// - Throws: If text can no longer become valid UTF-8. Compressed text is not checked here.
    public mutating func append(_ bytes: RawSpan) throws(ProtocolError) {
        if self.kind == .text, !self.isCompressed {
            guard self.validator.append(bytes) else { throw ProtocolError(.invalidUTF8) }
        }
        self.payload.append(copying: bytes)
    }

    /// Ends the message and returns its kind; ``payload`` stays until ``reset()``.
    ///
    /// - Throws: If text ends within a character.
    public mutating func finish() throws(ProtocolError) -> MessageView.Kind {
        guard let kind = self.kind else { preconditionFailure("a message ended before it began") }
        guard self.validator.isComplete else { throw ProtocolError(.invalidUTF8) }
        return kind
    }

    /// Lets go of the message and its memory.
    public mutating func reset() {
        self.kind = nil
        self.isCompressed = false
        self.payload = []
        self.fragmentCount = 0
        self.validator = UTF8Validator()
    }
}

extension MessageAssembler {
    /// Writes the message in progress, for another process.
    func write(to writer: inout ByteWriter) {
        writer.write(self.kind) { $0.write($1 == .text) }
        writer.write(self.isCompressed)
        writer.write(self.payload)
        writer.write(self.fragmentCount)
        self.validator.write(to: &writer)
    }

    /// Goes on with a message that another process has begun; its own limits hold for the rest.
    init(limits: Limits, from reader: inout ByteReader) throws(ByteReader.Malformed) {
        self.init(limits: limits)
        self.kind = try reader.readOptional { reader throws(ByteReader.Malformed) in
            try reader.readFlag() ? .text : .binary
        }
        self.isCompressed = try reader.readFlag()
        self.payload = try reader.readBytes()
        self.fragmentCount = try reader.read()
        self.validator = try UTF8Validator(from: &reader)
        guard self.payload.count <= self.messageBytesMax else { throw ByteReader.Malformed() }
    }
}
