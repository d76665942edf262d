import HTTPTypes
import StarlingCore

extension FuzzTarget {
    /// Heads of requests and responses, and what applications put into them: nothing splits a head that we write, and
    /// only a handshake in order is accepted.
    ///
    /// After a byte that chooses the side and one that splits the stream into reads come, each up to a NUL, the head,
    /// a subprotocol, the extensions and a field's value; NUL is in no valid head.
    public static let handshake = FuzzTarget(name: "Handshake") { bytes in
        var input = FuzzInput(bytes)
        let isServer = input.byte() & 1 == 0
        let splitSeed = input.byte()
        let stream = input.bytes(until: 0)
        let chosen = Choices(
            subprotocol: String(decoding: input.bytes(until: 0), as: UTF8.self),
            extensions: String(decoding: input.bytes(until: 0), as: UTF8.self),
            fieldValue: String(decoding: input.bytes(until: 0), as: UTF8.self)
        )
        let limits = Limits(headBytesMax: 1024, headFieldsMax: 20)
        if isServer {
            guard let head = try readHead(stream, limits, splitSeed) else { return }
            try checkServer(head, limits, chosen)
        } else {
            try checkClient(stream, limits, chosen)
        }
    }
}

/// What an application decides, from wherever it takes it.
private struct Choices {
    let subprotocol: String
    let extensions: String
    let fieldValue: String

    var fields: HTTPFields { [.setCookie: self.fieldValue] }
}

/// The first head of a stream, which must be the same however the stream arrives; nil if there is none.
private func readHead(_ stream: [UInt8], _ limits: Limits, _ splitSeed: UInt8) throws -> [UInt8]? {
    let whole = readHead(stream, limits) { $0 }
    let byByte = readHead(stream, limits) { _ in 1 }
    var sizes = ReadSizes(seed: splitSeed)
    let split = readHead(stream, limits) { _ in sizes.next() }
    try require(whole == byByte && whole == split, "another head in reads of other sizes")
    guard case .head(let head, _) = whole else { return nil }
    try require(head.count <= limits.headBytesMax, "a head over the limit")
    try require(head.suffix(4) == [13, 10, 13, 10], "a head without its end")
    return head
}

private enum HeadOutcome: Hashable {
    case head([UInt8], followedBy: [UInt8])
    case failed(HandshakeError)
    case incomplete
}

private func readHead(_ stream: [UInt8], _ limits: Limits, sizeOfRead: (Int) -> Int) -> HeadOutcome {
    var reader = HTTPHeadReader(limits: limits)
    var rest = stream[...]
    while !rest.isEmpty {
        var piece = Array(rest.prefix(sizeOfRead(rest.count)))
        rest = rest.dropFirst(piece.count)
        var span = piece.mutableSpan
        var bytes = unsafe span.mutableBytes
        do throws(HandshakeError) {
            guard let head = try reader.read(from: &bytes) else { continue }
            return .head(head, followedBy: bytes.bytes.array + rest)
        } catch {
            return .failed(error)
        }
    }
    return .incomplete
}

// MARK: - The server's side

private func checkServer(_ bytes: [UInt8], _ limits: Limits, _ chosen: Choices) throws {
    let head: HTTPRequestHead
    let handshake: Handshake
    do throws(HandshakeError) {
        head = try HTTPRequestHead(parsing: bytes, limits: limits)
        handshake = try Handshake(head)
    } catch {
        return try checkRefusal(error)
    }
    // A path is what routes are matched with: it begins with a slash and has no space or control character.
    let path = head.request.path ?? ""
    try require(path.hasPrefix("/"), "the path \(path)")
    try require(path.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7F }, "the path \(path)")
    let fields = handshake.request.headerFields
    try require(handshake.request.method == .get, "accepted \(handshake.request.method)")
    try require(fields[values: .secWebSocketVersion] == ["13"], "accepted another version")
    let keys = fields[values: .secWebSocketKey]
    try require(keys.count == 1 && decodedKey(keys[0])?.count == 16, "accepted the key \(keys)")
    try require(
        bytes.starts(with: Array("GET ".utf8)) && contains("websocket", in: fields[.upgrade])
            && contains("upgrade", in: fields[.connection]),
        "accepted what asks for no upgrade"
    )
    // The extensions go to their own parser, which must take what they are.
    _ = try? PermessageDeflate.accept(offers: handshake.extensionOffers)

    for subprotocol in [nil, chosen.subprotocol] + handshake.subprotocols.prefix(3).map(Optional.some) {
        let response: HTTPResponse
        do throws(HandshakeError) {
            response = try handshake.response(
                subprotocol: subprotocol,
                extensions: chosen.extensions,
                headerFields: chosen.fields
            )
        } catch {
            let isOffered = handshake.subprotocols.contains(subprotocol ?? "")
            try require(subprotocol != nil && !isOffered, "an offered subprotocol is refused")
            continue
        }
        let names = [
            "Upgrade", "Connection", "Sec-WebSocket-Accept",
            subprotocol == nil ? nil : "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions", "Set-Cookie",
        ]
        try requireLines(of: response.serialized(), names.compactMap { $0 })
    }
}

private func checkRefusal(_ error: HandshakeError) throws {
    let (response, body) = Handshake.refusal(for: error)
    try require((400...599).contains(response.status.code), "refused with \(response.status)")
    let names = response.headerFields.map(\.name.rawName)
    try requireLines(of: response.serialized(), names)
    try require(response.headerFields[.contentLength] == "\(body.utf8.count)", "another length")
}

// MARK: - The client's side

private func checkClient(_ stream: [UInt8], _ limits: Limits, _ chosen: Choices) throws {
    let client: ClientHandshake
    do throws(HandshakeError) {
        client = try ClientHandshake(
            authority: chosen.fieldValue,
            path: "/" + chosen.fieldValue,
            key: [UInt8](repeating: 7, count: 16),
            subprotocols: chosen.subprotocol.isEmpty ? [] : [chosen.subprotocol, "chat"],
            extensions: chosen.extensions,
            headerFields: [.cookie: chosen.fieldValue]
        )
    } catch {
        return
    }
    let names = [
        "Host", "Cookie", "Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version",
        chosen.subprotocol.isEmpty ? nil : "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions",
    ]
    try requireLines(of: client.request.serialized(), names.compactMap { $0 })

    let response: HTTPResponse
    let subprotocol: String?
    do throws(HandshakeError) {
        let head = try HTTPResponseHead(parsing: stream, limits: limits)
        response = head.response
        subprotocol = try client.confirm(head)
    } catch {
        return
    }
    try require(response.status.code == 101, "confirmed \(response.status)")
    let proofs = response.headerFields[values: .secWebSocketAccept]
    try require(proofs.count == 1, "confirmed without a proof")
    let isOffered = subprotocol == nil || subprotocol == chosen.subprotocol || subprotocol == "chat"
    try require(isOffered, "confirmed a subprotocol that was not offered")
    _ = try? PermessageDeflate.confirm(response: response.headerFields[values: .secWebSocketExtensions])
}

// MARK: - What a head says, read again

/// The head consists of a first line and of fields of these names, in any order, and of nothing else.
private func requireLines(of head: [UInt8], _ names: [String]) throws(FuzzFinding) {
    let text = String(decoding: head, as: UTF8.self)
    // Swift sees CR LF as one character, and either alone as another.
    try require(text.hasSuffix("\r\n\r\n"), "the head does not end: \(text)")
    let lines = text.dropLast(2).split(separator: "\r\n", omittingEmptySubsequences: false)
    try require(
        !text.contains("\r") && !text.contains("\n") && !text.contains("\0"),
        "a bare line end: \(text)"
    )
    let found = lines.dropFirst().map { $0.split(separator: ":", maxSplits: 1).first.map(String.init) ?? "" }
    try require(found.sorted() == names.sorted(), "other fields than \(names): \(text)")
}

private func contains(_ token: String, in field: String?) -> Bool {
    (field ?? "").lowercased().split(separator: ",").contains {
        $0.drop(while: { $0 == " " || $0 == "\t" }).hasPrefix(token)
    }
}

/// Base64, decoded in another way than the library checks it.
private func decodedKey(_ text: String) -> [UInt8]? {
    guard text.utf8.count == 24, text.hasSuffix("==") else { return nil }
    var bits: UInt32 = 0
    var bitCount = 0
    var bytes: [UInt8] = []
    for digit in text.utf8.dropLast(2) {
        let value: UInt8
        switch digit {
        case UInt8(ascii: "A")...UInt8(ascii: "Z"): value = digit - UInt8(ascii: "A")
        case UInt8(ascii: "a")...UInt8(ascii: "z"): value = digit - UInt8(ascii: "a") + 26
        case UInt8(ascii: "0")...UInt8(ascii: "9"): value = digit - UInt8(ascii: "0") + 52
        case UInt8(ascii: "+"): value = 62
        case UInt8(ascii: "/"): value = 63
        default: return nil
        }
        bits = bits << 6 | UInt32(value)
        bitCount += 6
        if bitCount >= 8 {
            bitCount -= 8
            bytes.append(UInt8(truncatingIfNeeded: bits >> UInt32(bitCount)))
        }
    }
    // What is left over must be zero, or several texts would stand for one key.
    return bits & (1 << UInt32(bitCount) - 1) == 0 ? bytes : nil
}
