/// What has arrived of a frame or message that is not complete.
///
/// A class of its own, so that a connection between two messages holds a nil and nothing else.
@usableFromInline
final class PartialInput {
    /// The frame whose payload is arriving; nil while a header is awaited.
    private(set) var frame: FrameHeader?
    /// The payload of the control frame in `frame`; at most 125 bytes.
    private var controlPayload: [UInt8] = []
    private var header = InlineArray<14, UInt8>(repeating: 0)
    private var headerByteCount = 0
    private var payloadByteCount = 0
    private var assembler: MessageAssembler
    private var isMessageFinished = false

    init(limits: Limits) {
        self.assembler = MessageAssembler(limits: limits)
    }

    var isMessageInProgress: Bool {
        self.assembler.isInProgress && !self.isMessageFinished
    }

    var isMessageCompressed: Bool {
        self.assembler.isCompressed
    }

    /// The message's payload, in place until the next frame begins.
    var messagePayloadBytes: UnsafeRawBufferPointer {
        // An array's elements stay where they are while it is neither changed nor released.
        unsafe self.assembler.payload.withUnsafeBytes { unsafe $0 }
    }

    /// The control frame's payload, in place until the next control frame begins.
    var controlPayloadBytes: UnsafeRawBufferPointer {
        unsafe self.controlPayload.withUnsafeBytes { unsafe $0 }
    }

    /// Whether nothing is left to wait for, so that the memory can go.
    var isReleasable: Bool {
        self.frame == nil && self.headerByteCount == 0 && !self.isMessageInProgress
    }

    var byteCount: Int {
        self.assembler.payload.capacity + self.controlPayload.capacity
    }

    /// Takes bytes until the header is complete; nil if there are too few.
    func readHeader(
        from bytes: inout MutableRawSpan,
        sentBy role: Role
    ) throws(ProtocolError) -> FrameHeader? {
        let held = self.headerByteCount
        while self.headerByteCount < FrameHeader.byteCountMax, self.headerByteCount - held < bytes.byteCount {
            // The offset is below the count, as the loop's condition says.
            self.header[self.headerByteCount] = unsafe bytes.unsafeLoad(
                fromUncheckedByteOffset: self.headerByteCount - held,
                as: UInt8.self
            )
            self.headerByteCount += 1
        }
        let parsed = unsafe try FrameHeader.parse(
            self.header.span.bytes.extracting(first: self.headerByteCount),
            from: role
        )
        guard let parsed else {
            bytes.removeFirst(self.headerByteCount - held)
            return nil
        }
        // What was read beyond the header belongs to the payload and stays in `bytes`.
        bytes.removeFirst(parsed.byteCount - held)
        self.headerByteCount = 0
        return parsed
    }

    /// Begins the payload of a frame that the codec found in order.
    func begin(_ frame: FrameHeader) throws(ProtocolError) {
        if self.isMessageFinished {
            self.assembler.reset()
            self.isMessageFinished = false
        }
        switch frame.opcode {
        case .text: self.assembler.begin(.text, isCompressed: frame.isCompressed)
        case .binary: self.assembler.begin(.binary, isCompressed: frame.isCompressed)
        default: break
        }
        if frame.opcode.isControl {
            self.controlPayload.removeAll(keepingCapacity: true)
        } else {
            try self.assembler.beginFragment(payloadByteCount: frame.payloadByteCount)
        }
        self.frame = frame
        self.payloadByteCount = 0
    }

    /// Unmasks and keeps what has arrived of the payload; returns the frame once it is complete.
    func readPayload(from bytes: inout MutableRawSpan) throws(ProtocolError) -> FrameHeader? {
        guard let frame = self.frame else { preconditionFailure("payload read before a frame began") }
        var piece = bytes.takeFirst(min(bytes.byteCount, frame.payloadByteCount - self.payloadByteCount))
        if let key = frame.maskingKey { key.apply(to: &piece, at: self.payloadByteCount) }
        self.payloadByteCount += piece.byteCount
        if frame.opcode.isControl {
            self.controlPayload.append(copying: piece.bytes)
        } else {
            try self.assembler.append(piece.bytes)
        }
        guard self.payloadByteCount == frame.payloadByteCount else { return nil }
        self.frame = nil
        return frame
    }

    /// Ends the message; its payload stays until the next frame begins.
    func finishMessage() throws(ProtocolError) -> MessageView.Kind {
        let kind = try self.assembler.finish()
        self.isMessageFinished = true
        return kind
    }
}

extension PartialInput {
    /// Writes what has arrived, for another process.
    func write(to writer: inout ByteWriter) {
        writer.write(self.frame) { writer, frame in
            writer.write(Int(frame.opcode.rawValue))
            writer.write(frame.isFinal)
            writer.write(frame.isCompressed)
            writer.write(frame.payloadByteCount)
            writer.write(frame.maskingKey) { $0.write(Int($1.rawValue)) }
        }
        writer.write(self.payloadByteCount)
        writer.write(self.controlPayload)
        writer.write((0..<self.headerByteCount).map { self.header[$0] })
        // A message that is finished has been handed on; it is only kept until the next frame begins.
        if self.isMessageFinished { self.assembler.reset() }
        self.isMessageFinished = false
        self.assembler.write(to: &writer)
    }

    /// Goes on where another process has stopped.
    convenience init(limits: Limits, from reader: inout ByteReader) throws(ByteReader.Malformed) {
        self.init(limits: limits)
        self.frame = try reader.readOptional { reader throws(ByteReader.Malformed) in
            FrameHeader(
                opcode: Opcode(rawValue: try reader.read()),
                isFinal: try reader.readFlag(),
                isCompressed: try reader.readFlag(),
                payloadByteCount: try reader.read(),
                maskingKey: try reader.readOptional { reader throws(ByteReader.Malformed) in
                    MaskingKey(rawValue: try reader.read())
                }
            )
        }
        self.payloadByteCount = try reader.read()
        self.controlPayload = try reader.readBytes()
        let header = try reader.readBytes()
        guard header.count <= FrameHeader.byteCountMax,
            self.payloadByteCount <= self.frame?.payloadByteCount ?? Int.max
        else { throw ByteReader.Malformed() }
        for (index, byte) in header.enumerated() { self.header[index] = byte }
        self.headerByteCount = header.count
        self.assembler = try MessageAssembler(limits: limits, from: &reader)
        if let frame = self.frame {
            guard frame.opcode.isDefined, frame.opcode.isControl || self.assembler.isInProgress else {
                throw ByteReader.Malformed()
            }
        }
    }
}

extension Array<UInt8> {
    /// Appends a copy of borrowed bytes.
    mutating func append(copying bytes: RawSpan) {
        unsafe bytes.withUnsafeBytes { unsafe self.append(contentsOf: $0) }
    }
}
