import StarlingCore

extension FuzzTarget {
    /// The negotiation of permessage-deflate: both ends agree on the same, within what each prefers.
    ///
    /// Two bytes for each end's preferences, then the lines of `Sec-WebSocket-Extensions`.
    public static let extensions = FuzzTarget(name: "Extensions") { bytes in
        var input = FuzzInput(bytes)
        let server = preferences(from: &input)
        let client = preferences(from: &input)
        let fields = input.rest.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
            .map { String(decoding: $0, as: UTF8.self) }
        try checkAccept(fields, server)
        try checkConfirm(fields, client)
        try checkAgreement(server: server, client: client)
    }
}

private typealias Preferences = PermessageDeflate.Preferences
private typealias Answer = (agreed: PermessageDeflate, response: String)

private func preferences(from input: inout FuzzInput) -> Preferences {
    let flags = input.byte()
    let bits = input.byte()
    return Preferences(
        serverNoContextTakeover: flags & 1 == 0,
        clientNoContextTakeover: flags & 2 == 0,
        serverMaxWindowBits: 9 + Int(bits & 0x0F) % 7,
        clientMaxWindowBits: 9 + Int(bits >> 4) % 7
    )
}

private func accept(_ fields: [String], _ preferences: Preferences) -> Result<
    Answer?, PermessageDeflate.NegotiationError
> {
    do throws(PermessageDeflate.NegotiationError) {
        return .success(try PermessageDeflate.accept(offers: fields, preferences: preferences))
    } catch {
        return .failure(error)
    }
}

private func checkAccept(_ fields: [String], _ preferences: Preferences) throws(FuzzFinding) {
    guard case .success(let answer) = accept(fields, preferences) else { return }
    // RFC 9110 §5.3: lines of one name mean the same as one line, with commas between.
    guard case .success(let joined) = accept([fields.joined(separator: ",")], preferences) else {
        throw FuzzFinding("valid line by line, and not as one line")
    }
    try require(joined?.agreed == answer?.agreed, "another agreement when the lines are joined")
    guard let answer else { return }

    let agreed = answer.agreed
    try require((9...preferences.serverMaxWindowBits).contains(agreed.serverMaxWindowBits), "\(agreed)")
    try require((8...15).contains(agreed.clientMaxWindowBits), "\(agreed)")
    try require(agreed.serverNoContextTakeover || !preferences.serverNoContextTakeover, "\(agreed)")
    try require(agreed.clientNoContextTakeover || !preferences.clientNoContextTakeover, "\(agreed)")
    try require(answer.response.utf8.allSatisfy { $0 >= 0x20 && $0 < 0x7F }, "\(answer.response)")
    // An answer says all that was agreed on: offered in turn, it leads to the same agreement.
    guard case .success(let again?) = accept([answer.response], preferences) else {
        throw FuzzFinding("our own answer is not acceptable: \(answer.response)")
    }
    try require(again.agreed == agreed, "\(answer.response) means \(again.agreed), not \(agreed)")
}

private func checkConfirm(_ fields: [String], _ preferences: Preferences) throws(FuzzFinding) {
    let confirmed: PermessageDeflate?
    do throws(PermessageDeflate.NegotiationError) {
        confirmed = try PermessageDeflate.confirm(response: fields, preferences: preferences)
    } catch {
        return
    }
    guard let confirmed else { return }
    let serverBits = 8...preferences.serverMaxWindowBits
    try require(serverBits.contains(confirmed.serverMaxWindowBits), "\(confirmed)")
    let clientBits = 8...preferences.clientMaxWindowBits
    try require(clientBits.contains(confirmed.clientMaxWindowBits), "\(confirmed)")
    try require(confirmed.serverNoContextTakeover || !preferences.serverNoContextTakeover, "\(confirmed)")
    try require(confirmed.clientNoContextTakeover || !preferences.clientNoContextTakeover, "\(confirmed)")
}

/// Our client and our server, whatever they prefer, come to one agreement.
private func checkAgreement(server: Preferences, client: Preferences) throws(FuzzFinding) {
    let offer = PermessageDeflate.offer(preferences: client)
    guard case .success(let answer?) = accept([offer], server) else {
        throw FuzzFinding("our own offer is not accepted: \(offer)")
    }
    let confirmed: PermessageDeflate?
    do throws(PermessageDeflate.NegotiationError) {
        confirmed = try PermessageDeflate.confirm(response: [answer.response], preferences: client)
    } catch {
        throw FuzzFinding("to \(offer) our server says \(answer.response): \(error)")
    }
    try require(confirmed == answer.agreed, "to \(offer) our server says \(answer.response)")
}
