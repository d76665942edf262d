import StarlingDeflate

extension FuzzTarget {
    /// Compressed messages from anyone, and messages of ours: nothing inflates to more than the limit, and what we
    /// compress is what comes out.
    ///
    /// The first byte chooses between the two, the next ones the parameters; then come messages, each behind its length.
    public static let deflate = FuzzTarget(name: "Deflate") { bytes in
        var input = FuzzInput(bytes)
        let isHostile = input.byte() & 1 == 0
        let windowBits = input.number(in: 8...15)
        if isHostile {
            try inflateAnything(&input, windowBits: windowBits)
        } else {
            try goThereAndBack(&input, windowBits: windowBits)
        }
    }
}

/// The most messages of one input: more find nothing new.
private let messagesMax = 16

private func inflateAnything(_ input: inout FuzzInput, windowBits: Int) throws {
    let inflater = try Inflater(windowBits: windowBits)
    // The same messages in small slices, which is how zlib gets what is too big for its 32 bits.
    let slicing = try Inflater(windowBits: windowBits)
    slicing.sliceByteCountMax = input.number(in: 1...7)
    for _ in 0..<messagesMax where !input.rest.isEmpty {
        let choices = input.byte()
        let keepsContext = choices & 1 == 0
        let byteCountMax = Int(choices >> 1) << 6
        let payload = input.counted()
        let whole = try inflate(payload, with: inflater, byteCountMax, keepsContext)
        let sliced = try inflate(payload, with: slicing, byteCountMax, keepsContext)
        // zlib notices a reference beyond a smaller window only where it no longer has the bytes at hand, which depends on
        // the sizes of the calls. No distance is beyond the largest window.
        if windowBits == 15 {
            try require(whole == sliced, "inflated in slices it is \(sliced), and \(whole) at once")
        }
    }
}

private func inflate(
    _ payload: [UInt8],
    with inflater: Inflater,
    _ byteCountMax: Int,
    _ keepsContext: Bool
) throws(FuzzFinding) -> Result<[UInt8], DeflateError> {
    // Something stands in the output already, and must still stand there.
    let start: [UInt8] = [1, 2, 3]
    var output = start
    do throws(DeflateError) {
        try unsafe inflater.inflate(
            payload.span.bytes,
            byteCountMax: byteCountMax,
            keepingContext: keepsContext,
            into: &output
        )
    } catch {
        try require(output == start, "a failure left \(output.count) bytes in the output")
        return .failure(error)
    }
    try require(output.starts(with: start), "the output was overwritten")
    output.removeFirst(start.count)
    try require(output.count <= byteCountMax, "\(output.count) bytes, over the limit of \(byteCountMax)")
    return .success(output)
}

private func goThereAndBack(_ input: inout FuzzInput, windowBits: Int) throws {
    let level = input.number(in: 0...9)
    let memLevel = input.number(in: 1...9)
    let deflater = try Deflater(windowBits: windowBits, level: level, memLevel: memLevel)
    deflater.sliceByteCountMax = input.number(in: 1...64)
    let inflater = try Inflater(windowBits: windowBits)
    let limited = try Inflater(windowBits: windowBits)
    for _ in 0..<messagesMax where !input.rest.isEmpty {
        let choices = input.byte()
        let keepsContext = choices & 1 == 0
        var payload = input.counted()
        // Short inputs can stand for long messages, too, longer than any window.
        let repetitions = 1 + Int(choices >> 1 & 31)
        payload = Array(repeatElement(payload, count: repetitions).joined())
        var compressed: [UInt8] = []
        unsafe deflater.compress(payload.span.bytes, keepingContext: keepsContext, into: &compressed)
        let inflated = try inflate(compressed, with: inflater, payload.count, keepsContext)
        try require(inflated == .success(payload), "\(payload.count) bytes come back as \(inflated)")
        // A failure ends a context, so that only a message that stands alone can be tried against a lower limit.
        if !payload.isEmpty, !keepsContext {
            var alone: [UInt8] = []
            unsafe deflater.compress(payload.span.bytes, keepingContext: false, into: &alone)
            let refused = try inflate(alone, with: limited, payload.count - 1, false)
            guard case .failure(let error) = refused, error.code == .tooBig else {
                throw FuzzFinding("a limit of one byte less gave \(refused)")
            }
        }
    }
}
