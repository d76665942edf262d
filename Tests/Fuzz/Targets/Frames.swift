import StarlingCore

extension FuzzTarget {
    /// A stream of frames in either role: what comes out depends on the bytes, not on how they arrive.
    ///
    /// The first byte chooses role, compression and limits, the second how the stream is split into reads.
    public static let frames = FuzzTarget(name: "Frames") { bytes in
        var input = FuzzInput(bytes)
        let choices = input.byte()
        let splitSeed = input.byte()
        let stream = Array(input.rest)
        let decoder = FrameDecoder(choices: choices)

        let whole = try decoder.events(of: [stream])
        try require(try decoder.events(of: stream.map { [$0] }) == whole, "other events one byte at a time")
        var sizes = ReadSizes(seed: splitSeed)
        var pieces: [[UInt8]] = []
        var rest = stream[...]
        while !rest.isEmpty {
            let piece = rest.prefix(sizes.next())
            pieces.append(Array(piece))
            rest = rest.dropFirst(piece.count)
        }
        try require(try decoder.events(of: pieces) == whole, "other events in reads of other sizes")
        try decoder.checkEncoding(of: whole)
    }
}

/// An event, copied out of the buffer that it was borrowed from.
private enum Event: Hashable {
    case message(MessageView.Kind, [UInt8], isCompressed: Bool)
    case ping([UInt8])
    case pong([UInt8])
    case close(CloseCode?, [UInt8])
    case failed(ProtocolError)
}

private struct FrameDecoder {
    let role: Role
    let permitsCompression: Bool
    let limits: Limits

    init(choices: UInt8) {
        self.role = choices & 1 == 0 ? .server : .client
        self.permitsCompression = choices & 2 != 0
        self.limits = Limits(
            frameBytesMax: choices & 4 == 0 ? nil : choices & 8 == 0 ? 40 : 4096,
            messageBytesMax: choices & 16 == 0 ? 2048 : 100,
            fragmentsPerMessageMax: choices & 32 == 0 ? 1024 : 3
        )
    }

    /// What a codec makes of a stream that arrives in these reads.
    func events(of pieces: [[UInt8]]) throws(FuzzFinding) -> [Event] {
        var codec = FrameCodec(role: self.role, limits: self.limits)
        codec.permitsCompression = self.permitsCompression
        var events: [Event] = []
        for piece in pieces {
            var buffer = piece
            var span = buffer.mutableSpan
            var bytes = unsafe span.mutableBytes
            let failure: ProtocolError?
            do throws(ProtocolError) {
                decoding: while true {
                    switch try codec.next(in: &bytes) {
                    case .message(let message):
                        let copy = message.bytes.array
                        events.append(.message(message.kind, copy, isCompressed: message.isCompressed))
                    case .ping(let payload): events.append(.ping(payload.array))
                    case .pong(let payload): events.append(.pong(payload.array))
                    case .close(let code, let reason): events.append(.close(code, reason.array))
                    case .needsMoreBytes: break decoding
                    }
                }
                failure = nil
            } catch {
                failure = error
            }
            if let failure {
                events.append(.failed(failure))
                try self.requireFailed(&codec, failure)
                break
            }
            try require(bytes.isEmpty, "bytes are left over after needsMoreBytes")
            // An array doubles as it grows; the control frame's 125 bytes come on top.
            try require(
                codec.partialByteCount <= 2 * self.limits.messageBytesMax + 512,
                "\(codec.partialByteCount) bytes held"
            )
        }
        for event in events { try self.check(event) }
        return events
    }

    /// A codec that has failed says the same for ever, and holds nothing.
    private func requireFailed(_ codec: inout FrameCodec, _ failure: ProtocolError) throws(FuzzFinding) {
        try require(!codec.holdsPartialInput, "input is held after a violation")
        var nothing: [UInt8] = []
        var span = nothing.mutableSpan
        var bytes = unsafe span.mutableBytes
        var second: ProtocolError?
        do throws(ProtocolError) { _ = try codec.next(in: &bytes) } catch { second = error }
        try require(second == failure, "after \(failure) the codec says \(String(describing: second))")
    }

    private func check(_ event: Event) throws(FuzzFinding) {
        switch event {
        case .message(let kind, let bytes, let isCompressed):
            try require(bytes.count <= self.limits.messageBytesMax, "a message over the limit")
            try require(!isCompressed || self.permitsCompression, "compression that was not agreed on")
            // The standard library's own decoder is the second opinion.
            let isText = kind == .text && !isCompressed
            try require(!isText || String(validating: bytes, as: UTF8.self) != nil, "text that is not UTF-8")
        case .ping(let payload), .pong(let payload):
            try require(payload.count <= 125, "a control frame over 125 bytes")
        case .close(let code, let reason):
            try require(code?.isSendable != false, "close code \(String(describing: code))")
            try require(String(validating: reason, as: UTF8.self) != nil, "a reason that is not UTF-8")
        case .failed(let error):
            let isInvalid = error.kind == .invalidUTF8 || error.kind == .invalidCloseReason
            try require(!isInvalid || error.closeCode == .invalidPayload, "\(error)")
            try require(error.closeCode.isSendable, "\(error) has no code to close with")
        }
    }

    /// What was decoded, encoded again and decoded again, is the same.
    func checkEncoding(of events: [Event]) throws(FuzzFinding) {
        var stream: [UInt8] = []
        let complete = events.filter { if case .failed = $0 { false } else { true } }
        for event in complete {
            switch event {
            case .message(let kind, let bytes, let isCompressed):
                guard bytes.count <= self.limits.frameBytesMax ?? .max else { return }
                self.encode(kind.opcode, bytes, isCompressed: isCompressed, into: &stream)
            case .ping(let payload): self.encode(.ping, payload, into: &stream)
            case .pong(let payload): self.encode(.pong, payload, into: &stream)
            case .close(let code, let reason):
                let number = code.map { [UInt8($0.rawValue >> 8), UInt8($0.rawValue & 0xFF)] } ?? []
                self.encode(.close, number + reason, into: &stream)
            case .failed: break
            }
        }
        try require(try self.events(of: [stream]) == complete, "encoding and decoding changes the events")
    }

    private func encode(
        _ opcode: Opcode,
        _ payload: [UInt8],
        isCompressed: Bool = false,
        into stream: inout [UInt8]
    ) {
        unsafe FrameCodec.encode(
            opcode,
            payload.span.bytes,
            isCompressed: isCompressed,
            maskingKey: self.role == .server ? MaskingKey(rawValue: 0x9ABC_DEF0) : nil,
            into: &stream
        )
    }
}

extension RawSpan {
    /// A copy.
    var array: [UInt8] {
        // The bytes are read within the call that lends them.
        unsafe self.withUnsafeBytes { unsafe Array($0) }
    }
}
