internal import CZlib

/// Compresses messages for permessage-deflate (RFC 7692 §7.2.1).
///
/// One deflater serves any number of connections whose messages stand alone, or one connection whose messages
/// refer to earlier ones. Reusing it allocates nothing but the growth of the output. Used on one thread at a
/// time.
public final class Deflater {
    /// The bytes that zlib holds for this deflater, as an estimate for budgets.
    ///
    /// From zlib's own formula (`zconf.h`), for the versions since 1.2.5.
    public let memoryByteCount: Int

    package let stream = Stream()
    /// zlib counts input in 32 bits: larger payloads are fed in slices of this size.
    package var sliceByteCountMax = 1 << 30
    private var holdsContext = false

    /// Makes a deflater with a window of 2^windowBits bytes.
    ///
    /// - `windowBits`: 8...15. With 8, which zlib has no window for, only runs of one byte are compressed.
    /// - `level`: 0...9; see ``DeflateConfiguration/level``.
    /// - `memLevel`: 1...9; see ``DeflateConfiguration/memLevel``.
    ///
    /// Other values are a programming error. Throws ``DeflateError/Code/outOfMemory``.
    public init(windowBits: Int, level: Int, memLevel: Int) throws(DeflateError) {
        precondition((8...15).contains(windowBits), "window bits must be in 8...15")
        precondition((0...9).contains(level), "the level must be in 0...9")
        precondition((1...9).contains(memLevel), "the memory level must be in 1...9")

        // A peer may insist on an 8-bit window, and zlib's smallest raw one has 9. Runs refer back by one byte,
        // which is inside any window. Level 0 takes no strategy, and refers to nothing anyway.
        let strategy = windowBits == 8 && level > 0 ? Z_RLE : Z_DEFAULT_STRATEGY
        let zlibWindowBits = max(windowBits, 9)
        self.memoryByteCount = (1 << (zlibWindowBits + 2)) + (1 << (memLevel + 9)) + (6 << 10)

        // The negative number asks for raw DEFLATE data, without zlib's header and checksum.
        let status = unsafe deflateInit2_(
            self.stream.pointer,
            Int32(level),
            Z_DEFLATED,
            -Int32(zlibWindowBits),
            Int32(memLevel),
            strategy,
            ZLIB_VERSION,
            Int32(MemoryLayout<z_stream>.size)
        )
        guard status == Z_OK else {
            precondition(status == Z_MEM_ERROR, "zlib \(zlibVersionText) refused a stream: \(status)")
            throw DeflateError(.outOfMemory)
        }
    }

    deinit {
        // SAFETY: the stream was made by `init` and is freed here alone. What zlib says about data that was not
        // flushed does not matter any more. After a failed init zlib has no state and refuses in peace.
        _ = unsafe deflateEnd(self.stream.pointer)
        self.stream.deallocate()
    }

    /// Appends the compressed payload, without the 00 00 FF FF that every message would end in (RFC 7692
    /// §7.2.1).
    ///
    /// - `payload`: a whole message. An empty one becomes the byte 00 (RFC 7692 §7.2.3.6).
    /// - `keepingContext`: whether the next payload may refer to this one and to those that this one may refer
    ///   to. False is the end of the context, also of an older one.
    ///
    /// Random data grows by 5 bytes for each 16 KiB at memory level 8, and by 5 more. The output's buffer may grow
    /// to twice what is needed. A payload that is not worth compressing should be sent as it is; see
    /// ``DeflateConfiguration/shouldCompress(payloadByteCount:keepingContext:)``.
    public func compress(_ payload: RawSpan, keepingContext: Bool, into output: inout [UInt8]) {
        if payload.isEmpty {
            output.append(0x00)
        } else {
            self.holdsContext = true
            // A payload seldom takes more than half of its size; the 64 bytes also let a flush marker fit, which
            // zlib would repeat otherwise.
            var room = payload.byteCount / 2 + 64
            let start = output.count
            // SAFETY: the pointer is used only in the closure, in which the span lends its bytes; zlib reads
            // `avail_in` of them, and has read them all when `deflate` returns with room left.
            unsafe payload.withUnsafeBytes { bytes in
                var offset = 0
                while offset < bytes.count {
                    let slice = unsafe bytes[offset...].prefix(self.sliceByteCountMax)
                    offset += unsafe slice.count
                    unsafe self.stream.setInput(UnsafeRawBufferPointer(rebasing: slice))
                    let flush = offset < bytes.count ? Z_NO_FLUSH : Z_SYNC_FLUSH
                    while self.deflate(flush, room: room, into: &output) == 0 {
                        room = max(64, output.count - start)
                    }
                }
            }
            precondition(output.suffix(4).elementsEqual(flushMarker), "zlib flushed without a marker")
            output.removeLast(4)
        }
        if !keepingContext { self.reset() }
    }

    /// Forgets the messages so far, so that the next one refers to none of them.
    ///
    /// An end may do so at any time, whatever was negotiated. Frees no memory.
    public func reset() {
        guard self.holdsContext else { return }
        self.holdsContext = false
        // SAFETY: the stream was made by `init`.
        let status = unsafe deflateReset(self.stream.pointer)
        precondition(status == Z_OK, "zlib refused to reset a stream: \(status)")
    }

    /// What the next message may refer to: with it, a deflater of another process goes on.
    ///
    /// Between two messages nothing else is left in a compressor but what it remembers of the past.
    package var window: [UInt8] {
        guard self.holdsContext else { return [] }
        var bytes = [UInt8](repeating: 0, count: 1 << 15)
        var count: UInt32 = 0
        // SAFETY: zlib writes at most a window, for which there is room: 2^15 is the largest.
        let status = unsafe deflateGetDictionary(self.stream.pointer, &bytes, &count)
        precondition(status == Z_OK, "zlib did not say what it remembers: \(status)")
        return Array(bytes.prefix(Int(count)))
    }

    /// Goes on where another deflater of the same window stopped.
    ///
    /// - Precondition: Nothing has been compressed yet.
    package func remember(_ window: [UInt8]) {
        guard !window.isEmpty else { return }
        // SAFETY: zlib copies the bytes during the call.
        let status = unsafe deflateSetDictionary(self.stream.pointer, window, UInt32(window.count))
        precondition(status == Z_OK, "zlib did not take a window: \(status)")
        self.holdsContext = true
    }

    /// Lets zlib append up to `room` bytes; returns how much of the room was left.
    private func deflate(_ flush: Int32, room: Int, into output: inout [UInt8]) -> Int {
        output.reserveRoom(room)
        let (status, roomLeft) = unsafe self.stream.write(room: room, to: &output) { stream in
            unsafe CZlib.deflate(stream, flush)
        }
        // Z_BUF_ERROR says that there was nothing to do: the last call had filled its room to the byte.
        precondition(status == Z_OK || status == Z_BUF_ERROR, "zlib did not deflate: \(status)")
        return roomLeft
    }
}

@available(*, unavailable)
extension Deflater: Sendable {}
