internal import CZlib

/// Inflates messages of permessage-deflate (RFC 7692 §7.2.2).
///
/// One inflater serves any number of connections whose peers' messages stand alone, or one connection whose
/// peer's messages refer to earlier ones. Reusing it allocates nothing but the growth of the output; the window is
/// allocated with the first message. Used on one thread at a time.
public final class Inflater {
    /// The bytes that zlib holds for this inflater once it has a window, as an estimate for budgets.
    public let memoryByteCount: Int

    package let stream = Stream()
    /// zlib counts input in 32 bits: larger payloads are fed in slices of this size.
    package var sliceByteCountMax = 1 << 30

    /// Makes an inflater for peers that compress with windows of up to 2^windowBits bytes.
    ///
    /// `windowBits` is 8...15; another value is a programming error. An inflater shared by connections takes 15,
    /// which fits all of them. It is how much is kept, not a check of the peer: a reference farther back is
    /// refused only where the bytes are gone. Throws ``DeflateError/Code/outOfMemory``.
    public init(windowBits: Int) throws(DeflateError) {
        precondition((8...15).contains(windowBits), "window bits must be in 8...15")
        self.memoryByteCount = (1 << windowBits) + (7 << 10)

        // The negative number asks for raw DEFLATE data, without zlib's header and checksum.
        let status = unsafe inflateInit2_(
            self.stream.pointer,
            -Int32(windowBits),
            ZLIB_VERSION,
            Int32(MemoryLayout<z_stream>.size)
        )
        guard status == Z_OK else {
            precondition(status == Z_MEM_ERROR, "zlib \(zlibVersionText) refused a stream: \(status)")
            throw DeflateError(.outOfMemory)
        }
    }

    deinit {
        // SAFETY: the stream was made by `init` and is freed here alone. After a failed init zlib has no state
        // and refuses in peace.
        _ = unsafe inflateEnd(self.stream.pointer)
        self.stream.deallocate()
    }

    /// Appends the inflated payload.
    ///
    /// - `payload`: a whole message's frames joined, as they came, without 00 00 FF FF at the end.
    /// - `byteCountMax`: the most bytes to append. A payload that inflates to more is refused as soon as that is
    ///   known: a bomb costs the limit, in memory and in time.
    /// - `keepingContext`: whether the next payload may refer to this one.
    ///
    /// Throws ``DeflateError/Code/tooBig``, ``DeflateError/Code/corrupt`` or ``DeflateError/Code/outOfMemory``. The
    /// output then holds what it held before, and the context is gone: a peer that takes its context over must
    /// be closed.
    public func inflate(
        _ payload: RawSpan,
        byteCountMax: Int,
        keepingContext: Bool,
        into output: inout [UInt8]
    ) throws(DeflateError) {
        precondition(byteCountMax >= 0, "the limit must not be negative")
        let start = output.count
        do {
            var message = Message(
                start: start,
                byteCountMax: byteCountMax,
                // JSON without context takeover inflates to two to four times its size.
                room: max(256, payload.byteCount.multipliedOrMax(by: 4))
            )
            // SAFETY: the pointer is used only in the closure, in which the span lends its bytes; zlib reads
            // `avail_in` of them, and has read them all when `inflateSlice` returns.
            try unsafe payload.withUnsafeBytes { bytes throws(DeflateError) in
                var offset = 0
                while offset < bytes.count {
                    let slice = unsafe bytes[offset...].prefix(self.sliceByteCountMax)
                    offset += unsafe slice.count
                    try unsafe self.inflateSlice(
                        UnsafeRawBufferPointer(rebasing: slice),
                        of: &message,
                        into: &output
                    )
                }
            }
            try self.inflateTail(of: &message, into: &output)
        } catch {
            output.removeLast(output.count - start)
            self.reset()
            throw error
        }
        if !keepingContext { self.reset() }
    }

    /// Forgets the messages so far.
    ///
    /// Frees no memory.
    public func reset() {
        // SAFETY: the stream was made by `init`.
        let status = unsafe inflateReset(self.stream.pointer)
        precondition(status == Z_OK, "zlib refused to reset a stream: \(status)")
    }

    /// What the peer's next message may refer to: with it, an inflater of another process goes on.
    package var window: [UInt8] {
        var bytes = [UInt8](repeating: 0, count: 1 << 15)
        var count: UInt32 = 0
        // SAFETY: zlib writes at most a window, for which there is room: 2^15 is the largest.
        let status = unsafe inflateGetDictionary(self.stream.pointer, &bytes, &count)
        precondition(status == Z_OK, "zlib did not say what it remembers: \(status)")
        return Array(bytes.prefix(Int(count)))
    }

    /// Goes on where another inflater of the same window stopped.
    ///
    /// Throws ``DeflateError/Code/outOfMemory``.
    ///
    /// - Precondition: Nothing has been inflated yet.
    package func remember(_ window: [UInt8]) throws(DeflateError) {
        guard !window.isEmpty else { return }
        // SAFETY: zlib copies the bytes during the call.
        let status = unsafe inflateSetDictionary(self.stream.pointer, window, UInt32(window.count))
        guard status == Z_OK else {
            precondition(status == Z_MEM_ERROR, "zlib did not take a window: \(status)")
            throw DeflateError(.outOfMemory)
        }
    }

    /// Inflates the 00 00 FF FF that stands at the end of every message unsent (RFC 7692 §7.2.2).
    ///
    /// It completes an empty block: a message that ends elsewhere was cut or is no DEFLATE data.
    private func inflateTail(of message: inout Message, into output: inout [UInt8]) throws(DeflateError) {
        let marker = flushMarker
        // SAFETY: as for the payload.
        try unsafe marker.span.bytes.withUnsafeBytes { bytes throws(DeflateError) in
            try unsafe self.inflateSlice(bytes, of: &message, into: &output)
        }
        // zlib describes in `data_type` where it stands: 128 is just after a block, with no bit left over. The
        // other good end is that the marker completed a block which calls itself the last.
        guard unsafe message.isAfterFinalBlock || self.stream.pointer.pointee.data_type == 128 else {
            throw DeflateError(.corrupt)
        }
    }

    private func inflateSlice(
        _ slice: UnsafeRawBufferPointer,
        of message: inout Message,
        into output: inout [UInt8]
    ) throws(DeflateError) {
        unsafe self.stream.setInput(slice)
        while true {
            let room = min(message.room, message.byteCountMax - (output.count - message.start))
            let status: Int32
            let roomLeft: Int
            if room > 0 {
                output.reserveRoom(room, growingToAtMost: message.countMax)
                (status, roomLeft) = unsafe self.stream.write(room: room, to: &output) { stream in
                    unsafe CZlib.inflate(stream, Z_SYNC_FLUSH)
                }
                // Behind a final block little is to be expected: a message of many empty ones would cost the room for each.
                message.room = status == Z_STREAM_END ? 256 : max(256, output.count - message.start)
            } else {
                // At the limit it takes a try to know whether the message ends here.
                (status, roomLeft) = unsafe self.stream.writeToOneByte { stream in
                    unsafe CZlib.inflate(stream, Z_SYNC_FLUSH)
                }
                guard roomLeft > 0 else { throw DeflateError(.tooBig) }
            }
            message.isAfterFinalBlock = status == Z_STREAM_END

            switch status {
            case Z_OK, Z_BUF_ERROR:
                // With room left all input was used. Without, zlib may hold more.
                if roomLeft > 0 { return }
            case Z_STREAM_END:
                // RFC 7692 §7.2.3.4: a peer may flush with a block that calls itself the last. What follows is a
                // stream of its own; the window stays, as the peer's may have.
                let status = unsafe inflateResetKeep(self.stream.pointer)
                precondition(status == Z_OK, "zlib refused to reset a stream: \(status)")
                if unsafe self.stream.pointer.pointee.avail_in == 0 { return }
            case Z_MEM_ERROR:
                throw DeflateError(.outOfMemory)
            case Z_DATA_ERROR:
                throw DeflateError(.corrupt)
            default:
                preconditionFailure("zlib did not inflate: \(status)")
            }
        }
    }

    /// How far the message has come.
    private struct Message {
        /// Where it begins in the output.
        let start: Int
        let byteCountMax: Int
        /// How many bytes to make room for next: doubles what there is.
        var room: Int
        var isAfterFinalBlock = false

        /// The size beyond which the output need not grow.
        var countMax: Int {
            let (sum, overflow) = self.start.addingReportingOverflow(self.byteCountMax)
            return overflow ? .max : sum
        }
    }
}

@available(*, unavailable)
extension Inflater: Sendable {}
