import Starling
import StarlingTopics

extension FuzzTarget {
    /// The subprotocol: what is taken for JSON is JSON for others too, and a message that was understood is written so that
    /// it is understood again.
    public static let topics = FuzzTarget(name: "Topics") { bytes in
        // A text message is UTF-8 by the time that anybody reads it.
        let text = String(decoding: bytes, as: UTF8.self)
        guard Array(text.utf8) == bytes else { return }
        try checkValue(text)
        try checkClientMessage(.text(text))
        try checkServerMessage(.text(text))
    }
}

/// Takes any value.
private struct Anything: Decodable {
    init(from decoder: any Decoder) {}
}

private func checkValue(_ text: String) throws(FuzzFinding) {
    guard let value = try? JSONText(parsing: text) else { return }
    do {
        _ = try value.decode(Anything.self)
    } catch {
        throw FuzzFinding("no JSON for Foundation: \(error)")
    }
    try require((try? JSONText(parsing: value.description)) == value, "the value alone is another value")
}

private func checkClientMessage(_ message: Message) throws(FuzzFinding) {
    guard let understood = try? ClientMessage(parsing: message) else { return }
    try require((try? ClientMessage(parsing: understood.message)) == understood, "\(understood)")
}

private func checkServerMessage(_ message: Message) throws(FuzzFinding) {
    guard let understood = try? ServerMessage(parsing: message), understood != .unknown else { return }
    try require((try? ServerMessage(parsing: understood.message)) == understood, "\(understood)")
}
