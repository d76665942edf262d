extension FrameCodec {
    /// Bytes that ``encode(_:_:isFinal:isCompressed:maskingKey:into:)-(_,_,_,_,_,OutputRawSpan)`` writes for a payload.
    public static func encodedByteCount(payloadByteCount: Int, isMasked: Bool = false) -> Int {
        let length = payloadByteCount < 126 ? 2 : payloadByteCount < 65536 ? 4 : 10
        return length + (isMasked ? 4 : 0) + payloadByteCount
    }

    /// Writes one frame to `output`, which must have space for it.
    ///
    /// Encoding has no state, so that a server frames a publication once for all its subscribers. A client passes a
    /// fresh unpredictable `maskingKey` for each frame (RFC 6455 §5.3), a server none. Allocates nothing.
    ///
    /// - Precondition: `output` has ``encodedByteCount(payloadByteCount:isMasked:)`` bytes free.
    public static func encode(
        _ opcode: Opcode,
        _ payload: RawSpan,
        isFinal: Bool = true,
        isCompressed: Bool = false,
        maskingKey: MaskingKey? = nil,
        into output: inout OutputRawSpan
    ) {
        let byteCount = self.encodedByteCount(
            payloadByteCount: payload.byteCount,
            isMasked: maskingKey != nil
        )
        precondition(output.freeCapacity >= byteCount, "the output has no space for the frame")
        unsafe output.withUnsafeMutableBytes { buffer, initializedCount in
            guard let base = buffer.baseAddress else { return }
            // `byteCount` bytes behind the initialized ones are free, as just checked.
            unsafe self.write(
                FrameHeader(
                    opcode: opcode,
                    isFinal: isFinal,
                    isCompressed: isCompressed,
                    payloadByteCount: payload.byteCount,
                    maskingKey: maskingKey
                ),
                payload,
                to: base + initializedCount
            )
            initializedCount += byteCount
        }
    }

    /// Appends one frame to `output`, which grows as needed.
    public static func encode(
        _ opcode: Opcode,
        _ payload: RawSpan,
        isFinal: Bool = true,
        isCompressed: Bool = false,
        maskingKey: MaskingKey? = nil,
        into output: inout [UInt8]
    ) {
        let start = output.count
        let byteCount = self.encodedByteCount(
            payloadByteCount: payload.byteCount,
            isMasked: maskingKey != nil
        )
        output.append(contentsOf: repeatElement(0, count: byteCount))
        unsafe output.withUnsafeMutableBytes { buffer in
            guard let base = buffer.baseAddress else { return }
            // The array was just made `byteCount` bytes longer than `start`.
            unsafe self.write(
                FrameHeader(
                    opcode: opcode,
                    isFinal: isFinal,
                    isCompressed: isCompressed,
                    payloadByteCount: payload.byteCount,
                    maskingKey: maskingKey
                ),
                payload,
                to: base + start
            )
        }
    }

    /// The longest payload whose length stands in one byte (RFC 6455 §5.2): a header of ``shortHeaderByteCount`` bytes, and the key
    /// if it is masked.
    @inlinable
    package static var shortPayloadByteCountMax: Int { 125 }
    @inlinable
    package static var shortHeaderByteCount: Int { 2 }

    /// Writes a whole plain message of at most ``shortPayloadByteCountMax`` bytes, unmasked, to memory that the caller has made
    /// sure of.
    @inlinable
    @inline(__always)
    package static func writeShort(
        _ opcode: Opcode,
        _ payload: RawSpan,
        to base: UnsafeMutableRawPointer
    ) {
        let header = UInt16(truncatingIfNeeded: payload.byteCount) << 8 | 0x80 | UInt16(opcode.rawValue)
        unsafe base.storeBytes(of: header.littleEndian, as: UInt16.self)
        unsafe payload.withUnsafeBytes { source in
            guard let from = source.baseAddress else { return }
            // The caller's space is disjoint from the payload, and longer by a header.
            unsafe (base + self.shortHeaderByteCount).copyMemory(from: from, byteCount: source.count)
        }
    }

    /// Writes header and payload to memory that the caller has made sure of; masks the copy, never the original.
    package static func write(_ header: FrameHeader, _ payload: RawSpan, to base: UnsafeMutableRawPointer) {
        unsafe header.write(to: base)
        let body = unsafe base + header.byteCount
        unsafe payload.withUnsafeBytes { source in
            guard let from = source.baseAddress else { return }
            // The caller's space is disjoint from the payload and as long as both parts together.
            unsafe body.copyMemory(from: from, byteCount: source.count)
        }
        if let key = header.maskingKey {
            unsafe exclusiveOr(body, byteCount: payload.byteCount, key.rawValue)
        }
    }
}
