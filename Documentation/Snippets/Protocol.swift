import StarlingCore

/// In the doc comment of `Handshake`.
func answer(_ bytes: [UInt8]) throws -> [UInt8] {
    let head = try HTTPRequestHead(parsing: bytes)
    let handshake = try Handshake(head)
    let response = try handshake.response(subprotocol: handshake.subprotocols.first { $0 == "chat.v2" })
    return response.serialized()
}

/// In the doc comment of `FrameCodec`.
func echo(_ received: inout MutableRawSpan, into output: inout [UInt8]) throws {
    var codec = FrameCodec(role: .server)
    decoding: while true {
        switch try codec.next(in: &received) {
        case .message(let message): FrameCodec.encode(message.kind.opcode, message.bytes, into: &output)
        case .ping(let payload): FrameCodec.encode(.pong, payload, into: &output)
        case .pong: continue
        case .close: break decoding
        case .needsMoreBytes: break decoding
        }
    }
}
