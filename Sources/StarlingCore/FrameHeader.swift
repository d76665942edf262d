/// The two to fourteen bytes in front of every frame's payload (RFC 6455 §5.2).
public struct FrameHeader: Hashable, Sendable {
    /// What the frame carries.
    public var opcode: Opcode
    /// Whether it is the last frame of its message.
    public var isFinal: Bool
    /// The first reserved bit: the message is compressed (RFC 7692 §6).
    public var isCompressed: Bool
    /// Bytes of the payload.
    public var payloadByteCount: Int
    /// The key that the payload is masked with, or nil.
    public var maskingKey: MaskingKey?

    /// Describes a frame to be written.
    public init(
        opcode: Opcode,
        isFinal: Bool = true,
        isCompressed: Bool = false,
        payloadByteCount: Int,
        maskingKey: MaskingKey? = nil
    ) {
        self.opcode = opcode
        self.isFinal = isFinal
        self.isCompressed = isCompressed
        self.payloadByteCount = payloadByteCount
        self.maskingKey = maskingKey
    }

    /// The longest header: two bytes, a 64-bit length and a masking key.
    public static let byteCountMax = 14

    /// Bytes of this header on the wire: the shortest form of the length (RFC 6455 §5.2).
    public var byteCount: Int {
        let length = self.payloadByteCount < 126 ? 2 : self.payloadByteCount < 65536 ? 4 : 10
        return self.maskingKey == nil ? length : length + 4
    }

    /// Reads the header at the front of `bytes`; nil if it is not complete yet.
    ///
    /// Checks everything that a single header can violate; what depends on the frames before it is for
    /// ``FrameCodec``. An illegal first or second byte is found even when the rest has not arrived.
    @inline(__always)
    static func parse(_ bytes: RawSpan, from role: Role) throws(ProtocolError) -> FrameHeader? {
        guard bytes.byteCount >= 2 else { return nil }
        // Two bytes are there, as just checked.
        let first = unsafe bytes.unsafeLoad(fromUncheckedByteOffset: 0, as: UInt8.self)
        let second = unsafe bytes.unsafeLoad(fromUncheckedByteOffset: 1, as: UInt8.self)
        let opcode = Opcode(rawValue: first & 0x0F)
        let isMasked = second & 0x80 != 0
        let length = Int(second & 0x7F)

        guard first & 0x30 == 0 else { throw ProtocolError(.reservedBits) }
        guard opcode.isDefined else { throw ProtocolError(.reservedOpcode) }
        guard isMasked == (role == .client) else {
            throw ProtocolError(role == .client ? .missingMask : .unexpectedMask)
        }
        if opcode.isControl {
            guard first & 0x80 != 0 else { throw ProtocolError(.fragmentedControlFrame) }
            guard length <= 125 else { throw ProtocolError(.controlFrameTooLong) }
            guard first & 0x40 == 0 else { throw ProtocolError(.reservedBits) }
        }

        var header = FrameHeader(
            opcode: opcode,
            isFinal: first & 0x80 != 0,
            isCompressed: first & 0x40 != 0,
            payloadByteCount: length
        )
        var byteCount = 2
        // Each load is preceded by a check that its bytes are there.
        if length == 126 {
            guard bytes.byteCount >= 4 else { return nil }
            header.payloadByteCount = Int(
                unsafe bytes.unsafeLoadUnaligned(fromUncheckedByteOffset: 2, as: UInt16.self).bigEndian
            )
            guard header.payloadByteCount >= 126 else { throw ProtocolError(.overlongLength) }
            byteCount = 4
        } else if length == 127 {
            guard bytes.byteCount >= 10 else { return nil }
            let wide = unsafe bytes.unsafeLoadUnaligned(fromUncheckedByteOffset: 2, as: UInt64.self).bigEndian
            guard wide <= UInt64(Int64.max) else { throw ProtocolError(.lengthOverflow) }
            guard wide >= 65536 else { throw ProtocolError(.overlongLength) }
            header.payloadByteCount = Int(wide)
            byteCount = 10
        }
        if isMasked {
            guard bytes.byteCount >= byteCount + 4 else { return nil }
            let key = unsafe bytes.unsafeLoadUnaligned(fromUncheckedByteOffset: byteCount, as: UInt32.self)
            header.maskingKey = MaskingKey(rawValue: key.littleEndian)
        }
        return header
    }

    /// Writes the header to `output`, which must have ``byteCount`` bytes of space.
    public func write(into output: inout OutputRawSpan) {
        precondition(output.freeCapacity >= self.byteCount, "the output has no space for the frame header")
        unsafe output.withUnsafeMutableBytes { buffer, initializedCount in
            // The space was just checked.
            guard let base = buffer.baseAddress else { return }
            unsafe self.write(to: base + initializedCount)
            initializedCount += self.byteCount
        }
    }

    /// Writes ``byteCount`` bytes to `base`, which the caller has made sure of.
    package func write(to base: UnsafeMutableRawPointer) {
        let flags: UInt8 = (self.isFinal ? 0x80 : 0) | (self.isCompressed ? 0x40 : 0)
        let maskBit: UInt8 = self.maskingKey == nil ? 0 : 0x80
        unsafe base.storeBytes(of: flags | self.opcode.rawValue, as: UInt8.self)
        var byteCount = 2
        if self.payloadByteCount < 126 {
            unsafe base.storeBytes(
                of: maskBit | UInt8(self.payloadByteCount),
                toByteOffset: 1,
                as: UInt8.self
            )
        } else if self.payloadByteCount < 65536 {
            unsafe base.storeBytes(of: maskBit | 126, toByteOffset: 1, as: UInt8.self)
            unsafe base.storeBytes(
                of: UInt16(self.payloadByteCount).bigEndian,
                toByteOffset: 2,
                as: UInt16.self
            )
            byteCount = 4
        } else {
            unsafe base.storeBytes(of: maskBit | 127, toByteOffset: 1, as: UInt8.self)
            unsafe base.storeBytes(
                of: UInt64(self.payloadByteCount).bigEndian,
                toByteOffset: 2,
                as: UInt64.self
            )
            byteCount = 10
        }
        if let key = self.maskingKey {
            unsafe base.storeBytes(of: key.rawValue.littleEndian, toByteOffset: byteCount, as: UInt32.self)
        }
    }
}
