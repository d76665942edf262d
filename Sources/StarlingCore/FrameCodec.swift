/// Frames of RFC 6455: bytes in, messages and control frames out, and back.
///
/// It decodes in place: payloads are unmasked in the caller's buffer, and what it returns is borrowed from there.
/// It owns memory only while it holds a part of a frame or of a message; between messages it owns none. Decoding a
/// whole frame allocates nothing. No I/O, no clock, no threads: use one codec for one connection, from one thread.
///
/// ```swift
/// var codec = FrameCodec(role: .server)
/// decoding: while true {
///     switch try codec.next(in: &received) {
///     case .message(let message): FrameCodec.encode(message.kind.opcode, message.bytes, into: &output)
///     case .ping(let payload): FrameCodec.encode(.pong, payload, into: &output)
///     case .pong: continue
///     case .close: break decoding
///     case .needsMoreBytes: break decoding
///     }
/// }
/// ```
public struct FrameCodec: ~Copyable {
    /// What all connections of an endpoint have in common, kept once.
    @usableFromInline let settings: Settings
    /// What has arrived of an unfinished frame or message; nil between messages.
    @usableFromInline var partial: PartialInput?
    /// The violation that ended this connection's input.
    @usableFromInline var failure: ProtocolError?

    /// Whether the first reserved bit means a compressed message: set it when permessage-deflate is agreed
    /// (RFC 7692 §6).
    ///
    /// Otherwise the bit is an error.
    public var permitsCompression = false

    /// A codec for the end of a connection that plays `role`: a server's refuses unmasked frames, a client's masked ones.
    public init(role: Role, limits: Limits = Limits()) {
        self.init(settings: Settings(role: role, limits: limits))
    }

    /// A codec that shares its settings with others, so that a connection holds a pointer and not a copy.
    package init(settings: Settings) {
        self.settings = settings
    }

    /// The role and limits of many codecs.
    @usableFromInline
    package final class Settings: Sendable {
        package let role: Role
        package let limits: Limits
        let frameBytesMax: Int
        /// The longest payload of ``FrameCodec/nextShortMessage(in:)``; a client, whose input is not masked, takes none.
        @usableFromInline let shortMessageBytesMax: Int

        package init(role: Role, limits: Limits) {
            self.role = role
            self.limits = limits
            let frameBytesMax = limits.frameBytesMax ?? limits.messageBytesMax
            self.frameBytesMax = frameBytesMax
            self.shortMessageBytesMax =
                role == .server
                ? min(FrameCodec.shortPayloadByteCountMax, frameBytesMax, limits.messageBytesMax) : -1
        }

        var peer: Role {
            self.role == .server ? .client : .server
        }
    }

    /// Whether a part of a frame or message is held.
    public var holdsPartialInput: Bool {
        self.partial != nil
    }

    /// Bytes of memory held for unfinished input.
    public var partialByteCount: Int {
        self.partial?.byteCount ?? 0
    }

    /// Takes one event off the front of `bytes`, which it unmasks in place and shortens by what it consumed.
    ///
    /// Call it until it returns ``FrameEvent/needsMoreBytes``: then `bytes` is empty, and a part of a frame that stood
    /// there is kept inside. The event borrows from `bytes` or from the codec and must be let go before the next
    /// call. Text is valid UTF-8 unless it is compressed, and bad text is refused at its first bad byte, mid-frame if
    /// need be.
    ///
    /// - Throws: The peer's violation. The connection is then at its end: every later call throws the same.
    @_lifetime(&self, copy bytes)
    public mutating func next(in bytes: inout MutableRawSpan) throws(ProtocolError) -> FrameEvent {
        if let message = try self.nextShortMessage(in: &bytes) { return .message(message) }
        return try self.nextOther(in: &bytes)
    }

    /// What ``next(in:)`` does where ``nextShortMessage(in:)`` has found nothing.
    @_lifetime(&self, copy bytes)
    package mutating func nextOther(in bytes: inout MutableRawSpan) throws(ProtocolError) -> FrameEvent {
        if let failure = self.failure { throw failure }
        do throws(ProtocolError) {
            if let partial = self.partial {
                if partial.isReleasable {
                    self.partial = nil
                } else {
                    return try self.resume(partial, with: &bytes)
                }
            }
            return try self.decodeWholeFrame(in: &bytes)
        } catch {
            self.failure = error
            self.partial = nil
            throw error
        }
    }

    /// The fastest path: what most clients send most of the time, a plain message of one frame with a one-byte length.
    ///
    /// Nil, with nothing consumed, for everything else: that is for ``nextOther(in:)``. Its callers have its code in theirs: a
    /// call and a switch cost as much as what it does.
    @inlinable
    @inline(__always)
    @_lifetime(copy bytes)
    package mutating func nextShortMessage(
        in bytes: inout MutableRawSpan
    ) throws(ProtocolError) -> MessageView? {
        guard self.partial == nil, self.failure == nil, bytes.byteCount >= 6 else { return nil }
        // Six bytes are there, as just checked: flags and opcode, mask bit and length, and the key.
        let first = unsafe bytes.unsafeLoad(fromUncheckedByteOffset: 0, as: UInt8.self)
        let second = unsafe bytes.unsafeLoad(fromUncheckedByteOffset: 1, as: UInt8.self)
        let payloadByteCount = Int(second) - 0x80
        guard first == 0x81 || first == 0x82, payloadByteCount >= 0,
            payloadByteCount <= self.settings.shortMessageBytesMax, payloadByteCount <= bytes.byteCount - 6
        else { return nil }
        let key = unsafe bytes.unsafeLoadUnaligned(fromUncheckedByteOffset: 2, as: UInt32.self)
        bytes.removeFirst(6)
        var payload = bytes.takeFirst(payloadByteCount)
        MaskingKey(rawValue: key.littleEndian).apply(to: &payload)
        let view = payload.immutable()
        guard first == 0x82 || UTF8Validator.isValid(view) else {
            let error = ProtocolError(.invalidUTF8)
            self.failure = error
            throw error
        }
        return MessageView(first == 0x81 ? .text : .binary, view)
    }

    /// The fast path: a message of one frame, or a control frame, that has arrived whole.
    @_lifetime(&self, copy bytes)
    private mutating func decodeWholeFrame(in bytes: inout MutableRawSpan) throws(ProtocolError) -> FrameEvent
    {
        if bytes.isEmpty { return .needsMoreBytes }
        guard let header = try FrameHeader.parse(bytes.bytes, from: self.settings.peer),
            header.isFinal,
            header.payloadByteCount <= bytes.byteCount - header.byteCount
        else {
            let partial = PartialInput(limits: self.settings.limits)
            self.partial = partial
            return try self.resume(partial, with: &bytes)
        }
        try self.check(header, isMessageInProgress: false)
        // Before the payload is looked at, as in the slow path: what a peer is told must not depend on how its bytes
        // arrive. A control frame over the limit is no message.
        guard header.opcode.isControl || header.payloadByteCount <= self.settings.limits.messageBytesMax
        else { throw ProtocolError(.messageTooBig) }

        bytes.removeFirst(header.byteCount)
        var payload = bytes.takeFirst(header.payloadByteCount)
        if let key = header.maskingKey { key.apply(to: &payload) }
        let view = payload.immutable()
        switch header.opcode {
        case .text:
            guard header.isCompressed || UTF8Validator.isValid(view) else {
                throw ProtocolError(.invalidUTF8)
            }
            return .message(MessageView(.text, view, isCompressed: header.isCompressed))
        case .binary:
            return .message(MessageView(.binary, view, isCompressed: header.isCompressed))
        default:
            return try Self.controlEvent(header.opcode, view)
        }
    }

    /// The slow path: input that stops within a frame, and messages of several frames.
    @_lifetime(&self, copy bytes)
    private mutating func resume(
        _ partial: PartialInput,
        with bytes: inout MutableRawSpan
    ) throws(ProtocolError) -> FrameEvent {
        while true {
            if partial.frame == nil {
                guard let header = try partial.readHeader(from: &bytes, sentBy: self.settings.peer) else {
                    return .needsMoreBytes
                }
                try self.check(header, isMessageInProgress: partial.isMessageInProgress)
                try partial.begin(header)
            }
            guard let completed = try partial.readPayload(from: &bytes) else { return .needsMoreBytes }
            if completed.opcode.isControl {
                // The payload stays where it is until the next call, which `&self` in the event's lifetime rules out
                // while the event is in use. The same holds for the message below.
                let payload = unsafe RawSpan(_unsafeBytes: partial.controlPayloadBytes)
                return try unsafe Self.controlEvent(
                    completed.opcode,
                    _overrideLifetime(payload, mutating: &self)
                )
            }
            if completed.isFinal {
                let kind = try partial.finishMessage()
                let isCompressed = partial.isMessageCompressed
                let payload = unsafe RawSpan(_unsafeBytes: partial.messagePayloadBytes)
                return unsafe .message(
                    MessageView(kind, _overrideLifetime(payload, mutating: &self), isCompressed: isCompressed)
                )
            }
        }
    }

    /// What a header must satisfy in its place, before any of its payload is kept.
    private func check(_ header: FrameHeader, isMessageInProgress: Bool) throws(ProtocolError) {
        if header.opcode.isControl { return }
        if header.opcode == .continuation {
            guard isMessageInProgress else { throw ProtocolError(.unexpectedContinuation) }
            // RFC 7692 §6.1: only the first frame of a message says that it is compressed.
            guard !header.isCompressed else { throw ProtocolError(.reservedBits) }
        } else {
            guard !isMessageInProgress else { throw ProtocolError(.expectedContinuation) }
            guard !header.isCompressed || self.permitsCompression else { throw ProtocolError(.reservedBits) }
        }
        guard header.payloadByteCount <= self.settings.frameBytesMax else {
            throw ProtocolError(.frameTooBig)
        }
    }

    /// A complete control frame (RFC 6455 §5.5).
    @_lifetime(copy payload)
    private static func controlEvent(_ opcode: Opcode, _ payload: RawSpan) throws(ProtocolError) -> FrameEvent
    {
        switch opcode {
        case .ping: return .ping(payload)
        case .pong: return .pong(payload)
        default:
            if payload.isEmpty { return .close(nil, reason: payload) }
            guard payload.byteCount >= 2 else { throw ProtocolError(.truncatedCloseCode) }
            // Two bytes are there, as just checked.
            let code = unsafe payload.unsafeLoadUnaligned(fromUncheckedByteOffset: 0, as: UInt16.self)
                .bigEndian
            guard CloseCode(rawValue: code).isSendable else { throw ProtocolError(.invalidCloseCode) }
            let reason = payload.extracting(droppingFirst: 2)
            guard UTF8Validator.isValid(reason) else { throw ProtocolError(.invalidCloseReason) }
            return .close(CloseCode(rawValue: code), reason: reason)
        }
    }
}

// MARK: - Taking spans apart

extension MutableRawSpan {
    /// Removes and returns the first `byteCount` bytes.
    @inlinable
    @inline(__always)
    @_lifetime(self: copy self)
    @_lifetime(copy self)
    mutating func takeFirst(_ byteCount: Int) -> MutableRawSpan {
        precondition(byteCount >= 0 && byteCount <= self.byteCount, "more bytes taken than there are")
        // The two results share no byte and both keep the lifetime of the span they came from.
        let whole = unsafe self.withUnsafeMutableBytes { unsafe $0 }
        let first = unsafe _overrideLifetime(
            MutableRawSpan(_unsafeBytes: UnsafeMutableRawBufferPointer(rebasing: whole[..<byteCount])),
            copying: self
        )
        unsafe self = _overrideLifetime(
            MutableRawSpan(_unsafeBytes: UnsafeMutableRawBufferPointer(rebasing: whole[byteCount...])),
            copying: self
        )
        return first
    }

    /// Removes the first `byteCount` bytes.
    @inlinable
    @inline(__always)
    @_lifetime(self: copy self)
    mutating func removeFirst(_ byteCount: Int) {
        _ = self.takeFirst(byteCount)
    }

    /// The same bytes, no longer to be changed.
    @inlinable
    @inline(__always)
    @_lifetime(copy self)
    consuming func immutable() -> RawSpan {
        // The exclusive access is given up with `self`, so that reading is all that is left.
        let bytes = unsafe self.withUnsafeBytes { unsafe $0 }
        return unsafe _overrideLifetime(RawSpan(_unsafeBytes: bytes), copying: self)
    }
}
